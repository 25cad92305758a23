"""Notices a client that reads nothing of its answer, by what its kernel acknowledges. Knows sockets, but no HTTP."""

import asyncio
import socket
import sys
from collections.abc import Callable

from gateway.http import limits
from gateway.net.deadline import Deadline

_ACKNOWLEDGED = slice(120, 128)  # tcpi_bytes_acked in Linux's tcp_info
_LOOKS = 5  # in the time after which a client counts as stalled


class StallWatch:
    """Calls `on_stalled` if the client reads nothing for a long time. It waits for a slow client.

    The acknowledged bytes grow while the client reads, even while none of our own buffer can be written.
    """

    __slots__ = ("_acknowledged_bytes", "_deadline", "_loop", "_on_stalled", "_since", "_transport")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport, on_stalled: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._transport = transport
        self._on_stalled = on_stalled
        self._deadline = Deadline(loop, self._look)
        self._acknowledged_bytes = 0
        self._since: float | None = None  # when the client last read anything; None while nothing is watched

    def begin(self) -> None:
        """Something could not be written. The watch ends by itself once everything is written."""
        if self._since is None:
            self._note(self._acknowledged())

    def close(self) -> None:
        """The connection is closed."""
        self._deadline.end()
        self._on_stalled = _do_nothing

    def _note(self, acknowledged_bytes: int) -> None:
        self._acknowledged_bytes, self._since = acknowledged_bytes, self._loop.time()
        self._deadline.move(limits.STALL_SECONDS / _LOOKS)

    def _look(self) -> None:
        if self._since is None or not self._transport.get_write_buffer_size():
            self._since = None
        elif (acknowledged := self._acknowledged()) != self._acknowledged_bytes:
            self._note(acknowledged)
        elif self._loop.time() - self._since >= limits.STALL_SECONDS:
            self._on_stalled()
        else:
            self._deadline.move(limits.STALL_SECONDS / _LOOKS)

    def _acknowledged(self) -> int:
        client: socket.socket = self._transport.get_extra_info("socket")
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        return int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder)


def _do_nothing() -> None:
    """What a closed watch calls."""
