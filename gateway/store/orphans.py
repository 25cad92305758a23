"""Finds tasks whose gateway is silent. The gateway that notices first makes them FAILED lost.

Silence only lets a loss be presumed: the gateway may live, and be cut off from the store. The request that is presumed
lost puts its status right when it speaks again. The loss becomes final after `PRESUMED_MS`, or when the same gateway
runs again as another process.
"""

import asyncio
import re
import time
from collections.abc import Callable, Container, Sequence
from typing import Any, NamedTuple, cast

from gateway.store.clock import StoreClock
from gateway.store.interface import id_in, ignore, name_in
from gateway.store.layout import BEATS, DOCUMENT_PREFIX, PRESUMED, SHARED_KEYS, Script, list_names
from gateway.store.malformed import Malformed
from gateway.store.reader import Reader
from gateway.tasks.document import fields_of, is_presumed, lost_document, presumed_in, presumed_until_ms

_LOST_AFTER = re.compile(r'"lost_after_ms":(\d{1,15})\}\}$')
_READ_AT_ONCE = 256
_LOST_AT_ONCE = 16  # of half as many connections as there are
_SILENT_AT_ONCE = 256  # in one reply of watch.lua
_LOOK_SECONDS = 1.0  # a look asks again so long, if it finds more silent tasks than that
_SWEPT = 1000  # expired tasks that leave the lists in one step
_SWEEPS = 10


class _Watched(NamedTuple):
    """What watch.lua returns. `presumed`: names of requests, and when each loss becomes final (Unix ms)."""

    silent: list[str]
    cancels: list[str]
    now_ms: int
    is_complete: bool
    presumed: dict[str, int]


