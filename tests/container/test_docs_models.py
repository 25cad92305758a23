"""Owns the promise that the examples of docs/models.md work on the running image.

The examples are cut out of the page; only the machine's directory and its owner become those of the test.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.container.stack import ROOT, Stack, run
from tests.support.pages import page, the_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
PAGE = page("docs/models.md")
HOSTS = "/usr/share/ollama/.ollama"
OWNER = 998
AS_OWNER = f'user: "{OWNER}:{OWNER}"'


@pytest.fixture
def hosts(tmp_path: Path) -> Path:
    """The directory of an Ollama of the machine: a key and a blob, of a user whom the image does not know."""
    hosts = tmp_path / "dot-ollama"
    (hosts / "models" / "blobs").mkdir(parents=True)
    (hosts / "models" / "blobs" / "mark").write_text("mine\n")
    (hosts / "id_ed25519").write_text("a private key\n")
    (hosts / "id_ed25519").chmod(0o600)
    run("chown", "-R", f"{OWNER}:{OWNER}", str(hosts))
    return hosts


@pytest.fixture
def started(running: Stack, tmp_path: Path, hosts: Path) -> Iterator[Callable[[str], Stack]]:
    """Starts a stack with the page's example that holds a text, on the test's directory."""
    override = tmp_path / "compose.override.yaml"
    stack = Stack(f"gateway-models-{os.getpid()}", running.images, overrides=(str(override),))

    def start(holding: str) -> Stack:
        override.write_text(the_block(PAGE, "yaml", holding).replace(HOSTS, str(hosts)))
        stack.up()
        return stack

    try:
        yield start
    finally:
        stack.down()


def do(stack: Stack, place: Path, commands: str) -> str:
    """The output of commands of the page, in a directory, for the test's stack."""
    here = {"COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_FILE": str(ROOT / "compose.yaml")}
    here |= {"COMPOSE_ENV_FILES": os.devnull, "GATEWAY_PUBLISH_PORT": str(stack.port)}
    return run("bash", "-ec", f"cd '{place}'\n{commands}", seconds=300, environment=stack.images | here)


def test_models_are_copied_into_the_volume(stack: Stack, hosts: Path) -> None:
    """The page's command copies another Ollama's files; the copies are the container's own."""
    command = the_block(PAGE, "sh", "cp gateway").replace("$HOME/.ollama", str(hosts))
    do(stack, hosts, command)
    place = "/var/lib/ollama/models/blobs"
    assert stack.sh(f"cat {place}/mark && stat -c %u {place}/mark && rm {place}/mark") == "mine\n10001\n"


def test_models_are_mounted_read_only(started: Callable[[str], Stack]) -> None:
    """The container sees the files, cannot write there, says so in the line that the page shows, and is healthy."""
    stack = started("/var/lib/ollama/models:ro")
    assert stack.all_healthy()
    assert stack.sh("cat /var/lib/ollama/models/blobs/mark") == "mine\n"
    assert stack.sh("touch /var/lib/ollama/models/x || echo refused").endswith("refused\n")
    [line] = re.findall(r"^launcher \| .*is read-only.*$", PAGE, re.MULTILINE)
    assert line in stack.logs().splitlines()


def test_the_container_runs_as_the_owner_of_the_models(started: Callable[[str], Stack], hosts: Path) -> None:
    """Both programs run as that user, in its directory and with its key; what they write is that user's."""
    stack = started(AS_OWNER)
    assert stack.all_healthy()
    assert {process.status["Uid"].split()[0] for process in stack.processes()} == {str(OWNER)}
    assert "cannot be written" not in stack.logs()
    assert stack.sh("cat ~/.ollama/id_ed25519") == "a private key\n"
    assert stack.sh("echo new >$OLLAMA_MODELS/blobs/new") == ""
    assert (hosts / "models" / "blobs" / "new").stat().st_uid == OWNER


def test_an_owner_who_cannot_write_is_named(started: Callable[[str], Stack], hosts: Path) -> None:
    """If the directory belongs to another user, the line at the start is the one that the page shows."""
    run("chown", "-R", "997:997", str(hosts))
    stack = started(AS_OWNER)
    [line] = re.findall(r"`(/home/ollama/\S+ cannot be written: [^`]*)`", PAGE)
    assert f"launcher | {line}" in stack.logs().splitlines()


def test_a_private_authority_is_put_beside_the_public_ones(running: Stack, tmp_path: Path) -> None:
    """The page's commands make one file, readable for all, that ends with the private authority."""
    mine = "-----BEGIN CERTIFICATE-----\nmine\n-----END CERTIFICATE-----\n"
    (tmp_path / "my-ca.pem").write_text(mine)
    do(running, tmp_path, the_block(PAGE, "sh", "bundle.pem"))
    bundle = tmp_path / "ca" / "bundle.pem"
    text = bundle.read_text()
    assert text.endswith(mine)
    assert text.count("BEGIN CERTIFICATE") > 100
    assert bundle.stat().st_mode & 0o444 == 0o444
