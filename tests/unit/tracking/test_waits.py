"""What a wait for the store promises to the request that waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from gateway.metrics.counts import Counts
from gateway.tasks.stages import Stage
from gateway.tracking import waits as waits_module
from gateway.tracking.condition import Condition
from gateway.tracking.outbox import Outbox
from gateway.tracking.tracked import MAX_WAITS_SECONDS, TrackedTask
from gateway.tracking.waits import Waits

if TYPE_CHECKING:
    import pytest


def new() -> tuple[Waits, TrackedTask, list[str]]:
    """The waits of a store that never answers, a task, and what was called."""
    outbox, called = Outbox(), list[str]()
    waits = Waits(outbox, Condition(outbox, 1), Counts(), lambda: called.append("silence"))
    return waits, TrackedTask("t", "POST", "/v1/x", "", 1000, 1), called


async def test_waits_use_up_one_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits of a request together have a bound; behind it the request goes on at once."""
    clock = SimpleNamespace(monotonic=lambda: 0.0)
    monkeypatch.setattr(waits_module, "time", clock)
    waits, task, called = new()
    for begun, over in ((1.0, 1.1), (2.0, 2.1)):
        clock.monotonic = lambda now=begun: now
        waits.settle(task, lambda: called.append("on"))
        clock.monotonic = lambda now=over: now
        waits.forget(task)
    assert abs(task.wait_left - (MAX_WAITS_SECONDS - 0.2)) < 1e-9
    task.wait_left = 0
    assert called == []
    waits.settle(task, lambda: called.append("on"))
    assert (called, task in waits) == (["on"], False)


async def test_what_the_store_has_is_not_waited_for() -> None:
    """A request goes on at once if the store has its task's stage; a later stage is waited for."""
    waits, task, called = new()
    task.sent()
    task.saved(1)
    waits.settle(task, lambda: called.append("queued"))
    task.forward(1001)
    waits.settle(task, lambda: called.append("forwarding"))
    assert (called, task in waits, task.stage) == (["queued"], True, Stage.FORWARDING)
