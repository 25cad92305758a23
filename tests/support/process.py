"""Owns child processes of the tests: started with a clean environment and a log file, ended with a limit.

The gateway, the store and the embedded model are run through it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
INHERITED = ("PATH", "HOME", "LANG", "TMPDIR", "COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG")


def environment(settings: dict[str, str]) -> dict[str, str]:
    """An environment with these settings and none of the machine's own."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    return inherited | {"PYTHONUNBUFFERED": "1"} | settings


def spawn(command: list[str], log: Path, settings: dict[str, str], directory: Path = ROOT) -> subprocess.Popen[bytes]:
    """Start a command in `directory`; all it writes is appended to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            cwd=directory,
            env=environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )


async def terminate(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """SIGTERM and the exit code; None when it did not end in time and had to be killed."""
    process.terminate()
    try:
        return await asyncio.to_thread(process.wait, seconds)
    except subprocess.TimeoutExpired:
        await kill(process)
        return None


async def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL, and wait until it is gone."""
    process.kill()
    await asyncio.to_thread(process.wait)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def hears_sighup(pid: int) -> bool:
    """Whether the process has a handler for SIGHUP."""
    status = Path(f"/proc/{pid}/status").read_text()
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGHUP - 1) & 1)
