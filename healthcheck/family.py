"""Ends every program that the launcher started, and all their children, when the launcher ends.

Owns two ways to do that. A program asks the kernel to be killed when its parent dies. The children of a program
(Ollama's model servers, which hold GPU memory) are found by the launcher's directory in their environment. Linux only,
like the gateway.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

DIRECTORY = "LAUNCHER_DIRECTORY"  # unique for each launcher; all its processes inherit it
PR_SET_PDEATHSIG = 1
LIMIT_SECONDS = 10.0
AGAIN_SECONDS = 0.02
LIBC = ctypes.CDLL(None)  # loaded here: a forked child of a process with threads should load nothing


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies. This stays in force after an exec."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before the request
        os.kill(os.getpid(), signal.SIGKILL)


def kill_all(directory: str) -> int:
    """Kill all processes of the launcher with this directory, except the caller. Returns their number.

    Looks again until two looks in a row have found none. A process may have started another one meanwhile, and during
    an exec a process has no environment for a moment.
    """
    end = time.monotonic() + LIMIT_SECONDS
    killed: set[int] = set()
    empty_looks = 0
    while empty_looks < 2 and time.monotonic() < end:
        found = members(directory)
        empty_looks = 0 if found else empty_looks + 1
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        time.sleep(AGAIN_SECONDS)
    return len(killed)


def members(directory: str) -> list[int]:
    """The processes that inherited the directory, without the caller.

    A process that is dead, or in the middle of an exec, has no environment and is not found.
    """
    mark = f"{DIRECTORY}={directory}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it belongs to another user, or has ended
            if mark in (place / "environ").read_bytes().split(b"\0") and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found
