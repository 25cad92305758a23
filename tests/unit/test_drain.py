"""What a signal to stop does: nothing begins, what runs may finish, then it is cut, and only then the server stops.

Real signals to this very process; in the place of uvicorn's server one of the test's.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gateway.errors import ShuttingDown
from gateway.stopping import _MOVES, Drain, Phase, _Event
from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason
from tests.support.tracking import Cut, Subject, tracking
from tests.support.waiting import until, until_steady

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.tracking.tracked import TrackedTask

pytestmark = pytest.mark.alone

SIGNALS = [signal.SIGTERM, signal.SIGINT]
AT_ONCE_SECONDS = 0.2
LONG_SECONDS = 30.0


class Server:
    """What stops when all is done: it remembers what it was told, and when."""

    def __init__(self) -> None:
        self.drain: Drain
        self.stops: list[float] = []
        self.answer_seconds = -1.0
        self.hurries = 0

    def stop(self, seconds: float) -> None:
        """Stop, and give answers so long."""
        self.stops.append(time.monotonic())
        self.answer_seconds = seconds

    def hurry(self) -> None:
        """Give answers no more time."""
        self.hurries += 1


@contextmanager
def installed(subject: Subject, seconds: float, notice_seconds: float = 0) -> Iterator[Server]:
    """A drain that hears the signals; everything is as before afterwards."""
    server, before = Server(), {number: signal.getsignal(number) for number in SIGNALS}
    try:
        server.drain = Drain(subject.tracker, None, seconds, notice_seconds)
        server.drain.install(server)
        yield server
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def send(number: int = signal.SIGTERM) -> None:
    """Signal this process."""
    os.kill(os.getpid(), number)


async def begun(subject: Subject) -> TrackedTask:
    """A request that runs until it ends or is cut."""
    task = await subject.begin()
    subject.tracker.forward(task)
    task.run_by(Cut(lambda: subject.tracker.finish(task, Reason.SHUTDOWN, str(task.cut_by))))
    return task


@pytest.mark.parametrize("number", SIGNALS)
async def test_an_idle_gateway_stops_at_once(number: int) -> None:
    """Without requests the server is told at once, whichever signal it was."""
    async with tracking() as subject:
        with installed(subject, LONG_SECONDS) as server:
            send(number)
            await until(lambda: server.stops, AT_ONCE_SECONDS)
            assert len(server.stops) == 1
            assert subject.tracker.is_draining


async def test_what_runs_may_finish() -> None:
    """The server goes on while requests run, refuses new ones, and stops with the end of the last."""
    async with tracking() as subject:
        first, second = await begun(subject), await begun(subject)
        with installed(subject, LONG_SECONDS) as server:
            send()
            await until(lambda: subject.tracker.is_draining, 30)
            with pytest.raises(ShuttingDown):
                await subject.begin()
            subject.run_through(first)
            assert await until_steady(lambda: len(server.stops), 0.2) == 0
            subject.run_through(second)
            await until(lambda: server.stops, AT_ONCE_SECONDS)
        assert (first.stage, second.stage) == (Stage.DONE, Stage.DONE)


async def test_what_does_not_finish_is_cut() -> None:
    """When the seconds are over all that runs ends as FAILED shutdown, and then the server stops."""
    async with tracking() as subject:
        tasks = [await begun(subject) for _ in range(3)]
        with installed(subject, 0.5) as server:
            sent = time.monotonic()
            send()
            await until(lambda: server.stops, 30)
            assert 0.5 <= server.stops[0] - sent <= 0.5 + AT_ONCE_SECONDS
        assert {task.stage for task in tasks} == {Stage.SHUTDOWN}
        for task in tasks:
            await subject.until_stage(task.task_id, Stage.SHUTDOWN)


async def test_a_request_that_hears_nothing_does_not_hold_it_up() -> None:
    """A request that does not end though it was cut delays the stop by a second, no more."""
    async with tracking() as subject:
        task = await subject.begin()
        with installed(subject, 0.2) as server:
            sent = time.monotonic()
            send()
            await until(lambda: server.stops, 30)
            assert 1.2 <= server.stops[0] - sent <= 1.2 + AT_ONCE_SECONDS
        assert isinstance(task.cut_by, ShuttingDown)


async def test_a_second_interrupt_does_not_wait() -> None:
    """Ctrl-C twice stops the server at once, whatever runs."""
    async with tracking() as subject:
        await begun(subject)
        with installed(subject, LONG_SECONDS) as server:
            send(signal.SIGINT)
            await until(lambda: subject.tracker.is_draining, 30)
            assert await until_steady(lambda: len(server.stops), 0.2) == 0
            send(signal.SIGINT)
            await until(lambda: server.stops, AT_ONCE_SECONDS)
            assert server.answer_seconds == pytest.approx(0, abs=0.01)


async def test_a_further_interrupt_is_the_servers() -> None:
    """A server that is stopping hears of a Ctrl-C: it may be waiting for answers still being written."""
    async with tracking() as subject:
        with installed(subject, LONG_SECONDS) as server:
            send()
            await until(lambda: server.stops, AT_ONCE_SECONDS)
            send(signal.SIGINT)
            await until(lambda: server.hurries == 1, AT_ONCE_SECONDS)
            assert len(server.stops) == 1


async def test_a_second_sigterm_changes_nothing() -> None:
    """Supervisors may repeat themselves: requests keep their time, and the server is stopped once."""
    async with tracking() as subject:
        task = await begun(subject)
        with installed(subject, LONG_SECONDS) as server:
            for _ in range(3):
                send()
                await until(lambda: subject.tracker.is_draining, 30)
            assert await until_steady(lambda: len(server.stops), 0.2) == 0
            subject.run_through(task)
            await until(lambda: server.stops, AT_ONCE_SECONDS)
            assert await until_steady(lambda: len(server.stops), 0.2) == 1


@pytest.mark.parametrize("number", SIGNALS)
async def test_new_requests_are_served_during_the_notice(number: int) -> None:
    """After the first signal the gateway is not ready, and requests begin and end as ever until the notice is over."""
    async with tracking() as subject:
        with installed(subject, LONG_SECONDS, notice_seconds=1) as server:
            assert not server.drain.has_begun()
            send(number)
            await until(server.drain.has_begun, 3)
            task = await begun(subject)
            assert not subject.tracker.is_draining
            assert server.stops == []
            await until(lambda: subject.tracker.is_draining, 10)
            with pytest.raises(ShuttingDown):
                await subject.begin()
            assert server.stops == []
            subject.run_through(task)
            await until(lambda: server.stops, 3)
        assert (task.stage, len(server.stops)) == (Stage.DONE, 1)


async def test_an_idle_gateway_gives_notice_too() -> None:
    """Without requests it waits as long: what would be sent to it meanwhile is served."""
    async with tracking() as subject:
        with installed(subject, LONG_SECONDS, notice_seconds=0.7) as server:
            sent = time.monotonic()
            send()
            await until(lambda: server.stops, 10)
            assert server.stops[0] - sent >= 0.7
            assert len(server.stops) == 1


@pytest.mark.parametrize("second", SIGNALS)
async def test_a_second_signal_ends_the_notice(second: int) -> None:
    """A second signal begins the drain at once, and what runs has its time; a Ctrl-C behind that does not wait."""
    async with tracking() as subject:
        task = await begun(subject)
        with installed(subject, LONG_SECONDS, notice_seconds=LONG_SECONDS) as server:
            send()
            await until(server.drain.has_begun, 3)
            assert not subject.tracker.is_draining
            send(second)
            await until(lambda: subject.tracker.is_draining, 3)
            assert await until_steady(lambda: len(server.stops), 0.2) == 0
            assert task.cut_by is None
            send(signal.SIGINT)
            await until(lambda: server.stops, 3)
        assert isinstance(task.cut_by, ShuttingDown)


async def test_the_drain_has_its_time_behind_the_notice(caplog: pytest.LogCaptureFixture) -> None:
    """DRAIN_SEC begins when the notice is over; one line tells of each."""
    with caplog.at_level("INFO", logger="gateway"):
        async with tracking() as subject:
            await begun(subject)
            with installed(subject, 0.4, notice_seconds=0.4) as server:
                sent = time.monotonic()
                send()
                await until(lambda: server.stops, 10)
                assert server.stops[0] - sent >= 0.8
    lines = [line.getMessage() for line in caplog.records if line.name == "gateway"]
    assert lines == [
        "stopping: not ready, and new requests are still served for 0.4 seconds",
        "stopping: 1 requests get 0.4 seconds to finish",
        "stopping: 1 requests are cut",
    ]


async def test_one_line_says_what_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    """The log tells how many requests may finish and how many were cut; an idle stop says nothing."""
    with caplog.at_level("INFO", logger="gateway"):
        async with tracking() as subject:
            await begun(subject)
            await begun(subject)
            with installed(subject, 0.1) as server:
                send()
                await until(lambda: server.stops, 30)
    lines = [line.getMessage() for line in caplog.records if line.name == "gateway"]
    assert lines == ["stopping: 2 requests get 0.1 seconds to finish", "stopping: 2 requests are cut"]


async def test_the_phases_follow_each_other() -> None:
    """Each phase is met once, in the order of the enum, and the last one lasts."""
    async with tracking() as subject:
        task = await subject.begin()
        with installed(subject, 0.3, notice_seconds=0.3) as server:
            seen = [server.drain.phase]

            def has_reached(last: Phase) -> bool:
                if server.drain.phase is not seen[-1]:
                    seen.append(server.drain.phase)
                return seen[-1] is last

            send()
            await until(lambda: has_reached(Phase.SAVING), 30)
            server.drain.end()
            assert has_reached(Phase.STOPPED)
            assert seen == list(Phase)
            send()
            send(signal.SIGINT)
            assert await until_steady(lambda: (len(server.stops), server.hurries), 0.2) == (1, 0)
            assert server.drain.phase is Phase.STOPPED
        assert isinstance(task.cut_by, ShuttingDown)


@pytest.mark.parametrize("event", list(_Event))
def test_no_phase_is_left_backwards(event: _Event) -> None:
    """Whatever happens in a phase, the next one is the one behind it, or none."""
    order = list(Phase)
    for before, after in pairwise(order):
        assert _MOVES.get((before, event), after) is after
    assert (Phase.STOPPED, event) not in _MOVES


async def test_answers_get_what_is_left_of_the_drain() -> None:
    """A server that is told to stop may give answers still being written the rest of DRAIN_SEC."""
    async with tracking() as subject:
        with installed(subject, LONG_SECONDS) as server:
            send()
            await until(lambda: server.stops, AT_ONCE_SECONDS)
            assert LONG_SECONDS - 5 <= server.answer_seconds <= LONG_SECONDS
