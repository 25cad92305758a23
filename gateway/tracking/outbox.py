"""The outbox: tasks whose newest status is not in the store yet, and the ended ones that this process remembers.

Holds tasks, not documents, so that a task that changed three times while a batch was under way costs one write of its
newest state. Bounded, for the time when the store is away. Never waits and never raises. Filled by tracker, emptied
by writer.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter

from gateway.errors import GatewayError
from gateway.tasks.shares import Shares
from gateway.tasks.task import FINAL_RANK, Task

BATCH_TASKS = 256
KEPT_TASKS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
# A status nobody waits for stays this long, at most twice, so that a fast request costs one write.
LINGER_SECONDS = 0.02
_TASK_BYTES = 1500  # what one takes beside its path and query, measured

# A wait for the store ends after the first, one request's waits together after the second (contract 5).
MAX_WAIT_SECONDS = 0.25
MAX_WAITS_SECONDS = 0.3


class TrackedTask(Task):
    """A task with what only this process knows of it.

    Whoever runs it sets `on_cut`, which has to end it at once, for the reason that `cut_by` then holds; and `on_look`,
    which has to end it where its client has left.
    """

    __slots__ = (
        "beat_at", "boxed_rank", "cut_by", "is_refused", "is_superseded", "likely_attempt", "on_cut", "on_look",
        "saved_rank", "wait_began", "wait_left", "waiter", "waiter_rank",
    )  # fmt: skip

    def __init__(
        self, task_id: str, method: str, path: str, query: str, created_ms: int, attempt: int, owner: str = ""
    ) -> None:
        super().__init__(task_id, method, path, query, created_ms, attempt, owner)
        self.likely_attempt = attempt  # as far as this process knows, until the store says
        self.beat_at = 0.0  # when the next heartbeat is due, monotonic seconds
        self.saved_rank = -1  # the rank of the newest status that the store has
        self.boxed_rank = -1  # the rank that the batch under way carries
        self.wait_left = MAX_WAITS_SECONDS
        self.wait_began = 0.0  # monotonic seconds
        self.waiter: Callable[[], None] | None = None  # called when the store has it at waiter_rank, or later
        self.waiter_rank = 0
        self.is_refused = False  # its id is in flight elsewhere, or another's
        self.is_superseded = False  # something else stands in its place in the store, for good
        self.cut_by: GatewayError | None = None
        self.on_cut: Callable[[], None] | None = None
        self.on_look: Callable[[], None] | None = None

    @property
    def is_saved(self) -> bool:
        """Whether the store has its present stage."""
        return self.saved_rank >= self.stage.rank

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        return _TASK_BYTES + len(self.path) + len(self.query)

    def claim_again(self) -> None:
        """Its id was in flight elsewhere, and is free by now: the claim is to be written again."""
        self.is_refused = self.is_superseded = False
        self.boxed_rank = -1

    def look_for_client(self) -> None:
        """Ends it where its client has left and that was not noticed yet."""
        if self.on_look is not None:
            self.on_look()

    def cut(self, error: GatewayError) -> None:
        """Ends it from outside: its request notices at once, or as soon as it runs."""
        if self.cut_by is None and not self.is_final:
            self.cut_by = error
            if self.on_cut is not None:
                self.on_cut()


class Outbox:
    """What is to be written, the ended first: an end goes ahead of the next claim of its id, and is worth more.

    By task, not by id, as an id may be in it with two attempts. `on_due` is called whenever something is to be written
    now.
    """

    def __init__(self) -> None:
        self.on_due: Callable[[], None] = _nobody
        self.dropped = 0  # ended tasks that left before the store had their end
        self._ended: dict[TrackedTask, None] = {}
        self._urgent: dict[TrackedTask, None] = {}  # in flight, to be written now
        self._lingering: dict[TrackedTask, None] = {}  # in flight, to be written when the second linger from now ends
        self._lingered: dict[TrackedTask, None] = {}  # when this one ends
        self._batch: list[TrackedTask] = []  # on its way to the store
        self._linger: asyncio.TimerHandle | None = None
        # Ended tasks of each owner and when they ended (monotonic seconds), in that order, whether or not the store has
        # them. A plain dict would look for its first item among all that have gone before.
        self._kept: defaultdict[str, OrderedDict[TrackedTask, float]] = defaultdict(OrderedDict)
        self._kept_by_id: dict[str, TrackedTask] = {}
        self._kept_tasks = self._kept_bytes = 0
        self._shares = Shares()

    @property
    def kept(self) -> Iterable[TrackedTask]:
        """The ended tasks that are remembered, the newest attempt of each id."""
        return self._kept_by_id.values()

    @property
    def unsaved(self) -> int:
        """How many tasks wait to be written that the store does not have as they are."""
        waiting = {*self._ended, *self._urgent, *self._lingering, *self._lingered, *self._batch}
        return sum(not task.is_saved for task in waiting)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not (self._ended or self._urgent or self._lingering or self._lingered or self._batch)

    @property
    def due(self) -> int:
        """How many tasks are to be written now, beside the batch under way."""
        return len(self._ended) + len(self._urgent)

    @property
    def is_due(self) -> bool:
        """Whether something is to be written now."""
        return bool(self._ended or self._urgent)

    def ended(self, task_id: str) -> TrackedTask | None:
        """The newest attempt of `task_id` that has ended here, as far as it is remembered."""
        return self._kept_by_id.get(task_id)

    def post(self, task: TrackedTask) -> None:
        """A task in flight has changed: it is written after the linger, unless somebody waits for it before."""
        if task in self._lingered or task in self._urgent:
            return
        self._lingering[task] = None
        if self._linger is None:
            self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._turn)

    def post_urgently(self, task: TrackedTask) -> None:
        """A task is to be written at once."""
        if task in self._ended:
            return
        self._lingering.pop(task, None)
        self._lingered.pop(task, None)
        if task.is_final:
            self._urgent.pop(task, None)
            self._ended[task] = None
            self._keep(task)
        else:
            self._urgent[task] = None
        self.on_due()

    def post_again(self, in_flight: Iterable[TrackedTask], since: float) -> None:
        """The store may have forgotten what it was told of all in flight, and of ends since that monotonic time."""
        for task in in_flight:
            if not task.is_superseded:
                task.saved_rank = -1
                self.post_urgently(task)
        again: list[tuple[float, TrackedTask]] = []
        for kept in self._kept.values():
            for task in reversed(kept):
                if kept[task] < since:
                    break
                if task.is_saved and not task.is_superseded:  # else it is on its way, or of no use
                    again.append((kept[task], task))
        again.sort(key=itemgetter(0))
        self._ended |= dict.fromkeys(task for _, task in again)
        if again:
            self.on_due()

    def discard(self, task: TrackedTask) -> None:
        """A task is not to be written any more."""
        for waiting in (self._lingering, self._lingered, self._urgent):
            waiting.pop(task, None)

    def end_linger(self) -> None:
        """What lingers is written now."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        """A linger ends, for all that was there when it began: one timer is for all, and fast requests come and go."""
        if self._linger is not None:
            self._linger.cancel()
        over, self._lingered, self._lingering = self._lingered, self._lingering, {}
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._turn) if self._lingered else None
        if over:
            self._urgent |= over
            self.on_due()

    def take_batch(self) -> list[TrackedTask]:
        """Some of what is to be written now. `give_back` or `finish_batch` has to follow."""
        batch: list[TrackedTask] = []
        for waiting in (self._ended, self._urgent):
            batch += (taken := list(islice(waiting, BATCH_TASKS - len(batch))))
            for task in taken:
                del waiting[task]
                task.boxed_rank = task.stage.rank
        self._batch = batch
        return batch

    def finish_batch(self) -> None:
        """The batch is written; `is_due` tells whether there is more."""
        self._batch = []

    def give_back(self) -> None:
        """The batch was not written: its tasks wait again, ahead of the others, with what they are by then."""
        batch, self._batch = self._batch, []
        ended = dict.fromkeys(task for task in batch if task.is_final)
        self.dropped += sum(
            task.boxed_rank == FINAL_RANK and not self._is_kept(task) and not task.is_saved for task in ended
        )
        self._ended = {task: None for task in ended if self._is_kept(task)} | self._ended
        self._urgent = dict.fromkeys(task for task in batch if not task.is_final) | self._urgent

    def _is_kept(self, task: TrackedTask) -> bool:
        return task in self._kept.get(task.owner, ())

    def _keep(self, task: TrackedTask) -> None:
        kept = self._kept[task.owner]
        if task in kept:
            return
        kept[task] = time.monotonic()
        self._kept_by_id[task.task_id] = task
        self._kept_tasks += 1
        self._kept_bytes += task.size_bytes
        self._shares.add(task.owner)
        while self._kept_tasks > KEPT_TASKS or self._kept_bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept[self._shares.largest])))

    def _forget(self, task: TrackedTask) -> None:
        """The oldest of an owner goes; where the store does not have it yet, that is a loss, and counted."""
        kept = self._kept[task.owner]
        del kept[task]
        if not kept:
            del self._kept[task.owner]
        self._kept_tasks -= 1
        self._kept_bytes -= task.size_bytes
        self._shares.remove(task.owner)
        if self._kept_by_id.get(task.task_id) is task:
            del self._kept_by_id[task.task_id]
        if task in self._ended:
            del self._ended[task]
            self.dropped += not task.is_saved


def _nobody() -> None:
    """Who is told that something is due, as long as there is no writer."""
