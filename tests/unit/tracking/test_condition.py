"""What the log says of the store's condition, and when a store counts as back."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import StoreError
from gateway.tracking.condition import LINE_SECONDS, QUICK_SECONDS, SAME_SECONDS, Condition
from gateway.tracking.outbox import BATCH_TASKS, Outbox
from gateway.tracking.tracked import TrackedTask

if TYPE_CHECKING:
    from collections.abc import Iterator


class Clock:
    """Monotonic seconds that a test moves."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Clock]:
    """The clock that the condition looks at; the log is kept."""
    clock = Clock()
    monkeypatch.setattr("gateway.tracking.condition.time.monotonic", lambda: clock.now)
    with caplog.at_level(logging.INFO, logger="gateway.tracker"):
        yield clock


def come_back(condition: Condition) -> None:
    """A good probe, where nothing is to be written."""
    condition.pass_probe(0.0)
    assert condition.is_up


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines so far, in short."""
    messages = [line.getMessage() for line in caplog.records]
    return ["back" if "is back" in text else text.partition("(")[2] or text.partition(": ")[2] for text in messages]


def test_a_store_that_goes_and_comes_all_the_time_is_said_once_a_minute(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """No two lines come within five seconds, and the same pair of lines not twice within a minute."""
    condition = Condition(Outbox(), 30)
    for _ in range(240):  # four minutes, away and back every second
        condition.fail(StoreError("OOM", "OOM"))
        clock.now += 0.5
        condition.tell()
        come_back(condition)
        clock.now += 0.5
        condition.tell()
    lines = said(caplog)
    assert 2 <= len(lines) <= 2 * (240 / SAME_SECONDS + 1)
    assert ["back" if line == "back" else "away" for line in lines] == (["away", "back"] * len(lines))[: len(lines)]


def test_a_short_failure_is_told_to_its_end(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is back within five seconds is said to be back, though a little later."""
    condition = Condition(Outbox(), 30)
    condition.fail(StoreError("cut"))
    clock.now += 1
    come_back(condition)
    assert len(said(caplog)) == 1
    clock.now += LINE_SECONDS - 2
    condition.tell()
    assert len(said(caplog)) == 1
    clock.now += 1
    condition.tell()
    condition.tell()
    assert said(caplog)[1:] == ["back"]


def test_another_reason_is_another_condition(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A store that is away for another reason than was told is told again, not for every other wording of the same."""
    condition = Condition(Outbox(), 30)
    for text, kind in (("refused", ""), ("timed out", ""), ("read only", "READONLY"), ("replica", "READONLY")):
        condition.fail(StoreError(text, kind))
        clock.now += LINE_SECONDS
    condition.fail(StoreError("timed out"))
    assert [line.partition(")")[0] for line in said(caplog)] == ["refused", "read only"]
    assert [line.levelname for line in caplog.records] == ["WARNING"] * 2
    come_back(condition)
    assert said(caplog)[2:] == ["back"]


def test_an_old_failure_is_told_again_after_a_minute(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """What was kept back because it had just been told is told when it still lasts."""
    condition = Condition(Outbox(), 30)
    condition.fail(StoreError("gone"))
    clock.now += LINE_SECONDS
    come_back(condition)
    condition.fail(StoreError("gone"))
    condition.tell()
    assert len(said(caplog)) == 2
    clock.now += SAME_SECONDS
    condition.tell()
    assert len(said(caplog)) == 3


def test_a_probe_and_a_batch_together_make_a_store_come_back() -> None:
    """Neither a good probe nor a good batch alone ends a failure where there is something to be written."""
    outbox = Outbox()
    condition = Condition(outbox, 30)
    outbox.post_urgently(TrackedTask("t", "POST", "/v1/x", "", 1, 1))
    condition.fail(StoreError("NOPERM", "NOPERM"))
    condition.batch_written(0.0)
    assert not condition.is_up
    condition.pass_probe(0.0)
    assert not condition.is_up
    condition.fail(StoreError("NOPERM", "NOPERM"))
    condition.batch_written(0.0)
    assert not condition.is_up
    condition.pass_probe(0.0)
    condition.batch_written(QUICK_SECONDS * 1.1)
    assert not condition.is_up
    condition.batch_written(QUICK_SECONDS)
    assert condition.is_up


def test_requests_do_not_wait_behind_what_was_kept() -> None:
    """A store is back when what was kept for it is written, but for one batch: who waits is in the next one."""
    outbox = Outbox()
    condition = Condition(outbox, 30)
    condition.fail(StoreError("gone"))
    for number in range(BATCH_TASKS + 1):
        outbox.post_urgently(TrackedTask(f"t{number}", "POST", "/v1/x", "", 1, 1))
    condition.pass_probe(0.0)
    condition.batch_written(0.0)
    assert not condition.is_up
    outbox.next_batch()
    outbox.finish_batch()
    condition.batch_written(0.0)
    assert condition.is_up
