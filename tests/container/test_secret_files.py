"""Owns the promises of compose.secrets.yaml, on the running stack, with the commands of docs/container.md.

The files are made, changed and replaced by the commands of the page, in a directory of the test's.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.stack import ROOT, Stack, every, run
from tests.support.pages import blocks, page, the_block
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
PAGE = page("docs/container.md")
FILES = ("compose.yaml", "compose.secrets.yaml")
SERVICES = {"gateway": (10001, {"api_keys", "redis_password"}), "redis": (999, {"redis_password"})}
SHOWN = "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ"
WARNING = "{} is a file mounted by itself"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with our compose files and the secrets, made by the page's commands except the last, which starts."""
    place = tmp_path_factory.mktemp("place")
    for name in FILES:
        (place / name).symlink_to(ROOT / name)
    *making, start = the_block(PAGE, "sh", "up --build").splitlines()
    assert start.startswith("docker compose -f compose.yaml -f compose.secrets.yaml up")
    run("bash", "-ec", "\n".join([f"cd '{place}'", *making]))
    return place


@pytest.fixture(scope="module")
def stack(running: Stack, place: Path) -> Iterator[Stack]:
    """The stack with these secrets, healthy."""
    settings = running.images | {"SECRETS_DIR": str(place / "secrets")}
    stack = Stack(f"gateway-files-{os.getpid()}", settings, overrides=("compose.secrets.yaml",))
    try:
        stack.up()
        yield stack
        print(stack.compose("logs", "--no-color", "--tail", "40"))
    finally:
        stack.down()


def do(stack: Stack, place: Path, commands: str) -> str:
    """The output of commands of the page, in the directory with the secrets, for the test's stack."""
    here = {
        "COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_ENV_FILES": os.devnull, "GATEWAY_PUBLISH_PORT": str(stack.port),
    }  # fmt: skip
    return run("bash", "-ec", f"cd '{place}'\n{commands}", seconds=300, environment=stack.images | here)


def keys(place: Path) -> dict[str, str]:
    """The API keys in the file, by name."""
    lines = (place / "secrets" / "api_keys").read_text().splitlines()
    return {name: key for name, _, key in (line.partition(":") for line in lines)}


def secrets(place: Path) -> list[str]:
    """Every secret that is in the files."""
    return [*keys(place).values(), (place / "secrets" / "redis_password").read_text().strip()]


def code(stack: Stack, key: str, path: str = "/v1/models", **fields: str) -> int:
    """The status of a call with this key; with none if it is empty."""
    headers = fields | ({"Authorization": f"Bearer {key}"} if key else {})
    return httpx.get(f"http://127.0.0.1:{stack.port}{path}", headers=headers, timeout=30, trust_env=False).status_code


def asked(stack: Stack, place: Path, command: str) -> str:
    """Redis's answer to a command, asked with the page's command line."""
    example = the_block(PAGE, "sh", "REDISCLI_AUTH")
    assert "DBSIZE" in example
    return do(stack, place, example.replace("exec redis", "exec -T redis").replace("DBSIZE", command))


def test_the_secrets_are_in_force(stack: Stack, place: Path) -> None:
    """Without a key 401; with the key of the file an answer, and its status is in Redis, which wants the password."""
    assert code(stack, "") == 401
    assert code(stack, keys(place)["alice"], **{"X-Task-Id": "from-files"}) == 200
    assert "NOAUTH" in stack.redis("GET", "ts:ollama:from-files")
    assert "WRONGPASS" in stack.redis("-a", "guessed", "GET", "ts:ollama:from-files")
    assert '"SUCCESS"' in asked(stack, place, "GET ts:ollama:from-files")


@pytest.mark.parametrize("service", SERVICES)
def test_no_secret_can_be_seen(stack: Stack, place: Path, service: str) -> None:
    """Not in `docker inspect` and `docker top`, and in no variable or argument of any process; nor in the log."""
    container = stack.container(service)
    seen = [json.dumps(container), run("docker", "top", container["Id"], "-eo", "pid,args")]
    seen += [stack.sh(f"{SHOWN} | tr '\\0' '\\n'", service), run("docker", "logs", container["Id"])]
    assert "redis_password" in seen[0]
    assert all({"gateway": "gateway", "redis": "redis-server"}[service] in text for text in seen[1:3])
    assert [text for text in seen if any(secret in text for secret in secrets(place))] == []


