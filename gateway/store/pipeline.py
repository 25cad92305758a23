"""Talking to Redis: the writer's own connection, errors mapped, commands that outlive their caller. Knows no key.

redis-py connects, encrypts and authenticates; from then on the connection's bytes come here, without a task per answer.
Part of store.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from hiredis import HiredisError, PushNotification, Reader, ReplyError, pack_command
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError, ResponseError

from gateway.net.deadline import Deadline
from gateway.store.interface import StoreError

log = logging.getLogger("gateway.tracker")

COMMAND_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 1.0

Command: TypeAlias = tuple[str | int, ...]
Replies: TypeAlias = list[Any] | StoreError
# RuntimeError: uvloop's word for writing to a connection that was reset.
LIBRARY_ERRORS = (RedisError, HiredisError, OSError, RuntimeError)
_REASON_CHARACTERS = 120
_KIND_CHARACTERS = 20
_MORE = object()  # what the reader says where the next reply is not whole yet

T = TypeVar("T")


def _packed(command: Command) -> bytes:
    return cast("bytes", pack_command(cast("tuple[Any]", command)))


class WrongType(StoreError):
    """A key holds another type than a script is for."""


class _Lost(StoreError):
    """The connection was open and broke, or the server has forgotten a script: asked again it may well answer."""


class _Ask:
    """Some commands on their way, and who is to be told of their replies."""

    __slots__ = ("count", "ends_at", "is_again", "packed", "then")

    def __init__(self, commands: Sequence[Command], ends_at: float, then: Callable[[Replies], None]) -> None:
        self.packed = b"".join(map(_packed, commands))
        self.count = len(commands)
        self.ends_at = ends_at
        self.then = then
        self.is_again = False

    def answer(self, replies: Replies) -> None:
        """Whoever asked is told; what goes wrong there is no matter of the connection's."""
        try:
            self.then(replies)
        except Exception:
            log.exception("taking in the answer to %d commands failed inside the gateway", self.count)


class Line:
    """The writer's own connection: commands in one write, all their replies in one call, in the order of asking.

    Opened when it is needed, and never used again after a failure, so that no reply can reach a later command. What is
    asked has one second, opening the connection included. It has to be safe to repeat: it is asked once more where a
    connection that was open turns out closed (servers close idle ones), or the server has forgotten `scripts`.
    """

    def __init__(self, url: str, scripts: Sequence[str] = (), *, credentials: CredentialProvider | None = None) -> None:
        self._loads: list[Command] = [("SCRIPT", "LOAD", script) for script in scripts]
        self._pool = ConnectionPool.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=None,  # there is a deadline for all of it
            retry=Retry(NoBackoff(), 0),
            credential_provider=credentials,
        )
        self.connections = 0  # so far
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._asks: deque[_Ask] = deque()  # the oldest first
        self._replies: list[Any] = []  # to the oldest, as far as they have come
        self._deadline: Deadline | None = None  # of the oldest

    @property
    def is_open(self) -> bool:
        return self._wire is not None

    def ask(self, commands: Sequence[Command], then: Callable[[Replies], None]) -> None:
        """Calls `then` once with the replies, or with why there are none. An error among them is such a reason."""
        self._ask(_Ask(commands, asyncio.get_running_loop().time() + COMMAND_TIMEOUT_SECONDS, then))

    def _ask(self, ask: _Ask) -> None:
        if not self._asks:
            self._deadline = self._deadline or Deadline(asyncio.get_running_loop(), self._give_up)
            self._deadline.move(COMMAND_TIMEOUT_SECONDS)
        self._asks.append(ask)
        if self._wire is not None:
            self._send(self._wire, ask.packed)
        elif self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def close(self) -> None:
        """Nothing is answered any more."""
        self.fail(StoreError("the gateway stops"))
        if self._deadline is not None:
            self._deadline.cancel()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn

    async def _open(self) -> None:
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            wire = _Wire(_taken_from(connection), self._take, self._lose)
        except LIBRARY_ERRORS as error:
            self._opening = None
            self.fail(StoreError(reason_of(error), kind_of(error)))
        else:
            self._opening, self._wire = None, wire
            self.connections += 1
            if self._loads:
                self._asks.appendleft(_Ask(self._loads, self._asks[0].ends_at, _nothing))
            self._send(wire, b"".join([ask.packed for ask in self._asks]))
        finally:
            await connection.disconnect(nowait=True)  # of what is left to it

    def _send(self, wire: "_Wire", packed: bytes) -> None:
        try:
            wire.transport.write(packed)
        except LIBRARY_ERRORS as error:
            self._lose(wire, error)

    def _take(self, wire: "_Wire", replies: list[Any]) -> None:
        """Replies have come: to the oldest who asked, and to those after him."""
        while replies and wire is self._wire:  # an answer among these may end it
            if not self._asks:
                self.fail(StoreError("a reply that nobody asked for"))
                return
            missing = self._asks[0].count - len(self._replies)
            self._replies += replies[:missing]
            replies = replies[missing:]
            if len(self._replies) == self._asks[0].count:
                self._answer()

    def _answer(self) -> None:
        """The oldest has all his replies."""
        replies, self._replies = self._replies, []
        failure: WrongType | None = None
        for reply in replies:
            if isinstance(reply, ReplyError) and str(reply).startswith("WRONGTYPE"):
                failure = failure or WrongType(reason_of(reply))  # of what stands there, not of the connection
            elif isinstance(reply, ReplyError):
                # The next connection has the scripts again, and may find another server in this one's place.
                is_forgotten = str(reply).startswith("NOSCRIPT")
                self.fail((_Lost if is_forgotten else StoreError)(reason_of(reply), kind_of(reply)))
                return
        ask = self._asks.popleft()
        if self._deadline is not None and self._asks:
            self._deadline.move(self._asks[0].ends_at - asyncio.get_running_loop().time())
        elif self._deadline is not None:
            self._deadline.off()
        ask.answer(failure or replies)

    def _give_up(self) -> None:
        self.fail(StoreError("no answer in time"))

    def _lose(self, wire: "_Wire", error: Exception | None) -> None:
        if wire is self._wire:
            self.fail(_Lost("the connection was closed" if error is None else reason_of(error)))

    def fail(self, error: StoreError) -> None:
        """Nothing of this connection is used any more, and all who wait are told why. Also for whom a reply puzzles."""
        if self._opening is not None:
            self._opening.cancel()
        if self._wire is not None:
            self._wire.transport.abort()
        if self._deadline is not None:
            self._deadline.off()
        asks, self._asks, self._replies = self._asks, deque(), []
        self._opening = self._wire = None
        for ask in asks:
            if isinstance(error, _Lost) and not ask.is_again:
                ask.is_again = True
                ask.ends_at = asyncio.get_running_loop().time() + COMMAND_TIMEOUT_SECONDS
                self._ask(ask)
            else:
                ask.answer(error)


