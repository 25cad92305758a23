"""The one writer: brings the outbox to the store, batch after batch, and knows the store's condition.

No request ever talks to the store itself; it may wait here, a bounded time, until the store has its status, and not at
all while the store is known to be away. Owns the breaker: the condition, one log line per change, and the probe by
which a store that is away is found again. Also looks once a second for what other gateways left behind and for what
is to be cancelled. Called by tracker alone.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container

from gateway.counts import STORE_FAILED, STORE_WAIT, STORE_WRITE, Counts
from gateway.outbox import KEPT_TASKS, MAX_WAIT_SECONDS, Outbox, TrackedTask
from gateway.records import Record, Store, StoreError, Written
from gateway.task import Stage

log = logging.getLogger("gateway.tracker")

# A store that was away is back once it answers this fast: with a slower one requests would only wait again.
_QUICK_SECONDS = MAX_WAIT_SECONDS / 2
_WATCH_SECONDS = 1.0
_RETRY_SECONDS = 0.5  # how often a store that is away is asked again


class _Everything:
    """Contains all there is."""

    def __contains__(self, item: object) -> bool:
        return True


class StoreWriter:
    """Writes what is in `outbox`; `render` makes the record of a task as it is now.

    `own` are the names of requests that nobody may call lost; `on_cancel` is called with the names of tasks to cancel,
    `on_spared` with those of `own` that the store takes for silent.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        render: Callable[[TrackedTask], Record],
        own: Container[str],
        on_cancel: Callable[[str], object],
        on_spared: Callable[[str], object] = str,
        grace_seconds: float,
        counts: Counts | None = None,
    ) -> None:
        self.is_up = True
        self._store = store
        self._outbox = outbox
        self._render = render
        self._own = own
        self._on_cancel = on_cancel
        self._on_spared = on_spared
        self._grace_seconds = grace_seconds
        self._counts = counts or Counts()
        self._away_at = self._back_at = float("-inf")
        self._reported_dropped = 0
        self._waiting: dict[TrackedTask, None] = {}

    @property
    def spared(self) -> Container[str]:
        """Whose silence means nothing: our own tasks, and anybody's who could not write while the store was away."""
        is_grace_over = self.is_up and time.monotonic() - self._back_at >= self._grace_seconds
        return self._own if is_grace_over else _Everything()

    async def wait_for(self, task: TrackedTask, rank: int) -> None:
        """Waits until the store has `task` at `rank` or later: a bounded time, none while the store is away."""
        if not self.is_up or task.wait_left <= 0:
            return
        loop = asyncio.get_running_loop()
        task.waiter, task.waiter_rank = loop.create_future(), rank
        self._waiting[task] = None
        started = time.monotonic()
        # What is left of a request's waits may be too short to say anything about the store.
        give_up = self._give_up if task.wait_left >= MAX_WAIT_SECONDS else TrackedTask.release
        timer = loop.call_later(min(MAX_WAIT_SECONDS, task.wait_left), give_up, task)
        try:
            await task.waiter
        finally:
            timer.cancel()
            del self._waiting[task]
            task.waiter = None
            waited = time.monotonic() - started
            task.wait_left -= waited
            self._counts.observe(STORE_WAIT, waited)

    def _give_up(self, task: TrackedTask) -> None:
        self._set_condition(is_up=False, why="no answer in time")
        task.release()

    async def run(self) -> None:
        """Writes, looks and listens for as long as the gateway runs."""
        loops = [
            asyncio.create_task(loop()) for loop in (self._write_forever, self._watch_forever, self._listen_forever)
        ]
        try:
            await asyncio.gather(*loops)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _write_forever(self) -> None:
        while True:
            await self._outbox.due.wait()
            if not await self.write_batch():
                await asyncio.sleep(_RETRY_SECONDS)

    async def write_batch(self) -> bool:
        """Writes some of what is to be written now, as it is now. False where that failed; nothing is lost then."""
        batch = self._outbox.take_batch()
        if not batch:
            return True
        started = time.monotonic()
        try:
            written = await self._store.put([self._render(task) for task in batch])
        except BaseException as error:
            self._outbox.give_back()
            self._counts.add(STORE_FAILED)
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, StoreError):
                log.exception("writing %d statuses failed inside the gateway; trying again", len(batch))
            self._set_condition(is_up=False, why=str(error))
            return False
        self._outbox.finish_batch()
        seconds = time.monotonic() - started
        self._counts.observe(STORE_WRITE, seconds)
        self._has_answered_in(seconds)
        for task, result in zip(batch, written, strict=True):
            self._take_result(task, result)
        return True

    def _take_result(self, task: TrackedTask, result: Written) -> None:
        if result.is_written:
            task.attempt = task.likely_attempt = result.attempt
            task.is_superseded = False
            task.saved_rank = max(task.saved_rank, task.boxed_rank)
        elif task.attempt == 0 and task.waiter is not None and task.stage is Stage.QUEUED:
            task.is_refused = True  # in time: this request ends here
            self._outbox.discard(task)
        elif task.boxed_rank == task.stage.rank:
            task.saved_rank = task.boxed_rank  # something final stands there; nothing is left to be written
            task.is_superseded = True
        if not result.is_written or task.saved_rank >= task.waiter_rank:
            task.release()

    async def _watch_forever(self) -> None:
        """Once a second; twice, while the store is away."""
        has_buried = False
        await self._look(self._probe)
        while True:
            if not self.is_up:
                await self._look(self._probe)
            else:
                has_buried = has_buried or await self._look(self._store.bury)
                await self._look(self._watch)
            await asyncio.sleep(_WATCH_SECONDS if self.is_up else _RETRY_SECONDS)

    async def _look(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except StoreError as error:
            self._set_condition(is_up=False, why=str(error))
        except Exception:
            log.exception("looking after the store failed inside the gateway; trying again")
        else:
            return True
        return False

    async def _watch(self) -> None:
        for name in await self._store.watch(self.spared, self._on_spared):
            self._on_cancel(name)

    async def _probe(self) -> None:
        """Finds out whether the store takes writes, where no write will tell."""
        if not self._outbox.is_empty:
            return
        started = time.monotonic()
        await self._store.ping()
        self._has_answered_in(time.monotonic() - started)

    async def _listen_forever(self) -> None:
        """Hears at once what is to be cancelled; while that fails, `_watch` finds it a little later."""
        while True:
            try:
                await self._store.listen(self._on_cancel)
            except StoreError as error:
                log.debug("not listening for cancels: %s", error)
            except Exception:
                log.exception("listening for cancels failed inside the gateway; trying again")
            await asyncio.sleep(_WATCH_SECONDS)

    def _has_answered_in(self, seconds: float) -> None:
        if seconds <= _QUICK_SECONDS:
            self._set_condition(is_up=True)

    def _set_condition(self, *, is_up: bool, why: str = "") -> None:
        if is_up == self.is_up:
            return
        self.is_up = is_up
        now = time.monotonic()
        if is_up:
            if now - self._away_at >= self._grace_seconds / 3:  # else nobody has missed a heartbeat for that
                self._back_at = now
            dropped = self._outbox.dropped - self._reported_dropped
            self._reported_dropped = self._outbox.dropped
            log.info(
                "the store is back; %d statuses are still to be written, %d were dropped", self._outbox.unsaved, dropped
            )
            return
        self._away_at = now
        log.warning("the store is away (%s); requests go on, up to %d statuses are kept", why, KEPT_TASKS)
        for task in self._waiting:
            task.release()
