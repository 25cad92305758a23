"""Promises of models at start in the container as it is shipped: pulled beside the gateway, with all locks on."""

from __future__ import annotations

import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import ROOT, every, run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]
LOCKS = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
OLLAMA = ROOT / "tests" / "support" / "pulling_ollama.py"
READYZ = """
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:11535/readyz").read().decode())
except urllib.error.HTTPError as error:
    print(error.read().decode())
except OSError:
    print("null")
"""


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """A file: while it exists, the pull stands still in its middle, however long it takes to look at it."""
    directory = tmp_path / "hold"
    directory.mkdir(mode=0o755)
    (directory / "pull").touch()
    return directory / "pull"


def let_go(hold: Path) -> None:
    """Lets the pull go on."""
    hold.unlink()


@pytest.fixture
def container(running: Stack, hold: Path) -> Iterator[str]:
    """The image in a container of its own, with an Ollama that has no model and fails two pulls."""
    name = f"gateway-pull-{uuid.uuid4().hex[:8]}"
    settings = ("-e", "OLLAMA_PULL_MODELS=small:1b", "-e", "READY_REQUIRES_MODELS=true")
    mounts = ("-v", f"{OLLAMA}:/usr/bin/ollama:ro", "-v", f"{hold.parent}:/hold:ro")
    run("docker", "run", "-d", "--name", name, *LOCKS, *mounts, *settings, GATEWAY_IMAGE)
    yield name
    print(run("docker", "logs", name, check=False))
    run("docker", "rm", "-f", "-v", name)


def readiness(container: str) -> dict[str, Any] | None:
    """What /readyz says inside; None while no one answers. AssertionError when the container has ended."""
    found: dict[str, Any] | None = json.loads(run("docker", "exec", container, "python", "-c", READYZ))
    return found


async def test_a_model_is_pulled_and_the_container_becomes_healthy(container: str, hold: Path) -> None:
    """Two pulls fail, the third one's progress is seen in /readyz and the log; then it is ready, and stops with 0."""

    def progress() -> dict[str, Any] | None:
        found = readiness(container)
        return found if found and found["models"]["pulling"] else None

    def ready() -> dict[str, Any] | None:
        found = readiness(container)
        return found if found and found["status"] == "ready" else None

    seen = await until(every(0.2, progress), 120, "progress in /readyz")
    let_go(hold)
    assert (seen["status"], seen["models"]["missing"]) == ("not_ready", ["small:1b"])
    assert seen["models"]["pulling"] == "small:1b"
    assert 0 <= seen["models"]["percent"] <= 100
    after = await until(every(0.5, ready), 120, "ready")
    assert after["models"] == {"wanted": ["small:1b"], "missing": [], "pulling": None, "percent": None}
    run("docker", "exec", container, "python", "/opt/gateway/healthcheck/check.py")

    run("docker", "stop", "--time", "45", container)
    [state] = json.loads(run("docker", "inspect", "--format", "[{{json .State}}]", container))
    assert state["ExitCode"] == 0
    log = run("docker", "logs", container)
    assert len(re.findall(r"^pull \| .*trying again in", log, re.MULTILINE)) == 2
    assert re.search(r"^pull \| .*small:1b: \d+ % of 1000\.0 MB$", log, re.MULTILINE)
    assert re.search(r"^supervisord \| .*exited: pull \(exit status 0; expected\)$", log, re.MULTILINE)
