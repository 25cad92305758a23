"""What dies with the launcher: every program that it started, and all that those started.

Owns the two ways to that. A program asks the kernel to be killed when its parent dies; what the programs started
themselves (Ollama's model servers, which hold GPU memory) is found by the launcher's directory in its environment. The
launcher and the listener call it. Linux only, as the gateway.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

DIRECTORY = "LAUNCHER_DIRECTORY"  # unlike any other launcher's; every process of ours inherits it
PR_SET_PDEATHSIG = 1
LIMIT_SECONDS = 10.0
AGAIN_SECONDS = 0.02
LIBC = ctypes.CDLL(None)  # loaded here, for a fork of a process with threads should load nothing


def die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies; what it executes keeps that."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before it was asked
        os.kill(os.getpid(), signal.SIGKILL)


def kill_all(directory: str) -> int:
    """Kill every process of the launcher that has this directory but the caller; how many there were.

    Looks again until none is left, since one may have been starting another one meanwhile.
    """
    end = time.monotonic() + LIMIT_SECONDS
    killed: set[int] = set()
    while (found := members(directory)) and time.monotonic() < end:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        time.sleep(AGAIN_SECONDS)
    return len(killed)


def members(directory: str) -> list[int]:
    """The processes that inherited it, without the caller. One that is dead has no environment any more."""
    mark = f"{DIRECTORY}={directory}".encode()
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile
            if mark in (place / "environ").read_bytes().split(b"\0") and int(place.name) != os.getpid():
                found.append(int(place.name))
    return found
