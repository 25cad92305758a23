"""Ollama as an HTTP/1.1 peer: a pool of kept-alive connections, and the gateway's own requests.

It knows nothing of tasks or clients. The relay takes one `Connection` per exchange; the probes await `get`. It is
written for this purpose alone, and costs a fortieth of a popular general client.
"""

import asyncio
import errno
import logging
from collections.abc import Callable
from typing import TypeAlias

from gateway.errors import UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from gateway.http.head import Fields
from gateway.net.vanished import PeerWatch
from gateway.upstream.connection import Connection, ConnectionState

log = logging.getLogger("gateway.upstream")

_CONNECT_TIMEOUT_SECONDS = 5.0
_MAX_IDLE_CONNECTIONS = 128

_Opening: TypeAlias = asyncio.Task[tuple[asyncio.Transport, Connection]]


def _why_not_open(error: OSError | asyncio.CancelledError) -> str:
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "the gateway has no file descriptor left for a connection to Ollama; ulimit -n is its limit"
    return "Ollama does not accept connections; it may still be starting"


class Upstream:
    """The pool of connections to one Ollama. `host_field` is the value of the Host field.

    A connection in the pool has no listener and nothing waits on it. It is read from, so its end is noticed.
    """

    def __init__(self, host: str, port: int, *, idle_timeout_seconds: float = 0) -> None:
        self._host = host
        self._port = port
        self._idle_timeout_seconds = idle_timeout_seconds
        self._idle: list[Connection] = []
        self._peers = PeerWatch()
        self._opening: set[_Opening] = set()
        self.host_field = f"{f'[{host}]' if ':' in host else host}:{port}".encode()

    def __repr__(self) -> str:
        return f"<Upstream {self._host}:{self._port}, {len(self._idle)} idle connections>"

    def take(self) -> Connection | None:
        """A kept-alive connection, or None. The caller has to `begin` an exchange on it."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_quiet:
                return connection
            connection.abort(UpstreamBroken("Ollama sent what was not asked for, or closed the connection"))
        return None

    @property
    def has_idle(self) -> bool:
        """Whether `take` may find a connection."""
        return bool(self._idle)

    def keep(self, connection: Connection) -> None:
        """Takes a new connection that was not used."""
        if connection.is_open and len(self._idle) < _MAX_IDLE_CONNECTIONS:
            connection.is_reused = True  # Ollama may close it from now on, as any that waits
            self._idle.append(connection)
        else:
            connection.abort(UpstreamBroken("the connection is not needed"))

    def open_soon(self, then: Callable[[Connection | UpstreamUnavailable], None]) -> None:
        """Opens a connection and calls `then` with it, or with the error.

        The task runs the loop's own coroutine. A coroutine around it, with `asyncio.timeout`, takes a fourth longer.
        """
        loop = asyncio.get_running_loop()
        opening = loop.create_task(loop.create_connection(self._new_connection, self._host, self._port))
        timer = loop.call_later(_CONNECT_TIMEOUT_SECONDS, opening.cancel)
        opening.add_done_callback(lambda _: then(self._opened(opening, timer)))
        self._opening.add(opening)

    def _new_connection(self) -> Connection:
        return Connection(self._idle_timeout_seconds, self._peers)

    def _opened(self, opening: _Opening, timer: asyncio.TimerHandle) -> Connection | UpstreamUnavailable:
        """What has become of a connection that was to be opened."""
        timer.cancel()
        self._opening.discard(opening)
        try:
            _, connection = opening.result()
        except (OSError, asyncio.CancelledError) as error:
            return UpstreamUnavailable(_why_not_open(error))
        except Exception:
            log.exception("connecting to Ollama failed inside the gateway")
            return UpstreamUnavailable("the gateway could not connect to Ollama")
        return connection if connection.failure is None else UpstreamUnavailable(str(connection.failure))

    async def open(self) -> Connection:
        """A new connection. The caller has to `begin` an exchange on it. Raises UpstreamUnavailable."""
        opened: asyncio.Future[Connection | UpstreamUnavailable] = asyncio.get_running_loop().create_future()

        def then(found: Connection | UpstreamUnavailable) -> None:
            if not opened.done():
                opened.set_result(found)
            elif isinstance(found, Connection):
                self.keep(found)  # the caller was cancelled

        self.open_soon(then)
        found = await opened
        if isinstance(found, UpstreamUnavailable):
            raise found
        return found

    def release(self, connection: Connection) -> bool:
        """Takes a connection back. Keeps it if its exchange ended well. Else closes it, and returns False.

        The transport closes the socket in the next turn of the loop, ahead of what is called soon after this.
        """
        if len(self._idle) < _MAX_IDLE_CONNECTIONS and connection.leave():
            self._idle.append(connection)
            return True
        connection.abort(UpstreamBroken("the exchange is over"))
        return False

    async def get_status(self, path: str, *, timeout_seconds: float) -> int:
        """The HTTP status of a GET; the body is dropped. Raises UpstreamFailure."""
        status, _ = await self.get(path, timeout_seconds=timeout_seconds, keep_bytes=0)
        return status

    async def get(self, path: str, *, timeout_seconds: float, keep_bytes: int) -> tuple[int, bytes]:
        """Status and body of a GET; only the first `keep_bytes` of the body are kept. Raises UpstreamFailure."""
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
        """Closes the idle connections."""
        for connection in self._idle:
            connection.abort(UpstreamBroken("the gateway stops"))
        self._idle.clear()


class AwaitedAnswer:
    """The answer to one request on `connection`, for a coroutine."""

    def __init__(self, connection: Connection, method: str) -> None:
        self._connection = connection
        self._news = asyncio.Event()
        connection.begin(method, self)

    def on_answer(self) -> None:
        self._news.set()

    def on_taken(self) -> None:
        """Does nothing: the requests sent here are short."""

    def on_piece(self, _piece: bytes, /) -> bool:
        """Takes nothing: `piece` pulls the body."""
        return False

    async def head(self) -> tuple[int, Fields]:
        """Status and fields (lower-case names) of the final response. Raises UpstreamFailure."""
        while (head := self._connection.head) is None or not head.status:
            await self._more()
        return head.status, head.fields

    async def piece(self) -> bytes:
        """The next bytes of the body, b"" at its end. Raises UpstreamFailure if the body broke off."""
        while not (self._connection.waiting or self._connection.state is ConnectionState.COMPLETE):
            await self._more()
        return self._connection.take()

    async def _more(self) -> None:
        if self._connection.failure is not None:
            raise self._connection.failure
        self._news.clear()
        await self._news.wait()
