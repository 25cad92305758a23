"""Sends the span of each ended task to a collector: the only module that knows OpenTelemetry.

A thread of its own takes ended tasks from a bounded queue, makes their spans with the SDK and gives them to the SDK's
batches, which another thread of the SDK sends. So neither a request nor the event loop ever waits for a collector. The
SDK reads its own OTEL_* variables: headers, certificates, sampler, batch sizes. It is not made the process's global
provider, so no other library sends anything.
"""

import asyncio
import threading
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

import requests
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    TraceState,
    set_span_in_context,
)

from gateway.tasks.task import Task, Trace
from gateway.tracing.context import trace_of
from gateway.tracing.sdk_log import SparseHandler
from gateway.tracing.span import TaskSpan, span_of

SERVICE_NAME = "ollama-gateway"
MOST_WAITING = 10_000  # ended tasks
CLOSE_SECONDS = 3.0
_GATHER_SECONDS = 0.1  # the thread wakes once for all tasks that end in this time


class _Ended(NamedTuple):
    """A task that has ended, as the attempt that its gateway knows it as."""

    task: Task
    attempt: int


class _TraceIds(RandomIdGenerator):
    """Gives a span without a parent the trace id that its task's status has had from the beginning."""

    def __init__(self) -> None:
        self.next_trace_id = 0

    def generate_trace_id(self) -> int:
        return self.next_trace_id


class Traces:
    """The traces of one gateway process. Its warnings and those of the SDK go to `sdk_log`, which `close` ends.

    Raises ValueError if a variable of the SDK is not valid.
    """

    trace_of = staticmethod(trace_of)

    def __init__(self, sdk_log: SparseHandler, *, instance: str, version: str) -> None:
        self._instance = instance
        self._queue: SimpleQueue[_Ended | None] = SimpleQueue()  # None: the process ends
        self._dropped = 0  # tasks, counted by the event loop alone
        self._reported = 0  # of these, counted by the thread alone
        self._closing = threading.Event()
        self._log = sdk_log
        self._ids = _TraceIds()
        self._provider = TracerProvider(
            resource=_resource(instance, version), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(session=self._session())))
        self._tracer = self._provider.get_tracer("gateway.tracing", version)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def _session(self) -> requests.Session:
        """What the SDK sends with. The SDK follows no redirect and counts it as success, so this looks for them."""
        session = requests.Session()
        session.hooks["response"].append(self._look_at)
        return session

    def _look_at(self, response: requests.Response, **_: Any) -> None:
        if 300 <= response.status_code < 400:
            self._log.warn(
                f"spans are lost: the collector answers with a redirect ({response.status_code}), which is not "
                "followed; set OTEL_EXPORTER_OTLP_ENDPOINT to the address that it leads to"
            )

    # -- the event loop's side: `ended` is a plain call that cannot block --

    def ended(self, task: Task, attempt: int) -> None:
        """`task` has ended: its span is sent, unless too many wait already."""
        if self._queue.qsize() < MOST_WAITING:
            self._queue.put(_Ended(task, attempt))
        else:
            self._dropped += 1

    async def close(self) -> None:
        """Sends what waits, for at most CLOSE_SECONDS. A last line in the log says what is lost."""
        self._closing.set()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join, CLOSE_SECONDS)
        lost = []
        if self._thread.is_alive():
            lost.append("the last spans may be lost: the collector did not take them in time")
        if dropped := self._dropped - self._reported:
            lost.append(_dropped_text(dropped))
        self._log.end(*lost)  # a thread that still sends must not log while the process ends

    # -- the thread's side --

    def _run(self) -> None:
        while self._take_all():
            self._closing.wait(_GATHER_SECONDS)
        self._provider.shutdown()

    def _take_all(self) -> bool:
        """Waits for an ended task, and makes the spans of all that wait. False if the process ends."""
        ended = self._queue.get()
        try:
            while ended is not None:
                self._send(ended)
                ended = self._queue.get_nowait()
        except Empty:
            self._report_dropped()
            return True
        return False

    def _send(self, ended: _Ended) -> None:
        try:
            trace = ended.task.trace
            if trace is not None:
                self._ids.next_trace_id = int(trace.trace_id, 16)
                _record(self._tracer, span_of(ended.task, attempt=ended.attempt, instance=self._instance), trace)
        except Exception as error:  # the next task's span must still be sent
            self._log.warn(f"a task has no span: {type(error).__name__} inside the gateway")

    def _report_dropped(self) -> None:
        dropped = self._dropped - self._reported
        if dropped and self._log.warn(_dropped_text(dropped), comes_again=True):
            self._reported += dropped


def _dropped_text(dropped: int) -> str:
    return f"{dropped} tasks have no span: more than {MOST_WAITING} had ended at once"


def _resource(instance: str, version: str) -> Resource:
    """Which program the spans are of. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win."""
    ours = {"service.name": SERVICE_NAME, "service.version": version, "service.instance.id": instance}
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


def _record(tracer: Tracer, of: TaskSpan, trace: Trace) -> None:
    """Gives the SDK the span. The sampler decides whether it is sent: by default the parent's flag does, if it has one.

    An invalid tracestate counts as none.
    """
    span = tracer.start_span(
        of.name, _context(trace), kind=SpanKind.SERVER, attributes=of.attributes, start_time=of.start_ns
    )
    for event in of.events:
        span.add_event(event.name, timestamp=event.time_ns)
    if of.error is not None:
        span.set_status(Status(StatusCode.ERROR, of.error))
    span.end(of.end_ns)


def _context(trace: Trace) -> Context:
    """The SDK's form of the parent."""
    if trace.parent_id is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if trace.is_sampled else TraceFlags.DEFAULT)
    state = TraceState.from_header([trace.state])
    context = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), True, flags, state)
    return set_span_in_context(NonRecordingSpan(context), Context())
