"""Detects peers that vanish silently (no power, no network). TCP itself notices them after minutes, or never.

While the gateway waits for a peer, TCP keepalive detects it. Keepalive does not run while data is unacknowledged, so
the gateway also reads the kernel's tcp_info now and then. TCP_USER_TIMEOUT would be simpler, but it also ends a live
peer whose window is closed. Knows sockets, but no HTTP.
"""

import math
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio  # a check of the settings needs no event loop, and loads none

# An idle peer is noticed after 30 + 3 * 10 seconds (docs/behaviour.md, "HTTP/1.1 towards clients").
KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
# A peer that owes an acknowledgement has vanished after this silence. It is found at most two looks later.
SILENCE_SECONDS = 75.0
_LOOK_SECONDS = 15.0
_TICK_SECONDS = 1.0
# Bytes of Linux's tcp_info: unanswered probes of a closed window, unacknowledged segments, milliseconds since the last
# acknowledgement.
_PROBES = 3
_UNACKNOWLEDGED = slice(24, 28)
_SINCE_HEARD_MS = slice(56, 60)


def keep_alive(sock: socket.socket) -> None:
    """Turns on keepalive. A connection that a listener accepts inherits it."""
    for option in KEEPALIVE:
        sock.setsockopt(*option)


class Debt:
    """Remembers since when a peer owes an acknowledgement: of data, or of a probe if its window is closed."""

    __slots__ = ("_since",)

    def __init__(self) -> None:
        self._since: float | None = None

    def is_overdue(self, info: bytes, now: float) -> bool:
        """Whether the peer has owed one for too long without sending any. `info` is tcp_info, `now` is in seconds."""
        if not (info[_PROBES] or _number(info[_UNACKNOWLEDGED])):
            self._since = None
            return False
        heard = now - _number(info[_SINCE_HEARD_MS]) / 1000
        self._since = now if self._since is None else max(self._since, heard)
        return now - self._since >= SILENCE_SECONDS


def _number(part: bytes) -> int:
    return int.from_bytes(part, sys.byteorder)


class _Peer(Debt):
    """A connection, and what its peer owes."""

    __slots__ = ("on_vanished", "transport")

    def __init__(self, transport: "asyncio.Transport", on_vanished: Callable[[], None]) -> None:
        super().__init__()
        self.transport = transport
        self.on_vanished = on_vanished


class PeerWatch:
    """Checks each connection every 15 seconds, a few per tick, because there may be thousands."""

    def __init__(self) -> None:
        self._peers: dict[asyncio.Transport, _Peer] = {}
        self._round: list[_Peer] = []  # still to be looked at
        self._timer: asyncio.TimerHandle | None = None

    def add(
        self, loop: "asyncio.AbstractEventLoop", transport: "asyncio.Transport", on_vanished: Callable[[], None]
    ) -> None:
        """Watches a connection of `loop` until `discard`. Calls `on_vanished` when the peer has vanished."""
        self._peers[transport] = _Peer(transport, on_vanished)
        if self._timer is None:
            self._arm(loop)

    def discard(self, transport: "asyncio.Transport") -> None:
        """Stops watching a connection, which is lost."""
        self._peers.pop(transport, None)
        if not self._peers and self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._round.clear()

    def _arm(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._timer = loop.call_later(_TICK_SECONDS, self._look, loop)

    def _look(self, loop: "asyncio.AbstractEventLoop") -> None:
        if not self._round:
            self._round = list(self._peers.values())
        now = loop.time()
        for _ in range(math.ceil(len(self._peers) * _TICK_SECONDS / _LOOK_SECONDS)):
            if not self._round:
                break
            self._look_at(self._round.pop(), now)
        self._timer = None
        if self._peers:
            self._arm(loop)

    def _look_at(self, peer: _Peer, now: float) -> None:
        if peer.transport not in self._peers or peer.transport.is_closing():
            return
        sock: socket.socket = peer.transport.get_extra_info("socket")
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SINCE_HEARD_MS.stop)
        if peer.is_overdue(info, now):
            peer.on_vanished()
