"""What the tracker promises a request: plain calls, bounded waits, and every status in the store in the end.

Beside the in-process table it talks to a store that a test can hold, refuse or lose.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import Cancelled, ShuttingDown, TaskIdInUse
from gateway.store.interface import InvalidCursor, StoreError, new_boot
from gateway.store.memory import MemoryStore
from gateway.tasks.stages import Stage, State
from gateway.tasks.task import Reason
from gateway.tracking import condition as condition_module
from gateway.tracking import outbox as outbox_module
from gateway.tracking import waits as waits_module
from gateway.tracking.answers import PartlyCancelled
from gateway.tracking.tracked import Claim
from gateway.tracking.tracker import StoreUnavailable
from tests.support.records import ids, put, record, stage_and_attempt, stored, text_of, walk
from tests.support.tracking import Cut, Subject, begun, seconds_of, settled, tracking
from tests.support.waiting import GUARD_SECONDS, next_millisecond, until, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gateway.tracking.tracked import TrackedTask

pytestmark = pytest.mark.alone

WAIT_SECONDS = 0.25  # the contract's limits
WAITS_SECONDS = 0.3
AT_ONCE_SECONDS = 0.2  # as near to nothing as a busy machine can tell


async def document_of(text: Awaitable[str | None]) -> Any:
    """The document that an answer holds; there has to be one."""
    return json.loads(await text or "")


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
            await settled(subject.tracker, task)
            assert await subject.stage("t") == stage
    assert [one.ttl_seconds for one in subject.store.records] == [3600, 3600, 3600, 86400]


@pytest.mark.parametrize("reason", Reason)
async def test_a_failure_is_stored_with_its_reason(reason: Reason) -> None:
    """A task that ends with a reason is FAILED for it, with its message."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.run_through(task, reason)
        await settled(subject.tracker, task)
        document = await stored(subject.store.table, task.task_id)
        assert (document["state"], document["extensions"]["reason"]) == ("FAILED", reason)
        assert document["message"] == "the end"


async def test_without_anybody_waiting_it_is_written_all_the_same() -> None:
    """A status that no one settles is in the store soon."""
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
        await settled(subject.tracker, task)
        text = await text_of(subject.store.table, task.task_id)
        subject.run_through(task)
        await settled(subject.tracker, task)
        other = await subject.begin()
        await subject.until_stage(other.task_id, Stage.QUEUED)
        assert await text_of(subject.store.table, task.task_id) == text
        assert subject.store.stages(task.task_id) == ["cancelled"]


async def test_a_fast_task_costs_one_write() -> None:
    """A task with an id of ours that ends before a request waited for it is exactly one record."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.run_through(task)
        await settled(subject.tracker, task)
        last = await subject.begin()
        await subject.until_stage(last.task_id, Stage.QUEUED)
    assert subject.store.stages(task.task_id) == ["done"]


async def test_no_two_generated_ids_are_the_same() -> None:
    """Whatever is told between their beginnings."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(2)]
        subject.tracker.forward(tasks[0])
        tasks += [await subject.begin() for _ in range(2)]
    assert len({task.task_id for task in tasks}) == len(tasks)


async def test_a_fast_task_with_a_clients_id_costs_two_writes() -> None:
    """The claim, and the end."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await settled(subject.tracker, task)
    assert subject.store.stages("t") == ["queued", "done"]


async def test_statuses_that_wait_go_together() -> None:
    """While a batch is under way the next one gathers, each task once and with its newest status."""
    async with tracking() as subject:
        subject.store.door.clear()
        first = await subject.begin()
        settling = asyncio.create_task(settled(subject.tracker, first))
        await until(lambda: subject.store.calls["put"], what="a batch is under way")
        tasks = [await subject.begin() for _ in range(100)]
        for task in tasks:
            subject.run_through(task)
        subject.store.door.set()
        await settling
        await asyncio.gather(*(settled(subject.tracker, task) for task in tasks))
    assert [len(batch) for batch in subject.store.batches] == [1, 100]
    assert {one.state for one in subject.store.batches[1]} == {State.SUCCESS}


async def test_more_than_a_batch_is_written_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand waiting statuses come in batches of a bounded size, each task once."""
    # However long a busy machine takes for all of this: no wait says that the store is away, so nothing is sent again.
    monkeypatch.setattr(waits_module, "MAX_WAIT_SECONDS", GUARD_SECONDS)
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(1000)]
        await asyncio.gather(*(settled(subject.tracker, task) for task in tasks))
        await until(lambda: len(subject.store.records) >= 1000, what="all are written")
    assert max(len(batch) for batch in subject.store.batches) <= 256
    assert len({one.task_id for one in subject.store.records}) == len(subject.store.records) == 1000


