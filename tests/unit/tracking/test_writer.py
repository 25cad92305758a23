"""What the one writer promises: it knows the store's condition, finds it again, and never gives up."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import StoreError
from gateway.tasks.stages import Stage
from gateway.tracking import condition as condition_module
from gateway.tracking import outbox as outbox_module
from gateway.tracking.outbox import Outbox
from gateway.tracking.tracked import MAX_WAIT_SECONDS, TrackedTask
from gateway.tracking.writer import StoreWriter
from tests.support.records import put, record
from tests.support.tracking import ScriptedStore, seconds_of
from tests.support.waiting import until, until_steady, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.interface import Record

pytestmark = pytest.mark.alone

AT_ONCE_SECONDS = 0.1
RETRY_SECONDS = 0.5
WATCH_SECONDS = 1.0
GRACE_SECONDS = 1.0


class Own(set[str]):
    """The names of this process's requests, of which one is in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = ["a request"]


class Subject:
    """A writer, its outbox and its store."""

    def __init__(self) -> None:
        self.store = ScriptedStore()
        self.outbox = Outbox()
        self.own = Own()
        self.cancelled: list[str] = []
        self.writer = StoreWriter(
            self.store,
            self.outbox,
            render=render,
            own=self.own,
            on_message=self.cancelled.append,
            on_silent=lambda _name: None,
            on_written=lambda tasks, put_right: None,
            on_possible_loss=lambda _since: None,
            grace_seconds=GRACE_SECONDS,
        )
        self.number = 0

    def post(self, *, is_ended: bool = False, attempt: int = 1) -> TrackedTask:
        """One more task that is to be written at once."""
        self.number += 1
        task = TrackedTask(f"t{self.number}", "POST", "/v1/x", "", 1000 + self.number, attempt)
        if is_ended:
            task.finish(None, "", 2000)
        self.outbox.post_urgently(task)
        return task

    async def wait(self, task: TrackedTask) -> float:
        """Waits for the store as a request does; how long that took."""
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.writer.waits.wait_for(task, task.stage.rank, lambda: released.set_result(None))
        return await seconds_of(released)

    async def lose_store(self) -> None:
        """The store refuses everything, and the writer knows."""
        self.store.failure = StoreError("gone")
        self.post()
        await until(lambda: not self.writer.is_up, 30, "the writer notices")

    async def until_written(self, task: TrackedTask) -> None:
        """Waits until the store has its end."""
        await until(lambda: task.task_id in [one.task_id for one in self.store.records], 30, "it is written")

    async def until_up(self) -> None:
        """Waits until the store is known to be back."""
        await until(lambda: self.writer.is_up, 30, "the store is back")


def render(task: TrackedTask) -> Record:
    """The record of a task as it is now."""
    return record(task.task_id, task.stage, attempt=task.attempt, created_ms=task.created_ms)


@asynccontextmanager
async def running(subject: Subject | None = None) -> AsyncIterator[Subject]:
    """A writer that runs, and has looked after its store."""
    subject = subject or Subject()
    run = asyncio.create_task(subject.writer.run())
    await until(lambda: subject.store.calls["probe"] or subject.store.calls["put"], 30, "the writer runs")
    try:
        yield subject
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await subject.store.close()


# -- away --


async def test_no_answer_for_250_ms_is_away() -> None:
    """A request that waits in vain goes on after 250 ms, and from then on the store counts as away."""
    async with running() as subject:
        subject.store.door.clear()
        seconds = await subject.wait(subject.post())
        assert MAX_WAIT_SECONDS * 0.9 <= seconds <= MAX_WAIT_SECONDS + AT_ONCE_SECONDS
        assert not subject.writer.is_up


async def test_all_who_wait_go_on_together() -> None:
    """When the first of those who wait gives up, none of the others waits to its own end."""
    async with running() as subject:
        subject.store.door.clear()
        first = asyncio.create_task(subject.wait(subject.post()))
        await until(lambda: subject.store.calls["put"], 30, "it is on its way")
        begun = time.monotonic()
        others = await asyncio.gather(*(subject.wait(subject.post()) for _ in range(20)))
        assert max(others) <= await first + AT_ONCE_SECONDS
        assert time.monotonic() - begun <= MAX_WAIT_SECONDS + AT_ONCE_SECONDS


