"""Owns the scripted upstream: a peer on a real socket that does exactly what a test says, byte by byte.

A script is an async function of one `Exchange`: it sends, waits for an event of the test, reads the body or
does not, drops or resets the connection. It takes no decision by time. Scripts are taken in the order of the
requests; without one, `default` answers. `GET /v1/models` is the gateway's own readiness probe and `GET /api/ps` its
question for loaded models; both have scripts of their own, so that they never take another's. The `upstream` fixture
builds it.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.support.waiting import until
from tests.support.wire import LAST_CHUNK, LIMIT, Body, Head, chunk, read_body, read_head, set_reset_on_close

if TYPE_CHECKING:
    import socket

    from tests.support.wire import Field

Script = Callable[["Exchange"], Awaitable[None]]


class Connection(asyncio.StreamReaderProtocol):
    """One connection the gateway opened; `closed` is set as soon as the gateway ends it."""

    def __init__(self, upstream: Upstream, number: int) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(asyncio.StreamReader(limit=LIMIT, loop=loop), self._begin, loop=loop)
        self.upstream = upstream
        self.number = number
        self.closed = asyncio.Event()
        self.ended = False
        self.busy = False
        self.writer: asyncio.StreamWriter
        self.reader: asyncio.StreamReader
        self.task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The gateway has connected."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        super().connection_made(transport)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.task = asyncio.get_running_loop().create_task(self.upstream.serve(self))

    def eof_received(self) -> bool:
        """The gateway sent FIN."""
        self.closed.set()
        return bool(super().eof_received())

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, by whomever."""
        self.closed.set()
        super().connection_lost(exc)

    def is_ended_by_peer(self) -> bool:
        """Whether the gateway has closed it, as the kernel knows it: the loop may bring events in another order."""
        if self.closed.is_set():
            return True
        poll = select.poll()
        poll.register(self.writer.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def end(self, reset: bool = False) -> None:
        """Close with FIN, or with RST."""
        self.ended = True
        if reset:
            set_reset_on_close(self.writer.get_extra_info("socket"))
            self.writer.transport.abort()
        else:
            self.writer.close()


class Exchange:
    """One request as it came, and the means to answer it."""

    def __init__(self, connection: Connection, head: Head) -> None:
        self.connection = connection
        self.head = head
        self.body = Body()
        self.sent_bytes = 0

    @property
    def closed(self) -> asyncio.Event:
        """Set when the gateway closed this connection."""
        return self.connection.closed

    async def read(self) -> bytes:
        """The request's body, to its end (beyond 4 MiB only its hash is kept)."""
        await read_body(self.connection.reader, self.head, self.body)
        return bytes(self.body.data)

    async def send(self, data: bytes) -> None:
        """Send bytes; returns when the socket has taken nearly all of them."""
        self.connection.writer.write(data)
        await self.connection.writer.drain()
        self.sent_bytes += len(data)

    async def answer(self, status: int, *fields: Field, body: bytes = b"") -> None:
        """Read the request and answer it with a Content-Length."""
        await self.read()
        await self.send(head(status, *fields, (b"Content-Length", b"%d" % len(body))) + body)

    def stop_reading(self) -> None:
        """Leave what comes in the kernel's buffers, until `go_on_reading`."""
        self.connection.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Take what comes again."""
        self.connection.transport.resume_reading()

    def drop(self) -> None:
        """Close with FIN."""
        self.connection.end()

    def reset(self) -> None:
        """Close with RST."""
        self.connection.end(reset=True)


def head(status: int, *fields: Field) -> bytes:
    """A response head as bytes, with these fields and nothing else."""
    lines = [b"HTTP/1.1 %d Whatever" % status, *(b"%s: %s" % pair for pair in fields)]
    return b"\r\n".join(lines) + b"\r\n\r\n"


CHUNKED = (b"Transfer-Encoding", b"chunked")
JSON = (b"Content-Type", b"application/json")
EVENTS = (b"Content-Type", b"text/event-stream")


def answering(status: int, *fields: Field, body: bytes = b"") -> Script:
    """A script that reads the request and answers it at once."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(status, *fields, body=body)

    return script


def sending(*pieces: bytes, read: bool = True, then: str = "keep") -> Script:
    """A script that sends these bytes as they are; `then`: keep the connection, wait for its end, drop or reset it."""

    async def script(exchange: Exchange) -> None:
        if read:
            await exchange.read()
        for piece in pieces:
            await exchange.send(piece)
        if then == "wait":
            await exchange.closed.wait()
        elif then == "drop":
            exchange.drop()
        elif then == "reset":
            exchange.reset()

    return script


def streaming(*events: bytes, fields: tuple[Field, ...] = (EVENTS,), then: str = "finish") -> Script:
    """A script that sends each event as one chunk; `then`: finish, or as in `sending`."""
    pieces = [head(200, *fields, CHUNKED), *map(chunk, events)]
    if then == "finish":
        return sending(*pieces, LAST_CHUNK)
    return sending(*pieces, then=then)


class Gated:
    """A streamed answer that a test releases step by step: `head`, then pieces, then the end."""

    def __init__(self, *fields: Field, status: int = 200) -> None:
        self.fields = fields or (EVENTS,)
        self.status = status
        self.steps: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def __call__(self, exchange: Exchange) -> None:
        """The script: hand over every step until the last one."""
        await exchange.read()
        while (step := await self.steps.get()) is not None:
            await exchange.send(step)

    def head(self, first: bytes | None = None) -> None:
        """Let the response head go. `first` is a chunk that goes in the same write."""
        start = head(self.status, *self.fields, CHUNKED)
        self.steps.put_nowait(start + (b"" if first is None else chunk(first)))

    def piece(self, data: bytes) -> None:
        """Let one chunk go."""
        self.steps.put_nowait(chunk(data))

    def end(self, last: bytes | None = None) -> None:
        """Let the terminator go; the script is done. `last` is a chunk that goes in the same write."""
        self.steps.put_nowait((b"" if last is None else chunk(last)) + LAST_CHUNK)
        self.steps.put_nowait(None)


class Upstream:
    """The server: its scripts, and what it has seen since the last `forget`."""

    def __init__(self) -> None:
        self.scripts: deque[Script] = deque()
        self.default: Script = answering(200, JSON, body=b"{}")
        self.models: Script = answering(200, JSON, body=b'{"object":"list","data":[]}')
        self.loaded: Script = answering(404)
        self.tags: Script = answering(404)
        self.exchanges: list[Exchange] = []
        self.connections: list[Connection] = []
        self.failures: list[BaseException] = []
        self.server: asyncio.Server
        self.port = 0

    async def start(self, port: int = 0, sock: socket.socket | None = None) -> None:
        """Listen on 127.0.0.1, on any port unless one is named, or on a socket that is bound already."""
        loop = asyncio.get_running_loop()
        if sock is not None:
            self.server = await loop.create_server(self._accept, sock=sock)
        else:
            self.server = await loop.create_server(self._accept, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]

    def _accept(self) -> Connection:
        connection = Connection(self, len(self.connections))
        self.connections.append(connection)
        return connection

    async def serve(self, connection: Connection) -> None:
        """Answer the requests of one connection, one after another."""
        try:
            while not connection.ended and (got := await read_head(connection.reader)) is not None:
                connection.busy = True
                await self._script_for(got)(self._record(connection, got))
                connection.busy = False
        except ConnectionError:
            pass  # the gateway went away, which tests look at through `closed`
        except Exception as failure:
            self.failures.append(failure)
        finally:
            connection.busy = False
            connection.end()

    def _script_for(self, got: Head) -> Script:
        if is_probe(got):
            own = {b"/v1/models": self.models, b"/api/ps": self.loaded, b"/api/tags": self.tags}
            return own[got.line.split()[1]]
        return self.scripts.popleft() if self.scripts else self.default

    def _record(self, connection: Connection, got: Head) -> Exchange:
        exchange = Exchange(connection, got)
        if not is_probe(got):
            self.exchanges.append(exchange)
        return exchange

    def then(self, *scripts: Script) -> None:
        """Queue scripts for the next requests."""
        self.scripts.extend(scripts)

    def gated(self, *fields: Field, status: int = 200) -> Gated:
        """Queue an answer to the next request that the test releases step by step."""
        script = Gated(*fields, status=status)
        self.then(script)
        return script

    async def exchange(self, index: int = 0) -> Exchange:
        """The request number `index` of this test, as soon as its head is here."""
        await until(lambda: len(self.exchanges) > index, what=f"request {index} at the upstream")
        return self.exchanges[index]

    async def forget(self) -> None:
        """Make ready for the next test: end what still runs, keep idle connections, drop the records."""
        busy = [connection for connection in self.connections if connection.busy]
        for connection in busy:
            connection.task.cancel()
        await asyncio.gather(*(connection.task for connection in busy), return_exceptions=True)
        failures, self.failures = self.failures, []
        fresh = Upstream()
        self.scripts, self.exchanges = deque(), []
        self.default, self.models, self.loaded, self.tags = fresh.default, fresh.models, fresh.loaded, fresh.tags
        assert not failures, failures

    async def stop(self) -> None:
        """Close the listener and every connection."""
        self.server.close()
        for connection in self.connections:
            connection.task.cancel()
        await asyncio.gather(*(c.task for c in self.connections), return_exceptions=True)
        await self.server.wait_closed()


def is_probe(got: Head) -> bool:
    """Whether the request is a question of the gateway's own: for readiness, for loaded models, or for all models."""
    return got.line.startswith((b"GET /v1/models HTTP/1.1", b"GET /api/ps HTTP/1.1", b"GET /api/tags HTTP/1.1"))
