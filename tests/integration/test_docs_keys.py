"""Owns the promise that the steps of docs/keys.md work: the keys of its first command, its curl lines, its file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml

from gateway.settings import SETTINGS
from tests.support.installing import needed
from tests.support.pages import blocks, here, output, page, the_block

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Launch

PAGE = page("docs/keys.md")
SILENT = 'curl() { command curl --silent --show-error "$@"; }\n'


@pytest.fixture
async def keys(tmp_path: Path) -> str:
    """The value that the page's first command writes into `.env`."""
    needed("openssl")
    command = the_block(PAGE, "sh", "GATEWAY_API_KEYS").splitlines()[0]
    await output("bash", "-ec", command, cwd=tmp_path)
    return (tmp_path / ".env").read_text().strip().removeprefix("GATEWAY_API_KEYS=")


async def test_the_first_command_makes_keys_that_the_curl_lines_need(launch: Launch, keys: str) -> None:
    """Without a key curl gets 401 `unauthorized`; with that of alice, the upstream's answer."""
    needed("curl")
    gateway = await launch(GATEWAY_API_KEYS=keys)
    without, with_key = (here(block, gateway.port) for block in blocks(PAGE, "sh", "curl "))
    refused = await output("bash", "-c", SILENT + without)
    assert refused.startswith("HTTP/1.1 401")
    assert json.loads(refused.split("\r\n\r\n")[1])["error"]["code"] == "unauthorized"
    names = dict(entry.split(":") for entry in keys.split(","))
    assert set(names) == {"admin", "alice"}
    shown = await output("bash", "-c", SILENT + with_key.replace("KEY", names["alice"]))
    assert json.loads(shown)["object"] == "list"


async def test_the_example_mounts_the_directory_of_the_file() -> None:
    """The file that the setting names lies in the directory that the example mounts, read-only."""
    service = yaml.safe_load(the_block(PAGE, "yaml", "volumes"))["services"]["gateway"]
    ((name, path),) = service["environment"].items()
    assert name in {setting.name for setting in SETTINGS}
    ((_, target, mode),) = [volume.split(":") for volume in service["volumes"]]
    assert (path.rpartition("/")[0], mode) == (target, "ro")


async def test_every_example_of_the_page_is_tried() -> None:
    """The page has no other examples than those above."""
    assert (len(blocks(PAGE, "sh")), len(blocks(PAGE, "yaml")), PAGE.count("\n```")) == (3, 1, 8)
