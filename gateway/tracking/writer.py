"""The one writer: brings the outbox to the store, batch after batch.

No request ever talks to the store itself; it may wait here, a bounded time, until the store has its status, and not at
all while the store is known to be away: condition tells that. Also knows what a store that failed may have lost, which
is written again, and runs the look-out. Called by tracker alone.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Container
from enum import Enum, auto
from functools import partial

from gateway.metrics.counts import STORE_FAILED, STORE_WAIT, STORE_WRITE, Counts
from gateway.net.deadline import Deadline
from gateway.store.interface import Record, Store, StoreError, Written
from gateway.tasks.task import Stage
from gateway.tracking.condition import Condition
from gateway.tracking.lookout import RETRY_SECONDS, Lookout
from gateway.tracking.outbox import MAX_WAIT_SECONDS, Outbox, TrackedTask

log = logging.getLogger("gateway.tracker")

# A replica that becomes the primary has not heard of what was written last (contract 4.12).
_UNHEARD_SECONDS = 10.0


class _Outcome(Enum):
    """What became of a task's record."""

    WRITTEN = auto()
    CLAIM_REFUSED = auto()  # in time: its request still waits for it, and ends here
    SUPERSEDED = auto()  # something final, or another's, stands there: nothing is left to be written
    OUTDATED = auto()  # the same, but the task has gone on since, and is to be written as it is now


class _Everything:
    """Contains all there is."""

    def __contains__(self, item: object) -> bool:
        return True


