"""The store of a gateway without Redis: a bounded table in this process, lost at its exit.

Tests run it and the Redis store through the same cases.
"""

import asyncio
import time
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.store.clock import MachineClock
from gateway.store.interface import (
    Page,
    Peeked,
    PeekedPage,
    Record,
    Then,
    Written,
    decode_cursor,
    encode_cursor,
    ignore,
    place,
)
from gateway.tasks.document import complete_document, found_in
from gateway.tasks.shares import Shares
from gateway.tasks.stages import State, Stored, verdict

MAX_TASKS = 10_000
MAX_BYTES = 32 * 1024 * 1024

# Names a list: state (None: all states), owner (None: all owners; "": no API key), label ("": with any label or none).
_List: TypeAlias = tuple[State | None, str | None, str]


def _stored(found: "_Entry", record: Record) -> Stored:
    owners = {found.record.owner, record.owner} - {""}
    is_ours = found.record.created_ms == record.created_ms  # there is one process
    return Stored(found.attempt, found.record.rank, is_ours, len(owners) > 1)


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    attempt: int
    expires_at: float

    @property
    def place(self) -> str:
        return place(self.record.created_ms, self.record.task_id)

    @property
    def lists(self) -> list[_List]:
        """The lists that it is in."""
        owners, label = (None, self.record.owner), self.record.label
        lists: list[_List] = [(state, owner, "") for state in (None, self.record.state) for owner in owners]
        return lists + [(None, owner, label) for owner in owners] if label else lists

    @property
    def document(self) -> str:
        return complete_document(self.record.head, self.attempt)


class MemoryStore:
    """Statuses in this process. Above `max_tasks` or 32 MB of documents, the owner with the most loses its oldest.

    `clock` returns Unix seconds.
    """

    def __init__(self, *, max_tasks: int = MAX_TASKS, clock: Callable[[], float] = time.time) -> None:
        self.lost = 0  # all tasks are this process's, so none is ever silent
        self.answers_at_once = True
        self.connections = 0
        self._max_tasks = max_tasks
        self.clock = MachineClock(clock)
        self._clock = clock
        self._entries: dict[str, _Entry] = {}
        self._bytes = 0
        self._shares = Shares()
        self._places: defaultdict[_List, list[str]] = defaultdict(list)

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record by the rules of `verdict`."""
        then(self._write(records))

    def _write(self, records: Sequence[Record]) -> list[Written]:
        written = [self._put(record) for record in records]
        while len(self._entries) > self._max_tasks or self._bytes > MAX_BYTES:
            self._remove(self._oldest())
        return written

    def _put(self, record: Record) -> Written:
        found = self._live(record.task_id)
        stored = None if found is None else _stored(found, record)
        attempt = verdict(stored, record.attempt, record.rank)
        if attempt is not None:
            if found is not None:
                self._remove(found)
            return self._add(record, attempt)
        assert found is not None, "nothing that is stored is in the way"
        is_same_end = found.record.head == record.head
        return Written(is_same_end, found.attempt)

    def replace_end(self, record: Record) -> None:
        """The same end of a task with another document."""
        found = self._live(record.task_id)
        if found is not None and found.record.rank == record.rank and _stored(found, record).is_ours:
            self._remove(found)
            self._add(record, found.attempt)

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
        """Of the owner with the most tasks: the oldest ended one, or the oldest of all if none has ended."""
        owner = self._shares.largest
        ended: list[_List] = [(state, owner, "") for state in (State.SUCCESS, State.FAILED)]
        oldest = [self._places[which][0] for which in ended if which in self._places]
        return self._entries[min(oldest, default=self._places[None, owner, ""][0])[14:]]

    def _live(self, task_id: str) -> _Entry | None:
        entry = self._entries.get(task_id)
        if entry is not None and entry.expires_at <= self._clock():
            self._remove(entry)
            return None
        return entry

    async def read(self, task_ids: Sequence[str], exempt: Container[str] | None = None) -> list[str | None]:  # noqa: ARG002
        """The documents of `task_ids`, None for a task that is not in the table."""
        entries = map(self._live, task_ids)
        return [None if entry is None else entry.document for entry in entries]

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        label: str = "",
        exempt: Container[str] | None = None,  # noqa: ARG002
    ) -> Page:
        """Up to `limit` documents (of `owner`, of `label`), newest first, after `cursor`. Raises InvalidCursor."""
        return self._page(limit, state, cursor, owner, label)

    def _page(self, limit: int, state: State | None, cursor: str | None, owner: str | None, label: str) -> Page:
        places = self._places.get((state, owner or None, label), [])
        end = bisect_left(places, decode_cursor(cursor)) if cursor else len(places)
        found: list[_Entry] = []
        while end > 0 and len(found) <= limit:
            end -= 1
            entry = self._live(places[end][14:])
            if entry is not None:
                found.append(entry)
        documents = [entry.document for entry in found[:limit]]
        return Page(documents, encode_cursor(found[limit - 1].place) if len(found) > limit else None)

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Calls `then` with the status of a task at once."""
        entry = self._live(task_id)
        then(None if entry is None else found_in(entry.document))

    def peek_page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        then: Callable[[PeekedPage], None],
        *,
        owner: str | None = None,
        label: str = "",
    ) -> None:
        """Calls `then` with a page at once. Raises InvalidCursor."""
        page = self._page(limit, state, cursor, owner, label)
        then((list(map(found_in, page.documents)), page.next_cursor))

    def tell(self, message: str) -> None:
        """Does nothing: there is no other gateway."""

    async def probe(self) -> None:
        """Does nothing: the table is never away."""

    # All tasks here are this process's own: no other run leaves tasks behind, and no other gateway cancels them.

    async def presumed(self) -> list[str]:
        """Returns no documents: no task is ever presumed lost."""
        return []

    async def end_earlier_run(self) -> None:
        """Does nothing: no task outlives its run."""

    async def watch(
        self,
        exempt: Container[str],  # noqa: ARG002
        on_silent: Callable[[str], object] = ignore,  # noqa: ARG002
    ) -> list[str]:
        """Returns no names: no task is ever silent, and no other gateway asks for cancels."""
        return []

    async def ask_cancel(self, name: str) -> None:
        """Does nothing: there is no other gateway to ask."""

    async def listen(self, on_cancel: Callable[[str], object]) -> None:  # noqa: ARG002
        """Waits for ever: there is no other gateway to hear from."""
        await asyncio.get_running_loop().create_future()

    async def close(self) -> None:
        """Does nothing: there is no connection."""
