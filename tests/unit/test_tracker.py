"""What the tracker promises a request: plain calls, bounded waits, and every status in the store in the end.

Beside the in-process table it talks to a store that a test can hold, refuse or lose (contract 4.5 to 4.8 and 5).
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import pytest

from gateway import outbox as outbox_module
from gateway.errors import TaskIdInUse
from gateway.memory import MemoryStore
from gateway.records import InvalidCursor, StoreError
from gateway.task import Reason, Stage, State
from gateway.tracker import StoreUnavailable, new_boot
from tests.support.records import ids, record, stage_and_attempt, stored, text_of, walk
from tests.support.tracking import Subject, seconds_of, tracking
from tests.support.waiting import next_millisecond, until, within

if TYPE_CHECKING:
    from collections.abc import Callable


WAIT_SECONDS = 0.25  # the contract's limits
WAITS_SECONDS = 0.3
AT_ONCE_SECONDS = 0.2  # as near to nothing as a busy machine can tell


# -- a life --


async def test_each_step_reaches_the_store() -> None:
    """After settle the store has the task's present stage, from hand-over to end."""
    async with tracking() as subject:
        task = await subject.begin("t")
        assert await subject.stage("t") == "queued"
        steps: dict[str, Callable[[], None]] = {
            "forwarding": lambda: subject.tracker.forward(task),
            "streaming": lambda: subject.tracker.answer(task, 200, is_stream=True),
            "done": lambda: subject.tracker.finish(task, None, "complete"),
        }
        for stage, step in steps.items():
            step()
            await subject.tracker.settle(task)
            assert await subject.stage("t") == stage
    assert [one.ttl_seconds for one in subject.store.records] == [3600, 3600, 3600, 86400]


@pytest.mark.parametrize("reason", Reason)
async def test_a_failure_is_stored_with_its_reason(reason: Reason) -> None:
    """A task that ends with a reason is FAILED for it, with its message."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.run_through(task, reason)
        await subject.tracker.settle(task)
        document = await stored(subject.store.table, task.task_id)
        assert (document["state"], document["extensions"]["reason"]) == ("FAILED", reason)
        assert document["message"] == "the end"


async def test_without_anybody_waiting_it_is_written_all_the_same() -> None:
    """A status that nobody settles is in the store soon."""
    async with tracking() as subject:
        task = await subject.begin()
        await subject.until_stage(task.task_id, Stage.QUEUED)
        subject.run_through(task)
        await subject.until_stage(task.task_id, Stage.DONE)


async def test_the_first_end_counts() -> None:
    """Later ends and steps of an ended task are ignored and cost no write."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.run_through(task, Reason.CLIENT_DISCONNECT)
        await subject.tracker.settle(task)
        text = await text_of(subject.store.table, task.task_id)
        subject.run_through(task)
        await subject.tracker.settle(task)
        other = await subject.begin()
        await subject.until_stage(other.task_id, Stage.QUEUED)
        assert await text_of(subject.store.table, task.task_id) == text
        assert subject.store.stages(task.task_id) == ["cancelled"]


async def test_a_fast_task_costs_one_write() -> None:
    """A task with an id of ours that ends before anybody waited for it is exactly one record."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.run_through(task)
        await subject.tracker.settle(task)
        last = await subject.begin()
        await subject.until_stage(last.task_id, Stage.QUEUED)
    assert subject.store.stages(task.task_id) == ["done"]


async def test_a_fast_task_with_a_clients_id_costs_two_writes() -> None:
    """The claim, and the end."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await subject.tracker.settle(task)
    assert subject.store.stages("t") == ["queued", "done"]


async def test_statuses_that_wait_go_together() -> None:
    """While a batch is under way the next one gathers, each task once and with its newest status."""
    async with tracking() as subject:
        subject.store.door.clear()
        first = await subject.begin()
        settling = asyncio.create_task(subject.tracker.settle(first))
        await until(lambda: subject.store.calls["put"], what="a batch is under way")
        tasks = [await subject.begin() for _ in range(100)]
        for task in tasks:
            subject.run_through(task)
        subject.store.door.set()
        await settling
        await asyncio.gather(*(subject.tracker.settle(task) for task in tasks))
    assert [len(batch) for batch in subject.store.batches] == [1, 100]
    assert {one.state for one in subject.store.batches[1]} == {State.SUCCESS}


