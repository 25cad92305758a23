"""Owns the tracker under test and its store: an in-process table that a test can hold, slow, refuse or lose.

The unit tests of the tracker, the writer and the drain call it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from gateway.errors import TaskIdInUse
from gateway.store.clock import MachineClock
from gateway.store.interface import StoreError, Unclear, new_boot
from gateway.store.memory import MemoryStore
from gateway.tasks.document import complete_document
from gateway.tasks.task import Reason
from gateway.tracking.tracker import Tracker
from tests.support.records import text_of
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Container, Sequence

    from gateway.errors import GatewayError
    from gateway.store.interface import Page, Peeked, PeekedPage, Record, Then
    from gateway.tasks.stages import Stage, State
    from gateway.tracking.tracked import TrackedTask


class Cut:
    """The request of a task; all that it does is call `then` when the task is cut."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.then = then

    def on_cut(self, error: GatewayError) -> None:
        """The task is cut."""
        self.then()

    def look_for_client(self) -> None:
        """Its client stays."""

    def drop_answer(self) -> None:
        """Its answer is not kept."""


class ScriptedStore:
    """The in-process table behind a door: open, held shut, or broken. Remembers what was written."""

    def __init__(self) -> None:
        self.table = MemoryStore()
        self.clock = self.table.clock
        self.door = asyncio.Event()
        self.door.set()
        self.failure: Exception | None = None
        self.write_failure: Exception | None = None  # of what writes alone
        self.listen_failure: Exception | None = None
        self.delay_seconds = 0.0
        self.batches: list[list[Record]] = []
        self.closed = False
        self.calls: Counter[str] = Counter()
        self.lost = 0
        self.connections = 1
        self.answers_at_once = False  # as the in-process table does
        self.answers_in_a_turn = False  # of the loop, whatever the door
        self._writing: set[asyncio.Task[None]] = set()
        self.cancels: list[str] = []
        self.told: list[str] = []
        self.asked: list[str] = []
        self.exempt: Container[str] = ()

    def replace_end(self, record: Record) -> None:
        """An ended task has another document."""
        self.table.replace_end(record)

    @property
    def records(self) -> list[Record]:
        """All that was written, in order."""
        return [one for batch in self.batches for one in batch]

    def stages(self, task_id: str) -> list[str]:
        """The stages of one task as they were written."""
        documents = [json.loads(complete_document(one.head, 1)) for one in self.records if one.task_id == task_id]
        return [document["stage"] for document in documents]

    async def _enter(self, call: str, *, is_write: bool = False) -> None:
        self.calls[call] += 1
        failure = self.failure or (self.write_failure if is_write else None)
        if failure is not None:
            raise failure
        await self._pass()

    async def _pass(self) -> None:
        if self.delay_seconds:
            await asyncio.sleep(self.delay_seconds)
        await self.door.wait()

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes once the door is open. An unforeseen error is raised at once."""
        self.calls["put"] += 1
        failure = self.failure or self.write_failure
        if failure is not None:
            if not isinstance(failure, StoreError):
                raise failure
            asyncio.get_running_loop().call_soon(then, failure)
            return
        if self.answers_at_once:
            self.table.write(records, then)
            return
        if self.answers_in_a_turn:
            asyncio.get_running_loop().call_soon(self.table.write, records, then)
            return
        writing = asyncio.create_task(self._write(records, then))
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)

    async def _write(self, records: Sequence[Record], then: Then) -> None:
        await self._pass()
        self.batches.append(list(records))
        self.table.write(records, then)

    async def read(self, task_ids: Sequence[str], exempt: Container[str] | None = None) -> list[str | None]:
        """Reads once the door is open."""
        await self._enter("read")
        return await self.table.read(task_ids, exempt)

    async def page(self, limit: int, state: State | None, cursor: str | None, **more: Any) -> Page:
        """Lists once the door is open."""
        await self._enter("page")
        return await self.table.page(limit, state, cursor, **more)

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Reads at once while nothing is in the way; else it is unclear."""
        self.calls["peek"] += 1
        is_plain = self.failure is None and self.door.is_set() and not self.delay_seconds
        self.table.peek(task_id, then) if is_plain else then(Unclear("not plain"))

    def peek_page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        then: Callable[[PeekedPage], None],
        *,
        owner: str | None = None,
        label: str = "",
    ) -> None:
        """As `peek`."""
        self.table.peek_page(limit, state, cursor, then, owner=owner, label=label)

    def tell(self, message: str) -> None:
        """Remembers the message."""
        self.told.append(message)

    async def presumed(self) -> list[str]:
        """No loss is presumed."""
        await self._enter("presumed")
        return []

    async def end_earlier_run(self) -> None:
        """Nothing is left behind."""
        await self._enter("end_earlier_run")

    async def watch(self, exempt: Container[str], on_silent: Callable[[str], object] = str) -> list[str]:
        """What is to be cancelled, once the door is open; remembers who was exempt."""
        await self._enter("watch")
        self.exempt = exempt
        return self.cancels

    async def ask_cancel(self, name: str) -> None:
        """Remembers what was asked for."""
        await self._enter("ask_cancel")
        self.asked.append(name)

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Hears what a test says."""
        self.calls["listen"] += 1
        if self.listen_failure is not None:
            raise self.listen_failure
        self.on_cancel = on_cancel
        await asyncio.get_running_loop().create_future()

    async def probe(self) -> None:
        """Answers once the door is open."""
        await self._enter("probe", is_write=True)

    async def close(self) -> None:
        """Remembers that it was closed; what is still at the door is not written any more."""
        self.closed = True
        for writing in self._writing:
            writing.cancel()


class Subject:
    """A tracker, its store and its writer."""

    def __init__(self, heartbeat_seconds: float, clock: Callable[[], float] = time.time) -> None:
        self.store = ScriptedStore()
        self.boot = new_boot("m-r")
        self.tracker = Tracker(
            self.store,
            algorithm_id="a",
            instance="i",
            boot=self.boot,
            ttl_running_seconds=3600,
            ttl_done_seconds=86400,
            heartbeat_seconds=heartbeat_seconds,
            clock=MachineClock(clock),
        )
        self.writer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Lets the writer run; returns when it has asked the store for a sign of life."""
        self.writer = asyncio.create_task(self.tracker.run())
        await until(lambda: self.store.calls["probe"], what="the writer runs")

    async def stop(self) -> None:
        """Ends the writer, as the gateway does before it closes the tracker."""
        if self.writer is not None:
            self.writer.cancel()
            await asyncio.gather(self.writer, return_exceptions=True)
            self.writer = None

    async def begin(self, task_id: str | None = None) -> TrackedTask:
        """A new task."""
        return await begun(self.tracker, task_id, "POST", "/v1/x", "")

    def run_through(self, task: TrackedTask, reason: Reason | None = None) -> None:
        """Everything that happens to a task, at once."""
        self.tracker.forward(task)
        self.tracker.answer(task, 200, is_stream=False)
        self.tracker.finish(task, reason, "the end")

    async def stage(self, task_id: str) -> str | None:
        """The stage that the store has, None where it has nothing."""
        text = await text_of(self.store.table, task_id)
        return None if text is None else json.loads(text)["stage"]

    async def until_stage(self, task_id: str, stage: Stage, seconds: float = GUARD_SECONDS) -> None:
        """Waits until the store has this stage of a task."""

        async def is_there() -> bool:
            return await self.stage(task_id) == stage

        await until(is_there, seconds, f"{task_id} is {stage} in the store")

    async def lose_store(self) -> None:
        """The store refuses everything, and the tracker has noticed."""
        self.store.failure = StoreError("gone")
        await until(lambda: not self.tracker.is_store_up, 30, "the tracker notices")


