"""Owns the promise that the steps of docs/keys.md work: the keys of its first command, its curl lines, its files."""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

import openai
import pytest
import yaml

from gateway.access.secret_files import read_keys
from gateway.settings import SETTINGS
from tests.support.installing import needed
from tests.support.kept import bearer
from tests.support.pages import blocks, here, output, page, the_block
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.wire import Field

PAGE = page("docs/keys.md")
CHAT = "/v1/chat/completions"
SILENT = 'curl() { command curl --silent --show-error "$@"; }\n'


@pytest.fixture
async def keys(tmp_path: Path) -> str:
    """The value that the page's first command writes into `.env`."""
    needed("openssl")
    command = the_block(PAGE, "sh", ">>.env").splitlines()[0]
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
    """The file that the setting names lies in the directory that the example mounts, read-only. Git ignores it."""
    service = yaml.safe_load(the_block(PAGE, "yaml", "volumes"))["services"]["gateway"]
    path = service["environment"]["GATEWAY_API_KEYS_FILE"]
    assert service["environment"] == {"GATEWAY_API_KEYS": "", "GATEWAY_API_KEYS_FILE": path}
    assert set(service["environment"]) <= {setting.name for setting in SETTINGS}
    ((source, target, mode),) = [volume.split(":") for volume in service["volumes"]]
    assert (path.rpartition("/")[0], mode) == (target, "ro")
    assert source.removeprefix(".") + "/" in page(".gitignore").splitlines()


async def test_the_mounted_directory_is_the_containers_users_alone(tmp_path: Path) -> None:
    """The commands with sudo make keys that only user 10001 can read. A run as root checks the owner, too."""
    needed("openssl")
    commands = the_block(PAGE, "sh", "sudo ").replace("sudo ", "")
    owner = (10001, 10001)
    if os.getuid() != 0:
        assert commands.count("-o 10001 -g 10001 ") == 2
        commands, owner = commands.replace("-o 10001 -g 10001 ", ""), (os.getuid(), os.getgid())
    await output("bash", "-ec", commands, cwd=tmp_path)
    directory = tmp_path / "gateway-keys"
    found = [path.stat() for path in (directory, directory / "keys")]
    assert [f"{status.st_mode & 0o777:o}" for status in found] == ["700", "400"]
    assert {(status.st_uid, status.st_gid) for status in found} == {owner}
    assert sorted(read_keys(directory / "keys").values()) == ["admin", "alice"]
    (removal,) = re.findall(r"`sudo (sed -i [^`]+)`", PAGE)
    await output("bash", "-ec", removal, cwd=tmp_path)
    after = (directory / "keys").stat()
    assert (f"{after.st_mode & 0o777:o}", (after.st_uid, after.st_gid)) == ("400", owner)
    assert list(read_keys(directory / "keys").values()) == ["admin"]


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """The directory that the commands without Docker make at home, with the file that they give to `make run`."""
    needed("openssl")
    *making, start = the_block(PAGE, "sh", "make run").splitlines()
    assert start == "make run GATEWAY_API_KEYS_FILE=$HOME/gateway-keys/keys"
    await output("bash", "-ec", "\n".join(making), settings={"HOME": str(tmp_path)})
    return tmp_path / "gateway-keys"


async def test_a_revoked_key_is_refused_and_its_requests_go_on(
    launch: Launch, upstream: Upstream, directory: Path
) -> None:
    """As the page says: the log tells of the change; what runs with the key ends normally, or admin cancels it."""
    file = directory / "keys"
    assert [path.stat().st_mode & 0o777 for path in (directory, file)] == [0o700, 0o600]
    lines = file.read_text().splitlines(keepends=True)
    admin, revoked, kept = (bearer(line.strip().partition(":")[2]) for line in lines)
    gateway = await launch(GATEWAY_API_KEYS_FILE=str(file), MAX_RUNNING="1")
    first, second = upstream.gated(), upstream.gated()
    runs = await gateway.send("POST", CHAT, revoked, (b"X-Task-Id", b"runs"), body=b"{}")
    await upstream.exchange()
    waits = await gateway.send("POST", CHAT, revoked, (b"X-Task-Id", b"waits"), body=b"{}")
    await until(lambda: _is_queued(gateway, admin, "waits"), what="the second request waits")

    file.write_text(lines[0] + lines[2].strip() + "  # a comment behind a key\n")
    await until(lambda: "the API keys stay as they were" in gateway.log, what="the wrong line is told")
    assert (await gateway.ask("GET", "/tasks/status", revoked)).status == 200
    file.write_text(f"  # whole lines\n{lines[0]}{lines[2]}")
    await until(lambda: "API keys in force: 2" in gateway.log, what="the change is told")
    assert [(await gateway.ask("GET", "/tasks/status", field)).status for field in (revoked, kept)] == [401, 200]

    first.head()
    first.piece(b"data: [DONE]\n\n")
    first.end()
    assert await within(30, runs.up_to(b"0\r\n\r\n"), "the normal end")
    await upstream.exchange(1)
    second.head()
    assert (await within(30, waits.head(), "the second request's turn")).status == 200
    assert (await gateway.ask("POST", "/tasks/waits/cancel", admin)).json()["extensions"]["reason"] == "cancelled"


async def _is_queued(gateway: Gateway, field: Field, task_id: str) -> bool:
    """Whether the task's status says that it waits in the queue."""
    answer = await gateway.ask("GET", f"/tasks/status/{task_id}", field)
    return answer.status == 200 and answer.json()["stage"] == "queued"


async def test_what_the_page_says_of_openais_client() -> None:
    """Without a key the Python client raises its own error, with the words of the page."""
    assert "`Missing credentials` is one of OpenAI's Python client" in PAGE
    with pytest.raises(openai.OpenAIError, match="Missing credentials"):
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="")


OPEN = ("/livez", "/readyz", "/", "/dashboard/style.css")


async def test_what_needs_no_key(launch: Launch) -> None:
    """Without a key a client reads these and no other; `/metrics` and `/models/loaded` are for every key."""
    key = "0123456789"
    gateway = await launch(GATEWAY_API_KEYS=f"admin:{key}0,alice:{key}1")
    paths = [*OPEN, "/docs", "/openapi.json", "/metrics", "/models/loaded", "/tasks/status", "/nodes", "/nowhere"]
    found = [(await gateway.ask("GET", path)).status for path in paths]
    assert [path for path, status in zip(paths, found, strict=True) if status != 401] == list(OPEN)
    alices = [(await gateway.ask("GET", path, bearer(key + "1"))).status for path in paths]
    assert [path for path, status in zip(paths, alices, strict=True) if status in (401, 403)] == ["/nodes"]


async def test_every_example_of_the_page_is_tried() -> None:
    """The page has no other examples than those above."""
    assert (len(blocks(PAGE, "sh")), len(blocks(PAGE, "yaml")), PAGE.count("\n```")) == (5, 1, 12)
