"""The client's transport as uvicorn is to see it: heads written with what follows, endings that lose no answer.

Knows bytes and the socket, nothing of requests. Used by server alone.
"""

import asyncio
import socket
import struct
import sys
from collections.abc import Callable, Sized
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from gateway import limits

_HEAD_START = b"HTTP/1.1 "
_INTERIM_START = b"HTTP/1.1 1"
_CHUNKED_END = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_MAX_PIPELINED = 16
_ESTABLISHED = 1  # the first byte of Linux's tcp_info
_ACKNOWLEDGED = slice(120, 128)  # its tcpi_bytes_acked


def has_left(client: socket.socket) -> bool:
    """Whether the peer has closed its side or reset the connection, also where what it sent before is unread."""
    return client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != _ESTABLISHED


def closing_answer(status: int, fields: bytes, body: bytes) -> bytes:
    """A whole answer that is the connection's last; `fields` are lines with their ends."""
    date = formatdate(usegmt=True).encode()
    line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    ours = b"date: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (date, len(body))
    return line + fields + ours + body


class Receiver(Protocol):
    """What the transport asks the protocol that reads from the same client."""

    def amended(self, head: bytes) -> bytes:
        """The response head as it is to be sent."""

    def begin_lingering(self) -> bool:
        """Whether the client may still be sending; if so, the protocol drops that and closes in its time."""


class ClientTransport:
    """Sends a response head together with what follows in the same turn of the event loop; closes gently.

    uvicorn writes head and body one by one, and a system call costs more than building both. Closing a socket while
    the client is sending resets the connection, and the reset takes the answer with it: so only our direction is
    closed then (RFC 9112 section 9.6).
    """

    __slots__ = ("_call_soon", "_head", "_is_half_closed", "_receiver", "_transport")

    def __init__(self, transport: asyncio.Transport, receiver: Receiver) -> None:
        self._transport = transport
        self._receiver = receiver
        self._call_soon = asyncio.get_running_loop().call_soon
        self._head = b""
        self._is_half_closed = False

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD_START) and not data.startswith(_INTERIM_START):
            self._head = self._receiver.amended(data)
            self._call_soon(self._flush)
            return
        if not self.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head and not self.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        self._flush()
        if self.is_closing():
            return
        if self._receiver.begin_lingering():
            self._transport.write_eof()
            self._is_half_closed = True
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        return self._is_half_closed or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class ReaderWatch:
    """Gives up a client that takes nothing of what waits for it; a slow one is waited for (contract 3.3).

    What a client takes is what its kernel acknowledges: that moves even while none of our own buffer can be written.
    """

    __slots__ = ("_deadline", "_is_on", "_since", "_taken_bytes", "_time", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._time = loop.time
        self._deadline = limits.Deadline(loop, self._look)
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
        self._deadline.cancel()

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


class Flow(FlowControl):
    """Does not read on while many pipelined requests wait: they are held in memory. Tells what it does."""

    def __init__(
        self,
        transport: asyncio.Transport,
        pipeline: Sized,
        on_paused: Callable[[], None],
        on_resumed: Callable[[], None],
    ) -> None:
        super().__init__(transport)
        self._pipeline = pipeline
        self._on_paused = on_paused
        self._on_resumed = on_resumed

    def pause_reading(self) -> None:
        if not self.read_paused:
            super().pause_reading()
            self._on_paused()

    def resume_reading(self) -> None:
        if self.read_paused and len(self._pipeline) <= _MAX_PIPELINED:
            super().resume_reading()
            self._on_resumed()


class Unchunked:
    """A transport for the answer to an HTTP/1.0 request: ended by the connection's end instead of in chunks.

    uvicorn chunks such answers, which HTTP/1.0 does not know (RFC 9112 section 6.1). It writes the head first, then
    each chunk at once. A message that is broken off is reset, for a plain end would make it look whole.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._is_head = True
        self._is_chunked = False

    def write(self, data: bytes) -> None:
        if self._is_head:
            self._is_head = data.startswith(_INTERIM_START)
            self._is_chunked = data.endswith(_CHUNKED_END)
            self._transport.write(data.removesuffix(_CHUNKED_END) + b"\r\n" if self._is_chunked else data)
        elif self._is_chunked and data:
            size, _, rest = data.partition(b"\r\n")
            length = int(size, 16)
            self._is_chunked = length > 0 and rest[length + 2 :] != _LAST_CHUNK
            self._transport.write(rest[:length])
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._is_chunked:
            client = self._transport.get_extra_info("socket")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            self._transport.abort()
        else:
            self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
