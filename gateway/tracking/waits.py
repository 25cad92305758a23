"""What a request waits for, a bounded time, in the store: that it has the task's stage, and that it grants a chosen id.

Owns the waits, the one timer that they share, and the claims. Does not write: the writer tells what the store has
answered, and is told when it has not answered in time.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gateway.metrics.counts import STORE_WAIT, Counts
from gateway.net.deadline import Deadline
from gateway.store.interface import Store, StoreError, Written
from gateway.tasks.document import is_id_free, is_visible
from gateway.tracking.condition import Condition
from gateway.tracking.outbox import Outbox
from gateway.tracking.tracked import MAX_WAIT_SECONDS, TrackedTask

log = logging.getLogger("gateway.tracker")

END_SECONDS = 1.0  # how long a claim waits for the end of another gateway's request
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class _Wait:
    """Calls `then` when the store has the task at `rank`, or when `seconds` are over. `began` is monotonic."""

    then: Callable[[], None]
    rank: int
    began: float
    seconds: float


class Waits:
    """At most one wait per task. `on_silence` is called when the store let a whole wait pass without an answer."""

    def __init__(self, outbox: Outbox, condition: Condition, counts: Counts, on_silence: Callable[[], None]) -> None:
        self._outbox = outbox
        self._condition = condition
        self._counts = counts
        self._on_silence = on_silence
        self._waiting: dict[TrackedTask, _Wait] = {}
        self._deadline: Deadline | None = None  # the earliest end of a wait

    def __contains__(self, task: TrackedTask) -> bool:
        return task in self._waiting

    def settle(self, task: TrackedTask, then: Callable[[], None]) -> None:
        """As `wait_for` the task's present stage; at once if the store has it already."""
        rank = task.stage.rank
        if task.saved_rank < rank:
            self.wait_for(task, rank, then)
        else:
            self.forget(task)
            then()

    def wait_for(self, task: TrackedTask, rank: int, then: Callable[[], None]) -> None:
        """Has `task` written now, and calls `then` once when the store has it at `rank` or a bounded time is over.

        At once while the store is away, and where the task's waits are used up. A task has one wait at a time: an
        earlier one is forgotten, its `then` is not called.
        """
        if task in self._waiting:
            self.forget(task)
        if not self._condition.is_up or task.wait_left <= 0:
            self._outbox.post_urgently(task)
            then()
            return
        wait = self._waiting[task] = _Wait(then, rank, time.monotonic(), min(MAX_WAIT_SECONDS, task.wait_left))
        self._deadline = self._deadline or Deadline(asyncio.get_running_loop(), self._release_overdue)
        self._deadline.move_up(wait.seconds)
        if task.sent_rank < rank:
            self._outbox.post_urgently(task)

    def forget(self, task: TrackedTask) -> None:
        """Ends the wait of a task, if there is one, without a call."""
        wait = self._waiting.pop(task, None)
        if wait is not None:
            waited = time.monotonic() - wait.began
            task.wait_left -= waited
            self._counts.observe(STORE_WAIT, waited)

    def answered(self, tasks: Sequence[TrackedTask], results: Sequence[Written]) -> None:
        """The store has answered: requests go on if it has what they wait for, or has not written their record."""
        for task, result in zip(tasks, results, strict=True):
            wait = self._waiting.get(task)
            if wait is not None and (task.saved_rank >= wait.rank or not result.is_written):
                self._release(task)

    def release_all(self) -> None:
        """Lets every request go on."""
        for task in list(self._waiting):
            self._release(task)

    def _release(self, task: TrackedTask) -> None:
        """Ends the wait of a task, if there is one, and lets its request go on. A failure there harms no other."""
        wait = self._waiting.pop(task, None)
        if wait is None:
            return
        waited = time.monotonic() - wait.began
        task.wait_left -= waited
        try:
            wait.then()
        except Exception:
            log.exception("task %s failed inside the gateway", task.task_id, extra={"task_id": task.task_id})
        self._counts.observe(STORE_WAIT, waited)

    def _release_overdue(self) -> None:
        now = time.monotonic()
        left = {task: wait.began + wait.seconds - now for task, wait in self._waiting.items()}
        # What is left of a request's waits may be too short to say anything about the store.
        # Nor is that of a task whose end is not written yet.
        silent = [task for task, wait in self._waiting.items() if wait.seconds >= MAX_WAIT_SECONDS and not task.is_held]
        if any(left[task] <= 0 for task in silent):
            self._on_silence()
            return
        for task, seconds in left.items():
            if seconds <= 0:
                self._release(task)
            elif self._deadline is not None:
                self._deadline.move_up(seconds)


class Claims:
    """Claims the ids that clients choose: one request at a time holds an id, over all gateways.

    The store decides. If the id is in flight at another gateway, the claim waits a moment for that end: a client
    library sends its retry while the other gateway still tears the first request down. Not so for a request whose
    answer is to be kept: it may join the other one. `leave` is told of each task that was refused.

    A task has to be in flight by then: a second request with its id is refused without asking the store.
    """

    def __init__(self, waits: Waits, store: Store, leave: Callable[[TrackedTask], None]) -> None:
        self._waits = waits
        self._store = store
        self._leave = leave
        self._waiting: set[asyncio.Task[None]] = set()

    def claim(self, task: TrackedTask, then: Callable[[bool], None]) -> None:
        """Claims the id of `task` and calls `then` once: whether the request may go on.

        That is when the store has answered, or when the bounded wait for it is over; at once while the store is away.
        A request whose client leaves meanwhile is not told.
        """
        self._ask(task, then, time.monotonic() + END_SECONDS)

    def _ask(self, task: TrackedTask, then: Callable[[bool], None], until: float) -> None:
        self._waits.wait_for(task, 0, partial(self._answered, task, then, until))

    def _answered(self, task: TrackedTask, then: Callable[[bool], None], until: float) -> None:
        if not task.is_refused:
            then(True)
        elif time.monotonic() < until and self._is_worth_waiting(task):
            waiting = asyncio.get_running_loop().create_task(self._wait_and_ask_again(task, then, until))
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)
        else:
            self._refuse(task, then)

    def _is_worth_waiting(self, task: TrackedTask) -> bool:
        """A store that answers at once has one gateway alone."""
        return task.response is None and not self._store.answers_at_once

    async def _wait_and_ask_again(self, task: TrackedTask, then: Callable[[bool], None], until: float) -> None:
        has_come_free = False
        try:
            has_come_free = await self._comes_free(task, until)
        except StoreError as error:
            log.debug("task %s: no word of the request that holds its id: %s", task.task_id, error)
        except Exception:
            log.exception("task %s failed inside the gateway", task.task_id)
        if task.is_final:
            return  # its client has left, or it was cancelled
        if has_come_free:
            task.claim_again()
            self._ask(task, then, until)
        else:
            self._refuse(task, then)

    async def _comes_free(self, task: TrackedTask, until: float) -> bool:
        """Whether the request that holds the id ends in time. The end of another key's request is not waited for."""
        while not task.is_final:
            [document] = await self._store.read([task.task_id])
            if document is None or is_id_free(document):
                return document is None or is_visible(document, task.owner or None)
            if not is_visible(document, task.owner or None) or time.monotonic() >= until:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _refuse(self, task: TrackedTask, then: Callable[[bool], None]) -> None:
        self._leave(task)
        then(False)