async def test_settling_what_is_stored_costs_nothing() -> None:
    """When the store has the stage already, settle neither waits nor writes."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.store.door.clear()
        assert await seconds_of(settled(subject.tracker, task)) < AT_ONCE_SECONDS
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
        await put(subject.store.table, [record("t", Stage.STREAMING, created_ms=1, boot="other")])
        before = await text_of(subject.store.table, "t")
        for _ in range(2):
            with pytest.raises(TaskIdInUse):
                await subject.begin("t")
        assert await text_of(subject.store.table, "t") == before
        await put(subject.store.table, [record("t", Stage.DONE, created_ms=1, boot="other")])
        task = await subject.begin("t")
        assert task.attempt == 2


async def test_an_ended_id_begins_the_next_attempt() -> None:
    """Attempts count up, and each writes under its own number."""
    async with tracking() as subject:
        for attempt in (1, 2, 3):
            task = await subject.begin("t")
            assert task.attempt == attempt
            subject.run_through(task)
            await settled(subject.tracker, task)
            assert await stage_and_attempt(subject.store.table, "t") == ("done", attempt)
            await next_millisecond()


async def test_an_id_is_free_as_soon_as_its_request_has_ended() -> None:
    """A client that left and comes back at once with the same id gets its next attempt."""
    async with tracking() as subject:
        first = await subject.begin("t")
        subject.tracker.forward(first)
        await settled(subject.tracker, first)
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
    """The first settle ends after 250 ms, and from then on no one waits: the store is known to be away."""
    async with tracking() as subject:
        task, other = await subject.begin(), await subject.begin()
        subject.store.door.clear()
        subject.tracker.forward(task)
        seconds = await seconds_of(settled(subject.tracker, task))
        assert WAIT_SECONDS * 0.9 <= seconds < WAIT_SECONDS + AT_ONCE_SECONDS
        assert not subject.tracker.is_store_up
        subject.tracker.finish(task, None, "complete")
        assert await seconds_of(settled(subject.tracker, task)) < AT_ONCE_SECONDS
        assert await seconds_of(settled(subject.tracker, other)) < AT_ONCE_SECONDS
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
            waited += await seconds_of(settled(subject.tracker, task))
            await until(lambda: subject.tracker.unsaved == 0, what="everything is written")
        assert waited < WAITS_SECONDS + 0.1  # two whole waits would be 0.46


async def test_whoever_waits_is_let_go_when_the_store_fails() -> None:
    """A store that fails while requests wait for it releases them all at once."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(5)]
        subject.store.failure = StoreError("gone")
        started = time.monotonic()
        await asyncio.gather(*(settled(subject.tracker, task) for task in tasks))
        assert time.monotonic() - started < AT_ONCE_SECONDS


async def test_a_cancelled_wait_harms_nobody() -> None:
    """A request that is cancelled while it waits still has its status written."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.store.door.clear()
        settling = asyncio.create_task(settled(subject.tracker, task))
        await until(lambda: subject.tracker.unsaved, what="it waits")
        settling.cancel()
        await asyncio.gather(settling, return_exceptions=True)
        subject.store.door.set()
        await subject.until_stage(task.task_id, Stage.QUEUED)


async def test_a_wait_is_over_once() -> None:
    """A request that settles is called once, whatever else happens to the task and the store after."""
    async with tracking() as subject:
        task, called = await subject.begin(), list[str]()
        subject.tracker.forward(task)
        subject.tracker.settle(task, lambda: called.append("forwarding"))
        assert called == []
        await subject.until_stage(task.task_id, Stage.FORWARDING)
        subject.tracker.finish(task, None, "complete")
        await subject.lose_store()
        await subject.stop()
        assert called == ["forwarding"]


async def test_settling_ends_at_once_where_there_is_nothing_to_wait_for() -> None:
    """It is over before the call returns: stored already, waits used up, store away, or a table in this process."""
    async with tracking() as subject:
        task, called = await subject.begin("t"), list[str]()
        subject.tracker.settle(task, lambda: called.append("stored"))
        subject.tracker.forward(task)
        task.wait_left = 0
        subject.tracker.settle(task, lambda: called.append("used up"))
        await subject.lose_store()
        other = subject.tracker.begin("other", "POST", "/v1/x", "")
        subject.tracker.claim(other, lambda is_granted: called.append(f"away {is_granted}"))
        subject.tracker.settle(other, lambda: called.append("away"))
        assert called == ["stored", "used up", "away True", "away"]


async def test_the_in_process_table_answers_at_once() -> None:
    """Without a store configured no one ever waits, nor is a refused claim in flight."""
    async with tracking() as subject:
        subject.store.answers_at_once = True
        called: list[object] = []
        task = subject.tracker.begin("t", "POST", "/v1/x", "")
        subject.tracker.claim(task, called.append)
        subject.tracker.forward(task)
        subject.tracker.settle(task, lambda: called.append(task.is_saved))
        subject.run_through(task)
        subject.tracker.settle(task, lambda: called.append(task.is_saved))
        assert called == [True, True, True]
        await put(subject.store.table, [record("theirs", Stage.STREAMING, created_ms=1, boot="other")])
        refused = subject.tracker.begin("theirs", "POST", "/v1/x", "")
        subject.tracker.claim(refused, called.append)
        assert (called[3:], subject.tracker.in_flight) == ([False], 0)


async def test_who_fails_when_his_wait_ends_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A request that breaks on being called is said in the log; the others of its batch go on."""
    async with tracking() as subject:
        tasks, called = [await subject.begin() for _ in range(5)], list[str]()

        def fail() -> None:
            raise ValueError("broken")

        subject.tracker.settle(tasks[0], fail)
        for task in tasks[1:]:
            subject.tracker.settle(task, partial(called.append, task.task_id))
        await until(lambda: len(called) == 4, 30, "the others go on")
        assert called == [task.task_id for task in tasks[1:]]
        assert tasks[0].is_saved
    assert "broken" in caplog.text