class StoreWriter:
    """Writes what is in `outbox`; `render` makes the record of a task as it is now.

    `own` are the names of requests that nobody may call lost, and `is_alone` tells that none of them is in flight;
    `on_cancel` is called with the names of tasks to cancel, `on_spared` with those of `own` that the store takes for
    silent. `on_doubt` is called when the store may have forgotten what it was told: all that is in flight, and the ends
    since the monotonic time that it gives.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        render: Callable[[TrackedTask], Record],
        own: Container[str],
        is_alone: Callable[[], bool],
        on_cancel: Callable[[str], object],
        on_spared: Callable[[str], object] = str,
        on_doubt: Callable[[float], object] = float,
        grace_seconds: float,
        counts: Counts | None = None,
    ) -> None:
        self.condition = Condition(outbox, grace_seconds)
        self._store = store
        self._outbox = outbox
        self._render = render
        self._own = own
        self._is_alone = is_alone
        self._on_doubt = on_doubt
        self._lookout = Lookout(
            store,
            self.condition,
            spared=lambda: self.spared,
            on_cancel=on_cancel,
            on_spared=on_spared,
            on_failure=self._fail,
        )
        self._counts = counts or Counts()
        self._connections: int | None = None  # of the store at the last batch; None since a failure
        self._written_at = time.monotonic()
        self._waiting: dict[TrackedTask, None] = {}
        self._deadline: Deadline | None = None  # the earliest of those who wait
        self._is_running = False
        self._is_idle = True  # no batch is under way, about to be sent, or to be tried again
        self._batch_number = 0
        self._next: asyncio.Handle | None = None  # the batch that is about to be sent, or to be tried again
        outbox.on_due = self._wake

    @property
    def spared(self) -> Container[str]:
        """Whose silence means nothing: our own tasks, and anybody's who could not write while the store was away."""
        return self._own if self.condition.is_grace_over else _Everything()

    @property
    def is_up(self) -> bool:
        """Whether requests wait for the store."""
        return self.condition.is_up

    # -- those who wait --

    def wait_for(self, task: TrackedTask, rank: int, then: Callable[[], None]) -> None:
        """Has `task` written now, and calls `then` once when the store has it at `rank` or a bounded time is over.

        At once while the store is away, and where the task's waits are used up. A task has one wait at a time: what an
        earlier one was for is not called any more.
        """
        self.forget(task)
        if not self.is_up or task.wait_left <= 0:
            self._outbox.post_urgently(task)
            then()
            return
        task.waiter, task.waiter_rank, task.wait_began = then, rank, time.monotonic()
        self._waiting[task] = None
        self._deadline = self._deadline or Deadline(asyncio.get_running_loop(), self._release_overdue)
        self._deadline.move_up(min(MAX_WAIT_SECONDS, task.wait_left))
        if task.boxed_rank < rank:  # else it is on its way
            self._outbox.post_urgently(task)

    def forget(self, task: TrackedTask) -> None:
        """Nobody waits for this task any more."""
        if task.waiter is not None:
            self._counts.observe(STORE_WAIT, self._end_wait(task))

    def _end_wait(self, task: TrackedTask) -> float:
        """How many seconds it took."""
        del self._waiting[task]
        task.waiter = None
        waited = time.monotonic() - task.wait_began
        task.wait_left -= waited
        return waited

    def _release(self, task: TrackedTask) -> None:
        """Lets whoever waits for this task go on; what fails there is his, and harms nobody else."""
        then = task.waiter
        if then is None:
            return
        waited = self._end_wait(task)
        try:
            then()
        except Exception:
            log.exception("task %s failed inside the gateway", task.task_id, extra={"task_id": task.task_id})
        self._counts.observe(STORE_WAIT, waited)

    def _release_overdue(self) -> None:
        now = time.monotonic()
        left = {task: _end_of_wait(task) - now for task in self._waiting}
        # What is left of a request's waits may be too short to say anything about the store.
        if any(left[task] <= 0 and task.wait_left >= MAX_WAIT_SECONDS for task in left):
            self._fail(StoreError("no answer in time"))
            return
        for task, seconds in left.items():
            if seconds <= 0:
                self._release(task)
            elif self._deadline is not None:
                self._deadline.move_up(seconds)

    # -- writing --

    async def run(self) -> None:
        """Writes, looks and listens for as long as the gateway runs."""
        self._is_running = True
        self._wake()
        loops = [asyncio.create_task(loop()) for loop in (self._lookout.watch, self._lookout.listen)]
        try:
            await asyncio.gather(*loops)
        finally:
            self._stop()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def _stop(self) -> None:
        """What is under way is to be written again."""
        self._is_running = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._batch_number += 1
        self._is_idle = True
        self._outbox.give_back()

    def _wake(self) -> None:
        """Something may be due: it goes with all else that this turn of the loop brings, or behind what is under way.

        At once where nobody else could bring anything.
        """
        if not self._is_idle or not self._is_running or not self._outbox.is_due:
            return
        self._is_idle = False
        if self._store.answers_at_once or self._is_alone():
            self._write()
        else:
            self._next = asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._next = None
        if self._outbox.is_due:
            self._send(self._go_on)
        else:
            self._is_idle = True

    def _go_on(self, is_written: bool) -> None:
        """What has gathered while a batch was under way is the next one; after a failure that takes a while."""
        if is_written:
            self._write()
        elif self._is_running:
            self._next = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._write)

    async def write_all(self) -> None:
        """Writes what is left, when this runs no more; until that fails."""
        self._outbox.end_linger()
        while self._outbox.is_due and await self.write_batch():
            self._outbox.end_linger()

    async def write_batch(self) -> bool:
        """Writes some of what is to be written, while this does not run. False where that failed; nothing is lost."""
        if not self._outbox.is_due:
            return True
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._send(lambda is_written: None if done.done() else done.set_result(is_written))
        return await done

    def _send(self, then: Callable[[bool], None]) -> None:
        """Sends a batch as it is now; `then` is told whether it was written, before those who waited for it."""
        batch = self._outbox.take_batch()
        self._batch_number += 1
        take = partial(self._take, batch, self._batch_number, time.monotonic(), then)
        try:
            records = [self._render(task) for task in batch]
            self._store.write(records, take)
        except Exception as error:
            log.exception("writing %d statuses failed inside the gateway; trying again", len(batch))
            take(StoreError(str(error)))

    def _take(
        self,
        batch: list[TrackedTask],
        number: int,
        started: float,
        then: Callable[[bool], None],
        written: list[Written] | StoreError,
    ) -> None:
        """The store's answer to a batch."""
        if number != self._batch_number:
            return  # given up meanwhile, and to be written again
        if isinstance(written, StoreError):
            self._outbox.give_back()
            self._counts.add(STORE_FAILED)
            self._fail(written)
            then(False)
            return
        self._outbox.finish_batch()
        seconds = time.monotonic() - started
        self._has_written(seconds)
        told = [task for task, result in zip(batch, written, strict=True) if self._take_result(task, result)]
        then(True)
        for task in told:
            self._release(task)
        self._counts.observe(STORE_WRITE, seconds)

    def _take_result(self, task: TrackedTask, result: Written) -> bool:
        """Notes what became of a task's record. True where whoever waits for it has waited long enough."""
        outcome = _outcome(task, result)
        if outcome is _Outcome.WRITTEN:
            task.attempt = task.likely_attempt = result.attempt
            task.is_superseded = False
            task.saved_rank = max(task.saved_rank, task.boxed_rank)
        elif outcome is _Outcome.CLAIM_REFUSED:
            task.is_refused = True
            self._outbox.discard(task)
        elif outcome is _Outcome.SUPERSEDED:
            task.saved_rank = task.boxed_rank
            task.is_superseded = True
        is_over = outcome is not _Outcome.WRITTEN or task.saved_rank >= task.waiter_rank
        return task.waiter is not None and is_over

    # -- the store's condition --

    def _fail(self, error: StoreError) -> None:
        if self.condition.fail(error):
            self._connections = None
            self._tell_again()
        for task in list(self._waiting):
            self._release(task)

    def _has_written(self, seconds: float) -> None:
        """A batch was written, in that time."""
        connections = self._store.connections
        if self._connections not in (None, connections):
            self._tell_again()  # another connection, without a failure between: perhaps to another server
        self._connections = connections
        self._written_at = time.monotonic()
        self.condition.take_batch(seconds)

    def _tell_again(self) -> None:
        self._on_doubt(self._written_at - _UNHEARD_SECONDS)


def _outcome(task: TrackedTask, result: Written) -> _Outcome:
    if result.is_written:
        return _Outcome.WRITTEN
    if task.attempt == 0 and task.waiter is not None and task.stage is Stage.QUEUED:
        return _Outcome.CLAIM_REFUSED
    return _Outcome.SUPERSEDED if task.boxed_rank == task.stage.rank else _Outcome.OUTDATED


def _end_of_wait(task: TrackedTask) -> float:
    return task.wait_began + min(MAX_WAIT_SECONDS, task.wait_left)
