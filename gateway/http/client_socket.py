"""What server asks of a client's socket beyond reading and writing: who has left, who takes nothing, a reset.

Knows bytes and the socket, nothing of requests. Used by server alone.
"""

import asyncio
import socket
import struct
import sys
from email.utils import formatdate
from http import HTTPStatus

from gateway.http import limits
from gateway.net.deadline import Deadline

_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_ESTABLISHED = 1  # the first byte of Linux's tcp_info
_ACKNOWLEDGED = slice(120, 128)  # its tcpi_bytes_acked


def has_left(client: socket.socket) -> bool:
    """Whether the peer has closed its side or reset the connection, also where what it sent before is unread."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection so that the peer cannot take it for a good end."""
    client: socket.socket = transport.get_extra_info("socket")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    transport.abort()


def closing_answer(status: int, fields: bytes, body: bytes) -> bytes:
    """A whole answer that is the connection's last; `fields` are lines with their ends."""
    date = formatdate(usegmt=True).encode()
    line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    ours = b"date: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (date, len(body))
    return line + fields + ours + body


class ReaderWatch:
    """Gives up a client that takes nothing of what waits for it; a slow one is waited for (contract 3.3).

    What a client takes is what its kernel acknowledges: that moves even while none of our own buffer can be written.
    """

    __slots__ = ("_deadline", "_is_on", "_since", "_taken_bytes", "_time", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._time = loop.time
        self._deadline = Deadline(loop, self._look)
        self._is_on = False
        self._taken_bytes = 0
        self._since = 0.0

    def begin(self) -> None:
        """Something could not be written. The watch ends by itself once everything is."""
        if not self._is_on:
            self._is_on = True
            self._taken_bytes, self._since = self._taken(), self._time()
            self._deadline.move(limits.STALL_SECONDS / 5)

    def cancel(self) -> None:
        self._deadline.end()

    def _look(self) -> None:
        self._is_on = self._transport.get_write_buffer_size() > 0
        if not self._is_on:
            return
        if (taken := self._taken()) != self._taken_bytes:
            self._taken_bytes, self._since = taken, self._time()
        elif self._time() - self._since >= limits.STALL_SECONDS:
            self._transport.abort()
            return
        self._deadline.move(limits.STALL_SECONDS / 5)

    def _taken(self) -> int:
        client: socket.socket = self._transport.get_extra_info("socket")
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        return int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder)
