"""Tracks the tasks in flight: requests report here what happens to them, and pollers ask here.

A request reports by plain calls that never block and never raise (`forward`, `answer`, `finish`). It may wait a bounded
time until the store has its status (`claim`, `settle`). The statuses go through the outbox to the one writer; no
request ever talks to the store itself. `Answers` has the code for pollers.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from gateway.errors import GatewayError, ShuttingDown, TaskIdInUse
from gateway.metrics.counts import Counts
from gateway.store.clock import Clock
from gateway.store.interface import Peeked, Store
from gateway.tasks.document import is_id_free, is_visible
from gateway.tasks.stages import MAX_ATTEMPT, Stage
from gateway.tasks.task import READING_METHODS, Reason, new_id
from gateway.tracking.answers import Answers, StoreUnavailable
from gateway.tracking.changes import Changes
from gateway.tracking.kept import KeptTasks
from gateway.tracking.listing import Listing
from gateway.tracking.notices import Notices
from gateway.tracking.outbox import Outbox
from gateway.tracking.own import OwnTasks
from gateway.tracking.tracked import MAX_WAIT_SECONDS, SILENT_BEATS, Documents, QueuePlace, TrackedTask
from gateway.tracking.waits import Claims
from gateway.tracking.writer import StoreWriter

__all__ = ["StoreUnavailable", "Tracker"]

log = logging.getLogger("gateway.tracker")

_CLOSE_SECONDS = 1.5
_BEAT_TICKS = 10  # the heartbeat timer looks this often per interval
_STEP_BACK_MS = 1000  # a clock that steps back by more is believed


class _Stamps:
    """The times that tasks are stamped with: those of `clock`, which may be set back at any time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_ms = 0  # of the last creation

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int((time.monotonic() + self._clock.offset_seconds) * 1000)

    def creation_ms(self, *, is_claim: bool = False) -> int:
        """As `now_ms`, but it goes back only by a large step: a correction must not change the order of the list.

        No two of claims are the same: with `boot` they tell the claims of one id from each other.
        """
        now_ms, least_ms = self.now_ms(), self._last_ms + is_claim
        self._last_ms = now_ms if now_ms < least_ms - _STEP_BACK_MS else max(now_ms, least_ms)
        return self._last_ms


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
        clock: Clock | None = None,
    ) -> None:
        self.is_draining = False
        self.on_end: Callable[[TrackedTask], None] | None = None  # called with each task that has ended
        self._heartbeat_seconds = heartbeat_seconds
        self._counts = counts or Counts()
        clock = clock or store.clock
        self._stamps = _Stamps(clock)
        self._in_flight: dict[str, TrackedTask] = {}
        self._outbox = Outbox()
        self._own = OwnTasks(self._in_flight, self._outbox, boot)
        self._notices = Notices(store.tell, self._own, self._on_change)
        grace_seconds = SILENT_BEATS * heartbeat_seconds
        documents = Documents(algorithm_id, instance, boot, ttl_running_seconds, ttl_done_seconds, grace_seconds, clock)
        self._writer = self._new_writer(store, documents, grace_seconds)
        self._claims = Claims(self._writer.waits, store, self._leave)
        self._changes = Changes(self._peek, self._own.runs, self._notices.ask)
        listing = Listing(store, self._writer, self._own, documents.document)
        self.answers = Answers(store, self._writer, self._own, documents, listing, self._changes)
        self._idle = asyncio.Event()  # nothing is in flight any more; set only while draining

    def _new_writer(self, store: Store, documents: Documents, grace_seconds: float) -> StoreWriter:
        return StoreWriter(
            store,
            self._outbox,
            render=documents.record,
            own=self._own,
            on_message=self._hear,
            on_silent=self._own.write_again,
            on_possible_loss=self._own.write_all_again,
            on_written=self._on_written,
            asked=self._notices.asked,
            counts=self._counts,
            grace_seconds=grace_seconds,
        )

    def __repr__(self) -> str:
        condition = "up" if self.is_store_up else "down"
        return f"<Tracker {self.in_flight} in flight, {self.unsaved} unsaved, store {condition}>"

    def seconds(self) -> float:
        """Unix seconds by the clock that tasks are stamped with: the store's, as far as it is known."""
        return self._stamps.now_ms() / 1000

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

    def running(self) -> int:
        """How many requests are with Ollama, without those that only read. Looks at all in flight."""
        tasks = self._in_flight.values()
        return sum(task.started_ms is not None and task.method not in READING_METHODS for task in tasks)

    @property
    def lost(self) -> int:
        """How many tasks of other gateways this one has made FAILED lost."""
        return self.answers.store.lost

    @property
    def dropped(self) -> int:
        """How many ended tasks were forgotten before the store had their end."""
        return self._outbox.dropped

    # -- what a request reports --

    def check(self, task_id: str | None, owner: str) -> None:
        """Raises what `begin` would raise."""
        if self.is_draining:
            raise ShuttingDown("the gateway is about to stop; try again at another one, or a little later")
        if task_id is not None:
            self._check_id(task_id, owner)

    async def is_taken(self, task_id: str, owner: str) -> bool:
        """Whether the id is in flight at any gateway, or another key's. False if the store does not say so in time."""
        with suppress(StoreUnavailable, TimeoutError):
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                document = await self.answers.read(task_id, None)
            return document is not None and not (is_id_free(document) and is_visible(document, owner or None))
        return False

    def begin(
        self,
        task_id: str | None,
        method: str,
        path: str,
        query: str,
        owner: str = "",
        label: str = "",
        place: QueuePlace | None = None,
    ) -> TrackedTask:
        """A new task, PENDING; `place` is its place in the queue. An id from the client has to be claimed next.

        Raises TaskIdInUse if it is in flight here, or another key's; ShuttingDown while the gateway drains.
        """
        self.check(task_id, owner)
        if task_id is None:
            task = TrackedTask(new_id(), method, path, query, self._stamps.creation_ms(), 1, owner, label, place=place)
            self._outbox.post(task)
        else:
            before = self._outbox.remembered.get(task_id)
            likely_attempt = 1 if before is None else min(before.likely_attempt + 1, MAX_ATTEMPT)
            claim_ms = self._stamps.creation_ms(is_claim=True)
            task = TrackedTask(task_id, method, path, query, claim_ms, 0, owner, label, likely_attempt, place)
        task.beat_at = time.monotonic() + self._heartbeat_seconds
        self._in_flight[task.task_id] = task
        return task

    def _check_id(self, task_id: str, owner: str) -> None:
        if (running := self._in_flight.get(task_id)) is not None:
            running.look_for_client()
        if task_id in self._in_flight:
            raise TaskIdInUse(f"a request with the task id {task_id!r} is still in flight")
        before = self._outbox.remembered.get(task_id)
        if before is not None and len({before.owner, owner} - {""}) > 1:
            raise TaskIdInUse(f"the task id {task_id!r} is another key's")

    def claim(self, task: TrackedTask, then: Callable[[bool], None]) -> None:
        """Claims the id that a client has chosen, and calls `then` once: whether the request may go on.

        That is when the store has answered, or when the bounded wait is over; at once while the store is away. A claim
        waits a second for a request with the same id that ends at another gateway. A task that was refused is in flight
        no more.
        """
        self._claims.claim(task, then)

    def forward(self, task: TrackedTask) -> None:
        """The request was handed to the upstream."""
        if task.forward(self._stamps.now_ms()):
            self._outbox.post(task)
            if self._changes.waiters:
                self._changes.changed(task.task_id)

    def answer(self, task: TrackedTask, status_code: int, *, is_stream: bool) -> None:
        """The upstream's response head has come."""
        if task.answer(status_code, is_stream, self._stamps.now_ms()):
            self._outbox.post(task)
            if self._changes.waiters:
                self._changes.changed(task.task_id)

    def finish(self, task: TrackedTask, reason: Reason | None, message: str) -> None:
        """The one end of a task: SUCCESS without a reason, else FAILED. Later ends are ignored."""
        if task.finish(reason, message, self._stamps.now_ms()):
            self._leave(task)
            self._outbox.post_urgently(task)
            self._counts.ended(task)
            if self.on_end is not None:
                self.on_end(task)
            if self._changes.waiters:
                self._changes.changed(task.task_id)

    def _hear(self, message: str) -> None:
        """A message from any gateway, over the store."""
        if not self._notices.hear(message):
            self._own.hear(message)

    def _on_change(self, task_id: str) -> None:
        self._changes.changed(task_id)

    def _peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        self.answers.peek(task_id, then)

    def _on_written(self, tasks: list[TrackedTask], put_right: list[TrackedTask]) -> None:
        """The store has answered for `tasks`. It had presumed those of `put_right` lost: that is a new event."""
        for task in put_right:
            task.forgotten()
            self._outbox.post_urgently(task)
            self._changes.changed(task.task_id)
        for task in tasks:
            self._notices.written(task)

    def _leave(self, task: TrackedTask) -> None:
        task.let_go()
        if self._in_flight.get(task.task_id) is task:
            del self._in_flight[task.task_id]
        if self.is_draining and not self._in_flight:
            self._idle.set()

    def settle(self, task: TrackedTask, then: Callable[[], None]) -> None:
        """Calls `then` once: when the store has the task's present stage, or when the bounded wait is over.

        At once if there is nothing to wait for: the store has it already, or is away. A request has one wait at a time:
        the next one ends the one before without a call.
        """
        self._writer.waits.settle(task, then)

    def kept_tasks(self) -> KeptTasks:
        """The tasks whose answers are kept."""
        return KeptTasks(self._outbox, self._changes, self.answers.store, self.answers.documents, self._own)

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
                if task.beat_at <= now and not task.is_refused:
                    task.beat_at = now + self._heartbeat_seconds
                    self._outbox.post(task)

    async def until_looked(self, seconds: float) -> None:
        """Waits, for a bounded time, until the store has answered or failed once: then its clock is known."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._writer.until_looked(), seconds)

    def drain(self) -> None:
        """Begins no more tasks from now on, and answers pollers that wait for a change."""
        self.is_draining = True
        self._changes.close()

    async def until_idle(self, seconds: float) -> bool:
        """Waits until nothing is in flight, after `drain`. False if something still is after `seconds`."""
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
        await self.answers.store.close()

    # -- what pollers ask: more of it in `answers` --

    async def read(self, task_id: str, reader: str | None = None) -> str | None:
        """The status document of a task, or None if there is none that `reader` (None: all) may see.

        Raises StoreUnavailable.
        """
        return await self.answers.read(task_id, reader)

    async def cancel(self, task_id: str, reader: str | None = None) -> str | None:
        """Ends a task that is in flight, here or at another gateway; its document then, final within a second.

        None if there is none. Raises StoreUnavailable.
        """
        return await self.answers.cancel(task_id, reader)
