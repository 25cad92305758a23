"""Tasks in flight: every status of this process begins here, and every question about one ends here.

A request tells the tracker what happened by plain calls that never block and never raise (`forward`, `answer`,
`finish`), and may wait a bounded time until the store has it (`begin`, `settle`). What is told goes through the outbox
to the one writer; no request ever talks to the store itself. Called by proxy, drain and the status routes.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from gateway.errors import Cancelled, GatewayError, ShuttingDown, TaskIdInUse
from gateway.metrics.counts import Counts
from gateway.store.interface import Names, Page, Record, Store, StoreError, name_in, request_name
from gateway.tasks.document import fields_of, has_ended, is_visible
from gateway.tasks.task import MAX_ATTEMPT, Reason, Stage, State, complete_document, new_id
from gateway.tracking.changes import Changes, event_id
from gateway.tracking.claims import Claims
from gateway.tracking.listing import Listing
from gateway.tracking.lookup import Teller, told_by
from gateway.tracking.outbox import Outbox, TrackedTask
from gateway.tracking.writer import StoreWriter

T = TypeVar("T")
log = logging.getLogger("gateway.tracker")

_READ_SECONDS = 0.25  # for a read while the store is known to be away; it may take reads and no writes
_CANCEL_SECONDS = 1.0  # how long a cancel call waits for the end
_CLOSE_SECONDS = 1.5
_BEAT_TICKS = 10  # the heartbeat timer looks this often per interval
_CLOCK_STEP_MS = 1000  # a clock that steps back by more is believed
SILENT_BEATS = 3  # so many missed heartbeats make a task lost


class StoreUnavailable(Exception):
    """The store is away and this instance does not know the task itself."""


class Tracker:
    """The tasks of one gateway process. `run` is its writer, to be kept running; `close` writes what is left."""

    def __init__(
        self,
        store: Store,
        *,
        algorithm_id: str,
        instance: str,
        boot: str,
        ttl_running_seconds: int,
        ttl_done_seconds: int,
        heartbeat_seconds: float,
        counts: Counts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.is_draining = False
        self._store = store
        self._algorithm_id = algorithm_id
        self._instance = instance
        self._boot = boot
        self._ttl_running_seconds = ttl_running_seconds
        self._ttl_done_seconds = ttl_done_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._counts = counts or Counts()
        self._clock = clock
        self._in_flight: dict[str, TrackedTask] = {}
        self._outbox = Outbox()
        self._writer = StoreWriter(
            store,
            self._outbox,
            render=self._record,
            own=Names(self.is_own),
            is_alone=lambda: not self._in_flight,
            on_cancel=self._cancel_named,
            on_spared=self._tell_again,
            on_doubt=lambda since: self._outbox.post_again(self._in_flight.values(), since),
            counts=self._counts,
            grace_seconds=SILENT_BEATS * heartbeat_seconds,
        )
        self._claims = Claims(self._writer, store, self._leave)
        self._listing = Listing(store, self._writer, self._outbox, self._in_flight, self._document)
        self._changes = Changes(store.read, self._in_flight)
        self._idle = asyncio.Event()  # nothing is in flight any more; told while draining only
        self._last_claim_ms = 0
        self._spare_id = ""  # for the next request that brings none

    def __repr__(self) -> str:
        condition = "up" if self.is_store_up else "down"
        return f"<Tracker {self.in_flight} in flight, {self.unsaved} unsaved, store {condition}>"

    @property
    def in_flight(self) -> int:
        """How many tasks have not ended."""
        return len(self._in_flight)

    @property
    def is_store_up(self) -> bool:
        return self._writer.is_up

    @property
    def unsaved(self) -> int:
        """How many tasks wait to be written."""
        return self._outbox.unsaved

    def stages(self) -> Counter[Stage]:
        """How many tasks are in flight, by stage."""
        return Counter(task.stage for task in self._in_flight.values())

    @property
    def lost(self) -> int:
        """How many tasks of gateways that are gone this one has made FAILED lost."""
        return self._store.lost

    @property
    def dropped(self) -> int:
        """How many ended tasks were forgotten before the store had their end."""
        return self._outbox.dropped

    # -- what a request tells --

    def begin(self, task_id: str | None, method: str, path: str, query: str, owner: str = "") -> TrackedTask:
        """A new task, PENDING. An id from the client has to be claimed next.

        Raises TaskIdInUse where it is in flight here, or another key's; ShuttingDown while the gateway drains.
        """
        if self.is_draining:
            raise ShuttingDown("the gateway is about to stop; try again at another one, or a little later")
        if task_id is None:
            new, self._spare_id = self._spare_id or new_id(), ""
            task = TrackedTask(new, method, path, query, self._now_ms(), 1, owner)
            self._outbox.post(task)
        else:
            task = self._next_attempt(task_id, method, path, query, owner)
        task.beat_at = time.monotonic() + self._heartbeat_seconds
        self._in_flight[task.task_id] = task
        return task

    def _next_attempt(self, task_id: str, method: str, path: str, query: str, owner: str) -> TrackedTask:
        if (running := self._in_flight.get(task_id)) is not None:
            running.look_for_client()
        if task_id in self._in_flight:
            raise TaskIdInUse(f"a request with the task id {task_id!r} is still in flight")
        before = self._outbox.ended(task_id)
        if before is not None and len({before.owner, owner} - {""}) > 1:
            raise TaskIdInUse(f"the task id {task_id!r} is another key's")
        task = TrackedTask(task_id, method, path, query, self._claim_ms(), 0, owner)
        task.likely_attempt = 1 if before is None else min(before.likely_attempt + 1, MAX_ATTEMPT)
        return task

    def claim(self, task: TrackedTask, then: Callable[[bool], None]) -> None:
        """Claims the id that a client has chosen, and calls `then` once: whether the request may go on.

        That is when the store has answered, or when the bounded wait is over; at once while the store is away. A claim
        waits a second for a request with the same id that ends at another gateway. A task that was refused is in flight
        no more.
        """
        self._claims.claim(task, then)

    def forward(self, task: TrackedTask) -> None:
        """The request was handed to the upstream."""
        if task.forward(self._now_ms()):
            self._outbox.post(task)
            self._changes.changed(task.task_id)
        self._spare_id = self._spare_id or new_id()  # now there is time for that

    def answer(self, task: TrackedTask, status_code: int, *, is_stream: bool) -> None:
        """The upstream's response head has come."""
        if task.answer(status_code, is_stream, self._now_ms()):
            self._outbox.post(task)
            self._changes.changed(task.task_id)

    def finish(self, task: TrackedTask, reason: Reason | None, message: str) -> None:
        """The one end of a task: SUCCESS without a reason, else FAILED. Later ends are ignored."""
        if task.finish(reason, message, self._now_ms()):
            self._leave(task)
            self._outbox.post_urgently(task)
            self._counts.ended(task)
            self._changes.changed(task.task_id)

    def _leave(self, task: TrackedTask) -> None:
        task.on_cut = task.on_look = None
        if self._in_flight.get(task.task_id) is task:
            del self._in_flight[task.task_id]
        if self.is_draining and not self._in_flight:
            self._idle.set()

    def settle(self, task: TrackedTask, then: Callable[[], None]) -> None:
        """Calls `then` once: when the store has the task's present stage, or when the bounded wait is over.

        Before it returns where there is nothing to wait for: it is there already, or the store is away. A request waits
        for one thing at a time; when it waits for another, or `forget_wait` is called, what it waited for before is
        forgotten.
        """
        if task.is_saved:
            self._writer.forget(task)
            then()
        else:
            self._writer.wait_for(task, task.stage.rank, then)

    def forget_wait(self, task: TrackedTask) -> None:
        """Whoever waits for this task is not called any more."""
        self._writer.forget(task)

    # -- the process's life --

    async def run(self) -> None:
        """The writer and the heartbeat, for as long as the gateway runs."""
        beats = asyncio.get_running_loop().create_task(self._beat_forever())
        try:
            await self._writer.run()
        finally:
            beats.cancel()

    async def _beat_forever(self) -> None:
        """Posts each task in flight once per interval, whether or not anything flows."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds / _BEAT_TICKS)
            now = time.monotonic()
            for task in self._in_flight.values():
                if task.beat_at <= now:
                    task.beat_at = now + self._heartbeat_seconds
                    self._outbox.post(task)

    def drain(self) -> None:
        """From now on nothing begins; whoever waits for a change gets his answer."""
        self.is_draining = True
        self._changes.close()

    async def until_idle(self, seconds: float) -> bool:
        """Waits until nothing is in flight, after `drain`. False where that took longer than `seconds`."""
        if self._in_flight:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), seconds)
        return not self._in_flight

    def cut_all(self, error: GatewayError) -> None:
        """Ends every task in flight."""
        for task in list(self._in_flight.values()):
            task.cut(error)

    async def close(self) -> None:
        """Writes what is left, for a bounded time, and closes the store. The writer must have ended."""
        self._changes.close()
        for task in list(self._in_flight.values()):
            self.finish(task, Reason.SHUTDOWN, "the gateway was stopped")
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.write_all()
        if self.unsaved:
            log.error("%d statuses were lost: the store is away at exit", self.unsaved)
        await self._store.close()

    # -- what pollers ask --

    async def read(self, task_id: str, reader: str | None = None) -> str | None:
        """The status document of a task, or None where there is none that `reader` (None: all) may see.

        Raises StoreUnavailable.
        """
        document, own = None, self.own(task_id)
        if own is None or self.is_store_up:
            try:
                [document] = await self._ask(self._store.read([task_id], self._writer.spared), is_short=own is not None)
                own = self._own_news(task_id, document)
            except StoreUnavailable:
                own = self.own(task_id)
                if own is None:
                    raise
        if own is not None:
            document = self._document(own)
        elif document is None and not self.is_store_up:
            raise StoreUnavailable("it may be a task whose gateway cannot write it now")
        return document if document is not None and is_visible(document, reader) else None

    async def page(self, limit: int, state: State | None, cursor: str | None, reader: str | None = None) -> Page:
        """Some status documents, newest first. Raises StoreUnavailable and InvalidCursor."""
        return await self._ask(self._listing.page(limit, state, cursor, reader))

    async def _ask(self, answer: Awaitable[T], *, is_short: bool = False) -> T:
        """The store's answer; not waited for long while it is known to be away, or if asked.

        Raises StoreUnavailable.
        """
        try:
            async with asyncio.timeout(_READ_SECONDS if is_short or not self.is_store_up else None):
                return await answer
        except (StoreError, TimeoutError) as error:
            raise StoreUnavailable(str(error) or "no answer in time") from error

    def own(self, task_id: str) -> TrackedTask | None:
        """The task of this process with this id, in flight or remembered, unless another stands in its place."""
        own = self._in_flight.get(task_id) or self._outbox.ended(task_id)
        return None if own is None or own.is_superseded else own

    def _own_news(self, task_id: str, document: str | None) -> TrackedTask | None:
        """Our own task, where this process knows more of it than the store's document (None: there is none) says."""
        own = self.own(task_id)
        if own is None:
            return None
        fields = fields_of(document or "")
        is_expired = own.finished_ms is not None and self._now_ms() - own.finished_ms >= self._ttl_done_seconds * 1000
        teller = told_by(own, self._name(own), fields, is_expired=is_expired)
        if fields is not None:
            own.is_superseded = teller is Teller.ANOTHER
        if teller is Teller.OWN_AGAIN:
            self._tell_again(self._name(own))
        return own if teller in (Teller.OWN, Teller.OWN_AGAIN) else None

    def is_own(self, name: str) -> bool:
        """Whether this process runs or remembers the request of this name."""
        own = self.own(name.split(":", 2)[-1])
        return own is not None and self._name(own) == name

    def _name(self, task: TrackedTask) -> str:
        return request_name(self._boot, task.created_ms, task.task_id)

    async def wait(self, task_id: str, seen: str | None, seconds: float, reader: str | None = None) -> str | None:
        """As `read`, as soon as the event is not `seen` (None: the present one), the task has ended, or time is up."""
        document = await self.read(task_id, reader)
        seen = event_id(document) if seen is None else seen
        deadline = time.monotonic() + seconds
        while document is not None and event_id(document) == seen and not has_ended(document):
            if not await self._changes.wait(task_id, seen, deadline - time.monotonic()):
                return await self.read(task_id, reader)
            document = await self.read(task_id, reader)
        return document

    async def cancel(self, task_id: str, reader: str | None = None) -> str | None:
        """Ends a task that is in flight, here or at another gateway; its document then, final within a second.

        None where there is none. Raises StoreUnavailable.
        """
        own = self._in_flight.get(task_id)
        if own is not None and not own.is_superseded and reader in (None, own.owner) and own.attempt > 0:
            own.cut(Cancelled("the task was cancelled"))  # at once: the store may take its time
        document = await self.read(task_id, reader)
        if document is None or has_ended(document):
            return document
        name = name_in(fields_of(document) or {})
        if not self._cancel_named(name):
            await self._ask(self._store.ask_cancel(name))
        deadline = time.monotonic() + _CANCEL_SECONDS
        while document is not None and not has_ended(document) and time.monotonic() < deadline:
            document = await self.wait(task_id, event_id(document), deadline - time.monotonic(), reader)
        return document

    def _cancel_named(self, name: str) -> bool:
        """Ends the request of this name, if it is one of ours."""
        task = self._in_flight.get(name.split(":", 2)[-1])
        if task is None or self._name(task) != name:
            return False
        task.cut(Cancelled("the task was cancelled"))
        return True

    def _tell_again(self, name: str) -> None:
        """The store has an old status of our own request: it has forgotten what it was told since."""
        if self.is_own(name) and (own := self.own(name.split(":", 2)[-1])) is not None:
            own.saved_rank = -1
            self._outbox.post_urgently(own)

    # -- documents --

    def _record(self, task: TrackedTask) -> Record:
        return Record(
            task.task_id,
            self._head(task),
            task.attempt,
            task.stage.rank,
            task.state,
            task.created_ms,
            self._ttl_done_seconds if task.is_final else self._ttl_running_seconds,
            task.owner,
            SILENT_BEATS * self._heartbeat_seconds,
        )

    def _document(self, task: TrackedTask) -> str:
        return complete_document(self._head(task), task.likely_attempt)

    def _head(self, task: TrackedTask) -> str:
        """The document as of now; an ended task's is of its end, and the same whenever it is rendered."""
        now = self._clock() if task.finished_ms is None else task.finished_ms / 1000
        return task.document_head(algorithm_id=self._algorithm_id, instance=self._instance, boot=self._boot, now=now)

    def _claim_ms(self) -> int:
        """The time, but no two the same: with `boot` it tells an id's claims from each other."""
        now_ms, last_ms = self._now_ms(), self._last_claim_ms
        self._last_claim_ms = now_ms if now_ms < last_ms - _CLOCK_STEP_MS else max(now_ms, last_ms + 1)
        return self._last_claim_ms

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
