"""The stand-in `ollama`: what it says of itself, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from tests.support.model import EmbeddedModel

OLLAMA = str(ROOT / "embedded" / "ollama")


def ollama(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command with this environment's Python and wait for its end."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [OLLAMA, *arguments],
        env=environment({"PATH": path, **settings}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_says_what_it_is() -> None:
    """`--version` tells it from the real Ollama."""
    done = ollama("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not Ollama itself" in done.stdout


@pytest.mark.parametrize("arguments", [("pull", "llama3"), ("list",), ()])
def test_commands_it_lacks_are_named(arguments: tuple[str, ...]) -> None:
    """A command it does not have fails and says which ones it has."""
    done = ollama(*arguments)
    assert done.returncode == 2
    assert "ollama serve" in done.stderr


@pytest.mark.model
@pytest.mark.asyncio(loop_scope="session")
async def test_a_taken_port_is_one_line(model: EmbeddedModel) -> None:
    """A port in use ends it at once, with one line that names the address and the variable to change."""
    done = ollama("serve", OLLAMA_HOST=f"127.0.0.1:{model.port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{model.port}" in done.stderr
    assert "OLLAMA_HOST" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_address_is_one_line() -> None:
    """An OLLAMA_HOST that has no usable port is refused in one line that names it."""
    done = ollama("serve", OLLAMA_HOST="127.0.0.1:http")
    assert done.returncode == 1
    assert "OLLAMA_HOST='127.0.0.1:http'" in done.stderr
    assert done.stderr.count("\n") == 1