async def test_more_than_a_batch_is_written_in_several() -> None:
    """A thousand waiting statuses come in batches of a bounded size, each task once."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(1000)]
        await asyncio.gather(*(subject.tracker.settle(task) for task in tasks))
    assert max(len(batch) for batch in subject.store.batches) <= 256
    assert len({one.task_id for one in subject.store.records}) == len(subject.store.records) == 1000


async def test_settling_what_is_stored_costs_nothing() -> None:
    """When the store has the stage already, settle neither waits nor writes."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.store.door.clear()
        assert await seconds_of(subject.tracker.settle(task)) < AT_ONCE_SECONDS
        assert len(subject.store.records) == 1


# -- claims --


async def test_an_id_in_flight_here_is_refused_without_the_store() -> None:
    """The same id again while its request runs is TaskIdInUse, also while the store is away."""
    async with tracking() as subject:
        await subject.begin("t")
        await subject.lose_store()
        with pytest.raises(TaskIdInUse):
            await subject.begin("t")
        assert len(subject.store.records) == 1


async def test_an_id_in_flight_elsewhere_is_refused() -> None:
    """An id that another gateway runs is TaskIdInUse, leaves that task alone, and is free again after its end."""
    async with tracking() as subject:
        await subject.store.table.put([record("t", Stage.STREAMING, created_ms=1, boot="other")])
        before = await text_of(subject.store.table, "t")
        for _ in range(2):
            with pytest.raises(TaskIdInUse):
                await subject.begin("t")
        assert await text_of(subject.store.table, "t") == before
        await subject.store.table.put([record("t", Stage.DONE, created_ms=1, boot="other")])
        task = await subject.begin("t")
        assert task.attempt == 2


async def test_an_ended_id_begins_the_next_attempt() -> None:
    """Attempts count up, and each writes under its own number."""
    async with tracking() as subject:
        for attempt in (1, 2, 3):
            task = await subject.begin("t")
            assert task.attempt == attempt
            subject.run_through(task)
            await subject.tracker.settle(task)
            assert await stage_and_attempt(subject.store.table, "t") == ("done", attempt)
            await next_millisecond()


async def test_an_id_is_free_as_soon_as_its_request_has_ended() -> None:
    """A client that left and comes back at once with the same id gets its next attempt."""
    async with tracking() as subject:
        first = await subject.begin("t")
        subject.tracker.forward(first)
        await subject.tracker.settle(first)
        subject.tracker.finish(first, Reason.CLIENT_DISCONNECT, "the client left")
        await next_millisecond()
        second = await subject.begin("t")
        assert second.attempt == 2
        assert await stage_and_attempt(subject.store.table, "t") == ("queued", 2)


async def test_a_claim_waits_a_bounded_time() -> None:
    """With a store that answers nothing a request with its own id goes on after 250 ms; the claim comes later."""
    async with tracking() as subject:
        subject.store.door.clear()
        started = time.monotonic()
        task = await subject.begin("t")
        assert WAIT_SECONDS * 0.9 <= time.monotonic() - started < WAIT_SECONDS + AT_ONCE_SECONDS
        subject.run_through(task)
        subject.store.door.set()
        await subject.until_stage("t", Stage.DONE)
        assert await stage_and_attempt(subject.store.table, "t") == ("done", 1)


async def test_a_cancelled_claim_ends_its_task() -> None:
    """A request that is cancelled while it claims leaves no task in flight behind."""
    async with tracking() as subject:
        subject.store.door.clear()
        claim = asyncio.create_task(subject.begin("t"))
        await until(lambda: subject.tracker.unsaved == 1, what="the claim is under way")
        claim.cancel()
        await asyncio.gather(claim, return_exceptions=True)
        subject.store.door.set()
        await subject.until_stage("t", Stage.SHUTDOWN)
        await next_millisecond()
        assert (await subject.begin("t")).attempt == 2


