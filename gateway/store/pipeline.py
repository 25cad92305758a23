"""Talks to Redis: the connections of the writer and of plain reads, the mapping of errors, and commands that finish
after their caller left.

redis-py connects, encrypts and authenticates. From then on this module reads and writes the bytes itself, without an
asyncio task per reply. Knows no Redis keys.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from hiredis import HiredisError, PushNotification, Reader, ReplyError, pack_command
from redis.asyncio import Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.net.deadline import Deadline
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError
from gateway.store.reasons import LIBRARY_ERRORS, is_wrong_type, kind_of, public_reason_of, reason_of

log = logging.getLogger("gateway.tracker")

COMMAND_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 1.0

Command: TypeAlias = tuple[str | int | bytes, ...]
Replies: TypeAlias = list[Any] | StoreError
_INCOMPLETE = object()  # the reader returns it while the next reply is not complete

T = TypeVar("T")


_packed = cast("Callable[[Command], bytes]", pack_command)  # its own type allows a single argument only


class WrongType(StoreError):
    """A key has another type than the script expects."""


class _Repeatable(StoreError):
    """An open connection broke, or the server forgot a script. The same commands may succeed if they are sent again."""


class _Batch:
    """Commands that were sent together, and the callback for their replies. `ends_at` is in the loop's time."""

    __slots__ = ("count", "ends_at", "is_repeated", "packed", "then")

    def __init__(self, commands: Sequence[Command], ends_at: float, then: Callable[[Replies], None]) -> None:
        self.packed = b"".join(map(_packed, commands))
        self.count = len(commands)
        self.ends_at = ends_at
        self.then = then
        self.is_repeated = False

    def answer(self, replies: Replies) -> None:
        """Calls the callback. Logs what it raises: a failing caller must not break the connection for others."""
        try:
            self.then(replies)
        except Exception:
            log.exception("taking in the answer to %d commands failed inside the gateway", self.count)


class Pipeline:
    """A connection of its own: commands in one write, all their replies in one call, in the order of the commands.

    It opens when it is needed. After a failure its connection is never used again, so that no reply can reach a later
    command. Commands get `timeout_seconds`, including the time to open the connection. If `is_raw`, replies are bytes.
    Commands have to be safe to repeat: they are sent once more if the open connection turns out to be closed (servers
    close idle ones), or if the server has forgotten `scripts` (texts of Lua scripts, loaded into each new connection).
    """

    def __init__(
        self,
        connector: Connector,
        scripts: Sequence[str] = (),
        *,
        is_raw: bool = False,
        timeout_seconds: float = COMMAND_TIMEOUT_SECONDS,
    ) -> None:
        self._is_raw = is_raw
        self._timeout_seconds = timeout_seconds
        self._loads: list[Command] = [("SCRIPT", "LOAD", script) for script in scripts]
        self._pool = connector.pool(
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=None,  # `_deadline` covers all commands
            retry=Retry(NoBackoff(), 0),
        )
        self._connector = connector
        connector.on_moved(self.reopen)
        self.connections = 0  # opened so far
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._batches: deque[_Batch] = deque()  # sent or waiting for a connection, the oldest first
        self._replies: list[Any] = []  # the replies to the oldest batch so far
        self._deadline: Deadline | None = None  # of the oldest batch

    @property
    def is_open(self) -> bool:
        return self._wire is not None

    def ask(self, commands: Sequence[Command], then: Callable[[Replies], None]) -> None:
        """Sends commands. Calls `then` once, with one reply per command, or with a StoreError.

        An error reply to any of the commands is a StoreError for all of them.
        """
        self._ask(_Batch(commands, asyncio.get_running_loop().time() + self._timeout_seconds, then))

    def reopen(self) -> None:
        """Closes an open connection, as if the server had closed it: the next commands go over a new one."""
        if self._wire is not None:
            self.fail(_Repeatable("the connection was given up"))

    def _ask(self, batch: _Batch) -> None:
        if not self._batches:
            self._deadline = self._deadline or Deadline(asyncio.get_running_loop(), self._time_out)
            self._deadline.move(self._timeout_seconds)
        self._batches.append(batch)
        if self._wire is not None:
            self._send(self._wire, batch.packed)
        elif self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def close(self) -> None:
        """Closes the connection. All waiting callers get a StoreError."""
        self.fail(StoreError("the gateway stops"))
        if self._deadline is not None:
            self._deadline.cancel()
        await asyncio.sleep(0)  # the loop closes the socket in its next turn

    async def _open(self) -> None:
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            wire = _Wire(_take_stream(connection), self._take, self._lose, is_raw=self._is_raw)
        except LIBRARY_ERRORS as error:
            self._opening = None
            self.fail(_failure(error))
        else:
            self._opening, self._wire = None, wire
            self.connections += 1
            if self._loads:
                self._batches.appendleft(_Batch(self._loads, self._batches[0].ends_at, _ignore))
            self._send(wire, b"".join([batch.packed for batch in self._batches]))
        finally:
            await connection.disconnect(nowait=True)  # redis-py's half; the stream is ours by now

    def _send(self, wire: "_Wire", packed: bytes) -> None:
        try:
            wire.transport.write(packed)
        except LIBRARY_ERRORS as error:
            self._lose(wire, error)

    def _take(self, wire: "_Wire", replies: list[Any]) -> None:
        """Gives replies to the oldest batch, then to the next ones."""
        while replies and wire is self._wire:  # one of these replies may close the connection
            if not self._batches:
                self.fail(StoreError("a reply without a command"))
                return
            missing = self._batches[0].count - len(self._replies)
            self._replies += replies[:missing]
            replies = replies[missing:]
            if len(self._replies) == self._batches[0].count:
                self._answer()

    def _answer(self) -> None:
        """Answers the oldest batch, which has all its replies now."""
        replies, self._replies = self._replies, []
        failure: WrongType | None = None
        for reply in replies:
            if isinstance(reply, ReplyError) and is_wrong_type(reply):
                failure = failure or WrongType(reason_of(reply))  # the key is wrong; the connection is good
            elif isinstance(reply, ReplyError):
                # A new connection loads the scripts again, and may lead to another server.
                is_forgotten = str(reply).startswith("NOSCRIPT")
                self.fail(_failure(reply, _Repeatable if is_forgotten else StoreError))
                return
        batch = self._batches.popleft()
        if self._deadline is not None and self._batches:
            self._deadline.move(self._batches[0].ends_at - asyncio.get_running_loop().time())
        elif self._deadline is not None:
            self._deadline.off()
        batch.answer(failure or replies)

    def _time_out(self) -> None:
        self.fail(StoreError("no answer in time"))

    def _lose(self, wire: "_Wire", error: Exception | None) -> None:
        if wire is self._wire:
            closed = _Repeatable("the connection was closed")
            self.fail(closed if error is None else _Repeatable(reason_of(error), public=public_reason_of(error)))

    def fail(self, error: StoreError) -> None:
        """Closes the connection and tells all waiting callers why. Callers use it too, if they cannot parse a reply."""
        if self._opening is not None:
            self._opening.cancel()
        if self._wire is not None:
            self._wire.transport.abort()
        if self._deadline is not None:
            self._deadline.off()
        batches, self._batches, self._replies = self._batches, deque(), []
        self._opening = self._wire = None
        for batch in batches:
            if isinstance(error, _Repeatable) and not batch.is_repeated:
                batch.is_repeated = True
                batch.ends_at = asyncio.get_running_loop().time() + self._timeout_seconds
                self._ask(batch)
            else:
                batch.answer(error)


