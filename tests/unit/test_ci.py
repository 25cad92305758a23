"""Owns the promise that .ci/run runs wherever the repository is cloned: what it calls, in which order, what it says.

The script is copied beside stand-ins for every program that it calls, each of which only notes its call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import page
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

SUITES = [
    f"make {name}"
    for name in ("check", "test", "test-setup", "test-chaos", "test-browser", "test-monitoring", "test-cluster")
]
TOOLS = (
    "python3", "make", "slowhttptest", "chromium", "promtool", "nginx", "haproxy", "redis-server", "kubectl", "ip",
    "curl", "openssl", "node", "npm", "docker",
)  # fmt: skip


class Machine:
    """A machine that has only what the script may call; `calls` are those of make, of apt-get and of the engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        (folder / "project" / ".ci").mkdir(parents=True)
        shutil.copy(ROOT / ".ci" / "run", folder / "project" / ".ci" / "run")
        self.bin.mkdir()
        for name in ("bash", "env", "dirname"):
            (self.bin / name).symlink_to(str(shutil.which(name)))
        for name in (*TOOLS, "apt-get"):
            self.program(self.bin / name, "exit 0" if name == "python3" else self.note(name))
        self.program(self.bin / "docker", "exit 1")
        self.program(self.bin / "id", "echo 0")

    def note(self, name: str) -> str:
        return f'echo "{name} $*" >>{self.folder}/calls'

    def program(self, path: Path, script: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{script}\n")
        path.chmod(0o755)

    def run(self, *suites: str) -> str:
        """What the script prints."""
        script = self.folder / "project" / ".ci" / "run"
        done = subprocess.run(
            [script, *suites], env={"PATH": str(self.bin)}, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with all tools, run as root, without an engine."""
    return Machine(tmp_path)


def test_a_clone_alone_runs_all_but_the_container_tests(machine: Machine) -> None:
    """Without anything beside the repository the script says what it skips and why, and ends with a test runner."""
    said = machine.run()
    assert machine.calls() == SUITES
    assert said.startswith("ci: make test-container is skipped: no ../shared/ci/engine.sh here, and no Docker engine")


def test_the_engine_is_brought_up_where_the_script_for_it_is(machine: Machine) -> None:
    """The script beside the repository is called before the container tests, which come last."""
    machine.program(machine.folder / "shared" / "ci" / "engine.sh", machine.note("engine"))
    assert machine.run() == ""
    assert machine.calls() == [*SUITES, "engine ", "make test-container"]


def test_an_engine_that_is_there_is_used(machine: Machine) -> None:
    """A machine that has an engine and the base image needs no script for it."""
    machine.program(machine.bin / "docker", "exit 0")
    assert machine.run() == ""
    assert machine.calls() == [*SUITES, "make test-container"]


def test_root_installs_what_is_missing(machine: Machine) -> None:
    """On a bare Debian machine, as root, each tool that a test needs comes from its package."""
    (machine.bin / "promtool").unlink()
    (machine.bin / "nginx").unlink()
    machine.program(machine.bin / "python3", "exit 1")
    machine.run()
    update, install, *suites = machine.calls()
    assert update.startswith("apt-get update")
    assert install.endswith("python3-venv prometheus nginx-light libgomp1")
    assert suites == SUITES


def test_the_page_has_all_packages() -> None:
    """CONTRIBUTING.md names each package that the script installs in one command."""
    packages = re.findall(r"missing\+=\(([\w-]+)\)", (ROOT / ".ci" / "run").read_text())
    [command] = re.findall(r"^apt-get install --no-install-recommends (.+)$", page("CONTRIBUTING.md"), re.MULTILINE)
    assert sorted(command.split()) == sorted([*packages, "git"])


def test_a_plain_user_is_told_what_is_missing(machine: Machine) -> None:
    """Where nothing can be installed, the script names what the tests will miss, and goes on."""
    (machine.bin / "chromium").unlink()
    machine.program(machine.bin / "id", "echo 1000")
    assert "tests that need it will fail (root on Debian would install it): chromium\n" in machine.run()
    assert machine.calls() == SUITES


def test_each_suite_is_run(machine: Machine) -> None:
    """A new suite of the Makefile is part of CI."""
    targets = [line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("test")]
    machine.program(machine.bin / "docker", "exit 0")
    machine.run()
    assert {f"make {target}" for target in targets} <= set(machine.calls())
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_a_suite_can_be_run_alone(machine: Machine) -> None:
    """Arguments name the suites; only these are run, in their order."""
    machine.run("test-chaos", "check")
    assert machine.calls() == ["make test-chaos", "make check"]


def test_the_container_tests_alone_bring_their_engine(machine: Machine) -> None:
    """A single suite has what it needs: the script for the engine runs before the container tests."""
    engine = machine.folder / "shared" / "ci" / "engine.sh"
    machine.program(engine, machine.note("engine"))
    machine.run("test-container")
    assert machine.calls() == ["engine ", "make test-container"]
