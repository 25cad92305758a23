"""Owns the promise that the files and examples for GPUs, models and secrets are ones that Compose accepts.

No container runs here: Compose says what it makes of compose.yaml with each file or example. No test has a GPU.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.container.test_compose import config
from tests.support.pages import blocks, page, table, the_block

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.container
GPU, MODELS, CONTAINER = page("docs/gpu.md"), page("docs/models.md"), page("docs/container.md")
EXAMPLES = blocks(GPU, "yaml") + blocks(MODELS, "yaml")
SECRETS = ("compose.yaml", "compose.secrets.yaml")


@pytest.fixture(autouse=True)
def _engine(engine: None) -> None:
    """Compose is there."""


def example(holding: str, tmp_path: Path) -> dict[str, Any]:
    """What the one example of both pages that holds a text makes of the gateway of compose.yaml."""
    override = tmp_path / "compose.override.yaml"
    override.write_text(the_block(GPU + MODELS, "yaml", holding))
    return dict(config("compose.yaml", str(override))["services"]["gateway"])


def changes(seen: dict[str, Any]) -> dict[str, Any]:
    """What of a gateway is not as in compose.yaml; of its variables only those that are new."""
    plain = config()["services"]["gateway"]
    changed = {name: value for name, value in seen.items() if value != plain.get(name)}
    if "environment" in changed:
        changed["environment"] = dict(changed["environment"].items() - plain["environment"].items())
    return changed


def device(seen: dict[str, Any]) -> dict[str, Any]:
    """The one request for GPUs of a service."""
    [device] = seen["deploy"]["resources"]["reservations"]["devices"]
    return dict(device)


@pytest.mark.parametrize("text", EXAMPLES)
def test_compose_accepts_every_example(text: str, tmp_path: Path) -> None:
    """Each example changes the gateway in the parts that it names, and in nothing else; Redis stays as it is."""
    override = tmp_path / "compose.override.yaml"
    override.write_text(text)
    seen = config("compose.yaml", str(override))["services"]
    assert seen["redis"] == config()["services"]["redis"]
    assert changes(seen["gateway"]).keys() == yaml.safe_load(text)["services"]["gateway"].keys()


def test_one_gpu_is_asked_for_by_its_uuid(tmp_path: Path) -> None:
    """The example asks for one GPU by its UUID; together with compose.gpu.yaml it would ask for all as well."""
    seen = example("device_ids", tmp_path)
    assert changes(seen).keys() == {"deploy"}
    [uuid] = device(seen)["device_ids"]
    assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", uuid)
    assert "count" not in device(seen)
    both = config("compose.yaml", "compose.gpu.yaml", str(tmp_path / "compose.override.yaml"))
    assert len(both["services"]["gateway"]["deploy"]["resources"]["reservations"]["devices"]) == 2


def test_amd_gpus_come_with_rocm_devices_and_groups() -> None:
    """compose.amd.yaml changes the base image, the devices and the groups; the groups are numbers of the machine."""
    seen = changes(config("compose.yaml", "compose.amd.yaml", RENDER_GID="992")["services"]["gateway"])
    assert seen.keys() == {"build", "devices", "group_add"}
    [default] = re.findall(r"^ARG OLLAMA_IMAGE=(\S+)$", page("Containerfile"), re.MULTILINE)
    assert seen["build"]["args"]["OLLAMA_IMAGE"] == default + "-rocm"
    assert f"OLLAMA_IMAGE={default}-rocm" in GPU
    assert [entry["source"] for entry in seen["devices"]] == ["/dev/kfd", "/dev/dri"]
    assert seen["group_add"] == ["992", "44"]
    told = {"RENDER_GID": "44", "VIDEO_GID": "10001", "OLLAMA_IMAGE": "mine:rocm"}
    other = config("compose.yaml", "compose.amd.yaml", **told)["services"]["gateway"]
    assert (other["group_add"], other["build"]["args"]["OLLAMA_IMAGE"]) == (["44", "10001"], "mine:rocm")


@pytest.mark.parametrize(("groups", "said"), [({}, "RENDER_GID is missing"), ({"RENDER_GID": "44"}, "must be unique")])
def test_amd_gpus_need_the_numbers_of_the_groups(groups: dict[str, str], said: str) -> None:
    """Without the number Compose names the variable; the same number twice is refused, as the page says."""
    with pytest.raises(AssertionError, match=said):
        config("compose.yaml", "compose.amd.yaml", **groups)


@pytest.mark.parametrize("row", table(GPU, "| Variable | Meaning |"), ids=lambda row: row[0].replace("`", ""))
def test_a_variable_of_the_page_reaches_ollama(row: list[str]) -> None:
    """Each variable in the table of the page is passed on."""
    names = re.findall(r"[A-Z][A-Z_]+", row[0])
    assert names
    environment = config(**dict.fromkeys(names, "1"))["services"]["gateway"]["environment"]
    assert [environment[name] for name in names] == ["1"] * len(names)


def test_variables_that_the_page_sets_are_passed_on() -> None:
    """Each variable that an example or a table tells the reader to set is one that compose.yaml knows."""
    known = set(config()["services"]["gateway"]["environment"]) | set(re.findall(r"\$\{(\w+)", page("compose.yaml")))
    known |= set(re.findall(r"\$\{(\w+)", page("compose.amd.yaml"))) | {"COMPOSE_FILE"}
    in_examples = {name for text in EXAMPLES for name in yaml_environment(text)}
    named = set(re.findall(r"\b([A-Z][A-Z_]{4,}[A-Z_0-9]*)=", GPU + MODELS))
    assert named - known - in_examples == {"UPSTREAM_BASE", "HTTP_PROXY"}  # of `make run`, and of the build


def yaml_environment(text: str) -> set[str]:
    """The variables that an example sets itself."""
    return set(yaml.safe_load(text)["services"]["gateway"].get("environment", {}))


def test_secrets_are_in_no_variable(tmp_path: Path) -> None:
    """With compose.secrets.yaml, secrets in the shell or in .env have no effect: only the files count."""
    told = {"GATEWAY_API_KEYS": "me:from-the-shell", "REDIS_PASSWORD": "from-the-shell", "SECRETS_DIR": str(tmp_path)}
    seen = config(*SECRETS, **told)
    assert "from-the-shell" not in str(seen)
    environment = seen["services"]["gateway"]["environment"]
    assert (environment["GATEWAY_API_KEYS"], environment["REDIS_PASSWORD"]) == ("", "")
    files = {environment["GATEWAY_API_KEYS_FILE"], environment["REDIS_PASSWORD_FILE"]}
    assert files == {secret["target"] for secret in seen["services"]["gateway"]["secrets"]}
    assert {secret["file"] for secret in seen["secrets"].values()} == {
        str(tmp_path / "api_keys"),
        str(tmp_path / "redis_password"),
    }


def test_secrets_change_nothing_else() -> None:
    """compose.secrets.yaml leaves everything but the secrets, their variables and Redis's command as it is."""
    plain, seen = config(), config(*SECRETS)
    changed = {
        name: {key for key in seen["services"][name] if seen["services"][name][key] != plain["services"][name].get(key)}
        for name in seen["services"]
    }
    assert changed == {"gateway": {"environment", "secrets"}, "redis": {"command", "secrets"}}
    assert [secret["source"] for secret in seen["services"]["redis"]["secrets"]] == ["redis_password"]


def test_the_file_and_the_page_say_the_same_commands() -> None:
    """The commands at the top of compose.secrets.yaml are those of docs/container.md."""
    comment = re.search(r"^#   install.*?up --build --wait$", page("compose.secrets.yaml"), re.MULTILINE | re.DOTALL)
    assert comment
    assert re.sub("^#   ", "", comment[0], flags=re.MULTILINE) + "\n" == the_block(
        CONTAINER, "sh", "compose.secrets.yaml up --build"
    )