async def test_a_request_waits_for_one_thing_at_a_time() -> None:
    """A second wait takes the place of the first."""
    async with tracking() as subject:
        first, called = await subject.begin(), list[str]()
        subject.tracker.settle(first, lambda: called.append("before"))
        subject.tracker.settle(first, lambda: called.append("after"))
        await settled(subject.tracker, await subject.begin())
        assert called == ["after"]
        assert first.is_saved


async def test_what_is_told_in_one_turn_is_one_batch() -> None:
    """However many requests settle before the loop turns, they cost one write."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(20)]
        for task in tasks:
            subject.tracker.forward(task)
            subject.tracker.settle(task, lambda: None)
        await settled(subject.tracker, await subject.begin())
        assert [len(batch) for batch in subject.store.batches] == [21]


@pytest.mark.parametrize("answers", ["answers_at_once", "answers_in_a_turn"])
async def test_a_fast_request_costs_no_timer_and_no_task(answers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lingers and bounded waits share their timers, and nothing of a request is a task."""
    loop, made = asyncio.get_running_loop(), Counter[str]()
    async with tracking() as subject:
        setattr(subject.store, answers, True)
        call_at, create_task = loop.call_at, loop.create_task

        def counted_call_at(*arguments: Any, **more: Any) -> asyncio.TimerHandle:
            made["timers"] += 1
            return call_at(*arguments, **more)

        def counted_create_task(*arguments: Any, **more: Any) -> asyncio.Task[Any]:
            made["tasks"] += 1
            return create_task(*arguments, **more)

        monkeypatch.setattr(loop, "call_at", counted_call_at)
        monkeypatch.setattr(loop, "create_task", counted_create_task)
        for _ in range(200):
            subject.run_through(task := subject.tracker.begin(None, "POST", "/v1/x", ""))
            over = loop.create_future()
            subject.tracker.settle(task, partial(over.set_result, None))
            await over
        assert made["tasks"] == 0
        assert made["timers"] <= 10, "of 200 requests"


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
        await until(lambda: subject.tracker.is_store_up, 3, "the store is back")
        assert len(subject.store.records) - before == 2
        assert subject.tracker.dropped == 0


