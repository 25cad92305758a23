"""Finds tasks whose gateway is silent. The gateway that notices first makes them FAILED lost."""

import re
import time
from collections.abc import Callable, Container, Sequence
from math import inf
from typing import Any, cast

from gateway.store.interface import ignore, name_in
from gateway.store.layout import BEATS, DOCUMENT_PREFIX, SHARED_KEYS, Script, list_names
from gateway.store.malformed import Malformed
from gateway.store.reader import Reader
from gateway.tasks.document import fields_of, lost_document

_LOST_AFTER = re.compile(r'"lost_after_ms":(\d{1,15})\}\}$')
_CLOCK_STEP_SECONDS = 2.0
_ENDED_AT_ONCE = 256
_SWEPT = 1000  # expired tasks that leave the lists in one step
_SWEEPS = 10


class Orphans:
    """Looks for silent tasks for the process `boot` of the gateway `instance`. `lost` counts the tasks it made lost.

    If the server's clock steps forward, every task looks silent. So then no task is made lost for `grace_seconds`.
    """

    def __init__(
        self,
        reader: Reader,
        malformed: Malformed,
        *,
        boot: str,
        instance: str,
        grace_seconds: float,
        ttl_done_seconds: int,
        lists_ttl_seconds: int,
    ) -> None:
        self.lost = 0
        self._reader = reader
        self._malformed = malformed
        self._boot = boot
        self._instance = instance
        self._grace_seconds = grace_seconds
        self._ttl_done_seconds = ttl_done_seconds
        self._lists_ttl_seconds = lists_ttl_seconds
        self._clock_offset_seconds = inf  # the server's clock minus the monotonic clock here, at the last reply
        self._steady_at = 0.0
        self._watch, self._lost, self._relist = map(Script, ("watch", "lost", "relist"))

    async def documents(self, task_ids: Sequence[str], exempt: Container[str] | None) -> list[str | None]:
        """The documents of `task_ids`, as `Reader.documents` returns them, after silent tasks were made lost.

        A task whose request is named in `exempt` is not made lost; None exempts all. Raises redis-py's errors.
        """
        now_ms, documents = await self._reader.documents(task_ids)
        if not self._is_clock_steady(now_ms) or exempt is None:
            return documents
        return [
            await self._make_lost(document, exempt) if document and _is_silent(document, now_ms) else document
            for document in documents
        ]

    def _is_clock_steady(self, now_ms: int) -> bool:
        now = time.monotonic()
        offset_seconds = now_ms / 1000 - now
        if offset_seconds - self._clock_offset_seconds > _CLOCK_STEP_SECONDS:
            self._steady_at = now + self._grace_seconds
        self._clock_offset_seconds = offset_seconds
        return now >= self._steady_at

    async def _make_lost(self, document: str, exempt: Container[str] = ()) -> str | None:
        """Replaces `document` by FAILED lost. Returns the new document, or the one that was written meanwhile."""
        fields = fields_of(document)
        if fields is None or name_in(fields) in exempt:
            return document
        lost, task_id = lost_document(fields, time.time()), fields["task_id"]
        arguments = [document, lost, self._ttl_done_seconds, self._lists_ttl_seconds, task_id]
        names = list_names(None, fields["extensions"].get("owner"))
        if not await self._reader.evaluate(self._lost, [DOCUMENT_PREFIX + task_id], arguments, names):
            _, [found] = await self._reader.documents([task_id])
            return found
        self.lost += 1
        return lost

    async def end_earlier_run(self) -> None:
        """Makes lost the tasks that an earlier run of this gateway, at the same site, left in flight."""
        await self.look(exempt=None)  # deletes BEATS if that key has another type
        task_ids = cast("list[str]", await self._reader.redis.zrange(BEATS, 0, -1))
        for start in range(0, len(task_ids), _ENDED_AT_ONCE):
            _, documents = await self._reader.documents(task_ids[start : start + _ENDED_AT_ONCE])
            for document in filter(None, documents):
                if self._is_former_self(document):
                    await self._make_lost(document)

    def _is_former_self(self, document: str) -> bool:
        extensions = (fields_of(document) or {}).get("extensions", {})
        own, theirs = self._boot.split("-"), str(extensions.get("boot")).split("-")
        is_same_site = extensions.get("instance") == self._instance and own[:1] == theirs[:1]
        is_other_run = len(own) == len(theirs) == 3 and own[1] != theirs[1]
        return is_same_site and is_other_run and is_running(document)

    async def look(
        self, exempt: Container[str] | None, on_silent: Callable[[str], object] = ignore
    ) -> tuple[list[str], bool]:
        """Makes silent tasks lost, and removes expired tasks from the lists.

        Returns the names of requests to cancel, and whether the lists are complete. Calls `on_silent` with the names in
        `exempt` whose tasks are silent. With `exempt` None it makes no task lost. Raises redis-py's errors.
        """
        silent, cancels, now_ms, is_complete = await self._silent_and_cancelled()
        if self._is_clock_steady(now_ms) and silent and exempt is not None:
            documents = await self.documents(silent, exempt)
            # A gateway of the previous version has ended the task, or its document has expired.
            ended = [task_id for task_id, found in zip(silent, documents, strict=True) if not is_running(found or "")]
            if ended:
                keys = [*(DOCUMENT_PREFIX + task_id for task_id in ended), *SHARED_KEYS]
                await self._reader.evaluate(self._relist, keys, [self._lists_ttl_seconds, *ended])
            for document in filter(None, documents):
                if _is_silent(document, now_ms):
                    on_silent(name_in(fields_of(document) or {}))
        return cancels, is_complete

    async def _silent_and_cancelled(self) -> tuple[list[str], list[str], int, bool]:
        """(ids of silent tasks, names to cancel, the server's time in Unix ms, whether the lists are complete)."""
        for _ in range(_SWEEPS):
            reply: Any = await self._reader.evaluate(self._watch, SHARED_KEYS, [_SWEPT, self._lists_ttl_seconds])
            silent, cancels, now_ms, swept, is_complete, malformed = reply
            for name in malformed:
                self._malformed.report(name)
            if swept < _SWEPT:
                break
        return silent, cancels, now_ms, bool(is_complete)


def is_running(document: str) -> bool:
    """Whether a document describes a task in flight."""
    return _LOST_AFTER.search(document) is not None


def _is_silent(document: str, now_ms: int) -> bool:
    """Whether the task is in flight and its gateway has missed too many heartbeats."""
    lost_after = _LOST_AFTER.search(document, max(0, len(document) - 40))
    return lost_after is not None and int(lost_after[1]) < now_ms