# -- waits --


async def test_a_hanging_store_costs_each_request_a_bounded_time_once() -> None:
    """The first settle ends after 250 ms, and from then on nobody waits: the store is known to be away."""
    async with tracking() as subject:
        task, other = await subject.begin(), await subject.begin()
        subject.store.door.clear()
        subject.tracker.forward(task)
        seconds = await seconds_of(subject.tracker.settle(task))
        assert WAIT_SECONDS * 0.9 <= seconds < WAIT_SECONDS + AT_ONCE_SECONDS
        assert not subject.tracker.is_store_up
        subject.tracker.finish(task, None, "complete")
        assert await seconds_of(subject.tracker.settle(task)) < AT_ONCE_SECONDS
        assert await seconds_of(subject.tracker.settle(other)) < AT_ONCE_SECONDS
        assert await seconds_of(subject.begin("own-id")) < AT_ONCE_SECONDS


async def test_one_requests_waits_together_are_bounded() -> None:
    """A store that is slow without ever being late costs one request 300 ms in all."""
    async with tracking() as subject:
        task = await subject.begin()
        waited = 0.0
        steps: list[Callable[[], None]] = [
            lambda: subject.tracker.forward(task),
            lambda: subject.tracker.answer(task, 200, is_stream=True),
            lambda: subject.tracker.finish(task, None, "complete"),
        ]
        for step in steps:
            subject.store.door.clear()
            step()
            asyncio.get_running_loop().call_later(0.23, subject.store.door.set)
            waited += await seconds_of(subject.tracker.settle(task))
            await until(lambda: subject.tracker.unsaved == 0, what="everything is written")
        assert waited < WAITS_SECONDS + 0.1  # two whole waits would be 0.46


async def test_whoever_waits_is_let_go_when_the_store_fails() -> None:
    """A store that fails while requests wait for it releases them all at once."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(5)]
        subject.store.failure = StoreError("gone")
        started = time.monotonic()
        await asyncio.gather(*(subject.tracker.settle(task) for task in tasks))
        assert time.monotonic() - started < AT_ONCE_SECONDS


async def test_a_cancelled_wait_harms_nobody() -> None:
    """A request that is cancelled while it waits still has its status written."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.store.door.clear()
        settling = asyncio.create_task(subject.tracker.settle(task))
        await until(lambda: subject.tracker.unsaved, what="it waits")
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        subject.store.door.set()
        await subject.until_stage(task.task_id, Stage.QUEUED)


# -- the store goes and comes back --


async def test_statuses_are_kept_while_the_store_is_away() -> None:
    """All that happened meanwhile is written when it is back, each task once, with its newest status."""
    async with tracking() as subject:
        running = await subject.begin("running")
        await subject.lose_store()
        ended = await subject.begin("ended")
        subject.run_through(ended)
        subject.tracker.forward(running)
        subject.tracker.answer(running, 200, is_stream=True)
        before = len(subject.store.records)
        subject.store.failure = None
        await subject.until_stage("ended", Stage.DONE, 5)
        await subject.until_stage("running", Stage.STREAMING)
        assert subject.tracker.is_store_up
        assert len(subject.store.records) - before == 2
        assert subject.tracker.dropped == 0


async def test_one_log_line_per_change(caplog: pytest.LogCaptureFixture) -> None:
    """Going away and coming back are one line each, however many requests notice."""
    with caplog.at_level("INFO", logger="gateway.tracker"):
        async with tracking() as subject:
            await subject.lose_store()
            for _ in range(20):
                subject.run_through(task := await subject.begin())
                await subject.tracker.settle(task)
            subject.store.failure = None
            await until(lambda: subject.tracker.is_store_up, 5, "the store is back")
    assert [line.levelname for line in caplog.records] == ["WARNING", "INFO"]


