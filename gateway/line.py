"""The writer's connection to Redis: bytes out at once, replies in order, one deadline. Knows no key and no script.

Part of store, which alone uses it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, cast

from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

COMMAND_TIMEOUT_SECONDS = 1.0
CONNECT_TIMEOUT_SECONDS = 1.0

Command = tuple[str | int, ...]


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