async def test_one_log_line_per_change(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going away and coming back are one line each, however many requests notice."""
    monkeypatch.setattr(condition_module, "LINE_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="gateway.tracker"):
        async with tracking() as subject:
            await subject.lose_store()
            for _ in range(20):
                subject.run_through(task := await subject.begin())
                await settled(subject.tracker, task)
            subject.store.failure = None
            await until(lambda: subject.tracker.is_store_up, 30, "the store is back")
    assert [line.levelname for line in caplog.records] == ["WARNING", "INFO"]


async def test_all_in_flight_is_told_again_after_a_failure() -> None:
    """A store that failed may be another one, or empty: what runs is written again, with its event, list and all."""
    async with tracking() as subject:
        running = [await subject.begin() for _ in range(300)]
        await until(lambda: not subject.tracker.unsaved, 3, "all is written")
        await subject.lose_store()
        subject.store.table = MemoryStore()
        subject.store.failure = None
        await until(lambda: subject.tracker.is_store_up, 5, "the store is back")
        await until(lambda: not subject.tracker.unsaved, 5, "all is written")
        assert {await subject.stage(task.task_id) for task in running} == {"queued"}


@pytest.mark.parametrize(("seconds", "is_told"), [(60.0, True), (-60.0, False)])
async def test_recent_ends_are_told_again_after_a_failure(
    monkeypatch: pytest.MonkeyPatch, seconds: float, is_told: bool
) -> None:
    """A replica that became the primary may lack the last seconds' ends; those of long before it has."""
    monkeypatch.setattr("gateway.tracking.writer._UNHEARD_SECONDS", seconds)
    async with tracking() as subject:
        ended = await subject.begin()
        subject.run_through(ended)
        await settled(subject.tracker, ended)
        await subject.lose_store()
        subject.store.table = MemoryStore()
        subject.store.failure = None
        await until(lambda: subject.tracker.is_store_up, 5, "the store is back")
        await until(lambda: not subject.tracker.unsaved, 5, "all is written")
        assert await subject.stage(ended.task_id) == ("done" if is_told else None)
        assert subject.tracker.dropped == 0


async def test_another_connection_is_told_all_again() -> None:
    """A failover need not fail a single write: behind a new connection there may be another server."""
    async with tracking() as subject:
        running, ended = await subject.begin(), await subject.begin()
        subject.run_through(ended)
        await settled(subject.tracker, ended)
        await until(lambda: not subject.tracker.unsaved, 3, "all is written")
        subject.store.table = MemoryStore()
        subject.store.connections += 1
        subject.run_through(await subject.begin())
        await subject.until_stage(running.task_id, Stage.QUEUED)
        await subject.until_stage(ended.task_id, Stage.DONE)
        assert subject.tracker.is_store_up


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
        await until(lambda: subject.tracker.dropped == 15, 30, "the bound is kept")
        assert subject.tracker.unsaved == 10
        subject.store.failure = None
        await subject.until_stage(tasks[-1].task_id, Stage.DONE, 5)
        found = [await subject.stage(task.task_id) for task in tasks]
        assert found == [None] * 15 + ["done"] * 10


async def test_an_unforeseen_error_does_not_end_the_writer() -> None:
    """A failure no one thought of costs a batch some time, not all later statuses."""
    async with tracking() as subject:
        task = await subject.begin()
        subject.store.failure = ValueError("unforeseen")
        await settled(subject.tracker, task)
        subject.store.failure = None
        await subject.until_stage(task.task_id, Stage.QUEUED, 3)


# -- the heartbeat --


async def test_a_heartbeat_moves_the_timestamp_alone() -> None:
    """While nothing happens a task in flight is written again and again: same event, younger timestamp."""
    async with tracking(heartbeat_seconds=0.1) as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        await settled(subject.tracker, task)
        first = await stored(subject.store.table, "t")

        async def is_younger() -> bool:
            return bool((await stored(subject.store.table, "t"))["timestamp"] > first["timestamp"])

        await until(is_younger, 30, "several heartbeats")
        later = await stored(subject.store.table, "t")
        assert {**later, "timestamp": 0} == {**first, "timestamp": 0}
        assert {one.ttl_seconds for one in subject.store.records} == {3600}


async def test_an_end_after_the_clock_was_set_back_is_told_the_same_each_time() -> None:
    """Though the clock steps back an hour, a task ends no earlier than it began, and is told the same again."""
    now = [1_700_003_600.2505]
    async with tracking(clock=lambda: now[0]) as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        now[0] -= 3600
        subject.tracker.answer(task, 200, is_stream=False)
        subject.tracker.finish(task, None, "the end")
        await settled(subject.tracker, task)
        text = await text_of(subject.store.table, "t")
        document = json.loads(text or "")
        times = [document["extensions"][f"{name}_ms"] for name in ("created", "started", "first_byte", "finished")]
        assert times == [1_700_003_600_250] * 4
        assert repr(document["timestamp"]) == "1700003600"
        now[0] += 7200
        assert await subject.tracker.read("t") == text


@pytest.mark.parametrize(("step_seconds", "is_followed"), [(-0.5, False), (-3600, True)])
async def test_a_correction_of_the_clock_keeps_the_order(step_seconds: float, *, is_followed: bool) -> None:
    """A task that begins later is not listed as older if the clock goes back a little; a large step is believed."""
    now = [1_700_003_600.2505]
    async with tracking(clock=lambda: now[0]) as subject:
        first = subject.tracker.begin(None, "POST", "/v1/x", "")
        now[0] += step_seconds
        second = subject.tracker.begin(None, "POST", "/v1/x", "")
        assert (second.created_ms < first.created_ms) == is_followed


async def test_a_heartbeat_puts_back_what_was_lost() -> None:
    """A status that the store lost is there again after a heartbeat, with its attempt."""
    async with tracking(heartbeat_seconds=0.1) as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await settled(subject.tracker, task)
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
        await settled(subject.tracker, ended)
        count, beats = len(subject.store.stages("ended")), len(subject.store.stages("running"))
        await until(lambda: len(subject.store.stages("running")) >= beats + 4, 30, "four heartbeats")
        assert len(subject.store.stages("ended")) == count
        assert not running.is_final


async def test_a_heartbeat_comes_once_per_interval() -> None:
    """A task costs one write per interval, not one per look of the timer."""
    async with tracking(heartbeat_seconds=0.2) as subject:
        started = time.monotonic()
        await subject.begin("t")
        await until(lambda: len(subject.store.records) >= 4, 30, "three heartbeats")
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
        await settled(subject.tracker, task)
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


async def test_closing_ends_though_something_goes_on() -> None:
    """What is told while the last batch is on its way is written, too, and never waited for in vain."""
    async with tracking() as subject:
        running, late = await subject.begin("running"), await subject.begin("late")
        await subject.stop()
        subject.store.door.clear()
        closing = asyncio.create_task(subject.tracker.close())
        await until(lambda: subject.store.calls["put"] > 2, 30, "the last batch is on its way")
        running.saved_rank = late.saved_rank = -1
        subject.tracker._outbox.post(late)
        subject.store.door.set()
        await within(1, closing)
        assert subject.tracker.unsaved == 0
        assert subject.store.stages("late")[-1] == "shutdown"


# -- what pollers ask --


async def test_reading_goes_to_the_store_first() -> None:
    """What the store has is what a poller reads; what no one has is None."""
    async with tracking() as subject:
        await put(subject.store.table, [record("other", Stage.DONE)])
        assert (await document_of(subject.tracker.read("other")))["stage"] == "done"
        assert await subject.tracker.read("unknown") is None


async def test_an_own_task_is_known_before_the_store_has_it() -> None:
    """A task that waits to be written is no unknown one."""
    async with tracking() as subject:
        task = await subject.begin()
        document = await document_of(subject.tracker.read(task.task_id))
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
            document = await document_of(subject.tracker.read(task_id))
            assert (document["stage"], document["extensions"]["attempt"]) == (stage, 1)
        with pytest.raises(StoreUnavailable):
            await subject.tracker.read("unknown")
        with pytest.raises(StoreUnavailable):
            await subject.tracker.answers.page(10, None, None)


async def test_an_event_is_the_same_wherever_it_is_read() -> None:
    """The document read from this instance names the event that the store gets later."""
    async with tracking() as subject:
        task = await subject.begin()
        event = (await document_of(subject.tracker.read(task.task_id)))["event_id"]
        await settled(subject.tracker, task)
        assert (await stored(subject.store.table, task.task_id))["event_id"] == event


async def test_pages_come_from_the_store() -> None:
    """Lists are the store's, with its cursors; a bad cursor is the caller's fault."""
    async with tracking() as subject:
        tasks = []
        for n in range(3):
            tasks.append(await subject.begin(f"t{n}"))
            await next_millisecond()
        page = await subject.tracker.answers.page(2, None, None)
        assert ids(page) == ["t2", "t1"]
        assert ids(await subject.tracker.answers.page(2, None, page.next_cursor)) == ["t0"]
        subject.run_through(tasks[1])
        await settled(subject.tracker, tasks[1])
        assert await walk(subject.store.table, state=State.SUCCESS) == ["t1"]
        with pytest.raises(InvalidCursor):
            await subject.tracker.answers.page(2, None, "x")


# -- which of two statuses is told --

# What this process knows (stage, attempt, whether the store has that), what the store has, and which of them is told.
# An attempt 0 is a claim that has no answer yet; a claim that was refused is another's task.
VERSIONS = {
    "the store has nothing yet": (Stage.QUEUED, 1, False, None, "own"),
    "the store is behind": (Stage.FORWARDING, 1, False, (Stage.QUEUED, 1), "own"),
    "the store has the same": (Stage.FORWARDING, 1, True, (Stage.FORWARDING, 1), "store"),
    "an end that waits": (Stage.DONE, 1, False, (Stage.STREAMING, 1), "own"),
    "called lost while it runs": (Stage.STREAMING, 1, False, (Stage.LOST, 1), "store"),
    "called lost before its end came": (Stage.DONE, 1, False, (Stage.LOST, 1), "store"),
    "a later attempt elsewhere": (Stage.DONE, 1, False, (Stage.QUEUED, 2), "store"),
    "a later attempt here": (Stage.QUEUED, 2, False, (Stage.DONE, 1), "own"),
    "a claim of a fresh id": (Stage.QUEUED, 0, False, None, "own"),
    "a claim of an id that has ended": (Stage.QUEUED, 0, False, (Stage.DONE, 1), "store"),
    "a claim of an id in flight": (Stage.QUEUED, 0, False, (Stage.STREAMING, 1), "store"),
    "an end that the store has lost": (Stage.DONE, 1, True, None, "own"),
    "a stage that the store has lost": (Stage.STREAMING, 1, True, (Stage.QUEUED, 1), "own"),
    "a task that the store has lost": (Stage.STREAMING, 1, False, None, "own"),
}


@pytest.mark.parametrize(("stage", "attempt", "is_saved", "stored_as", "told"), VERSIONS.values(), ids=VERSIONS)
async def test_the_newer_status_is_told(
    stage: Stage, attempt: int, is_saved: bool, stored_as: tuple[Stage, int] | None, told: str
) -> None:
    """Of what this process and the store say of a task the one that is further on is told, and an end stands."""
    subject = Subject(3600)
    task = await subject.begin()
    advance(subject, task, stage)
    task.attempt, task._likely_attempt = attempt, attempt or 1
    task._claim = Claim.GRANTED if attempt else Claim.UNCLAIMED
    task.saved_rank = stage.rank if is_saved else -1
    if stored_as is not None:
        await put(subject.store.table, [record(task.task_id, stored_as[0], attempt=stored_as[1], message="store")])
    document = await subject.tracker.read(task.task_id)
    assert json.loads(document or "")["message"] == ("store" if told == "store" else task.message)


def advance(subject: Subject, task: TrackedTask, stage: Stage) -> None:
    """Tells the tracker what brings a task to this stage."""
    if stage.rank >= Stage.FORWARDING.rank:
        subject.tracker.forward(task)
    if stage.rank >= Stage.STREAMING.rank:
        subject.tracker.answer(task, 200, is_stream=True)
    if stage is Stage.DONE:
        subject.tracker.finish(task, None, "complete")


async def test_a_refused_claim_is_not_told() -> None:
    """Of an id that another gateway runs only that gateway's task is told, before, while and after a claim fails."""
    async with tracking() as subject:
        await put(subject.store.table, [record("t", Stage.STREAMING, created_ms=1, boot="other", message="theirs")])
        subject.store.door.clear()
        claim = asyncio.create_task(subject.begin("t"))
        await until(lambda: subject.store.calls["put"], 30, "the claim is under way")
        reading = asyncio.create_task(subject.tracker.read("t"))
        subject.store.door.set()
        with pytest.raises(TaskIdInUse):
            await claim
        for document in (await reading, await subject.tracker.read("t")):
            assert json.loads(document or "")["message"] == "theirs"


async def test_an_end_does_not_seem_to_change_while_the_store_is_away() -> None:
    """A second request with an ended id is told as the next attempt, though the store has not numbered it yet."""
    async with tracking() as subject:
        await subject.lose_store()
        subject.run_through(await subject.begin("t"))
        first = await document_of(subject.tracker.read("t"))
        await next_millisecond()
        await subject.begin("t")
        second = await document_of(subject.tracker.read("t"))
        assert (first["stage"], first["extensions"]["attempt"]) == ("done", 1)
        assert (second["stage"], second["extensions"]["attempt"]) == ("queued", 2)


async def test_an_ended_task_is_answered_while_the_store_is_away() -> None:
    """What ended here is remembered, though the store has had it for long."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await settled(subject.tracker, task)
        await subject.lose_store()
        assert (await document_of(subject.tracker.read("t")))["stage"] == "done"


async def test_a_read_of_a_store_that_hangs_ends_soon() -> None:
    """While the store is known to be away, a poller waits 250 ms for it at most: 503 for what only it could know."""
    async with tracking() as subject:
        await subject.lose_store()
        subject.store.failure = None
        subject.store.door.clear()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await subject.tracker.read("unknown")
        assert time.monotonic() - started < WAIT_SECONDS + AT_ONCE_SECONDS


# -- who may see a task --


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize(
    ("owner", "reader", "is_seen"),
    [("alice", "alice", True), ("alice", "bob", False), ("alice", None, True), ("", "bob", False), ("", None, True)],
)
async def test_a_task_is_its_owners(owner: str, reader: str | None, is_seen: bool, is_stored: bool) -> None:
    """A reader sees his own tasks, one without a name sees all, wherever a task's newest status is."""
    async with tracking() as subject:
        task = await begun(subject.tracker, None, "POST", "/v1/x", "", owner)
        if is_stored:
            await settled(subject.tracker, task)
        task_id = task.task_id
        assert (await subject.tracker.read(task_id, reader) is not None) == is_seen
        assert (await subject.tracker.answers.wait(task_id, None, 0.01, reader) is not None) == is_seen
        await settled(subject.tracker, task)
        assert (task_id in ids(await subject.tracker.answers.page(10, None, None, reader))) == is_seen
        task.run_by(Cut(lambda: subject.tracker.finish(task, Reason.CANCELLED, "cancelled")))
        assert (await subject.tracker.cancel(task_id, reader) is not None) == is_seen
        assert task.is_final == is_seen


# -- waiting for a change --


async def test_a_wait_ends_with_the_change() -> None:
    """Who waits for a task of this gateway has its next status at once, from each stage on."""
    async with tracking() as subject:
        task = await subject.begin("t")
        for stage in (Stage.FORWARDING, Stage.STREAMING, Stage.DONE):
            waiting = asyncio.create_task(subject.tracker.answers.wait("t", None, 10))
            await until(lambda: subject.tracker._changes.waiters, 30, "a poller waits")
            advance(subject, task, stage)
            document = await within(AT_ONCE_SECONDS, waiting)
            assert json.loads(document or "")["stage"] == stage


async def test_a_wait_for_an_older_event_is_none() -> None:
    """Who names an event that is past has the present status at once."""
    async with tracking() as subject:
        await subject.begin("t")
        assert await seconds_of(subject.tracker.answers.wait("t", "an older one", 10)) < AT_ONCE_SECONDS


async def test_a_wait_for_what_has_ended_is_none() -> None:
    """An ended task does not change: no one is kept waiting, whichever event he names; nor for an unknown task."""
    async with tracking() as subject:
        subject.run_through(task := await subject.begin("t"))
        await settled(subject.tracker, task)
        event = (await document_of(subject.tracker.read("t")))["event_id"]
        for seen in (None, event, "another"):
            assert await seconds_of(subject.tracker.answers.wait("t", seen, 10)) < AT_ONCE_SECONDS
        assert await subject.tracker.answers.wait("unknown", None, 10) is None


async def test_a_heartbeat_ends_no_wait() -> None:
    """A heartbeat is no change: the wait goes on to its end and answers the same event."""
    async with tracking(heartbeat_seconds=0.05) as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        await settled(subject.tracker, task)
        before = await document_of(subject.tracker.read("t"))
        written, started = len(subject.store.records), time.monotonic()
        after = await document_of(subject.tracker.answers.wait("t", before["event_id"], 0.5))
        assert time.monotonic() - started >= 0.5
        assert len(subject.store.records) > written
        assert after["event_id"] == before["event_id"]


async def test_a_wait_hears_of_another_gateways_task() -> None:
    """A change that another gateway wrote ends the wait within half a second."""
    async with tracking() as subject:
        await put(subject.store.table, [record("t", Stage.FORWARDING, boot="other")])
        waiting = asyncio.create_task(subject.tracker.answers.wait("t", None, 10))
        await until(lambda: subject.store.calls["peek"], 30, "the store is looked at")
        await put(subject.store.table, [record("t", Stage.DONE, boot="other")])
        assert (await document_of(within(0.5, waiting)))["stage"] == "done"


# -- cancelling --


async def test_cancelling_ends_an_own_task() -> None:
    """A task of this gateway ends at once for the reason `cancelled`, and its final document is the answer."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        task.run_by(Cut(lambda: subject.tracker.finish(task, Reason.CANCELLED, str(task.cut_by))))
        document = await document_of(within(AT_ONCE_SECONDS, subject.tracker.cancel("t")))
        assert (document["state"], document["stage"], document["extensions"]["reason"]) == (
            "FAILED", "cancelled", "cancelled",
        )  # fmt: skip
        assert subject.store.asked == []
        assert await document_of(subject.tracker.cancel("t")) == document


async def test_cancelling_another_gateways_task_is_asked_for() -> None:
    """The attempt that runs is named to all gateways; without an end the present document comes after a second."""
    async with tracking() as subject:
        await put(subject.store.table, [record("t", Stage.STREAMING, attempt=3, boot="other")])
        started = time.monotonic()
        document = await document_of(subject.tracker.cancel("t"))
        assert 0.9 <= time.monotonic() - started <= 1.5
        assert (document["stage"], subject.store.asked) == ("streaming", ["other:1000:t"])


async def test_cancelling_answers_as_soon_as_it_is_done() -> None:
    """When the other gateway has written the end, that is the answer."""
    async with tracking() as subject:
        await put(subject.store.table, [record("t", Stage.STREAMING, boot="other")])
        cancelling = asyncio.create_task(subject.tracker.cancel("t"))
        await until(lambda: subject.store.asked, 30, "it is asked for")
        await put(subject.store.table, [record("t", Stage.CANCELLED, boot="other")])
        assert (await document_of(within(0.6, cancelling)))["stage"] == "cancelled"


async def test_cancelling_what_has_ended_changes_nothing() -> None:
    """An ended task is answered as it is, an unknown one is None, and no one is asked for anything."""
    async with tracking() as subject:
        await put(subject.store.table, [record("t", Stage.DONE, boot="other")])
        assert await subject.tracker.cancel("t") == await text_of(subject.store.table, "t")
        assert await subject.tracker.cancel("unknown") is None
        assert subject.store.asked == []


@pytest.mark.parametrize("is_ours", [True, False])
async def test_only_the_request_that_was_named_ends(is_ours: bool) -> None:
    """A call that comes late for an earlier request with this id, or names another process's, ends nothing."""
    async with tracking() as subject:
        task = await subject.begin("t")
        for name in ("t", "1:t", f"{subject.boot}:{task.created_ms - 1}:t", f"other:{task.created_ms}:t"):
            subject.store.on_cancel(name)
        assert task.cut_by is None
        if is_ours:
            subject.store.on_cancel(f"{subject.boot}:{task.created_ms}:t")
        assert (task.cut_by is not None) == is_ours


# -- cancelling by label --


async def test_a_label_ends_waiting_tasks_before_running_ones() -> None:
    """So no waiting one gets the place of a running one; tasks of other labels and other keys go on."""
    async with tracking() as subject:
        cut: list[TrackedTask] = []
        tasks = [subject.tracker.begin(None, "POST", "/v1/x", "", "alice", label="job") for _ in range(6)]
        others = [
            subject.tracker.begin(None, "POST", "/v1/x", "", "alice", label="job2"),
            subject.tracker.begin(None, "POST", "/v1/x", "", "bob", label="job"),
        ]
        for task in (*tasks, *others):
            task.run_by(Cut(partial(cut.append, task)))
        for task in tasks[:3]:
            subject.tracker.forward(task)
        assert await subject.tracker.answers.cancel_label("job", "alice") == 6
        assert cut == tasks[3:] + tasks[:3]
        assert await subject.tracker.answers.cancel_label("job", "carol") == 0
        assert await subject.tracker.answers.cancel_label("job", None) == 7, "those that did not end count again"
        assert {task.cut_by for task in others[:1]} == {None}


async def test_a_label_ends_the_tasks_of_other_gateways() -> None:
    """Each request in flight is named once, and what has ended is not, nor this process's own."""
    async with tracking() as subject:
        own = subject.tracker.begin(None, "POST", "/v1/x", "", label="job")
        for label in ("job", "j", ""):
            stages = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.DONE, Stage.ERROR]
            theirs = [record(f"{label}x-{stage}", stage, boot="other", label=label) for stage in stages]
            await put(subject.store.table, theirs)
        await until(lambda: not subject.tracker.unsaved, 3, "all is written")
        assert await subject.tracker.answers.cancel_label("job") == 4
        assert subject.store.asked[0] == "other:1000:jobx-queued"
        assert sorted(subject.store.asked[1:]) == ["other:1000:jobx-forwarding", "other:1000:jobx-streaming"]
        assert own.cut_by is not None


