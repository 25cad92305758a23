"""Plain reads of Redis, by calls instead of asyncio tasks: one status, or one page, in one round trip.

A relayed request costs less than one task that goes through redis-py, and there may be thousands of pollers. So this is
a fast way beside `Reader` and `Pages`. It only answers what is plain: where a reply needs more than to be passed on
(a silent task, a malformed record, a list that lacks tasks) it says `Unclear`, and the caller asks the other way.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from gateway.store.clock import StoreClock
from gateway.store.connecting import Connector
from gateway.store.interface import Peeked, PeekedPage, StoreError, Unclear, encode_cursor
from gateway.store.layout import DOCUMENT_PREFIX, SHARED_KEYS, Script
from gateway.store.pages import PAGE, PAGE_BYTES
from gateway.store.pipeline import Command, Pipeline, Replies
from gateway.tasks.document import Found, Summary, summary_of
from gateway.tasks.stages import State

# The general way asks again after that, and has a second for it.
_TIMEOUT_SECONDS = 0.25
_EARLY_MS = 50  # the clock is known that well: a task that is due by then is looked at closely
_PUBLISH = Script("publish")
# Each page may take 15 ms of this process. More than these at a time would be late for that reason alone.
_PAGES_AT_ONCE = 4


class Peeks:
    """Reads over two connections of its own: statuses do not wait for pages.

    `clock` is the server's, as `Reader` knows it.
    """

    def __init__(self, connector: Connector, clock: StoreClock) -> None:
        self._pipeline = Pipeline(connector, [_PUBLISH.text], is_raw=True, timeout_seconds=_TIMEOUT_SECONDS)
        self._page_pipeline = Pipeline(connector, [PAGE.text], is_raw=True, timeout_seconds=_TIMEOUT_SECONDS)
        self._pages_asked = 0  # and not answered
        self._waiting_pages: deque[tuple[Command, Callable[[Replies], None]]] = deque()
        self._clock = clock

    def document(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Calls `then` with the document of a task, None if there is none."""
        self._pipeline.ask([("GET", DOCUMENT_PREFIX + task_id)], partial(self._take_document, task_id, then))

    def _take_document(self, task_id: str, then: Callable[[Peeked], None], replies: Replies) -> None:
        if isinstance(replies, StoreError):
            then(Unclear(str(replies)))
        elif replies[0] is None:
            then(None)
        else:
            summary = summary_of(replies[0])
            is_plain = summary is not None and summary.task_id == task_id and not self._is_due(summary)
            then((replies[0], summary) if summary is not None and is_plain else Unclear("no plain status"))

    def _is_due(self, summary: Summary) -> bool:
        return summary.due_ms is not None and summary.due_ms < self._clock.seconds() * 1000 + _EARLY_MS

    def page(
        self,
        limit: int,
        names: list[str],
        start: str,
        then: Callable[[PeekedPage], None],
        *,
        state: State | None,
        label: str,
    ) -> None:
        """Calls `then` with up to `limit` documents, as `Pages.read` finds them."""
        command: Command = (
            "EVALSHA",
            PAGE.digest,
            len(SHARED_KEYS),
            *SHARED_KEYS,
            start,
            limit + 1,
            PAGE_BYTES,
            *names,
        )
        self._waiting_pages.append((command, partial(self._take_page, limit, then, state, label)))
        self._ask_pages()

    def _ask_pages(self) -> None:
        """Asks for the next pages. Their time begins now."""
        while self._waiting_pages and self._pages_asked < _PAGES_AT_ONCE:
            command, take = self._waiting_pages.popleft()
            self._pages_asked += 1
            self._page_pipeline.ask([command], partial(self._answered_page, take))

    def _answered_page(self, take: Callable[[Replies], None], replies: Replies) -> None:
        self._pages_asked -= 1
        if isinstance(replies, StoreError):  # the pages that wait need not find that out themselves
            while self._waiting_pages:
                asyncio.get_running_loop().call_soon(self._waiting_pages.popleft()[1], replies)
        else:
            self._ask_pages()
        take(replies)

    def _take_page(
        self, limit: int, then: Callable[[PeekedPage], None], state: State | None, label: str, replies: Replies
    ) -> None:
        if isinstance(replies, StoreError):
            then(Unclear(str(replies)))
            return
        is_complete, _, malformed, is_cut, places, documents = replies[0]
        found = [self._row(*row, state, label) for row in zip(places, documents, strict=True)]
        rows = [row for row in found if row is not None]
        if not is_complete or malformed or is_cut or len(rows) < len(found):
            then(Unclear("no plain page"))
            return
        cursor = encode_cursor(places[limit - 1].decode()) if len(rows) > limit else None
        then((rows[:limit], cursor))

    def _row(self, place: bytes, document: Any, state: State | None, label: str) -> Found | None:
        """A document and its summary; None if it is not plainly what stands at this place of this list."""
        summary = summary_of(document) if isinstance(document, bytes) else None
        if (
            summary is None
            or self._is_due(summary)
            or place != b"%013d:%b" % (summary.created_ms, summary.task_id.encode())
        ):
            return None
        is_here = (state is None or summary.state == state) and (not label or summary.label == label)
        return (document, summary) if is_here else None

    def publish(self, channel: str, message: str) -> None:
        """Publishes a message, if the account may. Nothing tells whether that succeeded."""
        command: Command = ("EVALSHA", _PUBLISH.digest, 0, channel, message)
        self._pipeline.ask([command], _ignore)

    async def close(self) -> None:
        """Closes the connections."""
        await self._page_pipeline.close()
        await self._pipeline.close()


def _ignore(replies: Replies) -> None:
    """The message is lost if the store is away: who waits for it looks for itself, only later."""