async def test_an_error_is_away_at_once() -> None:
    """A store that refuses costs no one a wait."""
    async with running() as subject:
        subject.store.failure = StoreError("OOM")
        assert await subject.wait(subject.post()) <= AT_ONCE_SECONDS
        assert not subject.writer.is_up


async def test_nobody_waits_while_it_is_away() -> None:
    """Once it is known, no request waits for the store at all, though it hangs."""
    async with running() as subject:
        await subject.lose_store()
        subject.store.failure = None
        subject.store.door.clear()
        assert await subject.wait(subject.post()) <= AT_ONCE_SECONDS / 10


async def test_a_short_rest_of_a_wait_says_nothing() -> None:
    """A request that has nearly used up its waits gives up alone: the store is not blamed."""
    async with running() as subject:
        subject.store.door.clear()
        task = subject.post()
        task.wait_left = 0.05
        assert await subject.wait(task) <= 0.05 + AT_ONCE_SECONDS
        assert subject.writer.is_up
        assert await subject.wait(task) <= AT_ONCE_SECONDS / 10


# -- back --


async def test_it_is_asked_twice_a_second_while_it_is_away() -> None:
    """Neither more often, for it may be overloaded, nor less."""
    async with running() as subject:
        await subject.lose_store()
        count, begun = subject.store.calls["put"], time.monotonic()
        await until(lambda: subject.store.calls["put"] == count + 4, 30, "four more tries")
        assert 4 * RETRY_SECONDS * 0.85 <= time.monotonic() - begun <= 5 * RETRY_SECONDS


async def test_a_slow_store_stays_away_and_is_written_to() -> None:
    """Answers after 200 ms would make every request wait: such a store gets its statuses, but is not called back."""
    async with running() as subject:
        await subject.lose_store()
        subject.store.failure, subject.store.delay_seconds = None, 0.2
        for _ in range(3):
            await subject.until_written(subject.post(is_ended=True))
            assert not subject.writer.is_up
        subject.store.delay_seconds = 0.05
        subject.post()
        await subject.until_up()


async def test_a_slow_sign_of_life_is_none() -> None:
    """Where nothing is to be written the probe decides, by the same measure."""
    subject = Subject()
    subject.store.delay_seconds = 0.2
    subject.writer.condition.fail(StoreError("gone"))
    async with running(subject):
        await until(lambda: subject.store.calls["probe"] >= 3, 30, "three probes")
        assert not subject.writer.is_up
        subject.store.delay_seconds = 0
        await subject.until_up()


async def test_a_store_that_only_reads_is_away() -> None:
    """A server that refuses writes is not back, whatever else it answers."""
    subject = Subject()
    subject.store.write_failure = StoreError("READONLY")
    async with running(subject):
        await until(lambda: subject.store.calls["probe"] >= 3, 30, "three probes")
        assert not subject.writer.is_up
        assert await subject.store.read(["t"]) == [None]
        subject.store.write_failure = None
        await subject.until_up()


async def test_a_slow_answer_does_not_end_a_good_condition() -> None:
    """As long as no one has to wait for 250 ms, a store that is up stays up."""
    async with running() as subject:
        subject.store.delay_seconds = 0.2
        for _ in range(3):
            assert 0.2 <= await subject.wait(subject.post()) < MAX_WAIT_SECONDS
        assert subject.writer.is_up


# -- what is said of it --


