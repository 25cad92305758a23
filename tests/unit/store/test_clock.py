"""The store's clock, as a process learns it from the replies."""

from __future__ import annotations

import time

import pytest

from gateway.store.clock import StoreClock

WALL, MONOTONIC = 1_700_000_000.0, 500.0


class Machine:
    """This machine's clocks, which the test moves."""

    def __init__(self) -> None:
        self.wall, self.monotonic = WALL, MONOTONIC
        self.clock: StoreClock

    def pass_time(self, seconds: float) -> None:
        """Both clocks go on."""
        self.wall += seconds
        self.monotonic += seconds

    def hear(self, store_seconds: float, *, round_trip: float = 0.0) -> None:
        """A reply that says the store's time now; it was asked for that long ago."""
        self.clock.heard(int(store_seconds * 1000), self.monotonic - round_trip)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose store has said nothing yet."""
    made = Machine()
    monkeypatch.setattr(time, "time", lambda: made.wall)
    monkeypatch.setattr(time, "monotonic", lambda: made.monotonic)
    made.clock = StoreClock(30)
    return made


def test_before_the_first_reply_it_is_this_machines_clock(machine: Machine) -> None:
    """Nothing else is known."""
    assert machine.clock.seconds() == WALL
    assert machine.clock.is_steady


@pytest.mark.parametrize("offset", [-90, 90, -1_000_000, 0])
def test_it_is_the_stores_whatever_this_machines_says(machine: Machine, offset: float) -> None:
    """The offset is learned, and a step of this machine's clock changes nothing."""
    machine.hear(WALL + offset)
    machine.pass_time(7)
    machine.wall += 3600
    assert machine.clock.seconds() == pytest.approx(WALL + offset + 7, abs=0.002)
    assert machine.clock.is_steady


def test_a_slow_reply_changes_little(machine: Machine) -> None:
    """The true time lies between the question and the reply: an estimate that fits stays."""
    machine.hear(WALL, round_trip=0.001)
    machine.pass_time(1)
    machine.hear(WALL + 0.3, round_trip=0.9)  # said 0.7 s ago, as the store's clock was then
    assert machine.clock.seconds() == pytest.approx(WALL + 1, abs=0.002)


def test_a_fast_reply_makes_it_exact(machine: Machine) -> None:
    """The first reply was slow, so the estimate was wrong by up to that."""
    machine.hear(WALL + 90, round_trip=2.0)
    assert machine.clock.seconds() == pytest.approx(WALL + 90, abs=2.01)
    machine.hear(WALL + 91, round_trip=0.001)
    assert machine.clock.seconds() == pytest.approx(WALL + 91, abs=0.003)


def test_a_machine_that_is_right_stays_so(machine: Machine) -> None:
    """If this machine's clock can be the store's, the first reply moves nothing, however slow it was."""
    machine.hear(WALL - 0.1, round_trip=0.3)
    assert machine.clock.seconds() == WALL


@pytest.mark.parametrize(("step", "is_steady"), [(-3600, True), (1.9, True), (2.1, False), (3600, False)])
def test_a_step_is_followed_at_once(machine: Machine, step: float, *, is_steady: bool) -> None:
    """A new primary has another clock. After a step forward tasks only look silent, for the grace."""
    machine.hear(WALL)
    machine.pass_time(1)
    machine.hear(WALL + 1 + step)
    assert machine.clock.seconds() == pytest.approx(WALL + 1 + step, abs=0.002)
    assert machine.clock.is_steady is is_steady
    machine.pass_time(29.9)
    assert machine.clock.is_steady is is_steady
    machine.pass_time(0.2)
    assert machine.clock.is_steady