async def test_many_tasks_of_a_label_are_all_named() -> None:
    """More than one page, and more than are asked for at once."""
    async with tracking() as subject:
        for stage in (Stage.QUEUED, Stage.STREAMING):
            theirs = [record(f"{stage}-{n}", stage, boot="other", label="job" * (n % 2)) for n in range(2500)]
            await put(subject.store.table, theirs)
        assert await subject.tracker.answers.cancel_label("job") == len(set(subject.store.asked)) == 2500


@pytest.mark.parametrize("is_readable", [True, False])
async def test_a_store_that_is_away_ends_the_own_tasks_of_a_label(is_readable: bool) -> None:
    """The own ones end at once, and the error has their number: the others cannot be asked."""
    async with tracking() as subject:
        task = subject.tracker.begin(None, "POST", "/v1/x", "", label="job")
        subject.store.write_failure = StoreError("READONLY", "READONLY")
        if not is_readable:
            subject.store.failure = StoreError("gone")
        await until(lambda: not subject.tracker.is_store_up, 30, "the tracker notices")
        with pytest.raises(PartlyCancelled, match="1 of this gateway's own tasks were cancelled"):
            await subject.tracker.answers.cancel_label("job")
        assert task.cut_by is not None


async def test_what_another_has_replaced_is_no_longer_known() -> None:
    """A task that was made lost elsewhere stays so: without the store, too, this process speaks of it no more."""
    async with tracking() as subject:
        task = await subject.begin("t")
        await put(subject.store.table, [record("t", Stage.LOST, created_ms=task.created_ms, boot=subject.boot)])
        assert (await document_of(subject.tracker.read("t")))["stage"] == "lost"
        await subject.lose_store()
        with pytest.raises(StoreUnavailable):
            await subject.tracker.read("t")
        subject.run_through(task)
        with pytest.raises(StoreUnavailable):
            await subject.tracker.read("t")