@pytest.mark.parametrize("service", SERVICES)
def test_files_keep_their_owner_and_mode(stack: Stack, place: Path, service: str) -> None:
    """Each service has its own files alone, as they are on the machine; its user reads them and cannot write them."""
    user, names = SERVICES[service]
    assert stack.sh("id -u", service).strip() == str(user)
    assert set(stack.sh("ls /run/secrets", service).split()) == names
    for name in names:
        outside = (place / "secrets" / name).stat()
        assert stack.sh(f"stat -c '%u %g %a' /run/secrets/{name}", service).split() == [
            str(outside.st_uid),
            str(outside.st_gid),
            f"{outside.st_mode & 0o777:o}",
        ]
        assert stack.sh(f"cat /run/secrets/{name}", service) == (place / "secrets" / name).read_text()
        assert stack.sh(f"test -w /run/secrets/{name} || echo read-only", service) == "read-only\n"
    assert (place / "secrets").stat().st_mode & 0o777 == 0o700


def test_the_gateway_says_that_each_file_is_mounted_alone(stack: Stack) -> None:
    """The start's warning, which the page explains, is in the log for both files."""
    logs = stack.logs()
    assert all(WARNING.format(name) in logs for name in ("GATEWAY_API_KEYS_FILE", "REDIS_PASSWORD_FILE"))


async def test_keys_are_added_and_revoked_by_writing_into_the_file(stack: Stack, place: Path) -> None:
    """By the page's commands: a new key works, and a revoked one stops to, without a restart."""
    container, alice = stack.container()["Id"], keys(place)["alice"]
    do(stack, place, the_block(PAGE, "sh", ">>secrets/api_keys"))
    await until(every(0.5, lambda: code(stack, keys(place)["bob"]) == 200), 30, "the new key works")
    assert code(stack, alice) == 200
    do(stack, place, the_block(PAGE, "sh", "grep -v"))
    assert set(keys(place)) == {"admin", "bob"}
    await until(every(0.5, lambda: code(stack, alice) == 401), 30, "the revoked key is refused")
    assert code(stack, keys(place)["bob"]) == 200
    assert stack.container()["Id"] == container


async def test_the_password_of_redis_is_changed(stack: Stack, place: Path) -> None:
    """By the page's commands, which start both again: the new password is used, and no status is lost."""
    bob, before = keys(place)["bob"], secrets(place)[-1]
    assert code(stack, bob, **{"X-Task-Id": "kept"}) == 200
    do(stack, place, blocks(PAGE, "sh", "--force-recreate")[1])
    assert secrets(place)[-1] != before
    assert code(stack, bob, "/tasks/status/kept") == 200
    assert '"SUCCESS"' in asked(stack, place, "GET ts:ollama:kept")


async def test_files_are_replaced_with_other_owners(stack: Stack, place: Path) -> None:
    """With root's owners and modes of the page the gateway reads both files, after the page's command for new files."""
    bob, password = keys(place)["bob"], secrets(place)[-1]
    run("bash", "-ec", f"cd '{place}'\n{the_block(PAGE, 'sh', 'install -d -o root')}")
    (place / "secrets" / "redis_password").write_text(password)  # written into: Redis goes on with its own
    do(stack, place, blocks(PAGE, "sh", "--force-recreate")[0])
    assert (code(stack, bob), code(stack, keys(place)["alice"], **{"X-Task-Id": "new-alice"})) == (401, 200)
    assert '"SUCCESS"' in asked(stack, place, "GET ts:ollama:new-alice")
    found = stack.sh("cd /run/secrets && stat -c '%u %g %a' api_keys redis_password")
    assert found == "10001 10001 400\n10001 1000 440\n"
