"""Ollama as an HTTP/1.1 peer: a keep-alive pool of small connections on httptools; only here its answers are parsed.

Owns framing, flow control and what may be used again; knows nothing of tasks or clients. Errors of the system and of
the parser are mapped to errors.UpstreamFailure here. Called by proxy (one `Connection` per exchange) and, as a
coroutine, by the probes. Written for one purpose: beside general clients it costs a fortieth of the popular one.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from gateway.deadline import Deadline
from gateway.errors import UpstreamBroken, UpstreamFailure, UpstreamTimeout, UpstreamUnavailable
from gateway.headers import Fields, is_framed

log = logging.getLogger("gateway.upstream")

# uvloop reads up to 256,000 bytes at once. With what may wait here before reading pauses, and in the client's write
# buffer (server has that limit), a stream holds 256 KiB at the most (contract 3.3).
_HIGH_WATER_BYTES = 2048
_CONNECT_TIMEOUT_SECONDS = 5.0
# With what comes of the body in the same read.
_MAX_HEAD_BYTES = 262_144
_MAX_IDLE_CONNECTIONS = 128


class Listener(Protocol):
    """Who is told of an exchange. Each call only says that there is something new; none may raise."""

    def on_answer(self) -> None:
        """More of the answer is here, or it is complete, or it has broken off."""

    def on_taken(self) -> None:
        """The upstream takes again what it could not take before."""


class Connection(asyncio.Protocol):
    """One connection to the upstream; carries one exchange at a time.

    `send` writes the request. The answer is pulled as it comes: `status` and `fields` once there is a status, `take`
    for the body, `is_complete` at its end, `failure` where it broke off. `abort` ends it from any place. While `relay`
    is set it is given each piece as it comes; what it does not accept waits as usual, and what comes behind that.
    """

    def __init__(self, idle_timeout_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_timeout_seconds = idle_timeout_seconds
        # connection
        self._transport: asyncio.Transport | None = None
        self.is_write_paused = False
        self._is_read_paused = False
        self._parser = httptools.HttpResponseParser(self)
        self._silence = Deadline(self._loop, self._check_silence)
        self.is_reused = False
        # exchange
        self._listener: Listener | None = None
        self._method = ""
        self.begin("", None)

    def begin(self, method: str, listener: Listener | None) -> None:
        """Makes ready for the exchange that begins with a request of `method`."""
        self._method = method
        self._listener = listener
        self.relay: Callable[[bytes], bool] | None = None
        self.failure: UpstreamFailure | None = None
        self.has_received = False
        self.is_request_sent = False
        self._silent_since = 0.0
        self._pieces: list[bytes] = []
        self.waiting_bytes = 0
        self._head_bytes = 0
        self._is_until_close = False
        self._is_keep_alive = False
        self.fields: Fields = []  # lower-case names
        self.status = 0  # 0 until the response head is complete
        self.is_complete = False

    def __repr__(self) -> str:
        phase = "complete" if self.is_complete else f"HTTP {self.status}" if self.status else "before the head"
        return f"<Connection {phase}, {self.waiting_bytes} bytes waiting>"

    # -- what an exchange does --

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange ended so that another may follow; what was not taken is not left to the next one."""
        is_done = self.is_complete and self.is_request_sent and not self.waiting_bytes
        return is_done and self._is_keep_alive and self.is_open

    def send(self, data: bytes, *, is_last: bool) -> None:
        """Writes a part of the request; `is_last` says that nothing follows."""
        self.is_request_sent = is_last
        if self._idle_timeout_seconds:
            self._hear()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def take(self) -> bytes:
        """What waits of the body, b"" for nothing."""
        if not self.waiting_bytes:
            return b""
        if len(self._pieces) == 1:
            piece = self._pieces.pop()
        else:
            piece = b"".join(self._pieces)
            self._pieces.clear()
        self.waiting_bytes = 0
        if self._is_read_paused:
            self._read_on()
        return piece

    def _read_on(self) -> None:
        self._is_read_paused = False
        if self._idle_timeout_seconds:
            self._hear()  # while we did not read, the upstream could not be heard
        if self.is_open:
            cast("asyncio.Transport", self._transport).resume_reading()

    def abort(self, failure: UpstreamFailure) -> None:
        """Closes at once: that is what makes Ollama stop. What waits is dropped, and nobody is told."""
        self._listener = self.relay = None
        self._pieces.clear()
        self.waiting_bytes = 0
        self.is_complete = False
        self._fail(failure)

    def leave(self) -> None:
        """The exchange is over; what comes now is an answer that nobody asked for."""
        self._method = ""
        self._listener = self.relay = None
        self.fields = []
        self._silence.off()

    # -- in time --

    def _hear(self) -> None:
        self._silent_since = self._loop.time()
        self._silence.move(self._idle_timeout_seconds)

    def _check_silence(self) -> None:
        """Silence is the upstream's only where it has the whole request or takes no more of it, and we read."""
        is_upstreams = (self.is_request_sent or self.is_write_paused) and not (self._is_read_paused or self._pieces)
        if self._listener is None or self.is_complete:
            return
        if is_upstreams and self._loop.time() - self._silent_since >= self._idle_timeout_seconds:
            self._fail(UpstreamTimeout(f"Ollama was silent for {self._idle_timeout_seconds:g} seconds"))
        else:
            self._hear()

    # -- what the transport tells --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._idle_timeout_seconds:
            self._hear()
        if not self.status:
            self.has_received = True
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._fail(UpstreamBroken("Ollama's response head is too long"))
                return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._take_garbage(error)
            return
        if self.waiting_bytes or self.is_complete or self.relay is None:
            self._tell()
            self._hold_reading()

    def _hold_reading(self) -> None:
        if self.waiting_bytes > _HIGH_WATER_BYTES and not self._is_read_paused and self.is_open:
            self._is_read_paused = True
            cast("asyncio.Transport", self._transport).pause_reading()

    def _take_garbage(self, error: Exception) -> None:
        """What the parser cannot take breaks the message, or, behind a complete one, only the connection."""
        if self._listener is None:
            cast("asyncio.Transport", self._transport).abort()
        elif self.is_complete:
            self._is_keep_alive = False
            self._tell()
        else:
            self._fail(UpstreamBroken(f"Ollama sent what is not HTTP/1.1: {type(error).__name__}"))

    def eof_received(self) -> None:
        """A clean end completes a body that is delimited by it; any other message is cut off."""
        if self._is_until_close and not self.is_complete:
            self.is_complete = True
            self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_keep_alive = False
        self._silence.end()
        self._parser = cast("httptools.HttpResponseParser", None)  # it holds this object
        self._fail(UpstreamBroken("Ollama reset the connection" if exc else "Ollama closed the connection"))

    def pause_writing(self) -> None:
        self.is_write_paused = True

    def resume_writing(self) -> None:
        self.is_write_paused = False
        if self._listener is not None:
            self._listener.on_taken()

    def _fail(self, failure: UpstreamFailure) -> None:
        """The answer breaks off, unless it is complete; what has come of it can still be taken."""
        if self._transport is not None:
            self._transport.abort()
        if self.failure is None and not self.is_complete:
            self.failure = failure
            self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener.on_answer()

    # -- what the parser tells --

    def on_message_begin(self) -> None:
        if self.is_complete or not self._method:
            raise UpstreamBroken("a response nobody asked for")
        self.fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # behind the head come only trailers, which nobody asked for (RFC 9110 section 6.5.1)
            self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101 or not 100 <= status < 600:
            raise UpstreamBroken("a protocol switch nobody asked for, or no status at all")
        if status < 200:
            return  # an interim response (RFC 9110 section 15.2); the final one follows
        has_end = is_framed(status, self.fields)
        self._is_keep_alive = self._parser.should_keep_alive()
        self._is_until_close = self._method != "HEAD" and not has_end
        self.status = status
        if self._method == "HEAD":
            # The parser expects the body that the fields describe; this connection cannot be used again.
            self._is_keep_alive = False
            self.is_complete = True

    def on_body(self, body: bytes) -> None:
        if self.relay is not None and not self.waiting_bytes and self.relay(body):
            return
        if self._method != "HEAD":
            self._pieces.append(body)
            self.waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.is_complete = True


