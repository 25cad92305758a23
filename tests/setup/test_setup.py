"""Owns the promise that every lock can be installed on a new machine, whichever pip its Python brings.

Each test makes virtual environments of its own and uses the network as the user's pip is set up for it; the one in
which the tests run is left alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.locks import pins
from tests.support.process import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(1200)

INSTALL = ROOT / "tools" / "install.sh"
[INSTALLER] = pins("installer.txt")
# The pips that Python 3.11.0, Debian 12 and Python 3.11.7 bring; and from which Python on they no longer start.
OLD_PIPS = {
    "22.3": ("1daab4b8d3b97d1d763caeb01a4640a2250a0ea899e257b1e44b9eded91e15ab", (3, 12)),
    "23.0.1": ("236bcb61156d76c4b8a05821b988c7b8c35bf0da28a4b614e8d6ab5212c25c6f", (3, 12)),
    "23.2.1": ("7ccf472345f20d35bdc9d1841ff5f313260c2c33fe417f48c30ac46cccabf5be", (3, 14)),
}
# What the Makefile installs, as it installs it, and the lock that only the bench asks for.
MAKEFILE = (ROOT / "Makefile").read_text()
INSTALLED = re.findall(r"tools/install\.sh \$\(PYTHON\) \$\(VENV\) (.+)", MAKEFILE)
LOCKS = [*INSTALLED, "-r requirements/bench.txt", "-r requirements/installer.txt"]


def run(*command: str | Path) -> str:
    """A command's output, run in the repository's root; AssertionError with the end of it when it fails."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


def new_venv(folder: Path, *options: str) -> Path:
    """The Python of a new virtual environment."""
    run(sys.executable, "-m", "venv", *options, folder)
    return folder / "bin" / "python"


def new_venv_with(pip: str, folder: Path) -> Path:
    """The Python of a new virtual environment whose pip is an old one; skips where that one cannot run."""
    checksum, first_without = OLD_PIPS[pip]
    if sys.version_info >= first_without:
        pytest.skip(f"pip {pip} does not run on Python {sys.version_info.major}.{sys.version_info.minor}")
    python = new_venv(folder / "venv")
    pinned = folder / "pip.txt"
    pinned.write_text(f"pip=={pip} --hash=sha256:{checksum}\n")
    run(python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", pinned)
    assert pip_of(python) == pip
    return python


def pip_of(python: Path) -> str:
    """The version of the pip beside a Python."""
    return run(python, "-m", "pip", "--version").split()[1]


def install(python: Path, arguments: str) -> None:
    """What the Makefile does for an environment that is there."""
    run(INSTALL, sys.executable, python.parents[1], *arguments.split())


@pytest.mark.parametrize("pip", OLD_PIPS)
def test_an_old_pip_is_replaced_before_a_lock_is_read(pip: str, tmp_path: Path) -> None:
    """An environment with an old pip has the pinned one and every package of the lock afterwards."""
    python = new_venv_with(pip, tmp_path)
    install(python, "-r requirements/gateway.txt")
    assert pip_of(python) == INSTALLER.version
    run(python, "-m", "pip", "check")
    run(python, "-c", "import gateway.app")


def test_all_of_make_test_installs_beside_the_pip_of_python_3_11_0(tmp_path: Path) -> None:
    """All that `make test` installs goes into an environment whose pip is 22.3, the oldest that can be met."""
    python = new_venv_with("22.3", tmp_path)
    for arguments in INSTALLED:
        install(python, arguments)
    run(python, "-m", "pytest", "--version")


def test_an_environment_without_a_pip_gets_one(tmp_path: Path) -> None:
    """Other tools make environments without a pip; the pinned one is brought there as well."""
    python = new_venv(tmp_path / "venv", "--without-pip")
    install(python, "-r requirements/installer.txt")
    assert pip_of(python) == INSTALLER.version


@pytest.fixture(scope="module")
def installer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the pinned installer and no more."""
    python = new_venv(tmp_path_factory.mktemp("installer") / "venv")
    install(python, "-r requirements/installer.txt")
    return python


@pytest.mark.parametrize("arguments", LOCKS)
def test_every_lock_resolves_with_the_installer_that_is_used(arguments: str, installer: Path) -> None:
    """Nothing is missing from a lock, nothing contradicts, and the index has each file under a hash of the lock."""
    dry_run = ("install", "--dry-run", "--ignore-installed", "--require-hashes", "--quiet")
    run(installer, "-m", "pip", *dry_run, *arguments.split())


def test_every_lock_is_looked_at() -> None:
    """A new file in requirements/ is resolved here, too."""
    files = {file.name for file in (ROOT / "requirements").iterdir()}
    assert set(re.findall(r"requirements/([\w.]+)", " ".join(LOCKS))) == files
