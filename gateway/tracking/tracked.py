"""A task with what only this process knows of it: what the store has of it, and what the store said of its claim.

`TrackedTask` is the record that all of tracking shares. Others tell it what happened; it alone decides what that means
for it. `Documents` makes what is written and told of it, and changes no task's status.
"""

import time
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from gateway.errors import Cancelled, GatewayError
from gateway.store.clock import Clock
from gateway.store.interface import Record
from gateway.tasks.document import complete_document, document_head
from gateway.tasks.stages import FINAL_RANK
from gateway.tasks.task import Task

# A wait for the store ends after the first, one request's waits together after the second.
MAX_WAIT_SECONDS = 0.25
MAX_WAITS_SECONDS = 0.3
SILENT_BEATS = 3  # a task that misses so many heartbeats is lost

_IF_NONE = -1  # a claim number: the claim counts only if the store has no attempt at all
_TASK_BYTES = 1500  # what one takes in memory beside its path and query, measured


class Claim(Enum):
    """What the store has said of a task's id. Only the verbs of `TrackedTask` change it.

    Moves: UNCLAIMED to REFUSED, and back with the next try; any to GRANTED when the store has written the task; any to
    SUPERSEDED, and back only by being written or claimed again.
    """

    UNCLAIMED = auto()  # the client chose the id, and the store has not said which attempt this is
    REFUSED = auto()  # the id is in flight elsewhere, or another key's; the request still waits
    GRANTED = auto()  # the attempt is known; an id that this process made is granted from the start
    SUPERSEDED = auto()  # another request, or a final status, stands in its place in the store


class Runner(Protocol):
    """The request that runs a task, until the task ends. No call may raise."""

    def on_cut(self, error: GatewayError) -> None:
        """The task is ended from outside: the request has to end it at once, because of `error`."""

    def look_for_client(self) -> None:
        """The request has to end the task if its client has left."""

    def drop_answer(self) -> None:
        """The answer is to be kept no longer, if it is kept."""


class QueuePlace(Protocol):
    """A task's place in the queue for Ollama."""

    @property
    def position(self) -> int | None:
        """1 is next; None once the request is with Ollama, or has left the queue."""

    @property
    def queue_length(self) -> int:
        """How many requests wait."""


