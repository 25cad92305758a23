"""Requests that wait, a bounded time, until the store has the statuses of their tasks.

Owns the waits and the one timer that they share. Knows neither the store nor its condition: the writer tells what is
saved, and is told when the store has not answered in time.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.metrics.counts import STORE_WAIT, Counts
from gateway.net.deadline import Deadline
from gateway.tracking.tracked import MAX_WAIT_SECONDS, TrackedTask

log = logging.getLogger("gateway.tracker")


@dataclass(slots=True)
class _Wait:
    """Calls `then` when the store has the task at `rank`, or when `seconds` are over. `began` is monotonic."""

    then: Callable[[], None]
    rank: int
    began: float
    seconds: float


class Waits:
    """At most one wait per task. `on_silence` is called when the store let a whole wait pass without an answer."""

    def __init__(self, counts: Counts, on_silence: Callable[[], None]) -> None:
        self._counts = counts
        self._on_silence = on_silence
        self._waiting: dict[TrackedTask, _Wait] = {}
        self._deadline: Deadline | None = None  # the earliest end of a wait

    def __contains__(self, task: TrackedTask) -> bool:
        return task in self._waiting

    def begin(self, task: TrackedTask, rank: int, then: Callable[[], None]) -> bool:
        """Begins a wait; an earlier one of the task is forgotten. False if the task's waits are used up."""
        if task in self._waiting:
            self.forget(task)
        left = task.wait_left
        if left <= 0:
            return False
        wait = self._waiting[task] = _Wait(then, rank, time.monotonic(), min(MAX_WAIT_SECONDS, left))
        self._deadline = self._deadline or Deadline(asyncio.get_running_loop(), self._release_overdue)
        self._deadline.move_up(wait.seconds)
        return True

    def is_over(self, task: TrackedTask) -> bool:
        """Whether the store has what the task's request waits for. False if none waits."""
        wait = self._waiting.get(task)
        return wait is not None and task.has_saved(wait.rank)

    def forget(self, task: TrackedTask) -> None:
        """Ends the wait of a task, if there is one, without a call."""
        wait = self._waiting.pop(task, None)
        if wait is not None:
            waited = time.monotonic() - wait.began
            task.waited(waited)
            self._counts.observe(STORE_WAIT, waited)

    def release(self, task: TrackedTask) -> None:
        """Ends the wait of a task, if there is one, and lets its request go on. A failure there harms no other."""
        wait = self._waiting.pop(task, None)
        if wait is None:
            return
        waited = time.monotonic() - wait.began
        task.waited(waited)
        try:
            wait.then()
        except Exception:
            log.exception("task %s failed inside the gateway", task.task_id, extra={"task_id": task.task_id})
        self._counts.observe(STORE_WAIT, waited)

    def release_all(self) -> None:
        """Lets every request go on."""
        for task in list(self._waiting):
            self.release(task)

    def _release_overdue(self) -> None:
        now = time.monotonic()
        left = {task: wait.began + wait.seconds - now for task, wait in self._waiting.items()}
        # What is left of a request's waits may be too short to say anything about the store.
        if any(left[task] <= 0 and wait.seconds >= MAX_WAIT_SECONDS for task, wait in self._waiting.items()):
            self._on_silence()
            return
        for task, seconds in left.items():
            if seconds <= 0:
                self.release(task)
            elif self._deadline is not None:
                self._deadline.move_up(seconds)