class _Wire(asyncio.Protocol):
    """One open connection: bytes to replies. What the server says unasked (RESP3's push messages) is passed over."""

    def __init__(
        self,
        stream: asyncio.StreamWriter,
        on_replies: Callable[["_Wire", list[Any]], None],
        on_lost: Callable[["_Wire", Exception | None], None],
    ) -> None:
        self._stream = stream  # kept: it would close the transport when it goes
        self.transport: asyncio.Transport = cast("asyncio.Transport", stream.transport)
        self._reader = Reader(encoding="utf-8", errors="replace", notEnoughData=_MORE)
        self._on_replies = on_replies
        self._on_lost = on_lost
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Some replies, or a part of one."""
        replies = []
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _MORE:
                if not isinstance(reply, PushNotification):
                    replies.append(reply)
        except HiredisError as error:
            self._on_lost(self, error)
        else:
            self._on_replies(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """The server, or the way to it, is gone."""
        self._on_lost(self, exc)


def _nothing(replies: Replies) -> None:
    """Scripts that cannot be loaded end the connection, and with it what is behind them."""


def _taken_from(connection: Connection) -> asyncio.StreamWriter:
    """The stream of a connection that redis-py has opened, which it has no more then.

    The one private name of redis-py's that is used: tests/unit/test_line.py fails where an update changes it. What the
    server may have said unasked until here is in its StreamReader, which nobody reads: a push message, at most.
    """
    stream: asyncio.StreamWriter | None = connection._writer
    if stream is None:
        raise RuntimeError("redis-py has connected without a StreamWriter")
    connection._writer = None
    return stream


async def mapped(answer: Awaitable[T]) -> T:
    """`answer`, the library's and the system's errors mapped to StoreError."""
    try:
        return await answer
    except LIBRARY_ERRORS as error:
        raise StoreError(reason_of(error), kind_of(error)) from error


async def uncancelled(answer: Coroutine[Any, Any, T]) -> T:
    """Lets a command finish when its request is cancelled, so that its reply cannot reach the next caller."""
    command = asyncio.ensure_future(answer)
    command.add_done_callback(_look_at)
    return await asyncio.shield(command)


def _look_at(command: "asyncio.Future[Any]") -> None:
    """Nobody may be left to hear how an abandoned command failed; asyncio would log that."""
    if not command.cancelled():
        command.exception()


# What a server in cluster mode says of scripts whose keys are in two slots, or on another node.
_OF_CLUSTERS = ("CROSSSLOT", "MOVED ", "CLUSTERDOWN", "same slot", "non local key", "undeclared key")


def _is_of_cluster(error: BaseException) -> bool:
    return isinstance(error, (ReplyError, ResponseError)) and any(word in str(error) for word in _OF_CLUSTERS)


def reason_of(error: BaseException) -> str:
    """What went wrong, short enough for a log line: some of Redis's errors are a paragraph of advice."""
    if _is_of_cluster(error):
        return "this is a Redis Cluster, which the gateway cannot use; give it one primary"
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"


def kind_of(error: BaseException) -> str:
    """The first word of a server's refusal; "" where it said nothing. redis-py takes some words out of the text."""
    if _is_of_cluster(error):
        return "CLUSTER"
    code = getattr(error, "status_code", None)
    if code is None and isinstance(error, (ReplyError, ResponseError)):
        code = str(error).partition(" ")[0]
    return str(code or "")[:_KIND_CHARACTERS]
