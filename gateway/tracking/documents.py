"""What is written and told of a task: its record for the store, its document for pollers, and the clock of both.

Changes no task's status.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.store.interface import Record
from gateway.tasks.task import complete_document
from gateway.tracking.tracked import TrackedTask

_STEP_MS = 1000  # a clock that steps back by more is believed


class Clock:
    """The time that tasks are stamped with; the machine's may be set back at any time. `seconds` gives Unix seconds."""

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self.seconds = seconds
        self._last_claim_ms = 0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.seconds() * 1000)

    def claim_ms(self) -> int:
        """As `now_ms`, but no two the same: with `boot` it tells the claims of one id from each other."""
        now_ms, last_ms = self.now_ms(), self._last_claim_ms
        self._last_claim_ms = now_ms if now_ms < last_ms - _STEP_MS else max(now_ms, last_ms + 1)
        return self._last_claim_ms


@dataclass(frozen=True, slots=True)
class Documents:
    """Documents of one process. A task in flight that is silent for `grace_seconds` counts as lost."""

    algorithm_id: str
    instance: str
    boot: str
    ttl_running_seconds: int
    ttl_done_seconds: int
    grace_seconds: float
    clock: Clock

    def record(self, task: TrackedTask) -> Record:
        """The record of a task as it is now."""
        return Record(
            task.task_id,
            self._head(task),
            task.attempt,
            task.stage.rank,
            task.stage.state,
            task.created_ms,
            self.ttl_running_seconds if task.finished_ms is None else self.ttl_done_seconds,
            task.owner,
            self.grace_seconds,
            task.is_first_record,
            task.label,
        )

    def document(self, task: TrackedTask) -> str:
        """The status document of a task as it is now."""
        return complete_document(self._head(task), task.likely_attempt)

    def is_expired(self, task: TrackedTask) -> bool:
        """Whether the task ended so long ago that the store need not have it any more."""
        ended_ms = task.finished_ms
        return ended_ms is not None and self.clock.now_ms() - ended_ms >= self.ttl_done_seconds * 1000

    def _head(self, task: TrackedTask) -> str:
        """The document as of now; an ended task's is of its end, and the same whenever it is rendered."""
        now = self.clock.seconds() if task.finished_ms is None else task.finished_ms / 1000
        return task.document_head(
            algorithm_id=self.algorithm_id,
            instance=self.instance,
            boot=self.boot,
            now=now,
            standing_in_queue=task.standing_in_queue,
        )
