"""uvicorn's HTTP/1.1 protocol with what ASGI does not show or do: the target on the wire, bounded reads, one write.

Passed to uvicorn through its public `http` setting; nothing of the relay belongs here. Used by __main__ alone.
"""

import asyncio
import socket
import struct
from collections.abc import Sized
from typing import Any, cast

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.proxy import ClientLink

# One read holds at most this much, so that a stalled upload stays within 256 KiB (contract 3.3).
_READ_BYTES = 65_536
_MAX_PIPELINED = 16
_HEAD_START = b"HTTP/1.1 "
_CHUNKED_END = b"transfer-encoding: chunked\r\n\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)
_FRAMING = (b"content-length", b"transfer-encoding")
# One buffer for all connections: the parser has copied what it needs before the next read begins.
_read_buffer = memoryview(bytearray(_READ_BYTES))


class GatewayHttpProtocol(asyncio.BufferedProtocol):
    """One client connection: reads into a small buffer and leaves the rest to uvicorn.

    uvloop gives the buffer of its own choice, 250 KiB, to every class that is an `asyncio.Protocol`; hence the
    delegation. `shutdown` is what uvicorn's server calls on each connection at its end.
    """

    def __init__(self, **settings: Any) -> None:
        self._http = _HttpProtocol(**settings)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(cast("asyncio.Transport", _OneWrite(cast("asyncio.Transport", transport))))

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(cast("bytes", _read_buffer[:nbytes]))

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


class _HttpProtocol(HttpToolsProtocol):
    """What uvicorn's parser callbacks lack: each method that is overridden says why.

    Every request gets a ClientLink and stays in `_unanswered` until its answer is complete.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._unanswered: list[RequestResponseCycle] = []
        self._is_reading_framing = False
        self._is_behind_head = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return
            else:
                return

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP; not inside an answer or ahead of one, where the client would take it for that."""
        if len(self._unanswered) > 1 or any(cycle.response_started for cycle in self._unanswered):
            self.transport.abort()
        else:
            super().send_400_response(msg)

    def _ignore_upgrade(self) -> None:
        """Goes on as if no upgrade had been asked for (RFC 9110 section 7.8 allows that).

        The parser takes such a head for the last of HTTP/1.1. Java's client offers h2c with every first request, so
        a new parser is told of the body that follows, and reads it.
        """
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        if framing:
            self.cycle.more_body = True
            self._is_reading_framing = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            self._is_reading_framing = False

    def on_message_begin(self) -> None:
        if not self._is_reading_framing:
            self._is_behind_head = False
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_reading_framing:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._is_reading_framing and not self._is_behind_head:  # behind it come trailers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_reading_framing:
            return
        self._is_behind_head = True
        self.scope["extensions"] = {"gateway": ClientLink(self.url, self.flow)}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_message_complete(self) -> None:
        """Reading goes on, or the client's leaving would not be noticed."""
        super().on_message_complete()
        self.flow.resume_reading()

    def eof_received(self) -> None:
        """A half-close counts as leaving, also for who does not read: no waiting until all is written."""
        if self._unanswered:
            self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """An HTTP/1.0 client cannot read the chunks in which uvicorn would answer it."""
        if cycle.scope["http_version"] == "1.0":
            cycle.transport = cast("asyncio.Transport", _Unchunked(cycle.transport))
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        del self._unanswered[0]
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the newest request only: of pipelined ones, that being answered would never know."""
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
            cast("ClientLink", cycle.scope["extensions"]["gateway"]).lose()


class _Flow(FlowControl):
    """Does not read on while many pipelined requests wait: they are held in memory."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        if len(self._pipeline) <= _MAX_PIPELINED:
            super().resume_reading()


class _OneWrite:
    """A transport that sends a response head together with what follows in the same turn of the event loop.

    uvicorn writes head and body one by one, and a system call costs more than building both.
    """

    __slots__ = ("_call_soon", "_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._call_soon = asyncio.get_running_loop().call_soon
        self._head = b""

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD_START):
            self._head = data
            self._call_soon(self._flush)
            return
        if not self._transport.is_closing():
            self._transport.write(data)

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Unchunked:
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
            self._is_head = False
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
