"""The answers that this process keeps: which it holds, how much of them, and when the store has them.

`Keeping` decides whether an answer can be kept, holds it until the store has all of it (without a store until its time
is over), and lets its task end in the store only when the answer is there.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass

from gateway.kept.answer import Answer, Source
from gateway.kept.saver import Saver
from gateway.metrics.counts import Counts
from gateway.store.answers import AnswerStore
from gateway.store.interface import StoreError
from gateway.tasks.task import Kept
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.tracker import Tracker

log = logging.getLogger("gateway.kept")

_LOOK_SECONDS = 1.0
# How long an answer that has ended may fail to reach a store that takes statuses. Its task's end waits for that.
_PATIENCE_SECONDS = 5.0
_CLOSE_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class KeptLimits:
    """Sizes in bytes, times in seconds. `response_bytes` 0: no answer is kept."""

    response_bytes: int
    held_bytes: int
    ttl_running_seconds: int
    ttl_response_seconds: int
    heartbeat_seconds: float


class Keeping:
    """`store` None: ended answers stay in this process until their time is over."""

    def __init__(
        self, tracker: Tracker, store: AnswerStore | None, limits: KeptLimits, counts: Counts | None = None
    ) -> None:
        self.limits = limits
        self.store = store
        self.tracker = tracker
        self.tasks = tracker.kept_tasks()
        self._counts = counts or Counts()
        self.held_bytes = 0
        self._held: dict[str, Answer] = {}  # by task id: the newest
        self._all: dict[Answer, float] = {}  # and when it ended, in monotonic seconds; 0 while it runs
        self._dropping: set[asyncio.Task[None]] = set()
        self._saver = (
            None
            if store is None
            else Saver(
                store,
                self._all,
                self._on_saved,
                ttl_running_seconds=limits.ttl_running_seconds,
                ttl_response_seconds=limits.ttl_response_seconds,
                heartbeat_seconds=limits.heartbeat_seconds,
            )
        )

    def __repr__(self) -> str:
        return f"<Keeping {len(self._all)} answers, {self.held_bytes} bytes>"

    @property
    def is_on(self) -> bool:
        """Whether answers can be kept at all."""
        return self.limits.response_bytes > 0

    @property
    def has_room(self) -> bool:
        """Whether one more answer can be kept."""
        return self.held_bytes + self.limits.response_bytes <= self.limits.held_bytes

    @property
    def answers(self) -> int:
        """How many are held."""
        return len(self._all)

    @property
    def detached(self) -> int:
        """How many tasks run here without their client. Looks at all that are held."""
        return sum(answer.task.is_detached and not answer.task.is_final for answer in self._all)

    def find(self, task_id: str) -> Answer | None:
        """The newest answer of a task that is held here."""
        return self._held.get(task_id)

    def begin(self, task: TrackedTask, source: Source) -> Answer:
        """Begins to keep the answer of `task`."""
        before = self._held.get(task.task_id)
        if before is not None and self._saver is None:  # else it is on its way to the store
            self._forget(before)
        answer = Answer(self, source, task, self.tasks.name(task))
        task.keep(Kept.KEPT)
        if self._saver is not None:
            task.hold_end()
        self._held[task.task_id] = answer
        self._all[answer] = 0.0
        return answer

    def discard(self, answer: Answer) -> None:
        """The task of `answer` has not got its id, so there is no such answer."""
        self._forget(answer)
        answer.task.response = None
        self.tasks.release_end(answer.task)

    # -- what an answer says (Holder) --

    def grown(self, count: int, held_bytes: int) -> Kept:
        """An answer takes `count` bytes more, and `held_bytes` in all. What becomes of it."""
        self.held_bytes += count
        if count > 0:
            if held_bytes > self.limits.response_bytes:
                return Kept.TOO_LARGE
            if self.held_bytes > self.limits.held_bytes:
                return Kept.NO_ROOM
        return Kept.KEPT

    def changed(self, answer: Answer) -> None:
        """Something of it is to be written."""
        if self._saver is not None:
            self._saver.changed(answer)
            return
        answer.gather()
        if answer.head.end is not None and not self._all.get(answer, 1.0):
            self._ended(answer)

    def dropped(self, answer: Answer) -> None:
        """It is kept no longer."""
        self._let_go(answer)
        self._count(answer)
        if self._saver is not None and answer.generation:
            self._drop_soon(answer)
        self.tasks.response_changed(answer.task)

    def _ended(self, answer: Answer) -> None:
        self._all[answer] = time.monotonic()
        self._count(answer)

    def _count(self, answer: Answer) -> None:
        if answer.task.response is not None:
            self._counts.kept(answer.task.response)

    def _on_saved(self, answer: Answer) -> None:
        """The store has more of it."""
        if answer.is_end_saved:
            self.tasks.release_end(answer.task)
        if answer.is_complete:
            self._ended(answer)
            self._forget(answer)

    def _forget(self, answer: Answer) -> None:
        """Frees its memory. From now on readers look for it in the store."""
        self._let_go(answer)
        answer.discard()

    def _let_go(self, answer: Answer) -> None:
        self._all.pop(answer, None)
        if self._saver is not None:
            self._saver.discard(answer)
        if self._held.get(answer.task.task_id) is answer:
            del self._held[answer.task.task_id]

    def _drop_soon(self, answer: Answer) -> None:
        task = asyncio.get_running_loop().create_task(self._drop(answer))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    async def _drop(self, answer: Answer) -> None:
        if self.store is not None:
            with suppress(StoreError):  # what is there expires, and the status says that it is not kept
                await self.store.drop(answer.task.task_id, answer.generation, answer.task.event())

    async def until_dropped(self) -> None:
        """Waits until the store has dropped what this process has dropped, if it can."""
        if self._dropping:
            await asyncio.wait(self._dropping)

    def note_deleted(self, task_id: str, name: str, event_id: str) -> None:
        """The store has deleted the answer of a request, which may be one that this process remembers."""
        task = self.tasks.find(task_id)
        if task is not None and task.is_final and self.tasks.name(task) == name:
            task.response, task.event_id = Kept.DELETED, event_id

    # -- the process's life --

    async def run(self) -> None:
        """Writes, renews, and forgets what is over, as long as the gateway runs."""
        if self.store is not None:
            with suppress(StoreError):  # its script and a connection are there when the first request comes
                await self.store.read("-", 0)
        saving = None if self._saver is None else asyncio.get_running_loop().create_task(self._saver.run())
        try:
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                self._look()
        finally:
            if saving is not None:
                saving.cancel()

    def _look(self) -> None:
        now = time.monotonic()
        for answer, ended_at in list(self._all.items()):
            if ended_at and ended_at + self.limits.ttl_response_seconds <= now:
                self._forget(answer)  # only without a store
            elif answer.is_foreign:
                answer.drop(Kept.NO_ROOM)  # the id is another request's: nothing of this one is told
            elif self._is_stuck(answer, now):
                if self._saver is not None and not self._saver.is_forbidden:  # else the saver has told it once
                    log.warning(
                        "task %s: the store does not take its answer, which is not kept therefore",
                        answer.task.task_id,
                        extra={"task_id": answer.task.task_id},
                    )
                answer.drop(Kept.NO_ROOM)

    def _is_stuck(self, answer: Answer, now: float) -> bool:
        """Whether the end of a task waits too long for a store that takes statuses, but no answers."""
        since = None if self._saver is None else self._saver.failing_since
        if since is None or not self.tracker.is_store_up or answer.task.finished_ms is None:
            return False
        waited = min(now - since, self.tracker.seconds() - answer.task.finished_ms / 1000)
        return waited > (0 if self._saver is not None and self._saver.is_forbidden else _PATIENCE_SECONDS)

    async def close(self) -> None:
        """Writes what is left, for a bounded time, and lets all tasks end."""
        if self._saver is not None:
            await self._saver.finish(_CLOSE_SECONDS)
        for answer in self._all:
            self.tasks.release_end(answer.task)
        if self.store is not None:
            await self.store.close()
