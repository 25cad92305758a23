"""The thread that sends spans: what it does with more tasks than it can take, and with a task that it cannot read."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from gateway.tasks.task import Task, Trace
from gateway.tracing import exporter
from gateway.tracing.exporter import Traces
from gateway.tracing.span import span_of
from tests.support.collector import Collector
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the SDK sends to."""
    collector = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    yield collector
    collector.close()


@pytest.fixture
def traces(collector: Collector) -> Iterator[Traces]:
    """What sends traces; the loggers of its libraries are as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    yield Traces(instance="here", version="1.2")
    for logger in loggers:
        logger.handlers.clear()
        logger.propagate = True


def ended(task_id: str) -> Task:
    """A task that has ended."""
    task = Task(task_id, "POST", "/v1/completions", "", 1000)
    task.trace = Trace("0af7651916cd43dd8448eb211c80319c")
    task.finish(None, "complete", 1500)
    return task


async def test_what_is_over_the_bound_is_counted(
    traces: Traces, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the thread is busy, tasks wait up to a bound; the others have no span, and one line says how many."""
    is_busy, go_on = threading.Event(), threading.Event()
    make = span_of

    def slowly(*args: object, **more: object) -> object:
        is_busy.set()
        go_on.wait()
        return make(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(exporter, "span_of", slowly)
    monkeypatch.setattr(exporter, "MOST_WAITING", 3)
    traces.ended(ended("first"), 1)
    await asyncio.to_thread(is_busy.wait)
    for number in range(10):
        traces.ended(ended(f"t-{number}"), 1)
    go_on.set()
    spans = await collector.spans_of("first", "t-0", "t-1", "t-2")
    assert len(spans) == len(collector.spans) == 4
    await until(lambda: "7 tasks have no span" in caplog.text, what="a line")
    await traces.close()


async def test_one_bad_task_stops_nothing(
    traces: Traces, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """A task whose span cannot be made is one line; the next one has its span."""
    bad = ended("bad")
    bad.trace = Trace("not a number")
    traces.ended(bad, 1)
    traces.ended(ended("good"), 1)
    await collector.spans_of("good")
    assert "traces: a task has no span: ValueError inside the gateway" in caplog.text
    await traces.close()


async def test_a_close_waits_for_no_slow_collector(
    traces: Traces, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The wait is bounded, and a line says that spans may be lost; nothing is logged after it."""
    monkeypatch.setattr(exporter, "CLOSE_SECONDS", 0.2)
    collector.released.clear()
    traces.ended(ended("late"), 1)
    await until(lambda: collector.requests, what="the SDK sends")
    await traces.close()
    assert "traces: the last spans may be lost" in caplog.text
    collector.released.set()
