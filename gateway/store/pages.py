"""Reads the lists of Redis, page by page, newest first."""

import time
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.exceptions import ResponseError

from gateway.store.interface import Incomplete, Page, decode_cursor, encode_cursor, is_place
from gateway.store.layout import DOCUMENT_PREFIX, LIST_PREFIX, SHARED_KEYS, Script
from gateway.store.malformed import Malformed
from gateway.store.reader import MALFORMED, Reader
from gateway.tasks.document import fields_of
from gateway.tasks.stages import State

PAGE, FORGET = Script("page"), Script("forget")
_STEP = 128
_SWEEP = 1000
PAGE_BYTES = 4 * 1024 * 1024
_MOST_SKIPPED = 1000  # malformed records after which a page ends, with a cursor

# Documents at a time of the server (Unix ms), whose silent tasks are made lost, unless exempt.
_Settle = Callable[[list[str | None], int, Container[str] | None], Awaitable[list[str | None]]]


class _Rows(NamedTuple):
    """What page.lua returns of a list. `is_cut`: more than a page has bytes for."""

    places: list[str]
    documents: list[str | None]
    now_ms: int
    is_cut: bool


@dataclass(slots=True)
class _Walk:
    """A page while it is being collected."""

    names: list[str]
    state: State | None
    label: str
    exempt: Container[str] | None
    found: list[tuple[str, str]] = field(default_factory=list)  # place and document, newest first
    skipped: dict[str, str] = field(default_factory=dict)  # malformed records: id, or the member itself -> place
    size_bytes: int = 0


class Pages:
    """Reads pages through `reader`. `settle` makes silent tasks lost (see Orphans)."""

    def __init__(self, reader: Reader, malformed: Malformed, settle: _Settle) -> None:
        self._reader = reader
        self._malformed = malformed
        self._settle = settle

    async def read(
        self,
        limit: int,
        names: list[str],
        start: str,
        exempt: Container[str] | None,
        *,
        state: State | None = None,
        label: str = "",
    ) -> Page:
        """Walks the lists of these `names` from `start` on until it has `limit` documents that still match the lists.

        Those are lists of `state`, or of `label`, or of all tasks. A page ends early after 4 MiB of documents or 1,000
        malformed records. Raises Incomplete and redis-py's errors.
        """
        walk = _Walk(names, state, label, exempt)
        step, is_end, last = _STEP, False, ""
        while not is_end and len(walk.found) <= limit and walk.size_bytes <= PAGE_BYTES:
            if len(walk.skipped) >= _MOST_SKIPPED and last:  # without a place there is no cursor
                break
            wanted = min(step, limit + 1 - len(walk.found)) if step == _STEP else step
            rows = await self._rows(walk.names, start, wanted)
            has_found = await self._take(walk, rows)
            is_end = len(rows.places) < wanted and not rows.is_cut
            start = "(" + rows.places[-1] if rows.places else start
            last = next(filter(is_place, reversed(rows.places)), last)
            step = _STEP if has_found else _SWEEP  # all these documents are gone: skip the next ones in larger steps
        found = walk.found
        last = found[limit - 1][0] if len(found) > limit else last
        is_last = is_end and len(found) <= limit
        # Records after this page count for the next one. Malformed members count here: they are removed by then.
        left_out = sum(is_last or place >= last or not is_place(place) for place in walk.skipped.values())
        return Page([document for _, document in found[:limit]], None if is_last else encode_cursor(last), left_out)

    async def _rows(self, names: list[str], start: str, count: int) -> _Rows:
        """Up to `count` places of all these lists together, newest first, from `start` on."""
        asked_at = time.monotonic()
        arguments: list[str | int] = [start, count, PAGE_BYTES, *names]
        is_complete, now_ms, malformed, is_cut, places, documents = await self._reader.evaluate(
            PAGE, SHARED_KEYS, arguments, names
        )
        self._reader.clock.heard(now_ms, asked_at)
        for key in malformed:
            self._malformed.report(key)
        if not is_complete:
            raise Incomplete("the list is being built anew")
        found = [self._reader.checked(place[14:], text) for place, text in zip(places, documents, strict=True)]
        return _Rows(places, found, now_ms, bool(is_cut))

    async def _take(self, walk: _Walk, rows: _Rows) -> bool:
        """Adds the documents of `rows` to the page; true if there were any. Removes places without a document."""
        odd = [place for place in rows.places if not is_place(place)]
        for place in odd:
            self._malformed.report(f"{LIST_PREFIX}{walk.names[0]} {place}")
            walk.skipped[place] = place
        settled = await self._settle(rows.documents, rows.now_ms, walk.exempt)
        documents = dict(zip(rows.places, settled, strict=True))
        for place in odd:
            del documents[place]
        await self._remove(walk.names, odd)
        await self._forget(walk.names, [place for place, document in documents.items() if document is None])
        walk.skipped |= {place[14:]: place for place, document in documents.items() if document == MALFORMED}
        here = [(p, d) for p, d in documents.items() if d and _stands_at(p, d, walk)]
        walk.found += here
        walk.size_bytes += sum(len(document) for _, document in here)
        return bool(here)

    async def _remove(self, names: list[str], places: list[str]) -> None:
        if not places:
            return
        with suppress(ResponseError):  # a server that takes no writes can still answer the page
            for name in names:
                await self._reader.redis.zrem(LIST_PREFIX + name, *places)

    async def _forget(self, names: list[str], places: list[str]) -> None:
        if not places:
            return
        documents = [DOCUMENT_PREFIX + place[14:] for place in places]
        with suppress(ResponseError):
            await self._reader.evaluate(FORGET, [*documents, *SHARED_KEYS], [*places, *names], names)


def _stands_at(place: str, document: str, walk: _Walk) -> bool:
    """Whether `document` has the creation time of its place in the list, and the state or the label of the list.

    The document is read after the list, and the task may change in between.
    """
    fields = fields_of(document) or {}
    extensions = fields.get("extensions", {})
    is_same = extensions.get("created_ms") == int(place[:13])
    is_of_state = walk.state is None or fields.get("state") == walk.state
    return is_same and is_of_state and (not walk.label or extensions.get("label") == walk.label)


def start_of(cursor: str | None) -> str:
    """The start of a page as page.lua takes it. Raises InvalidCursor."""
    return "(" + decode_cursor(cursor) if cursor else "+"