class TrackedTask(Task):
    """A task with what only this process knows of it. `attempt` 0: the id is to be claimed (as in `Record`)."""

    __slots__ = (
        "_claim", "_claim_number", "_cut_by", "_likely_attempt", "_place", "_runner", "beat_at", "is_end_held",
        "is_first_record", "saved_rank", "sent_rank", "size_bytes", "wait_left",
    )  # fmt: skip

    def __init__(
        self,
        task_id: str,
        method: str,
        path: str,
        query: str,
        created_ms: int,
        attempt: int,
        owner: str = "",
        label: str = "",
        likely_attempt: int = 0,
        place: QueuePlace | None = None,
    ) -> None:
        super().__init__(task_id, method, path, query, created_ms, attempt, owner, label)
        self._claim = Claim.GRANTED if attempt else Claim.UNCLAIMED
        self._claim_number = 0
        self._likely_attempt = likely_attempt or attempt
        # Every request reads these, so they are plain; the verbs below change those of its records.
        self.size_bytes = _TASK_BYTES + len(path) + len(query)  # about what it takes in memory
        self.beat_at = 0.0  # when its next heartbeat is due, in monotonic seconds
        self.wait_left = MAX_WAITS_SECONDS  # how long its request may still wait for the store
        self.saved_rank = -1  # of the newest status that the store has
        self.sent_rank = -1  # of the record that was sent last
        self.is_first_record = True  # whether no record was sent before that one
        self.is_end_held = False  # until the store has its kept answer
        self._cut_by: GatewayError | None = None
        self._runner: Runner | None = None
        self._place = place  # until the task ends

    # -- its claim --

    @property
    def is_claimed(self) -> bool:
        """Whether the store has decided its claim."""
        return self._claim is Claim.GRANTED or self._claim is Claim.SUPERSEDED

    @property
    def is_refused(self) -> bool:
        """Whether its id is in flight elsewhere, or another key's."""
        return self._claim is Claim.REFUSED

    @property
    def is_superseded(self) -> bool:
        """Whether something else stands in its place in the store, so that this process says nothing of it."""
        return self._claim is Claim.SUPERSEDED

    @property
    def likely_attempt(self) -> int:
        """The attempt as far as this process knows, until the store says it."""
        return self._likely_attempt

    @property
    def claim_number(self) -> int:
        """What stands in the place of the attempt while the id is to be claimed (see `Record`)."""
        return self._claim_number

    def claim_after(self, seen: int) -> None:
        """Its claim counts only if the attempt `seen` is the newest that the store has; 0 for none."""
        self._claim_number = -1 - seen

    def claim_again(self) -> None:
        """The id was in flight elsewhere, and is free by now: the claim is to be written again."""
        self._claim = Claim.GRANTED if self.attempt else Claim.UNCLAIMED
        self.sent_rank = -1

    def refused(self) -> None:
        """The store refused the claim, and the request still waits for it."""
        self._claim = Claim.REFUSED

    def superseded(self) -> None:
        """The store has another request, or a final status, in its place. If it has no client any more, it ends.

        An id that was never granted is not claimed again: its heartbeats would replace the other request's end.
        """
        self._claim = Claim.SUPERSEDED
        self._claim_number = _IF_NONE
        if self.is_detached:
            self.cut(Cancelled())

    # -- its records --

    @property
    def is_saved(self) -> bool:
        """Whether the store has its present stage."""
        return self.saved_rank >= self.stage.rank

    @property
    def is_end_sent(self) -> bool:
        """Whether the record that was sent last is of its end."""
        return self.sent_rank == FINAL_RANK

    def sent(self) -> None:
        """A record of its present stage is on its way to the store."""
        self.is_first_record = self.sent_rank < 0
        self.sent_rank = self.stage.rank

    def saved(self, attempt: int) -> None:
        """The store has written the record that was sent; `attempt` is what the store says."""
        self.attempt = self._likely_attempt = attempt
        self._claim = Claim.GRANTED
        self.saved_rank = max(self.saved_rank, self.sent_rank)

    def rejected(self) -> bool:
        """The store has not written the record. Whether that is for good.

        If the task has gone on since, it is to be written again. So is one that went on without an answer to a claim
        that named an attempt (`claim_after`): the next one names none.
        """
        if self._claim is Claim.UNCLAIMED and self._claim_number:
            self._claim_number, self.sent_rank = 0, -1
            return False
        if self.sent_rank == self.stage.rank:
            self.saved_rank = self.sent_rank
            self.superseded()
        return True

    def forgotten(self) -> None:
        """The store may have lost what it had of this task."""
        self.saved_rank = -1

    @property
    def is_held(self) -> bool:
        """Whether its end must not be written yet: first the store has to have its kept answer."""
        return self.is_end_held and self.finished_ms is not None

    def hold_end(self) -> None:
        """Its end is not to be written before `release_end`."""
        self.is_end_held = True

    def release_end(self) -> bool:
        """Its end may be written. Whether that waits."""
        was_held, self.is_end_held = self.is_held, False
        return was_held

    # -- its request --

    @property
    def cut_by(self) -> GatewayError | None:
        """Why it was ended from outside; None if it was not."""
        return self._cut_by

    @property
    def standing_in_queue(self) -> tuple[int | None, int | None]:
        """(position, how many wait); None for both if it does not wait in a queue."""
        position = None if self._place is None else self._place.position
        return (None, None) if position is None or self._place is None else (position, self._place.queue_length)

    def run_by(self, runner: Runner) -> None:
        """From now on `runner` is its request."""
        self._runner = runner

    def look_for_client(self) -> None:
        """Ends it if its client has left and that was not noticed yet."""
        if self._runner is not None:
            self._runner.look_for_client()

    def drop_answer(self) -> None:
        """Its answer is to be kept no longer."""
        if self._runner is not None:
            self._runner.drop_answer()

    def cut(self, error: GatewayError) -> None:
        """Ends it from outside: its request notices at once, or as soon as it runs."""
        if self._cut_by is None and not self.is_final:
            self._cut_by = error
            if self._runner is not None:
                self._runner.on_cut(error)

    def let_go(self) -> None:
        """Its request is not called any more, and waits for nothing."""
        self._runner = self._place = None


@dataclass(frozen=True, slots=True)
class Documents:
    """What is written and told of the tasks of one process: records for the store, documents for pollers.

    A task in flight that is silent for `grace_seconds` counts as lost.
    """

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
            task.attempt or task.claim_number,
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
        if ended_ms is None:
            return False
        return (time.monotonic() + self.clock.offset_seconds) * 1000 - ended_ms >= self.ttl_done_seconds * 1000

    def _head(self, task: TrackedTask) -> str:
        """The document as of now; an ended task's is of its end, and the same whenever it is rendered."""
        now = time.monotonic() + self.clock.offset_seconds if task.finished_ms is None else task.finished_ms / 1000
        return document_head(
            task,
            algorithm_id=self.algorithm_id,
            instance=self.instance,
            boot=self.boot,
            now=now,
            standing_in_queue=task.standing_in_queue,
        )