async def test_an_id_stays_its_owners_while_the_store_is_away() -> None:
    """What this process remembers of another key's task is enough to refuse its id."""
    async with tracking() as subject:
        task = await begun(subject.tracker, "t", "POST", "/v1/x", "", "anna")
        subject.run_through(task)
        await settled(subject.tracker, task)
        await subject.lose_store()
        with pytest.raises(TaskIdInUse):
            await begun(subject.tracker, "t", "POST", "/v1/x", "", "bert")
        assert (await begun(subject.tracker, "t", "POST", "/v1/x", "", "anna")).likely_attempt == 2


async def test_what_the_store_has_lost_is_told_again() -> None:
    """An end whose document is gone or old again is answered as it was, and written once more."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.run_through(task)
        await settled(subject.tracker, task)
        text = await text_of(subject.store.table, "t")
        subject.store.table = MemoryStore()
        assert await subject.tracker.read("t") == text
        await subject.until_stage("t", Stage.DONE)
        assert await text_of(subject.store.table, "t") == text


async def test_cancelling_without_the_store_works_for_own_tasks() -> None:
    """While the store is away a task of this gateway can be cancelled; for another one that is said to be unknown."""
    async with tracking() as subject:
        task = await subject.begin("t")
        task.run_by(Cut(lambda: subject.tracker.finish(task, Reason.CANCELLED, "cancelled")))
        await subject.lose_store()
        assert (await document_of(subject.tracker.cancel("t")))["stage"] == "cancelled"
        with pytest.raises(StoreUnavailable):
            await subject.tracker.cancel("unknown")


async def test_a_request_is_cancelled_while_it_claims() -> None:
    """A task that is cut before its request runs is known to be cut as soon as it does."""
    async with tracking() as subject:
        subject.store.door.clear()
        claim = asyncio.create_task(subject.begin("t"))
        await until(lambda: subject.store.calls["put"], 30, "the claim is under way")
        subject.tracker.cut_all(Cancelled())
        subject.store.door.set()
        task = await claim
        assert isinstance(task.cut_by, Cancelled)
        assert not task.is_final


# -- stopping --


async def test_nothing_begins_while_it_drains() -> None:
    """From the start of the drain on a new request is refused, and what runs goes on."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.tracker.drain()
        for task_id in ("new", None):
            with pytest.raises(ShuttingDown):
                await subject.begin(task_id)
        assert subject.tracker.in_flight == 1
        subject.run_through(task)
        await settled(subject.tracker, task)
        assert await subject.stage("t") == "done"


