"""Plain reads of Redis, by calls instead of asyncio tasks: one status, or one page, in one round trip.

A relayed request costs less than one command through redis-py, and there may be thousands of pollers. So this is a fast
way beside `Reader` and `Pages`. It answers only if the reply can be passed on as it is. Otherwise (a silent task, a
malformed record, a list that lacks tasks) the result is `Unclear`, and the caller asks by `Store.read` or `Store.page`.
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

_TIMEOUT_SECONDS = 0.25  # then the result is Unclear, and the caller's second question has a second
_EARLY_MS = 50  # by so much the clock may be wrong: a task that is due by then is Unclear
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
            found = self._plain(replies[0])
            then(found if found is not None and found[1].task_id == task_id else Unclear("no plain status"))

    def _plain(self, document: Any) -> Found | None:
        """A document with its summary; None if it is malformed, or of a task that is due to be called lost."""
        summary = summary_of(document) if isinstance(document, bytes) else None
        return None if summary is None or self._is_due(summary) else (document, summary)

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
        """A document with its summary; None if it is not plain, or does not belong at this place of this list."""
        found = self._plain(document)
        if found is None:
            return None
        summary = found[1]
        is_here = place == b"%013d:%b" % (summary.created_ms, summary.task_id.encode())  # as `interface.place`
        is_here = is_here and (state is None or summary.state == state) and (not label or summary.label == label)
        return found if is_here else None

    def publish(self, channel: str, message: str) -> None:
        """Publishes a message, if the account may. The caller does not learn whether that succeeded."""
        command: Command = ("EVALSHA", _PUBLISH.digest, 0, channel, message)
        self._pipeline.ask([command], _ignore)

    async def close(self) -> None:
        """Closes the connections."""
        await self._page_pipeline.close()
        await self._pipeline.close()


def _ignore(replies: Replies) -> None:
    """A message that is lost does no harm: the gateway that waits for it also reads the status itself, only later."""