class _Wire(asyncio.Protocol):
    """One open connection: parses bytes into replies. Ignores RESP3's push messages, which answer no command."""

    def __init__(
        self,
        stream: asyncio.StreamWriter,
        on_replies: Callable[["_Wire", list[Any]], None],
        on_lost: Callable[["_Wire", Exception | None], None],
        *,
        is_raw: bool,
    ) -> None:
        self._stream = stream  # kept, because a StreamWriter closes its transport when it is deleted
        self.transport: asyncio.Transport = cast("asyncio.Transport", stream.transport)
        encoding: dict[str, Any] = {} if is_raw else {"encoding": "utf-8", "errors": "replace"}
        self._reader = Reader(notEnoughData=_INCOMPLETE, **encoding)
        self._on_replies = on_replies
        self._on_lost = on_lost
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Takes bytes: any number of replies, and perhaps a part of one."""
        replies = []
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if not isinstance(reply, PushNotification):
                    replies.append(reply)
        except HiredisError as error:
            self._on_lost(self, error)
        else:
            self._on_replies(self, replies)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed, or the network failed (`exc`)."""
        self._on_lost(self, exc)


def _ignore(replies: Replies) -> None:
    """Takes the replies to SCRIPT LOAD. If one fails, so do the batches behind it, and their callers learn of it."""


def _take_stream(connection: Connection) -> asyncio.StreamWriter:
    """Takes the stream from a connection that redis-py has opened.

    `_writer` is the only private name of redis-py that the gateway uses.
    tests/unit/store/test_store_pipeline.py fails if an update changes it. redis-py's StreamReader may still hold
    bytes: at most a push message, which would be ignored.
    """
    stream: asyncio.StreamWriter | None = connection._writer
    if stream is None:
        raise RuntimeError("redis-py has connected without a StreamWriter")
    connection._writer = None
    return stream


async def mapped(answer: Awaitable[T]) -> T:
    """Awaits `answer`. Raises StoreError for errors of the library and of the operating system."""
    try:
        return await answer
    except LIBRARY_ERRORS as error:
        raise _failure(error) from error


def _failure(error: BaseException, made: type[StoreError] = StoreError) -> StoreError:
    return made(reason_of(error), kind_of(error), public_reason_of(error))


async def uncancelled(answer: Coroutine[Any, Any, T]) -> T:
    """Lets a command finish although its caller is cancelled, so that its reply cannot reach the next caller."""
    command = asyncio.ensure_future(answer)
    command.add_done_callback(_retrieve_exception)
    return await asyncio.shield(command)


def _retrieve_exception(command: "asyncio.Future[Any]") -> None:
    """Marks the error as seen. Without that, asyncio logs the error of each command whose caller is gone."""
    if not command.cancelled():
        command.exception()
