"""Owns the promise that deploy/monitoring is valid, tested, and names metrics that exist."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from gateway.metrics.counts import FAMILIES
from tests.monitoring.server import MONITORING

COUNTED = {
    family.name + suffix
    for family in FAMILIES
    for suffix in {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.kind, ("",))
}
TOLD = {"build_info", "upstream_up", "model_memory_bytes", "model_vram_bytes"}
NAMES = COUNTED | {f"ollama_gateway_{name}" for name in TOLD}


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard_queries() -> list[str]:
    """The expressions of the dashboard's panels."""
    dashboard = json.loads((MONITORING / "grafana" / "ollama-gateway.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]


def metrics_in(expression: str) -> set[str]:
    """The metrics that an expression names."""
    return set(re.findall(r"\b(?:ollama_gateway|process)_\w+", expression))


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yaml"), ("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")],
    ids=" ".join,
)
def test_promtool_accepts_the_files(promtool: str, arguments: tuple[str, ...]) -> None:
    """The configuration and the rules are valid, and the rules pass their own tests."""
    done = subprocess.run(
        [promtool, *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_every_alert_is_tested_both_ways() -> None:
    """For each alert there is a time when it has to fire and one when it must not."""
    groups = yaml.safe_load((MONITORING / "alerts_test.yaml").read_text())["tests"]
    tested = {(case["alertname"], bool(case["exp_alerts"])) for group in groups for case in group["alert_rule_test"]}
    assert tested == {(rule["alert"], fires) for rule in alerts() for fires in (True, False)}


def test_alerts_name_metrics_that_exist() -> None:
    """An alert over a metric that is not there would never fire."""
    assert all(metrics_in(rule["expr"]) <= NAMES for rule in alerts())
    assert sum(bool(metrics_in(rule["expr"])) for rule in alerts()) == len(alerts()) - 1  # GatewayDown asks for `up`


def test_the_dashboard_names_metrics_that_exist() -> None:
    """No panel asks for what no gateway has, and nearly all that there is is on some panel."""
    named = set().union(*map(metrics_in, dashboard_queries()))
    assert named <= NAMES
    assert len(dashboard_queries()) > 20


def test_the_images_are_pinned() -> None:
    """Each image has a tag that is a version."""
    services = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]
    images = [service["image"] for service in services.values()]
    assert all(re.fullmatch(r"\$\{\w+:-[\w/]+:v?\d+\.\d+\.\d+\}", image) for image in images), images
    assert len(images) == 2


def test_the_files_that_compose_mounts_are_there() -> None:
    """Every file that a service mounts is in the repository, read-only."""
    services = yaml.safe_load((MONITORING / "compose.yaml").read_text())["services"]
    mounts = [volume for service in services.values() for volume in service["volumes"] if volume.startswith("./")]
    assert len(mounts) == 5
    for mount in mounts:
        source, _, mode = mount.split(":")
        assert (MONITORING.parents[1] / source).is_file(), mount
        assert mode == "ro", mount