async def begun(
    tracker: Tracker, task_id: str | None, method: str, path: str, query: str, owner: str = ""
) -> TrackedTask:
    """A new task, its id claimed where it is the client's. Raises TaskIdInUse, and what `Tracker.begin` does."""
    task = tracker.begin(task_id, method, path, query, owner)
    if task_id is None:
        return task
    granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    tracker.claim(task, lambda is_granted: None if granted.done() else granted.set_result(is_granted))
    try:
        is_granted = await granted
    except asyncio.CancelledError:
        tracker.finish(task, Reason.SHUTDOWN, "the gateway was stopped")
        raise
    if not is_granted:
        raise TaskIdInUse(task_id)
    return task


async def settled(tracker: Tracker, task: TrackedTask) -> None:
    """Waits as a request does, until the store has the task's stage."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    tracker.settle(task, lambda: None if done.done() else done.set_result(None))
    await done


@asynccontextmanager
async def tracking(heartbeat_seconds: float = 3600, clock: Callable[[], float] = time.time) -> AsyncIterator[Subject]:
    """A tracker whose writer runs; `clock` gives Unix seconds."""
    subject = Subject(heartbeat_seconds, clock)
    await subject.start()
    try:
        yield subject
    finally:
        await subject.stop()


async def seconds_of(awaitable: Any) -> float:
    """How long something took."""
    started = time.monotonic()
    await awaitable
    return time.monotonic() - started
