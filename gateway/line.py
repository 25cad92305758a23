"""Talking to Redis: the writer's own connection, errors mapped, commands that outlive their caller. Knows no key.

Part of store, which alone uses it.
"""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.records import StoreError

COMMAND_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 1.0

Command = tuple[str | int, ...]
# RuntimeError: uvloop's word for writing to a connection that was reset.
LIBRARY_ERRORS = (RedisError, OSError, RuntimeError)
_REASON_CHARACTERS = 120

T = TypeVar("T")


class Line:
    """The writer's own connection: commands in one write, one deadline for all replies.

    A third of what redis-py's pipeline costs for a batch of one. It never outlives a failure, so no reply can reach a
    later command.
    """

    def __init__(self, url: str) -> None:
        self._connection: Connection = ConnectionPool.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=None,  # `ask` has a deadline; with one of its own each write would be a task
            retry=Retry(NoBackoff(), 0),
        ).make_connection()  # type: ignore[no-untyped-call]

    @property
    def is_open(self) -> bool:
        return bool(self._connection.is_connected)

    async def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The replies to `commands`. Raises what redis-py and the system raise, also for an error among the replies."""
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT_SECONDS):
                if not self.is_open:
                    await self._connection.connect()  # type: ignore[no-untyped-call]
                packed = b"".join(pack_command(cast("tuple[Any]", command)) for command in commands)
                await self._connection.send_packed_command(packed, check_health=False)
                return [await self._connection.read_response() for _ in commands]
        except BaseException:
            await self._connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        await self._connection.disconnect()


async def mapped(answer: Awaitable[T]) -> T:
    """`answer`, the library's and the system's errors mapped to StoreError."""
    try:
        return await answer
    except LIBRARY_ERRORS as error:
        raise StoreError(reason_of(error)) from error


async def uncancelled(answer: Coroutine[Any, Any, T]) -> T:
    """Lets a command finish when its request is cancelled, so that its reply cannot reach the next caller."""
    command = asyncio.ensure_future(answer)
    command.add_done_callback(_look_at)
    return await asyncio.shield(command)


def _look_at(command: "asyncio.Future[Any]") -> None:
    """Nobody may be left to hear how an abandoned command failed; asyncio would log that."""
    if not command.cancelled():
        command.exception()


def reason_of(error: BaseException) -> str:
    """What went wrong, short enough for a log line: some of Redis's errors are a paragraph of advice."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"
