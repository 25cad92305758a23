"""What pollers ask for: one status, a page, a status once it has changed, the end of a task.

The answer comes from the store, or from this process if it knows more (`source_of`) or the store is away. Begins no
task.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial
from typing import Any, TypeVar

from gateway.errors import Cancelled
from gateway.store.interface import (
    Incomplete,
    Page,
    Peeked,
    PeekedPage,
    Store,
    StoreError,
    Unclear,
    name_in,
    public_reason,
)
from gateway.tasks.document import fields_of, found_in, has_ended, is_presumed, is_visible, rank_of
from gateway.tasks.stages import FINAL_RANK, State
from gateway.tracking.changes import Changes
from gateway.tracking.listing import LARGEST_PAGE, Listing
from gateway.tracking.own import OwnTasks
from gateway.tracking.tracked import Documents, TrackedTask
from gateway.tracking.writer import StoreWriter

T = TypeVar("T")

_READ_SECONDS = 0.25  # for a read while the store is known to be away; it may take reads and no writes
_CANCEL_SECONDS = 1.0  # how long a cancel call waits for the end
_ASKED_AT_ONCE = 16  # cancels, of half as many connections as the store has


class StoreUnavailable(Exception):
    """The store is away and this instance does not know the task itself."""


class ListIncomplete(StoreUnavailable):
    """The store rebuilds its lists."""


class PartlyCancelled(StoreUnavailable):
    """The tasks of a label in flight here are cancelled; the store could not be asked for those of other gateways."""


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one process. `reader` is the owner whose tasks the caller may see; None: the tasks of all."""

    store: Store
    writer: StoreWriter
    own: OwnTasks
    documents: Documents
    listing: Listing
    changes: Changes

    async def read(self, task_id: str, reader: str | None) -> str | None:
        """The status document of a task, or None if there is none that `reader` may see. Raises StoreUnavailable."""
        document, own = None, self.own.find(task_id)
        if own is None or self.writer.is_up:
            try:
                document, own = await self._read_both(task_id, own)
            except StoreUnavailable:
                own = self.own.find(task_id)
                if own is None:
                    raise
        if own is not None:
            document = self.documents.document(own)
        elif document is None and not self.writer.is_up:
            raise StoreUnavailable("it may be a task whose gateway cannot write it now")
        return document if document is not None and is_visible(document, reader) else None

    async def page(
        self, limit: int, state: State | None, cursor: str | None, reader: str | None = None, label: str = ""
    ) -> Page:
        """Some status documents, newest first. Raises StoreUnavailable and InvalidCursor."""
        return await self._ask(self.listing.page(limit, state, cursor, reader, label))

    def own_page(
        self, limit: int, state: State | None, cursor: str | None, reader: str | None, label: str = ""
    ) -> Page:
        """As `page`, with the tasks of this process alone, as they are now. Does not ask the store."""
        return self.listing.own_page(limit, state, cursor, reader, label)

    async def wait(self, task_id: str, seen: str | None, seconds: float, reader: str | None = None) -> str | None:
        """As `read`, as soon as the event is not `seen` (None: the present one), the task has ended, or time is up."""
        document = await self.read(task_id, reader)
        deadline = time.monotonic() + seconds
        while document is not None:
            found = found_in(document)
            seen = found[1].event_id if seen is None else seen
            if found[1].event_id != seen or found[1].has_ended:
                break
            is_changed = await self.changes.wait(task_id, found, deadline - time.monotonic())
            document = await self.read(task_id, reader)
            if not is_changed:
                break
        return document

    # -- by plain calls --

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Calls `then` once with the status of a task, by plain calls. Unclear: ask by `read`.

        The caller has to check who may see it.
        """
        if self.writer.is_up:
            self.store.peek(task_id, partial(self._take_peeked, task_id, then))
            return
        own = self.own.find(task_id)
        then(Unclear("the store is away") if own is None else found_in(self.documents.document(own)))

    def _take_peeked(self, task_id: str, then: Callable[[Peeked], None], found: Peeked) -> None:
        own = self.own.find(task_id)
        if own is not None and not isinstance(found, Unclear):
            own = self._own_if_newer(task_id, None if found is None else found[0])
        then(found if own is None else found_in(self.documents.document(own)))

    def peek_page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        reader: str | None,
        then: Callable[[PeekedPage], None],
        *,
        label: str = "",
    ) -> None:
        """As `peek`, for a page. Raises InvalidCursor."""
        if self.writer.is_up:
            take = partial(self._take_page, then)
            self.store.peek_page(limit, state, cursor, take, owner=reader, label=label)
        else:
            then(Unclear("the store is away"))

    def _take_page(self, then: Callable[[PeekedPage], None], page: PeekedPage) -> None:
        then(page if self.writer.is_up else Unclear("the store is away"))

    # -- cancelling --

    async def cancel(self, task_id: str, reader: str | None) -> str | None:
        """Ends a task that is in flight, here or at another gateway. Returns its document, or None if there is no task.

        Waits up to a second for the end; then the document is not final. Raises StoreUnavailable.
        """
        own = self.own.in_flight.get(task_id)
        if own is not None and not own.is_superseded and reader in (None, own.owner) and own.is_claimed:
            own.cut(Cancelled())  # at once: the store may take its time
        document = await self.read(task_id, reader)
        if document is None or has_ended(document):
            return document
        name = name_in(fields_of(document) or {})
        if not self.own.cancel(name):
            await self._ask(self.store.ask_cancel(name))
        deadline = time.monotonic() + _CANCEL_SECONDS
        while document is not None and not has_ended(document) and time.monotonic() < deadline:
            seen = found_in(document)[1].event_id
            document = await self.wait(task_id, seen, deadline - time.monotonic(), reader)
        return document

    async def cancel_label(self, label: str, reader: str | None = None) -> int:
        """Asks all tasks of `label` in flight to end, here and at other gateways. Returns how many.

        Asks waiting tasks first. Otherwise one of them would get the place of a running one. Raises PartlyCancelled if
        the store is away: then only the tasks of this gateway are cancelled.
        """
        count = self.own.cancel_label(label, reader)
        try:
            if not self.writer.is_up:
                raise StoreUnavailable("it takes no writes")
            # PENDING first: a task that becomes RUNNING meanwhile is in the second list.
            waiting = await self._names_elsewhere(label, State.PENDING, reader)
            running = await self._names_elsewhere(label, State.RUNNING, reader)
            running += self._names(await self._ask(self.store.presumed()), label, reader)
            running = list(set(running).difference(waiting))
            await self._ask_cancels(waiting)
            await self._ask_cancels(running)
        except StoreUnavailable as error:
            own = f"{count} of this gateway's own tasks were cancelled"
            raise PartlyCancelled(f"{own}; the store does not tell those of other gateways: {error}") from error
        return count + len(waiting) + len(running)

    async def _names_elsewhere(self, label: str, state: State, reader: str | None) -> list[str]:
        """The names of the requests of `label` in `state` at other gateways. Looks at all tasks in that state."""
        names: list[str] = []
        cursor = None
        while True:
            asked = self.store.page(LARGEST_PAGE, state, cursor, owner=reader, exempt=self.writer.exempt)
            page = await self._ask(asked)
            names += self._names(page.documents, label, reader)
            cursor = page.next_cursor
            if cursor is None:
                return names

    def _names(self, documents: list[str], label: str, reader: str | None) -> list[str]:
        """The names of the requests of `label` in `documents` that are at other gateways."""
        visible = [fields_of(document) or {} for document in documents if is_visible(document, reader)]
        names = [name_in(task) for task in visible if task["extensions"].get("label") == label]
        return [name for name in names if name not in self.own]

    async def _ask_cancels(self, names: list[str]) -> None:
        for start in range(0, len(names), _ASKED_AT_ONCE):
            await self._ask(asyncio.gather(*map(self.store.ask_cancel, names[start : start + _ASKED_AT_ONCE])))

    async def _read_both(self, task_id: str, own: TrackedTask | None) -> tuple[str | None, TrackedTask | None]:
        """The store's document, and our own task if this process knows more of it. Raises StoreUnavailable."""
        [document] = await self._ask(self.store.read([task_id], self.writer.exempt), is_short=own is not None)
        return document, self._own_if_newer(task_id, document)

    async def _ask(self, answer: Awaitable[T], *, is_short: bool = False) -> T:
        """Awaits the store's answer, but not for long if `is_short`, or while the store is known to be away.

        Raises StoreUnavailable.
        """
        try:
            async with asyncio.timeout(_READ_SECONDS if is_short or not self.writer.is_up else None):
                return await answer
        except Incomplete as error:
            raise ListIncomplete("the list is being rebuilt; try again in a moment") from error
        except (StoreError, TimeoutError) as error:
            raise StoreUnavailable(public_reason(error)) from error

    def _own_if_newer(self, task_id: str, document: str | bytes | None) -> TrackedTask | None:
        """Our own task, if this process knows more of it than the store's document (None: there is none) says."""
        own = self.own.find(task_id)
        if own is None:
            return None
        name, fields = self.own.name(own), fields_of(document or "")
        source = source_of(own, name, fields, is_expired=self.documents.is_expired(own))
        if source is Source.ANOTHER:
            own.superseded()
        elif source is Source.OWN_AGAIN:
            self.own.write_again(name)
        # Its status is the same here, but this process knows its present sizes and position.
        is_live = source is Source.STORE and own.is_claimed and not own.is_final
        return own if is_live or source in (Source.OWN, Source.OWN_AGAIN) else None


class Source(Enum):
    """Which status of a task counts, and what that means for the task."""

    OWN = auto()  # this process: the store does not have it yet
    OWN_AGAIN = auto()  # this process: the store had it, and has lost it
    STORE = auto()  # the store, which knows as much or more
    ANOTHER = auto()  # the store: another request stands there, or this one was lost for good


def source_of(own: TrackedTask, name: str, fields: dict[str, Any] | None, *, is_expired: bool) -> Source:
    """Decides only. `name` is that of the own request, `fields` are those of the store's document, None if it has none.

    `is_expired`: the own task ended so long ago that the store need not have it any more.
    """
    if fields is None:
        is_newer = not is_expired
    elif is_presumed(fields) and name_in(fields) == name:
        is_newer = True
    else:
        is_newer = (own.likely_attempt, own.stage.rank) > (fields["extensions"].get("attempt", 1), rank_of(fields))
    if is_newer:
        return Source.OWN_AGAIN if own.is_saved else Source.OWN
    if fields is None or not own.is_claimed:  # the answer to the claim will say it
        return Source.STORE
    is_called_lost = rank_of(fields) == FINAL_RANK and fields["stage"] != own.stage
    return Source.ANOTHER if is_called_lost or name_in(fields) != name else Source.STORE
