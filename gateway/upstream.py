"""Ollama as an HTTP/1.1 peer: a keep-alive pool of small connections on httptools, the only module that parses.

Owns framing, flow control and what may be reused; knows nothing of tasks or clients. Errors of the system and of
the parser are mapped to errors.UpstreamFailure here. Called by proxy (one `Connection` per request) and by the
readiness probe. Written for one purpose: measured beside general clients, it costs a fortieth of the popular one.
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from gateway.errors import UpstreamBroken, UpstreamFailure, UpstreamTimeout, UpstreamUnavailable
from gateway.headers import Fields

# At most this much is read at once, and reading pauses while more than this waits for the client: together with
# the client's write buffer a stream holds 256 KiB at the most (contract 3.3).
_READ_BYTES = 65_536
_HIGH_WATER_BYTES = 65_536
_CONNECT_TIMEOUT_SECONDS = 5.0
# With what comes of the body in the same read.
_MAX_HEAD_BYTES = 262_144
_MAX_LENGTH_DIGITS = 19
_MAX_IDLE_CONNECTIONS = 128

# One buffer for all connections: the parser has copied what it needs before the next read begins.
_read_buffer = memoryview(bytearray(_READ_BYTES))


class Connection(asyncio.BufferedProtocol):
    """One connection to the upstream; carries one exchange at a time.

    `send` and `drain` write the request, `read_head` and `read_piece` take the response as it comes, `abort` ends
    it from any place and wakes whoever waits with the error given. A `sink` is offered what comes while
    `read_piece` waits, but for the end of the message; what it does not take is returned by `read_piece`.
    """

    def __init__(self, idle_timeout_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_timeout_seconds = idle_timeout_seconds
        # connection
        self._transport: asyncio.Transport | None = None
        self._is_write_paused = False
        self._is_read_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self.is_reused = False
        # exchange
        self.start("")

    def start(self, method: str) -> None:
        """Makes ready for the exchange that begins with a request of `method`."""
        self._method = method
        self._failure: UpstreamFailure | None = None
        self.has_received = False
        self._is_request_sent = False
        self._silent_since = 0.0
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._head_bytes = 0
        self._is_until_close = False
        self._is_keep_alive = False
        self._fields: Fields = []
        self.sink: Callable[[bytes], bool] | None = None
        self.status = 0  # 0 until the response head is complete
        self.is_complete = False

    def __repr__(self) -> str:
        phase = "complete" if self.is_complete else f"HTTP {self.status}" if self.status else "before the head"
        return f"<Connection {phase}, {self._waiting_bytes} bytes waiting>"

    # -- what a request does --

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange ended so that another may follow on this connection."""
        return self.is_open and self.is_complete and self._is_keep_alive and self._is_request_sent

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Writes a part of the request; `is_last` says that nothing follows."""
        self._is_request_sent = is_last
        self._silent_since = self._loop.time()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits until the upstream has taken most of what was written. Raises nothing: the reader learns of ends."""
        if self._is_write_paused and self.is_open:
            self._drained = self._loop.create_future()
            await self._drained

    async def read_head(self) -> tuple[int, Fields]:
        """Status and fields (lower-case names) of the final response. Raises UpstreamFailure."""
        while not self.status:
            if self._failure is not None:
                raise self._failure
            await self._wait()
        return self.status, self._fields

    async def read_piece(self) -> bytes:
        """What has come of the body, at least a byte, or b"" at its end. Raises UpstreamFailure where it broke off."""
        while not self._pieces:
            if self.is_complete:
                return b""
            if self._failure is not None:
                raise self._failure
            await self._wait()
        piece = self._take()
        self._silent_since = self._loop.time()
        if self._is_read_paused and self.is_open:
            self._is_read_paused = False
            cast("asyncio.Transport", self._transport).resume_reading()
        return piece

    def _take(self) -> bytes:
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        return piece

    @property
    def is_drained(self) -> bool:
        """Whether the message is complete and all of it has been read."""
        return self.is_complete and not self._pieces

    def abort(self, failure: UpstreamFailure) -> None:
        """Closes at once: that is what makes Ollama stop. Unread pieces are dropped."""
        self._pieces.clear()
        self._waiting_bytes = 0
        self.is_complete = False
        self._fail(failure)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        timer = self._start_timer() if self._idle_timeout_seconds else None
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    @property
    def _is_upstreams_turn(self) -> bool:
        """Whether silence is the upstream's; while the client uploads, it may be the client's."""
        return self._is_request_sent or self._is_write_paused

    def _start_timer(self) -> asyncio.TimerHandle:
        now = self._loop.time()
        since = self._silent_since if self._is_upstreams_turn else now
        return self._loop.call_at(max(since + self._idle_timeout_seconds, now), self._check_silence)

    def _check_silence(self) -> None:
        silence_seconds = self._loop.time() - self._silent_since
        if self._is_upstreams_turn and silence_seconds >= self._idle_timeout_seconds:
            self._fail(UpstreamTimeout(f"Ollama was silent for {self._idle_timeout_seconds:g} seconds"))
        else:
            self._wake()  # the waiter looks again and starts a new timer

    # -- what the transport tells --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.has_received = True
        self._silent_since = self._loop.time()
        if not self.status:
            self._head_bytes += nbytes
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(UpstreamBroken("Ollama's response head is too long"))
                return
        try:
            self._parser.feed_data(_read_buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._take_garbage(error)
        if not self._has_sunk():
            self._wake()
        if self._waiting_bytes > _HIGH_WATER_BYTES and not self._is_read_paused and self.is_open:
            self._is_read_paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def _has_sunk(self) -> bool:
        """Hands what has come straight to the sink while the reader waits for it: no turn of its task is needed."""
        is_awaited = self._waiter is not None and not self._waiter.done()
        if self.sink is None or not is_awaited or not self._pieces or self.is_complete:
            return False
        piece = self._take()
        if self.sink(piece):
            return True
        self._pieces.append(piece)
        self._waiting_bytes = len(piece)
        return False

    def _take_garbage(self, error: Exception) -> None:
        """What the parser cannot take breaks the message, or, behind a complete one, only the connection."""
        if self.is_complete:
            self._is_keep_alive = False
        else:
            self._fail(UpstreamBroken(f"Ollama sent what is not HTTP/1.1: {type(error).__name__}"))

    def eof_received(self) -> None:
        """A clean end completes a body that is delimited by it; any other message is cut off."""
        if self._is_until_close and not self.is_complete:
            self.is_complete = True
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_keep_alive = False
        self._fail(UpstreamBroken("Ollama reset the connection" if exc else "Ollama closed the connection"))
        self.resume_writing()

    def pause_writing(self) -> None:
        self._is_write_paused = True

    def resume_writing(self) -> None:
        self._is_write_paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _fail(self, failure: UpstreamFailure) -> None:
        if self._failure is None and not self.is_complete:
            self._failure = failure
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the parser tells --

    def on_message_begin(self) -> None:
        if self.is_complete or not self._method:
            raise UpstreamBroken("a response nobody asked for")
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # behind the head come only trailers, which nobody asked for (RFC 9110 section 6.5.1)
            self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101 or not 100 <= status < 600:
            raise UpstreamBroken("a protocol switch nobody asked for, or no status at all")
        if status < 200:
            return  # an interim response (RFC 9110 section 15.2); the final one follows
        is_framed = _is_framed(status, self._fields)
        self._is_keep_alive = self._parser.should_keep_alive()
        self._is_until_close = self._method != "HEAD" and not is_framed
        self.status = status
        if self._method == "HEAD":
            # The parser expects the body that the fields describe; this connection cannot be used again.
            self._is_keep_alive = False
            self.is_complete = True

    def on_body(self, body: bytes) -> None:
        if self._method != "HEAD":
            self._pieces.append(body)
            self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True


def _is_framed(status: int, fields: Fields) -> bool:
    """Whether the message says itself where it ends (RFC 9112 section 6.3). Raises UpstreamBroken for odd framing."""
    is_framed = status in (204, 304)
    for name, value in fields:
        if name == b"content-length":
            is_framed = True
            if len(value) > _MAX_LENGTH_DIGITS:
                raise UpstreamBroken("a length nobody can count")
        elif name == b"transfer-encoding":
            is_framed = True
            if value.lower() != b"chunked":
                raise UpstreamBroken("a transfer coding nobody asked for")
    return is_framed


class Upstream:
    """The pool of connections to one Ollama. `host_field` is the Host that it is addressed by."""

    def __init__(self, host: str, port: int, *, idle_timeout_seconds: float = 0) -> None:
        self._host = host
        self._port = port
        self._idle_timeout_seconds = idle_timeout_seconds
        self._idle: list[Connection] = []
        self.host_field = f"{f'[{host}]' if ':' in host else host}:{port}".encode()

    def __repr__(self) -> str:
        return f"<Upstream {self._host}:{self._port}, {len(self._idle)} idle connections>"

    async def connect(self, method: str, *, is_fresh: bool = False) -> Connection:
        """A connection ready for a request of `method`, kept alive or new. Raises UpstreamUnavailable."""
        while self._idle and not is_fresh:
            connection = self._idle.pop()
            if connection.is_open:
                connection.start(method)
                connection.is_reused = True
                return connection
        connection = await self._open()
        connection.start(method)
        return connection

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._idle_timeout_seconds), self._host, self._port
                )
        except (OSError, TimeoutError) as error:
            raise UpstreamUnavailable("Ollama does not accept connections; it may still be starting") from error
        return connection

    def release(self, connection: Connection) -> None:
        """Takes a connection back: kept where its exchange ended well, closed otherwise."""
        if connection.is_reusable and len(self._idle) < _MAX_IDLE_CONNECTIONS:
            connection.start("")
            self._idle.append(connection)
        else:
            connection.abort(UpstreamBroken("the exchange is over"))

    async def get_status(self, path: str, *, timeout_seconds: float) -> int:
        """The HTTP status of a GET, its body read and dropped. Raises UpstreamFailure."""
        status, _ = await self.get(path, timeout_seconds=timeout_seconds, keep_bytes=0)
        return status

    async def get(self, path: str, *, timeout_seconds: float, keep_bytes: int) -> tuple[int, bytes]:
        """Status and body of a GET; of the body no more than the first `keep_bytes`. Raises UpstreamFailure."""
        connection = None
        body = b""
        try:
            async with asyncio.timeout(timeout_seconds):
                connection = await self.connect("GET")
                connection.send(b"GET %s HTTP/1.1\r\nhost: %s\r\n\r\n" % (path.encode(), self.host_field), is_last=True)
                status, _ = await connection.read_head()
                while piece := await connection.read_piece():
                    body += piece[: keep_bytes - len(body)]
        except TimeoutError as error:
            raise UpstreamTimeout(f"no answer within {timeout_seconds:g} seconds") from error
        finally:
            if connection is not None:
                self.release(connection)
        return status, body

    def close(self) -> None:
        """Closes what is idle."""
        for connection in self._idle:
            connection.abort(UpstreamBroken("the gateway stops"))
        self._idle.clear()
