"""Owns the promise that deploy/kubernetes/README.md is right: its commands, its example, its list of overlays."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import yaml

from tests.cluster.manifests import KUBERNETES, OVERLAYS, kubectl, of_kind, pods, rendered_at
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

README = KUBERNETES / "README.md"


def blocks(language: str) -> list[str]:
    """The examples of a language in README.md."""
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


def test_the_overlay_of_the_page_works(tmp_path: Path) -> None:
    """The example of an overlay that combines components renders, with all of them in it."""
    [text] = [block for block in blocks("yaml") if "kind: Kustomization" in block]
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    mine = tmp_path / "deploy" / "kubernetes" / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(text)
    objects = rendered_at(mine)
    kinds = {item["kind"] for item in objects}
    assert {"ScaledObject", "HTTPRoute", "ServiceMonitor", "PrometheusRule"} <= kinds
    [gateway] = [
        item for item in objects if (item["kind"], item["metadata"]["name"]) == ("StatefulSet", "ollama-gateway")
    ]
    [container] = gateway["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert container["image"].startswith("registry.example.com/")
    assert {item["metadata"].get("namespace") for item in objects if item["kind"] != "Namespace"} == {"ollama"}


def test_the_secrets_of_the_page_are_those_that_the_pods_mount() -> None:
    """The page's commands make each Secret, with every key that a pod or the monitor reads."""
    made = made_secrets()
    mounted = {
        (row["secret"]["secretName"], item["key"])
        for pod in pods("overlays/ha").values()
        for row in pod["spec"]["volumes"]
        if "secret" in row
        for item in row["secret"]["items"]
    }
    [monitor] = of_kind("overlays/monitoring", "ServiceMonitor").values()
    credentials = monitor["spec"]["endpoints"][0]["authorization"]["credentials"]
    assert {(name, key) for name, data in made.items() for key in data} == mounted | {
        (credentials["name"], credentials["key"])
    }
    keys = made["ollama-gateway-keys"]["keys"].splitlines()
    assert [line.partition(":")[0] for line in keys] == ["admin", "prometheus"]
    assert keys[1] == f"prometheus:{made['ollama-gateway-keys']['scrape']}"
    assert re.fullmatch(r"[0-9a-f]{48}", made["ollama-gateway-redis"]["password"])


def made_secrets() -> dict[str, dict[str, str]]:
    """What the page's commands would make in a cluster: the texts of each Secret."""
    kubectl("version", "--client")  # skips without it
    [commands] = [block for block in blocks("sh") if "create secret" in block]
    wrapper = 'kubectl() { command kubectl "$@" --dry-run=client --output yaml; echo ---; }\n'
    done = subprocess.run(
        ["bash", "-euc", wrapper + commands], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return {
        item["metadata"]["name"]: {key: base64.b64decode(text).decode() for key, text in item["data"].items()}
        for item in yaml.safe_load_all(done.stdout)
        if item
    }


def test_every_overlay_is_on_the_page() -> None:
    """The page has a row for each overlay, and each overlay is the base with one component."""
    page = README.read_text()
    for name in OVERLAYS:
        assert f"| `{name}` |" in page
        text = yaml.safe_load((KUBERNETES / "overlays" / name / "kustomization.yaml").read_text())
        assert (text["resources"], text["components"]) == (["../../base"], [f"../../components/{name}"])
    assert {path.name for path in (KUBERNETES / "components").iterdir()} == set(OVERLAYS)