class Orphans:
    """Looks for silent tasks for the process `boot` of the gateway `instance`. `lost` counts the tasks it made lost.

    If the server's clock steps forward, every task looks silent. So no task is made lost while `clock` is unsteady.
    """

    def __init__(
        self,
        reader: Reader,
        malformed: Malformed,
        clock: StoreClock,
        *,
        boot: str,
        instance: str,
        ttl_done_seconds: int,
        lists_ttl_seconds: int,
    ) -> None:
        self.lost = 0
        self._reader = reader
        self._malformed = malformed
        self._clock = clock
        self._boot = boot
        self._instance = instance
        self._ttl_done_seconds = ttl_done_seconds
        self._lists_ttl_seconds = lists_ttl_seconds
        self._watch, self._lost, self._relist = map(Script, ("watch", "lost", "relist"))

    async def documents(self, task_ids: Sequence[str], exempt: Container[str] | None) -> list[str | None]:
        """The documents of `task_ids`, as `Reader.documents` returns them, after silent tasks were made lost.

        A task whose request is named in `exempt` is not made lost; None exempts all. Raises redis-py's errors.
        """
        now_ms, documents = await self._reader.documents(task_ids)
        return await self.settle(documents, now_ms, exempt)

    async def settle(self, documents: list[str | None], now_ms: int, exempt: Container[str] | None) -> list[str | None]:
        """The same for documents that were read at `now_ms` (Unix ms of the server)."""
        if not self._clock.is_steady or exempt is None:
            return documents
        due = [document for document in documents if document and _is_due(document, now_ms)]
        if not due:
            return documents
        lost = dict(zip(due, await self._make_all_lost(due, exempt), strict=True))
        return [lost.get(document, document) if document else document for document in documents]

    async def presumed(self) -> list[str]:
        """The documents of the tasks that are presumed lost. Raises redis-py's errors."""
        names = cast("list[str]", await self._reader.redis.zrange(PRESUMED, 0, -1))
        return [document for document in await self._read([*map(id_in, names)]) if presumed_in(document)]

    async def _read(self, task_ids: Sequence[str]) -> list[str]:
        """The documents of those of `task_ids` that have one."""
        found: list[str] = []
        for start in range(0, len(task_ids), _READ_AT_ONCE):
            _, documents = await self._reader.documents(task_ids[start : start + _READ_AT_ONCE])
            found += filter(None, documents)
        return found

    async def _make_all_lost(
        self, documents: Sequence[str], exempt: Container[str] = (), *, is_certain: bool = False
    ) -> list[str | None]:
        """As `_make_lost` of each, some at a time: a gateway that dies may leave thousands."""
        found: list[str | None] = []
        for start in range(0, len(documents), _LOST_AT_ONCE):
            some = documents[start : start + _LOST_AT_ONCE]
            found += await asyncio.gather(
                *(self._make_lost(document, exempt, is_certain=is_certain) for document in some)
            )
        return found

    async def _make_lost(self, document: str, exempt: Container[str] = (), *, is_certain: bool = False) -> str | None:
        """Makes the task of `document` lost, unless its request is named in `exempt`.

        The loss is presumed. It is final if `document` tells of a presumed loss already, or if it `is_certain`. Returns
        the new document, or the one that was written meanwhile.
        """
        fields = fields_of(document)
        if fields is None or name_in(fields) in exempt:
            return document
        was_presumed, task_id = is_presumed(fields), fields["task_id"]
        lost = lost_document(fields, self._clock.seconds(), is_certain=is_certain or was_presumed)
        arguments = [document, lost, self._ttl_done_seconds, self._lists_ttl_seconds, task_id]
        names = list_names(None, fields["extensions"].get("owner"))
        if not await self._reader.evaluate(self._lost, [DOCUMENT_PREFIX + task_id], arguments, names):
            _, [found] = await self._reader.documents([task_id])
            return found
        self.lost += not was_presumed
        return lost

    async def end_earlier_run(self) -> None:
        """Makes lost for good the tasks that an earlier run of this gateway, at the same site, left behind."""
        await self.look(exempt=None)  # deletes BEATS and PRESUMED if they have another type
        in_flight = cast("list[str]", await self._reader.redis.zrange(BEATS, 0, -1))
        presumed = cast("list[str]", await self._reader.redis.zrange(PRESUMED, 0, -1))
        documents = await self._read([*in_flight, *map(id_in, presumed)])
        await self._make_all_lost([*filter(self._is_former_self, documents)], is_certain=True)

    def _is_former_self(self, document: str) -> bool:
        extensions = (fields_of(document) or {}).get("extensions", {})
        own, theirs = self._boot.split("-"), str(extensions.get("boot")).split("-")
        is_same_site = extensions.get("instance") == self._instance and own[:1] == theirs[:1]
        is_other_run = len(own) == len(theirs) == 3 and own[1] != theirs[1]
        is_open = is_running(document) or presumed_in(document) is not None
        return is_same_site and is_other_run and is_open

    async def look(
        self, exempt: Container[str] | None, on_silent: Callable[[str], object] = ignore
    ) -> tuple[list[str], bool]:
        """Makes silent tasks lost, and removes expired tasks from the lists.

        Returns the names of requests to cancel, and whether the lists are complete. Calls `on_silent` with the names in
        `exempt` whose tasks are silent, or presumed lost. With `exempt` None it makes no task lost. Raises redis-py's
        errors.
        """
        until, before = time.monotonic() + _LOOK_SECONDS, None
        while True:
            watched = await self._watched()
            if self._clock.is_steady and exempt is not None:
                await self._presume_silent(watched, exempt, on_silent)
                await self._settle_presumed(watched, exempt, on_silent)
            has_more = len(watched.silent) == _SILENT_AT_ONCE and watched.silent != before
            if exempt is None or not has_more or time.monotonic() >= until:
                return watched.cancels, watched.is_complete
            before = watched.silent

    async def _presume_silent(
        self, watched: _Watched, exempt: Container[str], on_silent: Callable[[str], object]
    ) -> None:
        """Makes the tasks lost, for now presumed, of which too many heartbeats are missing."""
        if not watched.silent:
            return
        documents = await self.documents(watched.silent, exempt)
        pairs = zip(watched.silent, documents, strict=True)
        # `beats` has them still: a gateway of the previous version ended them, or their documents have expired.
        ended = [task_id for task_id, document in pairs if not is_running(document or "")]
        if ended:
            keys = [*(DOCUMENT_PREFIX + task_id for task_id in ended), *SHARED_KEYS]
            await self._reader.evaluate(self._relist, keys, [self._lists_ttl_seconds, *ended])
        for document in filter(None, documents):
            if _is_silent(document, watched.now_ms):
                on_silent(name_in(fields_of(document) or {}))

    async def _settle_presumed(
        self, watched: _Watched, exempt: Container[str], on_silent: Callable[[str], object]
    ) -> None:
        """Makes presumed losses final that are due. Own tasks among the presumed ones go to `on_silent`."""
        for name in watched.presumed:
            if name in exempt:
                on_silent(name)
        due = [name for name, until_ms in watched.presumed.items() if until_ms < watched.now_ms]
        if not due:
            return
        documents = await self.documents([id_in(name) for name in due], exempt)
        # The document is gone, or it is of another request.
        past = [name for name, found in zip(due, documents, strict=True) if not _is_presumed_as(name, found or "")]
        if past:
            await self._reader.redis.zrem(PRESUMED, *past)

    async def _watched(self) -> _Watched:
        for _ in range(_SWEEPS):
            reply: Any = await self._reader.timed(self._watch, SHARED_KEYS, [_SWEPT, self._lists_ttl_seconds], 2)
            silent, cancels, now_ms, swept, is_complete, malformed, presumed = reply
            for name in malformed:
                self._malformed.report(name)
            if swept < _SWEPT:
                break
        names = dict(zip(presumed[::2], map(int, map(float, presumed[1::2])), strict=True))
        return _Watched(silent, cancels, now_ms, bool(is_complete), names)


def is_running(document: str) -> bool:
    """Whether a document describes a task in flight."""
    return _LOST_AFTER.search(document) is not None


def _is_silent(document: str, now_ms: int) -> bool:
    """Whether the task is in flight and its gateway has missed too many heartbeats."""
    lost_after = _LOST_AFTER.search(document, max(0, len(document) - 40))
    return lost_after is not None and int(lost_after[1]) < now_ms


def _is_presumed_as(name: str, document: str) -> bool:
    """Whether a document says that the request of this name is presumed lost."""
    fields = presumed_in(document)
    return fields is not None and name_in(fields) == name


def _is_due(document: str, now_ms: int) -> bool:
    """Whether the task is to be made lost: it is silent, or has been presumed lost for long enough."""
    presumed = presumed_in(document)
    return _is_silent(document, now_ms) if presumed is None else presumed_until_ms(presumed) < now_ms
