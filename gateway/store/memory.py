"""The in-process table: the store of a gateway that has none configured. Lost at exit, bounded.

Follows the rules of transition.lua and index.lua; tests run both through the same cases. Called by tracker alone.
"""

import asyncio
import time
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from gateway.store.interface import Page, Record, Then, Written, decode_cursor, encode_cursor, place
from gateway.tasks.shares import Shares
from gateway.tasks.task import FINAL_RANK, MAX_ATTEMPT, State, complete_document

MAX_TASKS = 10_000
MAX_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    attempt: int
    expires_at: float

    @property
    def place(self) -> str:
        return place(self.record.created_ms, self.record.task_id)

    @property
    def lists(self) -> list[tuple[State | None, str | None]]:
        """Where it is listed: by state or in all, by owner ("" is one, too) or for everybody."""
        return [(state, owner) for state in (None, self.record.state) for owner in (None, self.record.owner)]

    @property
    def document(self) -> str:
        return complete_document(self.record.head, self.attempt)


class MemoryStore:
    """Statuses in this process. At `max_tasks`, or 32 MB of documents, the owner with the most loses its oldest.

    `clock` gives Unix seconds.
    """

    def __init__(self, *, max_tasks: int = MAX_TASKS, clock: Callable[[], float] = time.time) -> None:
        self.lost = 0  # nothing is ever silent
        self.answers_at_once = True
        self.connections = 0
        self._max_tasks = max_tasks
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._bytes = 0
        self._shares = Shares()
        self._places: defaultdict[tuple[State | None, str | None], list[str]] = defaultdict(list)

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record by the rules of transition.lua."""
        then(self._write(records))

    def _write(self, records: Sequence[Record]) -> list[Written]:
        written = [self._put(record) for record in records]
        while len(self._entries) > self._max_tasks or self._bytes > MAX_BYTES:
            self._remove(self._oldest())
        return written

    def _put(self, record: Record) -> Written:
        stored = self._live(record.task_id)
        attempt = record.attempt
        if stored is not None:
            is_ours = stored.record.created_ms == record.created_ms
            has_ended = stored.record.rank == FINAL_RANK
            owners = {stored.record.owner, record.owner} - {""}
            if attempt == 0 and not is_ours and (not has_ended or len(owners) > 1):
                return Written(False, stored.attempt)
            if attempt == 0:
                attempt = stored.attempt if is_ours else min(stored.attempt + 1, MAX_ATTEMPT)
            if attempt < stored.attempt or (attempt == stored.attempt and not is_ours):
                return Written(False, stored.attempt)
            if attempt == stored.attempt and stored.record.head == record.head and has_ended:
                return Written(True, attempt)  # the very same again
            if attempt == stored.attempt and (has_ended or record.rank < stored.record.rank):
                return Written(False, stored.attempt)
            self._remove(stored)
        return self._add(record, max(attempt, 1))

    def _add(self, record: Record, attempt: int) -> Written:
        entry = _Entry(record, attempt, self._clock() + record.ttl_seconds)
        self._entries[record.task_id] = entry
        self._bytes += len(record.head)
        self._shares.add(record.owner)
        for which in entry.lists:
            insort(self._places[which], entry.place)
        return Written(True, attempt)

    def _remove(self, entry: _Entry) -> None:
        del self._entries[entry.record.task_id]
        self._bytes -= len(entry.record.head)
        self._shares.remove(entry.record.owner)
        for which in entry.lists:
            places = self._places[which]
            del places[bisect_left(places, entry.place)]
            if not places:
                del self._places[which]

    def _oldest(self) -> _Entry:
        """Of the owner with the most tasks the oldest ended one, or the oldest of all where none has ended."""
        owner = self._shares.largest
        ended = [(state, owner) for state in (State.SUCCESS, State.FAILED)]
        oldest = [self._places[which][0] for which in ended if which in self._places]
        return self._entries[min(oldest, default=self._places[None, owner][0])[14:]]

    def _live(self, task_id: str) -> _Entry | None:
        entry = self._entries.get(task_id)
        if entry is not None and entry.expires_at <= self._clock():
            self._remove(entry)
            return None
        return entry

    async def read(self, task_ids: Sequence[str], spared: Container[str] | None = None) -> list[str | None]:  # noqa: ARG002
        """The documents of `task_ids`, None where there is none."""
        entries = map(self._live, task_ids)
        return [None if entry is None else entry.document for entry in entries]

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        spared: Container[str] | None = None,  # noqa: ARG002
    ) -> Page:
        """Up to `limit` documents (of `owner`), newest first, from behind `cursor` on. Raises InvalidCursor."""
        places = self._places.get((state, owner or None), [])
        end = bisect_left(places, decode_cursor(cursor)) if cursor else len(places)
        found: list[_Entry] = []
        while end > 0 and len(found) <= limit:
            end -= 1
            entry = self._live(places[end][14:])
            if entry is not None:
                found.append(entry)
        documents = [entry.document for entry in found[:limit]]
        return Page(documents, encode_cursor(found[limit - 1].place) if len(found) > limit else None)

    async def ping(self) -> None:
        """Always there."""

    # Its tasks are this process's own: none is ever left behind, none cancelled from elsewhere.

    async def bury(self) -> None:
        """Nothing outlives a run."""

    async def watch(
        self,
        spared: Container[str],  # noqa: ARG002
        on_spared: Callable[[str], object] = str,  # noqa: ARG002
    ) -> list[str]:
        """Nothing is ever silent."""
        return []

    async def ask_cancel(self, name: str) -> None:
        """Nobody else to tell."""

    async def listen(self, on_cancel: Callable[[str], object]) -> None:  # noqa: ARG002
        """Nobody to listen to."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Nothing to give back."""
