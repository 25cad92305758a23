"""Owns the promises of tools/install.sh that need no network: the order of its steps and its one-line errors."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from pathlib import Path

LOCK = ("-r", "requirements/gateway.txt")


def program(path: Path, script: str) -> Path:
    """A shell script that can be called."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def install(python: str | Path, venv: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """tools/install.sh with the gateway's lock, and with nothing of this machine's settings."""
    command = (ROOT / "tools" / "install.sh", python, venv, *LOCK)
    return subprocess.run(command, env=environment(settings), capture_output=True, text=True, check=False)


def test_the_pinned_pip_comes_before_the_locks(tmp_path: Path) -> None:
    """The pip that is there fetches the pinned one and nothing else; both steps check hashes."""
    program(tmp_path / "venv" / "bin" / "python", f'echo "$@" >>{tmp_path}/calls')
    assert install(sys.executable, tmp_path / "venv").returncode == 0
    installs = [line for line in (tmp_path / "calls").read_text().splitlines() if " install " in line]
    assert [line.rpartition("requirements/")[2] for line in installs] == ["installer.txt", "gateway.txt"]
    assert all("--require-hashes" in line for line in installs)


def test_an_environment_without_pip_is_given_one(tmp_path: Path) -> None:
    """Where the environment has no pip, Python's own copy is unpacked first."""
    has_pip = f'case "$*" in *--version*) exit 1;; esac; echo "$@" >>{tmp_path}/calls'
    program(tmp_path / "venv" / "bin" / "python", has_pip)
    assert install(sys.executable, tmp_path / "venv").returncode == 0
    assert (tmp_path / "calls").read_text().startswith("-m ensurepip\n")


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("exit 0", None),
        ('case "$*" in *version_info*) exit 1;; *) echo Python 3.9.2;; esac', "Python 3.9.2 is too old"),
        (
            'case "$*" in *ensurepip*) exit 1;; esac',
            "lacks the module venv; on Debian and Ubuntu: apt install python3-venv",
        ),
        ('case "$*" in "-m venv"*) exit 1;; esac', "could not make"),
    ],
    ids=["missing", "too old", "without ensurepip", "no room"],
)
def test_a_python_that_will_not_do_is_one_line(tmp_path: Path, broken: str, said: str | None) -> None:
    """What is wrong with the Python that was named, and what to do about it, is one line."""
    python = program(tmp_path / "python", broken) if said else tmp_path / "python"
    done = install(python, tmp_path / "venv")
    assert done.returncode == 1
    assert (said or f"no {python} here; install Python 3.11 or newer") in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_environment_that_cannot_get_a_pip_is_one_line(tmp_path: Path) -> None:
    """An environment without pip, of a Python without ensurepip, is named with the way out."""
    program(tmp_path / "venv" / "bin" / "python", "exit 1")
    done = install(sys.executable, tmp_path / "venv")
    assert done.returncode == 1
    assert f"{tmp_path}/venv has no pip" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_without_a_network_is_one_line(tmp_path: Path) -> None:
    """Where no index can be reached, the message asks for the network and the proxy, without a traceback."""
    here = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": "http://127.0.0.1:1/simple", "PIP_NO_CACHE_DIR": "1"}
    done = install(sys.executable, tmp_path / "venv", **here)
    assert done.returncode == 1
    assert done.stderr == (
        "install: no package could be fetched: is there a network, and a proxy if one is needed (HTTPS_PROXY)?\n"
    )


@pytest.mark.parametrize("stamp", ["gateway", "dev", "embedded"])
def test_a_new_installer_installs_again(tmp_path: Path, stamp: str) -> None:
    """An environment that another pip made is brought up to date by the next `make`."""
    (tmp_path / f".installed-{stamp}").touch()
    make = ("make", "--dry-run", f"VENV={tmp_path}", f"{tmp_path}/.installed-{stamp}")
    for more, expected in (((), False), (("--what-if=requirements/installer.txt",), True)):
        done = subprocess.run((*make, *more), cwd=ROOT, env=environment({}), capture_output=True, text=True, check=True)
        assert ("tools/install.sh" in done.stdout) == expected