async def test_idle_is_when_the_last_has_ended() -> None:
    """Waiting for idleness ends with the last task, at once where there is none, and else when time is up."""
    async with tracking() as subject:
        first, second = await subject.begin(), await subject.begin()
        subject.tracker.drain()
        started = time.monotonic()
        assert not await subject.tracker.until_idle(0.2)
        assert 0.2 <= time.monotonic() - started < 0.2 + AT_ONCE_SECONDS
        waiting = asyncio.create_task(subject.tracker.until_idle(10))
        subject.run_through(first)
        assert not waiting.done()
        subject.run_through(second)
        assert await within(AT_ONCE_SECONDS, waiting)
        assert await seconds_of(subject.tracker.until_idle(10)) < AT_ONCE_SECONDS


async def test_all_are_cut_at_once() -> None:
    """Each request in flight is told to end, with the reason it has to give."""
    async with tracking() as subject:
        tasks = [await subject.begin() for _ in range(5)]
        for task in tasks:
            task.run_by(Cut(partial(subject.tracker.finish, task, Reason.SHUTDOWN, "stopped")))
        subject.tracker.drain()
        subject.tracker.cut_all(ShuttingDown("stopped"))
        assert await subject.tracker.until_idle(0)
        assert {task.stage for task in tasks} == {Stage.SHUTDOWN}


async def test_pollers_do_not_hold_up_the_stop() -> None:
    """A poller that waits gets its answer when the drain begins, and none waits from then on."""
    async with tracking() as subject:
        await subject.begin("t")
        waiting = asyncio.create_task(subject.tracker.answers.wait("t", None, 30))
        await until(lambda: subject.tracker._changes.waiters, 30, "a poller waits")
        subject.tracker.drain()
        assert (await document_of(within(AT_ONCE_SECONDS, waiting)))["stage"] == "queued"
        assert await seconds_of(subject.tracker.answers.wait("t", None, 30)) < AT_ONCE_SECONDS


def test_a_boot_is_a_name_of_its_own() -> None:
    """Two processes never share the name by which the store tells their claims apart."""
    assert len({new_boot("m-r") for _ in range(1000)}) == 1000