async def test_one_line_per_change(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going away and coming back are one line each; the second tells what waits and what was dropped since."""
    monkeypatch.setattr(outbox_module, "KEPT_TASKS", 10)
    monkeypatch.setattr(condition_module, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(condition_module, "SAME_SECONDS", 0.0)
    with caplog.at_level("INFO", logger="gateway.tracker"):
        async with running() as subject:
            for round_ in (1, 2):
                await subject.lose_store()
                for _ in range(15):
                    await subject.wait(subject.post(is_ended=True))
                subject.store.failure = None
                await subject.until_up()
                await until(lambda: subject.outbox.is_empty, 30, "all is written")
                assert subject.outbox.dropped == 5 * round_
    lines = [(line.levelname, line.getMessage()) for line in caplog.records]
    assert [level for level, _ in lines] == ["WARNING", "INFO"] * 2
    assert "gone" in lines[0][1]
    for _, message in lines[1::2]:
        assert "5 were dropped" in message


# -- looking after others --


async def test_it_looks_once_a_second() -> None:
    """What others left behind, and what is to be cancelled, is looked for every second."""
    async with running() as subject:
        await until(lambda: subject.store.calls["watch"], 30)
        count, begun = subject.store.calls["watch"], time.monotonic()
        await until(lambda: subject.store.calls["watch"] == count + 2, 30, "two more looks")
        assert 2 * WATCH_SECONDS * 0.85 <= time.monotonic() - begun <= 3 * WATCH_SECONDS


async def test_what_is_to_be_cancelled_is_told() -> None:
    """Names that the store has are told as well as names that are heard."""
    async with running() as subject:
        await until(lambda: subject.store.calls["listen"], 30)
        subject.store.on_cancel("1:heard")
        assert subject.cancelled == ["1:heard"]
        subject.store.cancels = ["1:found"]
        await until(lambda: "1:found" in subject.cancelled, 30, "it is found")


async def test_an_earlier_run_is_ended_once() -> None:
    """What a former run left behind is looked for once after the start, again only where that failed."""
    subject = Subject()
    subject.store.failure = StoreError("not yet")
    async with running(subject):
        await until(lambda: not subject.writer.is_up, 30)
        assert subject.store.calls["end_earlier_run"] == 0
        subject.store.failure = None
        await until(lambda: subject.store.calls["watch"] >= 3, 30, "several looks")
        assert subject.store.calls["end_earlier_run"] == 1


async def test_own_tasks_are_exempt() -> None:
    """No one but the gateway itself knows that its tasks live: it never calls them lost."""
    async with running() as subject:
        subject.own.add("own")
        await until(lambda: subject.store.calls["watch"], 30)
        assert "own" in subject.store.exempt
        assert "foreign" not in subject.store.exempt
        subject.own.remove("own")
        assert "own" not in subject.store.exempt


async def test_after_an_outage_all_tasks_are_exempt_for_a_while() -> None:
    """While the store is away, and for three heartbeats after, silence means nothing; then it does again."""
    async with running() as subject:
        await subject.lose_store()
        assert "anybody" in subject.writer.exempt
        subject.store.failure = None
        await subject.until_up()
        back = time.monotonic()
        assert "anybody" in subject.writer.exempt
        await until(lambda: "anybody" not in subject.writer.exempt, 30, "the grace is over")
        assert GRACE_SECONDS * 0.9 <= time.monotonic() - back <= GRACE_SECONDS + AT_ONCE_SECONDS


# -- going on --


async def test_an_unforeseen_error_ends_no_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Writing, looking and listening go on after a failure that no one thought of, and each says so."""
    subject = Subject()
    subject.store.failure = subject.store.listen_failure = ValueError("unforeseen")
    task = subject.post()
    async with running(subject):
        await until(lambda: subject.store.calls["put"] >= 2, 30, "it is tried again")
        assert not subject.writer.is_up
        subject.store.failure = subject.store.listen_failure = None
        await until(lambda: task.is_saved, 30, "it is written")
        await until(lambda: subject.store.calls["watch"] and subject.store.calls["listen"] >= 2, 30, "all loops go on")
    said = {line.getMessage().split(" failed")[0] for line in caplog.records if line.levelname == "ERROR"}
    assert said >= {"writing 1 statuses", "listening for cancels"}


async def test_looking_goes_on_after_an_unforeseen_error(caplog: pytest.LogCaptureFixture) -> None:
    """A look that fails inside the gateway is said, and made again a second later; the store is not blamed."""
    async with running() as subject:
        await until(lambda: subject.store.calls["watch"], 30)
        subject.store.failure = ValueError("unforeseen")
        count = subject.store.calls["watch"]
        await until(lambda: subject.store.calls["watch"] >= count + 2, 30, "two more looks")
        assert subject.writer.is_up
    assert "looking after the store failed" in caplog.text


async def test_it_listens_again() -> None:
    """A connection for cancels that broke is made again within seconds, and the store is not blamed."""
    subject = Subject()
    subject.store.listen_failure = StoreError("cut")
    async with running(subject):
        await until(lambda: subject.store.calls["listen"] >= 2, 30, "it tries again")
        assert subject.writer.is_up
        subject.store.listen_failure = None
        await until(lambda: hasattr(subject.store, "on_cancel"), 30, "it listens")


async def test_ending_it_loses_nothing() -> None:
    """A batch that is under way when the writer is ended waits to be written again."""
    async with running() as subject:
        subject.store.door.clear()
        task = subject.post(is_ended=True)
        await until(lambda: subject.store.calls["put"], 30, "it is on its way")
    assert subject.outbox.next_batch() == [task]


async def test_an_empty_outbox_is_left_alone() -> None:
    """Where nothing is to be written nothing is."""
    async with running() as subject:
        assert await subject.writer.write_batch()
        assert await until_steady(lambda: subject.store.calls["put"], 0.3, 2) == 0


# -- claims --


async def test_a_refused_claim_ends_the_request_in_time() -> None:
    """A request that still waits for its claim is told that its id is in use; nothing of it is written any more."""
    async with running() as subject:
        await put(subject.store.table, [record("t1", Stage.STREAMING, boot="other")])
        task = subject.post(attempt=0)
        await subject.wait(task)
        assert task.is_refused
        assert subject.outbox.is_empty


async def test_a_claim_refused_too_late_claims_again() -> None:
    """A request that went on without its claim keeps claiming, and gets the next attempt once the id is free."""
    async with running() as subject:
        await put(subject.store.table, [record("t1", Stage.STREAMING, boot="other")])
        task = subject.post(attempt=0)
        await until(lambda: subject.store.records, 30, "it was refused")
        assert not task.is_refused
        await put(subject.store.table, [record("t1", Stage.DONE, boot="other")])
        task.forward(3000)
        subject.outbox.post_urgently(task)
        await within(30, until(lambda: task.attempt == 2, 30))


async def test_a_granted_claim_tells_the_attempt() -> None:
    """The store's number is the task's from then on."""
    async with running() as subject:
        await put(subject.store.table, [record("t1", Stage.DONE, attempt=4, created_ms=1, boot="other")])
        task = subject.post(attempt=0)
        await subject.wait(task)
        assert (task.attempt, task.is_saved) == (5, True)


# -- when a batch is sent --


async def test_a_status_goes_with_all_that_the_turn_brings() -> None:
    """What many requests tell in one turn of the loop is one batch."""
    async with running() as subject:
        tasks = [subject.post(is_ended=True) for _ in range(10)]
        assert not subject.store.records
        await asyncio.gather(*map(subject.wait, tasks))
        assert [len(batch) for batch in subject.store.batches] == [10]


async def test_who_is_alone_is_written_at_once_and_once() -> None:
    """Where no other request is in flight nothing could come along: its end is on the way before anybody waits."""
    async with running() as subject:
        subject.own.in_flight.clear()
        task = subject.post(is_ended=True)
        assert subject.store.calls["put"] == 1
        await subject.wait(task)
        assert [len(batch) for batch in subject.store.batches] == [1]


async def test_the_answer_to_one_batch_does_not_hide_that_the_next_has_failed() -> None:
    """The store is away when what follows an answer at once cannot be written, however good that answer was."""
    async with running() as subject:
        subject.store.door.clear()
        subject.post(is_ended=True)
        await until(lambda: subject.store.calls["put"], 30, "the first is on its way")
        subject.post(is_ended=True)
        subject.store.write_failure = RuntimeError("a mistake of ours")
        subject.store.door.set()
        await until(lambda: subject.store.calls["put"] == 2, 30, "the second was tried")
        assert not subject.writer.is_up
