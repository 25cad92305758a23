"""The one writer: takes tasks from the outbox and writes them to the store, batch after batch.

No request ever talks to the store itself. A request may wait a bounded time until the store has its status (`Waits`),
and does not wait while the store is known to be away (`Condition`). The writer tells both what the store has answered.
After a failure it has everything written again that the store may have lost. It also runs the lookout.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Container, Sized
from enum import Enum, auto
from functools import partial
from typing import Protocol, TypeAlias

from gateway.metrics.counts import STORE_FAILED, STORE_WRITE, Counts
from gateway.store.interface import Record, Store, StoreError, Written
from gateway.tasks.stages import Stage
from gateway.tracking.condition import Condition
from gateway.tracking.lookout import RETRY_SECONDS, Lookout
from gateway.tracking.outbox import Outbox
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.waits import Waits

log = logging.getLogger("gateway.tracker")

# A replica that becomes the primary has not heard of what was written last (docs/behaviour.md, "When the store fails").
_UNHEARD_SECONDS = 10.0


class Own(Protocol):
    """The tasks of this process; as a container it has the names of their requests."""

    @property
    def in_flight(self) -> Sized:
        """Those that have not ended."""

    def __contains__(self, name: object) -> bool: ...


OnWritten: TypeAlias = Callable[[list[TrackedTask], list[TrackedTask]], object]


class _Phase(Enum):
    """Moves: STOPPED to IDLE when `run` begins; IDLE to BUSY and back with the batches; any to STOPPED with its end."""

    STOPPED = auto()  # batches are written by `write_batch` alone
    IDLE = auto()  # nothing is to be written
    BUSY = auto()  # a batch is under way, about to be sent, or to be tried again


# As in gateway/relay/base.py: found faster than `_Phase.IDLE`.
_STOPPED, _IDLE, _BUSY = _Phase


class _Everything:
    """A container in which every name is."""

    def __contains__(self, item: object) -> bool:
        return True


class StoreWriter:
    """Writes what is in `outbox`; `render` makes the record of a task as it is now.

    The tasks of `own` are never called lost. While none of them is in flight, no request can post more, so a batch need
    not gather.

    `on_message` is called with the name of each request to cancel, and with what gateways tell each other. `on_silent`
    is called with each name in `own` for which the store lacks heartbeats. `on_possible_loss` is called when the store
    may have lost the tasks in flight, and the ends since a monotonic time; it gets that time. `on_written` is called
    with each batch that the store has answered, and with those of its tasks that were presumed lost and run: that is a
    new event, which is not written yet. Without such tasks it need not be called while `asked` is empty.
    """

    def __init__(
        self,
        store: Store,
        outbox: Outbox,
        *,
        render: Callable[[TrackedTask], Record],
        own: Own,
        on_message: Callable[[str], object],
        on_silent: Callable[[str], object],
        on_possible_loss: Callable[[float], object],
        on_written: OnWritten,
        asked: Sized = (),
        grace_seconds: float,
        counts: Counts | None = None,
    ) -> None:
        self.condition = Condition(outbox, grace_seconds)
        self._store = store
        self._outbox = outbox
        self._render = render
        self._own = own
        self._on_written = on_written
        self._asked = asked
        self._possible_loss = _PossibleLoss(store, on_possible_loss)
        self._lookout = Lookout(
            store,
            self.condition,
            exempt=lambda: self.exempt,
            on_cancel=on_message,
            on_silent=on_silent,
            on_failure=self._fail,
        )
        self._counts = counts or Counts()
        self.waits = Waits(outbox, self.condition, self._counts, lambda: self._fail(StoreError("no answer in time")))
        self._phase = _STOPPED
        self._batch_number = 0
        self._next: asyncio.Handle | None = None  # the batch that is about to be sent, or to be tried again
        outbox.serve(self)

    @property
    def exempt(self) -> Container[str]:
        """The names of requests that must not be called lost, although they are silent.

        Those of this process. For a while after the store was away: all, because no gateway could write.
        """
        return self._own if self.condition.is_grace_over else _Everything()

    @property
    def is_up(self) -> bool:
        """Whether requests wait for the store."""
        return self.condition.is_up

    async def until_looked(self) -> None:
        """Waits until the store has answered or failed once since `run` began."""
        await self._lookout.has_looked.wait()

    # -- writing --

    async def run(self) -> None:
        """Writes, and runs the lookout, as long as the gateway runs."""
        self._phase = _IDLE
        if self._outbox.is_due:
            self.wake()
        loops = [asyncio.create_task(loop()) for loop in (self._lookout.watch, self._lookout.listen)]
        try:
            await asyncio.gather(*loops)
        finally:
            self._stop()
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    def _stop(self) -> None:
        """Stops writing. The batch that is under way goes back to the outbox."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._batch_number += 1
        self._phase = _STOPPED
        self._outbox.give_back()

    def wake(self) -> None:
        """Something is due. It is sent at the end of this turn of the loop, with all else that this turn posts.

        At once if no other request could post anything. If a batch is under way, after that batch.
        """
        if self._phase is not _IDLE:
            return
        self._phase = _BUSY
        if self._store.answers_at_once or not self._own.in_flight:
            self._write()
        else:
            self._next = asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._next = None
        if not self._send(self._go_on):
            self._phase = _IDLE

    def _go_on(self, is_written: bool) -> None:
        """A batch is answered: sends what has gathered meanwhile, after a failure only later."""
        if not is_written:
            self._next = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._write)
        elif self._outbox.finish_batch():
            self._write()
        else:
            self._phase = _IDLE

    async def write_all(self) -> None:
        """Writes what is left after `run` has ended. Stops at the first failure."""
        self._outbox.end_linger()
        while self._outbox.is_due and await self.write_batch():
            self._outbox.end_linger()

    async def write_batch(self) -> bool:
        """Writes one batch, while `run` does not. False if that failed: then the batch is in the outbox again."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if not self._send(lambda is_written: None if done.done() else done.set_result(is_written)):
            return True
        is_written = await done
        if is_written:
            self._outbox.finish_batch()
        return is_written

    def _send(self, then: Callable[[bool], None]) -> bool:
        """Sends the next batch. False if nothing is to be written.

        `then` is called with whether the batch was written, before the requests that wait for it go on.
        """
        batch = self._outbox.next_batch()
        if not batch:
            return False
        self._batch_number += 1
        take = partial(self._take, batch, self._batch_number, time.monotonic(), then)
        try:
            self._store.write(list(map(self._render, batch)), take)
        except Exception as error:
            log.exception("writing %d statuses failed inside the gateway; trying again", len(batch))
            take(StoreError(str(error)))
        return True

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
        seconds = time.monotonic() - started
        self._possible_loss.batch_written()
        put_right: list[TrackedTask] = []
        for task, result in zip(batch, written, strict=True):
            if result.is_written:
                task.saved(result.attempt)
                if result.was_presumed and task.put_right():
                    put_right.append(task)
            elif task in self.waits and task.stage is Stage.QUEUED and not task.is_claimed:
                task.refused()
                self._outbox.discard(task)
            elif not task.rejected():
                self._outbox.post_urgently(task)
        if put_right or self._asked:
            self._on_written(batch, put_right)
        if not self.condition.is_up:
            self.condition.batch_written(seconds)
        then(True)
        self.waits.answered(batch, written)
        self._counts.observe(STORE_WRITE, seconds)

    def _fail(self, error: StoreError) -> None:
        if self.condition.fail(error):
            self._possible_loss.fail()
        self.waits.release_all()


class _PossibleLoss:
    """Notices when the store may have lost statuses: it has failed, or the connection may lead to another server."""

    def __init__(self, store: Store, on_possible_loss: Callable[[float], object]) -> None:
        self._store = store
        self._on_possible_loss = on_possible_loss
        self._connections: int | None = None  # of the store at the last batch; None since a failure
        self._written_at = time.monotonic()

    def fail(self) -> None:
        """The store has failed."""
        self._connections = None
        self._tell()

    def batch_written(self) -> None:
        """A batch was written. A new connection without a failure before may lead to another server."""
        connections = self._store.connections
        if self._connections not in (None, connections):
            self._tell()
        self._connections = connections
        self._written_at = time.monotonic()

    def _tell(self) -> None:
        self._on_possible_loss(self._written_at - _UNHEARD_SECONDS)