async def test_a_store_that_is_away_at_start_is_found_later() -> None:
    """The writer begins with a store that refuses, and writes once it does not."""
    subject = Subject(3600)
    subject.store.failure = StoreError("not yet")
    await subject.start()
    try:
        await until(lambda: not subject.tracker.is_store_up, what="the first probe fails")
        task = await subject.begin("t")
        subject.run_through(task)
        subject.store.failure = None
        await subject.until_stage("t", Stage.DONE, 5)
    finally:
        await subject.stop()


async def test_the_outbox_is_bounded_and_what_is_dropped_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the oldest statuses go, and the count tells how many."""
    monkeypatch.setattr(outbox_module, "KEPT_TASKS", 10)
    async with tracking() as subject:
        await subject.lose_store()
        tasks = [await subject.begin() for _ in range(25)]
        for task in tasks:
            subject.run_through(task)
        await until(lambda: subject.tracker.dropped == 15, 5, "the bound is kept")
        assert subject.tracker.unsaved == 10
        subject.store.failure = None
        await subject.until_stage(tasks[-1].task_id, Stage.DONE, 5)
        found = [await subject.stage(task.task_id) for task in tasks]
        assert found == [None] * 15 + ["done"] * 10


async def test_an_unforeseen_error_does_not_end_the_writer() -> None:
    """A failure nobody thought of costs a batch some time, not all later statuses."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.store.failure = ValueError("unforeseen")
        await subject.tracker.settle(task)
        subject.store.failure = None
        await subject.until_stage(task.task_id, Stage.QUEUED, 3)


# -- the heartbeat --


async def test_a_heartbeat_moves_the_timestamp_alone() -> None:
    """While nothing happens a task in flight is written again and again: same event, younger timestamp."""
    async with tracking(heartbeat_seconds=0.1) as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        await subject.tracker.settle(task)
        first = await stored(subject.store.table, "t")

        async def is_younger() -> bool:
            return bool((await stored(subject.store.table, "t"))["timestamp"] >= first["timestamp"] + 0.3)

        await until(is_younger, 3, "several heartbeats")
        later = await stored(subject.store.table, "t")
        assert {**later, "timestamp": 0} == {**first, "timestamp": 0}
        assert {one.ttl_seconds for one in subject.store.records} == {3600}


async def test_a_heartbeat_puts_back_what_was_lost() -> None:
    """A status that the store lost is there again after a heartbeat, with its attempt."""
    async with tracking(heartbeat_seconds=0.1) as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await subject.tracker.settle(task)
        await next_millisecond()
        await subject.begin("t")
        subject.store.table = MemoryStore()
        await subject.until_stage("t", Stage.QUEUED)
        assert await stage_and_attempt(subject.store.table, "t") == ("queued", 2)


async def test_an_ended_task_beats_no_more() -> None:
    """After its end a task is written no more, while others go on."""
    async with tracking(heartbeat_seconds=0.05) as subject:
        ended, running = await subject.begin("ended"), await subject.begin("running")
        subject.run_through(ended)
        await subject.tracker.settle(ended)
        count, beats = len(subject.store.stages("ended")), len(subject.store.stages("running"))
        await until(lambda: len(subject.store.stages("running")) >= beats + 4, 3, "four heartbeats")
        assert len(subject.store.stages("ended")) == count
        assert not running.is_final


async def test_a_heartbeat_comes_once_per_interval() -> None:
    """A task costs one write per interval, not one per look of the timer."""
    async with tracking(heartbeat_seconds=0.2) as subject:
        started = time.monotonic()
        await subject.begin("t")
        await until(lambda: len(subject.store.records) >= 4, 3, "three heartbeats")
        assert time.monotonic() - started >= 3 * 0.2 * 0.9


# -- the end of the gateway --


