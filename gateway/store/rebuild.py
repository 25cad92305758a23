"""Rebuilds the lists in Redis from the documents, if Redis evicted a list or the layout is new.

One gateway at a time rebuilds, in the background and in small steps. Until it is done the list answers 503.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import cast

from gateway.store.interface import StoreError
from gateway.store.layout import DOCUMENT_PREFIX, OWN_PREFIX, SHARED_KEYS, Script
from gateway.store.pipeline import mapped
from gateway.store.reader import Reader
from gateway.tasks.task import is_valid_id

log = logging.getLogger("gateway.tracker")

REBUILD = Script("rebuild")
_LOCK = OWN_PREFIX + "rebuild"
_LOCK_SECONDS = 10
_LOOK_SECONDS = 0.05
_SCANNED = 500
_ADDED_AT_ONCE = 64


class Rebuild:
    """Rebuilds through `reader` for the process `boot`.

    `connection` returns something that changes when the writer connects again: that may be another server, and a cursor
    of SCAN is valid at one server only.
    """

    def __init__(self, reader: Reader, boot: str, lists_ttl_seconds: int, connection: Callable[[], object]) -> None:
        self._reader = reader
        self._connection = connection
        self._boot = boot
        self._lists_ttl_seconds = lists_ttl_seconds
        self._running: asyncio.Task[None] | None = None
        self._is_forbidden_said = False

    async def wait(self, seconds: float, names: Sequence[str]) -> None:
        """Begins a rebuild unless one runs in this process. Waits for its end, at most `seconds`.

        If another gateway rebuilds, it returns after a moment; the caller then looks at the lists again.
        """
        await asyncio.wait([self.begin(names)], timeout=seconds)

    def begin(self, names: Sequence[str] = ()) -> "asyncio.Task[None]":
        """Begins a rebuild of all known lists and those of `names`, unless one runs in this process."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._run(names))
        return self._running

    async def close(self) -> None:
        """Stops. The next gateway that finds the lists incomplete begins again."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self, names: Sequence[str]) -> None:
        try:
            run = f"{self._boot}:{secrets.token_hex(4)}"
            if not await mapped(self._reader.redis.set(_LOCK, run, nx=True, ex=_LOCK_SECONDS)):
                await asyncio.sleep(_LOOK_SECONDS)  # another gateway is at it
                return
            try:
                await self._rebuild(run, names)
            finally:
                if await mapped(self._reader.redis.get(_LOCK)) == run:
                    await mapped(self._reader.redis.delete(_LOCK))
        except StoreError as error:
            log.debug("the lists could not be built anew: %s", error)
        except Exception:
            log.exception("building the lists anew failed inside the gateway")

    async def _rebuild(self, run: str, names: Sequence[str]) -> None:
        added, cursor, connection = 0, 0, self._connection()
        await self._step("begin", run, [], names)
        while True:
            scan = self._reader.redis.scan(cursor, match=DOCUMENT_PREFIX + "*", count=_SCANNED)
            try:
                cursor, keys = cast("tuple[int, list[str]]", await mapped(scan))
            except StoreError as error:
                if error.kind != "NOPERM":
                    raise
                self._say_forbidden(error)
                break
            task_ids = [key.removeprefix(DOCUMENT_PREFIX) for key in keys]
            task_ids = [task_id for task_id in task_ids if is_valid_id(task_id)]
            for start in range(0, len(task_ids), _ADDED_AT_ONCE):
                some = task_ids[start : start + _ADDED_AT_ONCE]
                await self._step("add", run, [DOCUMENT_PREFIX + task_id for task_id in some], some)
            added += len(task_ids)
            await mapped(self._reader.redis.expire(_LOCK, _LOCK_SECONDS))
            if int(cursor) == 0:
                break
        if self._connection() != connection:
            raise StoreError("another connection since it was begun")
        await self._step("end", run, [], names)
        if added:
            log.info("the lists were built anew from the statuses in the store: %d", added)

    async def _step(self, step: str, run: str, keys: Sequence[str], names: Sequence[str]) -> None:
        arguments: list[str | int] = [step, self._lists_ttl_seconds, run, *names]
        await mapped(self._reader.evaluate(REBUILD, [*keys, *SHARED_KEYS], arguments, [] if keys else names))

    def _say_forbidden(self, error: StoreError) -> None:
        if not self._is_forbidden_said:
            self._is_forbidden_said = True
            log.warning("the store forbids to build the lists anew (%s); they hold what is written from now on", error)
