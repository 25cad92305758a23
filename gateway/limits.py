"""What one client's connection may take: the numbers of contract 2.5, the timer that holds them, how many there may be.

Knows no HTTP. Used by server, and by __main__ for the number of connections.
"""

import asyncio
import logging
import resource
from collections.abc import Callable
from contextlib import suppress
from math import inf

log = logging.getLogger("gateway.limits")

# Contract 2.5. A head, the line of a chunk or a trailer section may have this many bytes.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 128  # each takes twenty times its shortest form in memory
IDLE_SECONDS = 60.0
HEAD_SECONDS = 10.0
# A body has to bring this many bytes, or its end, in each such time; what trickles in slower has stalled.
BODY_SECONDS = 30.0
BODY_LEAST_BYTES = 1024
# How often to look whether a client is still there that we do not read from.
LOOK_SECONDS = 0.5
# A client that takes nothing for so long of what waits for it is no slow reader.
STALL_SECONDS = 300.0
# After an answer that came before its request was whole: how long a silence, how long and how much in all.
LINGER_IDLE_SECONDS = 2.0
LINGER_SECONDS = 30.0
LINGER_BYTES = 2**30
# Pipelined requests that came in one read are in memory all at once: what they may take there, and what each takes.
PIPELINE_BYTES = 262_144
REQUEST_BYTES = 2_600
FIELD_BYTES = 130

# Files, sockets and pipes of the process itself, and connections over the cap that are being told so.
_OWN_DESCRIPTORS = 96


def fitting_connections(wanted: int) -> int:
    """How many clients' connections fit into the file descriptors, at most `wanted`; raises the soft limit first.

    Each may need a second one, to Ollama.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # what cannot be raised is used as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = wanted if soft == resource.RLIM_INFINITY else max(1, (soft - _OWN_DESCRIPTORS) // 2)
    if fitting < wanted:
        log.warning("%d file descriptors are allowed: at most %d connections instead of %d", soft, fitting, wanted)
    return min(wanted, fitting)


class Deadline:
    """A timer that is moved without touching the event loop: it looks at its deadline only when it fires."""

    __slots__ = ("_at", "_fires_at", "_loop", "_on_expired", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._at = self._fires_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def move(self, seconds: float) -> None:
        """The deadline is `seconds` from now."""
        self._at = self._loop.time() + seconds
        if self._at < self._fires_at:
            self.cancel()
            self._arm()

    def off(self) -> None:
        """There is none for the time being."""
        self._at = inf

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, inf

    def _arm(self) -> None:
        self._fires_at = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, inf
        if self._at <= self._loop.time():
            self._on_expired()
        elif self._at < inf:
            self._arm()