async def test_closing_writes_what_is_left() -> None:
    """Tasks still in flight become FAILED shutdown, all that waits is written, and the store is closed."""
    async with tracking() as subject:
        running, ended = await subject.begin("running"), await subject.begin("ended")
        subject.tracker.forward(running)
        subject.run_through(ended)
        await subject.stop()
        await subject.tracker.close()
        document = await stored(subject.store.table, "running")
        assert (document["state"], document["stage"], document["extensions"]["reason"]) == (
            "FAILED",
            "shutdown",
            "shutdown",
        )
        assert await subject.stage("ended") == "done"
        assert subject.store.closed
        assert subject.tracker.unsaved == 0


async def test_closing_saves_a_batch_that_was_under_way() -> None:
    """What the writer was about to write when it was ended is written by close."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.store.door.clear()
        subject.tracker.forward(task)
        await subject.tracker.settle(task)
        await subject.stop()
        subject.store.door.set()
        await subject.tracker.close()
        assert await subject.stage(task.task_id) == "shutdown"


async def test_closing_takes_a_bounded_time(caplog: pytest.LogCaptureFixture) -> None:
    """With a store that hangs, closing ends after some seconds and says what was lost."""
    async with tracking() as subject:
        await subject.begin()
        subject.store.door.clear()
        await subject.stop()
        await within(5, subject.tracker.close())
        assert subject.store.closed
    assert "1 statuses were lost" in caplog.text


# -- what pollers ask --


async def test_reading_goes_to_the_store_first() -> None:
    """What the store has is what a poller reads; what nobody has is None."""
    async with tracking() as subject:
        await subject.store.table.put([record("other", Stage.DONE)])
        assert json.loads(await subject.tracker.read("other") or "")["stage"] == "done"
        assert await subject.tracker.read("nobody") is None


async def test_an_own_task_is_known_before_the_store_has_it() -> None:
    """A task that waits to be written is no unknown one."""
    async with tracking() as subject:
        task = await subject.begin()
        document = json.loads(await subject.tracker.read(task.task_id) or "")
        assert (document["stage"], document["extensions"]["attempt"]) == ("queued", 1)


async def test_own_tasks_are_known_while_the_store_is_away() -> None:
    """In flight, ended and unwritten: this instance answers for its own; for others it says that it cannot know."""
    async with tracking() as subject:
        running = await subject.begin("running")
        await subject.lose_store()
        ended = await subject.begin("ended")
        subject.run_through(ended)
        subject.tracker.forward(running)
        for task_id, stage in (("running", "forwarding"), ("ended", "done")):
            document = json.loads(await subject.tracker.read(task_id) or "")
            assert (document["stage"], document["extensions"]["attempt"]) == (stage, 1)
        with pytest.raises(StoreUnavailable):
            await subject.tracker.read("nobody")
        with pytest.raises(StoreUnavailable):
            await subject.tracker.page(10, None, None)


async def test_an_event_is_the_same_wherever_it_is_read() -> None:
    """The document read from this instance names the event that the store gets later."""
    async with tracking() as subject:
        task = await subject.begin()
        event = json.loads(await subject.tracker.read(task.task_id) or "")["event_id"]
        await subject.tracker.settle(task)
        assert (await stored(subject.store.table, task.task_id))["event_id"] == event


async def test_pages_come_from_the_store() -> None:
    """Lists are the store's, with its cursors; a bad cursor is the caller's fault."""
    async with tracking() as subject:
        tasks = []
        for n in range(3):
            tasks.append(await subject.begin(f"t{n}"))
            await next_millisecond()
        page = await subject.tracker.page(2, None, None)
        assert ids(page) == ["t2", "t1"]
        assert ids(await subject.tracker.page(2, None, page.next_cursor)) == ["t0"]
        subject.run_through(tasks[1])
        await subject.tracker.settle(tasks[1])
        assert await walk(subject.store.table, state=State.SUCCESS) == ["t1"]
        with pytest.raises(InvalidCursor):
            await subject.tracker.page(2, None, "x")


def test_a_boot_is_a_name_of_its_own() -> None:
    """Two processes never share the name by which the store tells their claims apart."""
    assert len({new_boot("m-r") for _ in range(1000)}) == 1000
