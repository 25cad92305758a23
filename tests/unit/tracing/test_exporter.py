"""The thread that sends spans: what it does with more tasks than it can take, and what the log says of lost spans."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import TYPE_CHECKING

import pytest

from gateway.app import create_app
from gateway.settings import load
from gateway.tasks.task import Task, Trace
from gateway.tracing import exporter
from gateway.tracing.exporter import Traces
from gateway.tracing.sdk_log import SparseHandler
from gateway.tracing.span import span_of
from tests.support.collector import Collector
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

A_BUSY_MACHINE = 10.0  # seconds


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
    sdk_log = SparseHandler(logging.getLogger("gateway.tracing"))
    sdk_log.attach()
    yield Traces(sdk_log, instance="here", version="1.2")
    sdk_log.detach()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log has about traces."""
    return [record.getMessage() for record in caplog.records if record.name == "gateway.tracing"]


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
    """The wait is bounded, a last line says that spans may be lost, and nothing is logged after it."""
    monkeypatch.setattr(exporter, "CLOSE_SECONDS", 0.2)
    collector.status = 400
    collector.released.clear()
    traces.ended(ended("late"), 1)
    await until(lambda: collector.requests, what="the SDK sends")
    begun = time.monotonic()
    await traces.close()
    assert 0.2 <= time.monotonic() - begun < A_BUSY_MACHINE
    said = ["traces: the last spans may be lost: the collector did not take them in time"]
    assert lines(caplog) == said
    collector.released.set()  # the SDK gets its 400 now, and warns
    await until(lambda: "traces" not in {thread.name for thread in threading.enumerate()}, what="the thread ends")
    assert lines(caplog) == said


async def test_what_is_lost_at_the_end_is_told(
    traces: Traces, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Tasks over the bound that no line has counted yet, also within a minute of another line."""
    collector.status = 400
    traces.ended(ended("first"), 1)
    await until(lambda: len(lines(caplog)) == 1, what="a line")
    monkeypatch.setattr(exporter, "MOST_WAITING", 0)
    for number in range(3):
        traces.ended(ended(f"t-{number}"), 1)
    await traces.close()
    [_, last] = lines(caplog)
    assert last.startswith("traces: 3 tasks have no span: ")


async def test_the_last_spans_are_told_of_if_refused(
    traces: Traces, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """The first refused batch is a line; those of the next minute are one more at the end."""
    collector.status = 400
    traces.ended(ended("first"), 1)
    await until(lambda: len(lines(caplog)) == 1, what="a line")
    traces.ended(ended("last"), 1)
    await traces.close()
    assert lines(caplog) == ["traces: Failed to export spans batch code: 400, reason: Bad Request"] * 2


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_told(
    traces: Traces, collector: Collector, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """The SDK does not follow it, and counts the lost spans as sent: one line says what to do."""
    collector.status = status
    traces.ended(ended("lost"), 1)
    await until(lambda: lines(caplog), what="a line")
    assert lines(caplog) == [
        f"traces: spans are lost: the collector answers with a redirect ({status}), which is not followed; "
        "set OTEL_EXPORTER_OTLP_ENDPOINT to the address that it leads to"
    ]
    await traces.close()


def test_an_sdk_that_does_not_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A wrong variable is one line without its value; the loggers of the libraries are as they were."""
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-5")
    create_app(load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "no traces are sent: OpenTelemetry's SDK does not start with these OTEL_* variables (ValueError)"
    ]
    assert [(logger.propagate, list(logger.handlers)) for logger in loggers] == before