def _why_not_open(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "the gateway has no file descriptor left for a connection to Ollama; ulimit -n is its limit"
    return "Ollama does not accept connections; it may still be starting"


class Upstream:
    """The pool of connections to one Ollama. `host_field` is the Host that it is addressed by.

    In the pool a connection has no listener, nothing waits on it, and it is read from: so its end is noticed.
    """

    def __init__(self, host: str, port: int, *, idle_timeout_seconds: float = 0) -> None:
        self._host = host
        self._port = port
        self._idle_timeout_seconds = idle_timeout_seconds
        self._idle: list[Connection] = []
        self._opening: set[asyncio.Task[None]] = set()
        self.host_field = f"{f'[{host}]' if ':' in host else host}:{port}".encode()

    def __repr__(self) -> str:
        return f"<Upstream {self._host}:{self._port}, {len(self._idle)} idle connections>"

    def take(self) -> Connection | None:
        """A connection that was kept alive, if there is one; `begin` is to follow."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                connection.is_reused = True
                return connection
        return None

    def open_soon(self, then: Callable[[Connection | UpstreamUnavailable], None]) -> None:
        """Opens a connection and calls `then` with it, or with what stood in the way."""

        async def open_and_tell() -> None:
            try:
                found: Connection | UpstreamUnavailable = await self.open()
            except UpstreamUnavailable as error:
                found = error
            except Exception:
                log.exception("connecting to Ollama failed inside the gateway")
                found = UpstreamUnavailable("the gateway could not connect to Ollama")
            then(found)

        opening = asyncio.get_running_loop().create_task(open_and_tell())
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)

    async def open(self) -> Connection:
        """A new connection; `begin` is to follow. Raises UpstreamUnavailable."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._idle_timeout_seconds), self._host, self._port
                )
        except (OSError, TimeoutError) as error:
            raise UpstreamUnavailable(_why_not_open(error)) from error
        return connection

    def release(self, connection: Connection) -> None:
        """Takes a connection back: kept where its exchange ended well, closed otherwise."""
        if connection.is_reusable and len(self._idle) < _MAX_IDLE_CONNECTIONS:
            connection.leave()
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
                connection = self.take() or await self.open()
                answer = AwaitedAnswer(connection, "GET")
                connection.send(b"GET %s HTTP/1.1\r\nhost: %s\r\n\r\n" % (path.encode(), self.host_field), is_last=True)
                status, _ = await answer.head()
                while piece := await answer.piece():
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


class AwaitedAnswer:
    """The answer to one request on `connection`, for who would rather wait than be told."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self._news = asyncio.Event()
        connection.begin(method, self)

    def on_answer(self) -> None:
        self._news.set()

    def on_taken(self) -> None:
        """What is asked here is short."""

    async def head(self) -> tuple[int, Fields]:
        """Status and fields (lower-case names) of the final response. Raises UpstreamFailure."""
        while not self._connection.status:
            await self._more()
        return self._connection.status, self._connection.fields

    async def piece(self) -> bytes:
        """What has come of the body, at least a byte, or b"" at its end. Raises UpstreamFailure where it broke off."""
        while not (self._connection.waiting_bytes or self._connection.is_complete):
            await self._more()
        return self._connection.take()

    async def _more(self) -> None:
        if self._connection.failure is not None:
            raise self._connection.failure
        self._news.clear()
        await self._news.wait()
