"""Tasks in flight, and the one writer that brings their statuses to the store.

Owns every status: a request tells the tracker what happened by plain calls that never block and never raise
(`forward`, `answer`, `finish`), and may wait a bounded time until the store has it (`claim`, `settle`). No request
ever talks to the store itself. The outbox holds tasks, not documents, so that a task that changed three times
while a batch was under way costs one write of its newest state. Called by proxy and the status routes.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from uuid import uuid4

from gateway.errors import TaskIdInUse
from gateway.store import Page, Record, Store, StoreError, Written
from gateway.task import Reason, Stage, State, Task, complete_document, new_id

log = logging.getLogger("gateway.tracker")

# A wait for the store ends after the first, one request's waits together after the second (contract 5).
MAX_WAIT_SECONDS = 0.25
MAX_WAITS_SECONDS = 0.3

_BATCH_TASKS = 256
_OUTBOX_TASKS = 10_000
# A status nobody waits for stays this long, so that a fast request costs one write.
_LINGER_SECONDS = 0.02
_PROBE_SECONDS = 0.5  # how often a store that is away is asked again
_CLOSE_SECONDS = 3.0
_BEAT_TICKS = 10  # the heartbeat timer looks this often per interval


class TrackedTask(Task):
    """A task with what only the tracker knows of it."""

    __slots__ = ("beat_at", "boxed_rank", "is_refused", "saved_rank", "wait_left", "waiter", "waiter_rank")

    def __init__(self, task_id: str, method: str, path: str, query: str, created_ms: int, attempt: int) -> None:
        super().__init__(task_id, method, path, query, created_ms, attempt)
        self.beat_at = 0.0  # when the next heartbeat is due, monotonic seconds
        self.saved_rank = -1  # the rank of the newest status that the store has
        self.boxed_rank = -1  # the rank that the batch under way carries
        self.wait_left = MAX_WAITS_SECONDS
        self.waiter: asyncio.Future[None] | None = None
        self.waiter_rank = 0
        self.is_refused = False  # its id is in flight elsewhere


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
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._algorithm_id = algorithm_id
        self._instance = instance
        self._boot = boot
        self._ttl_running_seconds = ttl_running_seconds
        self._ttl_done_seconds = ttl_done_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._in_flight: dict[str, TrackedTask] = {}
        # The outbox: tasks whose newest status is not in the store, oldest first. By task, not by id: the end of an
        # attempt is written before the claim of the next.
        self._urgent: dict[TrackedTask, None] = {}  # to be written now
        self._lingering: dict[TrackedTask, None] = {}  # to be written when the linger ends
        self._batch: dict[TrackedTask, None] = {}  # on its way to the store
        self._due = asyncio.Event()  # something is urgent
        self._linger: asyncio.TimerHandle | None = None
        self._last_claim_ms = 0
        self.is_store_up = True
        self.dropped = 0

    def __repr__(self) -> str:
        condition = "up" if self.is_store_up else "down"
        return f"<Tracker {len(self._in_flight)} in flight, {self.unsaved} unsaved, store {condition}>"

    @property
    def unsaved(self) -> int:
        """How many tasks wait to be written."""
        return len(self._urgent) + len(self._lingering) + len(self._batch)

    # -- what a request tells --

    async def begin(self, task_id: str | None, method: str, path: str, query: str) -> TrackedTask:
        """A new task, PENDING. An id from the client is claimed first: raises TaskIdInUse while it is in flight."""
        if task_id is not None and task_id in self._in_flight:
            raise TaskIdInUse(f"a request with the task id {task_id!r} is still in flight")
        is_claim = task_id is not None
        created_ms = self._claim_ms() if is_claim else self._now_ms()
        task = TrackedTask(task_id or new_id(), method, path, query, created_ms, attempt=0 if is_claim else 1)
        task.beat_at = time.monotonic() + self._heartbeat_seconds
        self._in_flight[task.task_id] = task
        if is_claim:
            await self._claim(task)
        else:
            self._post(task)
        return task

    async def _claim(self, task: TrackedTask) -> None:
        self._post_urgently(task)
        try:
            await self._wait_for(task, 0)
        except asyncio.CancelledError:
            self.finish(task, Reason.SHUTDOWN, "the gateway was stopped")
            raise
        if task.is_refused:
            raise TaskIdInUse(f"a request with the task id {task.task_id!r} is still in flight at another gateway")

    def forward(self, task: TrackedTask) -> None:
        """The request was handed to the upstream."""
        if task.forward(self._now_ms()):
            self._post(task)

    def answer(self, task: TrackedTask, status_code: int, *, is_stream: bool) -> None:
        """The upstream's response head has come."""
        if task.answer(status_code, is_stream, self._now_ms()):
            self._post(task)

    def finish(self, task: TrackedTask, reason: Reason | None, message: str) -> None:
        """The one end of a task: SUCCESS without a reason, else FAILED. Later ends are ignored."""
        if task.finish(reason, message, self._now_ms()):
            self._leave(task)
            self._post_urgently(task)

    def _leave(self, task: TrackedTask) -> None:
        if self._in_flight.get(task.task_id) is task:
            del self._in_flight[task.task_id]

    async def settle(self, task: TrackedTask) -> None:
        """Waits until the store has the task's present stage; a bounded time, none while the store is away."""
        rank = task.stage.rank
        if task.saved_rank < rank:
            self._post_urgently(task)
            await self._wait_for(task, rank)

    async def _wait_for(self, task: TrackedTask, rank: int) -> None:
        if not self.is_store_up or task.wait_left <= 0:
            return
        loop = asyncio.get_running_loop()
        task.waiter, task.waiter_rank = loop.create_future(), rank
        started = time.monotonic()
        # What is left of a request's waits may be too short to say anything about the store.
        give_up = self._give_up if task.wait_left >= MAX_WAIT_SECONDS else self._release
        timer = loop.call_later(min(MAX_WAIT_SECONDS, task.wait_left), give_up, task)
        try:
            await task.waiter
        finally:
            timer.cancel()
            task.waiter = None
            task.wait_left -= time.monotonic() - started

    def _give_up(self, task: TrackedTask) -> None:
        self._set_condition(is_up=False, why="no answer in time")
        self._release(task)

    @staticmethod
    def _release(task: TrackedTask) -> None:
        if task.waiter is not None and not task.waiter.done():
            task.waiter.set_result(None)

    # -- the outbox and its writer --

    def _post(self, task: TrackedTask) -> None:
        """Puts a changed task into the outbox: it is written after the linger, unless somebody waits for it before."""
        if task in self._urgent:
            return
        self._lingering[task] = None
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._end_linger)

    def _post_urgently(self, task: TrackedTask) -> None:
        """Puts a task into the outbox to be written at once."""
        self._lingering.pop(task, None)
        self._urgent[task] = None
        self._due.set()

    def _end_linger(self) -> None:
        """What lingers is written now; some of it a little early, none of it late."""
        self._linger = None
        self._urgent |= self._lingering
        self._lingering.clear()
        self._due.set()

    async def run(self) -> None:
        """The one writer: batch after batch, for as long as the gateway runs."""
        beats = asyncio.get_running_loop().create_task(self._beat_forever())
        try:
            await self.probe()
            while True:
                await self._due.wait()
                self._due.clear()
                if self._urgent and not await self._write_batch():
                    await asyncio.sleep(_PROBE_SECONDS)
                    self._due.set()
        finally:
            beats.cancel()

    async def _write_batch(self) -> bool:
        """Writes what is urgent, as it is now. False where that failed; nothing is lost then."""
        self._batch = batch = dict.fromkeys(islice(self._urgent, _BATCH_TASKS))
        for task in batch:
            del self._urgent[task]
            task.boxed_rank = task.stage.rank
        try:
            written = await self._store.put([self._record(task) for task in batch])
        except BaseException as error:
            self._urgent = batch | self._urgent
            self._make_room()
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, StoreError):
                log.exception("writing %d statuses failed inside the gateway; trying again", len(batch))
            self._set_condition(is_up=False, why=str(error))
            return False
        finally:
            self._batch = {}
        self._set_condition(is_up=True)
        for task, result in zip(batch, written, strict=True):
            self._take_result(task, result)
        if self._urgent:
            self._due.set()
        return True

    def _make_room(self) -> None:
        """While the store is away: drops the oldest statuses above the bound, and counts them."""
        for task in list(islice(self._urgent, max(0, len(self._urgent) - _OUTBOX_TASKS))):
            del self._urgent[task]
            self.dropped += 1

    def _take_result(self, task: TrackedTask, result: Written) -> None:
        if result.is_written:
            task.attempt = result.attempt
            task.saved_rank = max(task.saved_rank, task.boxed_rank)
        elif task.attempt == 0 and task.waiter is not None and task.stage is Stage.QUEUED:
            task.is_refused = True  # in time: this request ends here
            self._leave(task)
            self._lingering.pop(task, None)
        if not result.is_written or task.saved_rank >= task.waiter_rank:
            self._release(task)

    async def probe(self) -> None:
        """Finds out whether the store answers, where no write has told."""
        try:
            await self._store.ping()
        except StoreError as error:
            self._set_condition(is_up=False, why=str(error))
        else:
            if not self._urgent and not self._batch:  # else a write will tell: it may be refused where a ping is not
                self._set_condition(is_up=True)

    def _set_condition(self, *, is_up: bool, why: str = "") -> None:
        if is_up == self.is_store_up:
            return
        self.is_store_up = is_up
        if is_up:
            log.info("the store is back")
            return
        log.warning("the store is away (%s); requests go on, up to %d statuses are kept", why, _OUTBOX_TASKS)
        for task in [*self._in_flight.values(), *self._batch, *self._urgent]:
            self._release(task)

    def _record(self, task: TrackedTask) -> Record:
        ttl_seconds = self._ttl_done_seconds if task.is_final else self._ttl_running_seconds
        head = self._head(task)
        return Record(task.task_id, head, task.attempt, task.stage.rank, task.state, task.created_ms, ttl_seconds)

    def _head(self, task: TrackedTask) -> str:
        return task.document_head(
            algorithm_id=self._algorithm_id, instance=self._instance, boot=self._boot, now=self._clock()
        )

    async def _beat_forever(self) -> None:
        """Posts each task in flight once per interval, whether or not anything flows."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds / _BEAT_TICKS)
            now = time.monotonic()
            for task in self._in_flight.values():
                if task.beat_at <= now:
                    task.beat_at = now + self._heartbeat_seconds
                    self._post(task)

    async def close(self) -> None:
        """Writes what is left, for a bounded time, and closes the store. The writer must have ended."""
        for task in list(self._in_flight.values()):
            self.finish(task, Reason.SHUTDOWN, "the gateway was stopped")
        self._end_linger()
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while self._urgent and await self._write_batch():
                    pass
        if self._urgent:
            log.error("%d statuses were lost: the store is away at exit", len(self._urgent))
        await self._store.close()

    # -- what pollers ask --

    async def read(self, task_id: str) -> str | None:
        """The status document of a task, or None where there is none. Raises StoreUnavailable."""
        try:
            document = await self._store.read(task_id)
        except StoreError as error:
            own = self._own_document(task_id)
            if own is None:
                raise StoreUnavailable(str(error)) from error
            return own
        return document if document is not None else self._own_document(task_id)

    def _own_document(self, task_id: str) -> str | None:
        """The document of a task that this instance knows without the store."""
        task = self._in_flight.get(task_id)
        if task is None:
            unsaved = (*self._lingering, *reversed(self._urgent), *reversed(self._batch))
            task = next((t for t in unsaved if t.task_id == task_id), None)
        return None if task is None else complete_document(self._head(task), max(task.attempt, 1))

    async def page(self, limit: int, state: State | None, cursor: str | None) -> Page:
        """Some status documents, newest first. Raises StoreUnavailable and InvalidCursor."""
        try:
            return await self._store.page(limit, state, cursor)
        except StoreError as error:
            raise StoreUnavailable(str(error)) from error

    def _claim_ms(self) -> int:
        """The time, but no two the same: with `boot` it tells an id's claims from each other."""
        self._last_claim_ms = max(self._now_ms(), self._last_claim_ms + 1)
        return self._last_claim_ms

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def new_boot() -> str:
    """A name for one run of one gateway process."""
    return uuid4().hex[:12]
