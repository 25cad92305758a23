"""The outbox: tasks whose newest status is not in the store yet, and the ended ones that this process remembers.

Holds tasks, not documents: a task that changed three times while a batch was under way costs one write of its newest
state. Bounded, for the time when the store is away. Never waits and never raises.
"""

import asyncio
import time
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import Protocol

from gateway.tasks.shares import Shares
from gateway.tracking.tracked import TrackedTask

BATCH_TASKS = 256
KEPT_TASKS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
# A status that no request waits for stays this long, at most twice, so that a fast request costs one write.
LINGER_SECONDS = 0.02


class Writer(Protocol):
    """Takes tasks from the outbox."""

    def wake(self) -> None:
        """Something is to be written now."""


class _NoWriter:
    """Takes nothing. Stands in until `serve` is called."""

    def wake(self) -> None:
        """What is due stays."""


class Outbox:
    """The tasks to write. Ended ones come first: the next claim of an id must find the end of the attempt before.

    Holds tasks, not ids, because two attempts of one id may be in it.
    """

    def __init__(self) -> None:
        self._writer: Writer = _NoWriter()
        self.dropped = 0  # ended tasks that left before the store had their end
        self._ended: dict[TrackedTask, None] = {}
        self._urgent: dict[TrackedTask, None] = {}  # in flight, to be written now
        self._lingering: dict[TrackedTask, None] = {}  # in flight, to be written when the linger after this one ends
        self._lingered: dict[TrackedTask, None] = {}  # in flight, to be written when this linger ends
        self._batch: list[TrackedTask] = []  # on its way to the store
        self._linger: asyncio.TimerHandle | None = None
        # Ended tasks of each owner and when they ended (monotonic seconds), in that order, whether or not the store has
        # them. A plain dict would look for its first item among all that have gone before.
        self._kept: defaultdict[str, OrderedDict[TrackedTask, float]] = defaultdict(OrderedDict)
        self.remembered: dict[str, TrackedTask] = {}  # of these by id: the newest attempt. To be read only
        self._kept_tasks = self._kept_bytes = 0
        self._shares = Shares()

    def serve(self, writer: Writer) -> None:
        """Wakes `writer` from now on, whenever something is to be written now."""
        self._writer = writer

    @property
    def unsaved(self) -> int:
        """How many tasks wait to be written whose present stage the store does not have."""
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

    def post(self, task: TrackedTask) -> None:
        """A task in flight has changed: it is written after the linger, unless a request waits for it before."""
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
        if task.finished_ms is not None:
            self._urgent.pop(task, None)
            self._keep(task)
            if task.is_end_held:
                return
            self._ended[task] = None
        else:
            self._urgent[task] = None
        self._writer.wake()

    def post_again(self, in_flight: Iterable[TrackedTask], since: float) -> None:
        """Writes all tasks in flight again, and those that ended after `since` (monotonic): the store may lack them."""
        for task in in_flight:
            # A refused claim is not the store's to have: written later, it would begin a task that no request runs.
            if not (task.is_superseded or task.is_refused):
                task.forgotten()
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
            self._writer.wake()

    def discard(self, task: TrackedTask) -> None:
        """A task is not to be written any more."""
        for waiting in (self._lingering, self._lingered, self._urgent):
            waiting.pop(task, None)

    def end_linger(self) -> None:
        """Makes all tasks that linger due now."""
        self._turn()
        self._turn()

    def _turn(self) -> None:
        """A linger ends for all tasks that were there when it began. One timer serves all tasks."""
        if self._linger is not None:
            self._linger.cancel()
        over, self._lingered, self._lingering = self._lingered, self._lingering, {}
        self._linger = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._turn) if self._lingered else None
        if over:
            self._urgent |= over
            self._writer.wake()

    def next_batch(self) -> list[TrackedTask]:
        """The next tasks to write, empty if none are due. The call says that the batch before is written."""
        batch: list[TrackedTask] = []
        for waiting in (self._ended, self._urgent):
            batch += (taken := list(islice(waiting, BATCH_TASKS - len(batch))))
            for task in taken:
                del waiting[task]
                task.sent()
        self._batch = batch
        return batch

    def finish_batch(self) -> bool:
        """The batch is written. Returns whether more is to be written now."""
        self._batch = []
        return bool(self._ended or self._urgent)

    def give_back(self) -> None:
        """The batch was not written. Its tasks wait again, ahead of the others."""
        batch, self._batch = self._batch, []
        ended = dict.fromkeys(task for task in batch if task.is_final and not task.is_held)
        self.dropped += sum(task.is_end_sent and not self._is_kept(task) and not task.is_saved for task in ended)
        self._ended = {task: None for task in ended if self._is_kept(task)} | self._ended
        self._urgent = dict.fromkeys(task for task in batch if not task.is_final) | self._urgent

    def _is_kept(self, task: TrackedTask) -> bool:
        return task in self._kept.get(task.owner, ())

    def _keep(self, task: TrackedTask) -> None:
        kept = self._kept[task.owner]
        if task in kept:
            return
        kept[task] = time.monotonic()
        self.remembered[task.task_id] = task
        self._kept_tasks += 1
        self._kept_bytes += task.size_bytes
        self._shares.add(task.owner)
        while self._kept_tasks > KEPT_TASKS or self._kept_bytes > KEPT_BYTES:
            self._forget(next(iter(self._kept[self._shares.largest])))

    def _forget(self, task: TrackedTask) -> None:
        """Forgets an ended task. Counts it as dropped if the store does not have its end."""
        kept = self._kept[task.owner]
        del kept[task]
        if not kept:
            del self._kept[task.owner]
        self._kept_tasks -= 1
        self._kept_bytes -= task.size_bytes
        self._shares.remove(task.owner)
        if self.remembered.get(task.task_id) is task:
            del self.remembered[task.task_id]
        if task in self._ended:
            del self._ended[task]
            self.dropped += not task.is_saved
