"""The list: the store's, and while that takes no writes with this process's own tasks in it as they are now.

So a page says of each task what `/tasks/status/{task_id}` says, and has the tasks that the store has not heard of.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from gateway.store.interface import Page, Store, decode_cursor, encode_cursor, place
from gateway.tasks.document import fields_of
from gateway.tasks.stages import State
from gateway.tracking.own import OwnTasks
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.writer import StoreWriter

LARGEST_PAGE = 1000  # documents that one question to the store may ask for

_PageOf: TypeAlias = Callable[[int, str | None], Awaitable[Page]]  # by limit and cursor
_Row: TypeAlias = tuple[str, TrackedTask | str]  # where it stands, and what does


@dataclass(frozen=True, slots=True)
class Listing:
    """Pages of one process. `own` are the tasks that it knows itself; `render` makes the document of one."""

    store: Store
    writer: StoreWriter
    own: OwnTasks
    render: Callable[[TrackedTask], str]

    async def page(
        self, limit: int, state: State | None, cursor: str | None, reader: str | None, label: str = ""
    ) -> Page:
        """Up to `limit` documents, newest first, from behind `cursor` on. Raises StoreError and InvalidCursor."""

        def page_of(size: int, at: str | None) -> Awaitable[Page]:
            return self.store.page(size, state, at, owner=reader, label=label, exempt=self.writer.exempt)

        if self.writer.is_up:
            page = await page_of(limit, cursor)
            if self.writer.is_up:
                return page
        own = self.own.by_id()  # for these the store's word does not count
        return await self._merged(page_of, own, _rows(own, state, cursor, reader, label), limit, cursor)

    def own_page(
        self, limit: int, state: State | None, cursor: str | None, reader: str | None, label: str = ""
    ) -> Page:
        """As `page`, with the tasks of this process alone, as they are now. Does not ask the store."""
        rows = _rows(self.own.by_id(), state, cursor, reader, label)
        return self._page_of(sorted(rows, key=_place, reverse=True), limit)

    async def _merged(
        self, page_of: _PageOf, own: Mapping[str, TrackedTask], fresh: list[_Row], limit: int, cursor: str | None
    ) -> Page:
        found: list[_Row] = []
        at, size, skipped = cursor, limit, 0
        while True:
            page = await page_of(size, at)
            skipped += page.skipped
            found += [row for row in map(_row, page.documents) if row[0][14:] not in own]
            at, size = page.next_cursor, LARGEST_PAGE  # most of a page may be our own: past them, quickly
            end = decode_cursor(at) if at else ""
            rows = sorted(found + [row for row in fresh if row[0] >= end], key=_place, reverse=True)
            if at is None or len(rows) > limit:
                break
        return self._page_of(rows, limit, skipped)

    def _page_of(self, rows: list[_Row], limit: int, skipped: int = 0) -> Page:
        """The first `limit` of these rows, which are in order."""
        documents = [what if isinstance(what, str) else self.render(what) for _, what in rows[:limit]]
        return Page(documents, encode_cursor(rows[limit - 1][0]) if len(rows) > limit else None, skipped)


def _rows(
    own: Mapping[str, TrackedTask], state: State | None, cursor: str | None, reader: str | None, label: str
) -> list[_Row]:
    """Those of `own` that belong to a list, from behind `cursor` on. Raises InvalidCursor."""
    start = decode_cursor(cursor) if cursor else None
    rows: list[_Row] = [
        (place(task.created_ms, task.task_id), task)
        for task in own.values()
        if state in (None, task.state) and reader in (None, task.owner) and label in ("", task.label)
    ]
    return [row for row in rows if start is None or row[0] < start]


def _row(document: str) -> _Row:
    fields = fields_of(document) or {}
    return place(fields["extensions"]["created_ms"], fields["task_id"]), document


def _place(row: _Row) -> str:
    return row[0]
