"""The order in which Redis lists the tasks: its keys, and what it has yet to be told of statuses that are written.

What was written is gathered for a moment and told in one step for many tasks (index.lua), which nobody waits for. A
step that failed is kept, and repeated ahead of all else: with the next statuses, or by `flush`. Part of store.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from gateway.line import Line, Replies, Script
from gateway.records import Record, StoreError

OWN_PREFIX = "tsx:ollama:"
INDEX_PREFIX = OWN_PREFIX + "{index}:"
BEATS, CANCELS = INDEX_PREFIX + "beats", INDEX_PREFIX + "cancels"
INDEX_KEYS = (INDEX_PREFIX + "all", INDEX_PREFIX + "entry", INDEX_PREFIX + "expiry", BEATS, CANCELS)
SCRIPT = Script("index")

_LINGER_SECONDS = 0.005
_ENOUGH = 64  # so many are told at once
_FLUSH_SECONDS = 0.25
_FORGOTTEN = 100  # how many expired entries go with a step


class Entry(NamedTuple):
    """What index.lua is told of one task, in its order."""

    task_id: str
    attempt: int
    rank: int
    created: str
    state: str
    owner: str
    ttl_seconds: int
    grace_ms: int
    is_granted: int


class Index:
    """Gathers for the list what `line` has written for the process `boot`."""

    def __init__(self, line: Line, boot: str, ttl_seconds: int) -> None:
        self._line = line
        self._boot = boot
        self._ttl_seconds = ttl_seconds
        self._gathered: dict[tuple[str, int], Entry] = {}  # by id and creation: one per request
        self._has_failed = False  # and what was told then is gathered again
        self._steps = 0  # under way
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def gather(self, record: Record, attempt: int, *, is_granted: bool) -> None:
        """A status was written, or refused and may be missing in the list; `is_granted` where that was its claim."""
        self._keep((record.task_id, record.created_ms), entry_of(record, attempt, is_granted=is_granted))
        if len(self._gathered) == _ENOUGH:
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(0, self._tell)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._tell)

    def _keep(self, key: tuple[str, int], entry: Entry) -> None:
        known = self._gathered.get(key)
        if known is not None:
            newer = entry if entry.rank >= known.rank else known
            entry = newer._replace(is_granted=known.is_granted | entry.is_granted)
        self._gathered[key] = entry

    def repeat_failed(self) -> None:
        """Tells again what could not be told; on the same line, so that what is asked next fails with it."""
        if self._has_failed:
            self._tell()

    async def flush(self) -> None:
        """Returns when the list has all that was gathered. Raises StoreError where that fails or takes long."""
        self._tell()
        if not self._steps:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await waiter
        except TimeoutError as error:
            raise StoreError("no answer in time") from error
        finally:
            self._waiting.remove(waiter)

    async def close(self) -> None:
        """Tells what is left, if the store takes it."""
        with suppress(StoreError):
            await self.flush()
        self._stop_timer()

    def _tell(self) -> None:
        self._stop_timer()
        if self._gathered:
            told, self._gathered = self._gathered, {}
            self._has_failed = False
            self._steps += 1
            arguments = index_arguments(told.values(), self._boot, self._ttl_seconds)
            self._line.ask(
                [("EVALSHA", SCRIPT.digest, len(INDEX_KEYS), *INDEX_KEYS, *arguments)], partial(self._told, told)
            )

    def _told(self, told: dict[tuple[str, int], Entry], replies: Replies) -> None:
        self._steps -= 1
        error = replies if isinstance(replies, StoreError) else None
        if error is not None:
            self._has_failed = True
            for key, entry in told.items():
                self._keep(key, entry)
        for waiter in self._waiting:
            if not waiter.done() and (error or not self._steps):
                waiter.set_exception(error) if error else waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def entry_of(record: Record, attempt: int, *, is_granted: bool) -> Entry:
    """What the list is told of a record."""
    return Entry(
        record.task_id,
        attempt,
        record.rank,
        f"{record.created_ms:013d}",
        record.state,
        record.owner,
        record.ttl_seconds,
        int(record.grace_seconds * 1000),
        int(is_granted),
    )


def index_arguments(entries: Iterable[Entry], boot: str, ttl_seconds: int, forgotten: int = _FORGOTTEN) -> list[Any]:
    """The arguments of index.lua for tasks of the process `boot`."""
    arguments: list[Any] = [INDEX_PREFIX, ttl_seconds, forgotten, boot]
    for entry in entries:
        arguments += entry
    return arguments
