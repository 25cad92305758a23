"""Reads the lists of Redis in their order, and puts right a list that is not as index.lua leaves it. Part of store."""

from typing import cast

from redis.asyncio import Redis

from gateway.store.malformed import Malformed
from gateway.store.pipeline import Script

_MEND = Script("mend")


class Places:
    """Where tasks stand in the lists."""

    def __init__(self, redis: Redis, malformed: Malformed) -> None:
        self._redis = redis
        self._malformed = malformed

    async def read(self, key: str, start: str, count: int) -> list[str]:
        """Up to `count` members of a list from `start` down; raises the library's errors."""
        for _ in range(2):
            pipe = self._redis.pipeline(transaction=False)
            pipe.zcount(key, "-inf", "(0")  # members sort by their bytes only where their scores are equal
            pipe.zcount(key, "(0", "+inf")
            pipe.zrange(key, start, "-", desc=True, bylex=True, offset=0, num=count)
            *unsorted, members = await pipe.execute(raise_on_error=False)
            if not any(unsorted):
                break
            await self._put_right(key)
        if isinstance(members, Exception):
            raise members
        return cast("list[str]", members)

    async def _put_right(self, key: str) -> None:
        if await self._redis.eval(_MEND.text, 1, key):
            self._malformed.tell(key)

    async def remove(self, key: str, members: list[str]) -> None:
        """Members leave a list."""
        if members:
            await self._redis.zrem(key, *members)
