"""Owns OTEL_EXPORTER_OTLP_ENDPOINT: one span for each task, sent to a real receiver of OTLP, and nothing without it."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.collector import ERROR, SERVER, UNSET, Collector
from tests.support.kept import kept
from tests.support.ports import free_port
from tests.support.scripted import EVENTS, JSON, answering, sending, streaming
from tests.support.streams import BODY, CHAT, cancel, held
from tests.support.waiting import next_millisecond, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.collector import Span
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

CALLS = 100
AT_ONCE = 10
MOST_EXIT_SECONDS = 3.0  # that traces may add to the exit
A_BUSY_MACHINE = 3.0
LONGEST_SECONDS = 5.0  # of a request; the SDK gives a collector ten
PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "100"}  # seconds: a busy machine takes longer than ten for the calls
SOON = {"OTEL_BSP_SCHEDULE_DELAY": "50"}  # the SDK sends twenty times a second
EVENT = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of this test's own."""
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
async def traced(launch: Launch, store: Store, collector: Collector) -> Gateway:
    """A gateway with a store that sends traces soon."""
    return await launch(REDIS_URL=store.url, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **SOON)


def traceparent(trace_id: str = TRACE, span_id: str = SPAN, flags: str = "01") -> tuple[bytes, bytes]:
    """The field."""
    return b"traceparent", f"00-{trace_id}-{span_id}-{flags}".encode()


async def span_of(collector: Collector, task_id: str) -> Span:
    """The one span of a task."""
    [span] = await collector.spans_of(task_id)
    return span


def check_times(span: Span, document: dict[str, Any]) -> None:
    """Times and events are those of the status, and in its order."""
    known = document["extensions"]
    names = {"started_ms": "forwarded", "first_byte_ms": "first_byte", "finished_ms": "ended"}
    happened = {name: known[key] * 1_000_000 for key, name in names.items() if known[key] is not None}
    assert (span.start_ns, span.end_ns) == (known["created_ms"] * 1_000_000, known["finished_ms"] * 1_000_000)
    assert span.events == [(f"ollama_gateway.{name}", time_ns) for name, time_ns in happened.items()]
    assert [time_ns for _, time_ns in span.events] == sorted(time_ns for _, time_ns in span.events)


async def test_streaming_calls_have_their_spans(traced: Gateway, collector: Collector, upstream: Upstream) -> None:
    """Of a hundred streams each has one span: the client's parent, its trace, the times of the status."""
    upstream.default = streaming(EVENT, EVENT, DONE)
    parents = {number: (f"{number + 1:032x}", f"{number + 1:016x}") for number in range(CALLS)}

    async def call(numbers: range) -> dict[int, str]:
        client, tasks = await traced.connect(), {}
        for number in numbers:
            answer = await client.ask("POST", CHAT, traceparent(*parents[number]), body=BODY)
            tasks[number] = answer.head.task_id
        return tasks

    calls = await asyncio.gather(*(call(range(first, CALLS, AT_ONCE)) for first in range(AT_ONCE)))
    tasks = {number: task_id for done in calls for number, task_id in done.items()}
    found = dict(zip(tasks, await collector.spans_of(*tasks.values()), strict=True))
    assert len(found) == CALLS
    for number, task_id in tasks.items():
        span, document = found[number], await traced.ended(task_id)
        assert (span.trace_id, span.parent_id) == parents[number]
        assert document["extensions"]["trace_id"] == span.trace_id
        assert (span.name, span.kind, span.status) == (f"POST {CHAT}", SERVER, UNSET)
        assert [name for name, _ in span.events] == [
            "ollama_gateway.forwarded", "ollama_gateway.first_byte", "ollama_gateway.ended",
        ]  # fmt: skip
        check_times(span, document)
        assert span.attributes["http.response.body.size"] == document["extensions"]["response_bytes"]
        assert span.attributes["ollama_gateway.stream"] is True
    assert len(collector.spans) == CALLS
    assert len({span.span_id for span in collector.spans}) == CALLS


async def test_a_task_without_a_parent_begins_a_trace(
    traced: Gateway, collector: Collector, upstream: Upstream
) -> None:
    """The status has the trace id from its first document on; the span has the same, and no parent."""
    stream = await held(traced, upstream)
    running = (await traced.status(stream.task_id))["extensions"]["trace_id"]
    assert re.fullmatch(r"[0-9a-f]{32}", running)
    await stream.end()
    span = await span_of(collector, stream.task_id)
    assert (span.trace_id, span.parent_id, span.trace_state) == (running, "", "")
    assert (await traced.ended(stream.task_id))["extensions"]["trace_id"] == running


@pytest.mark.parametrize(
    "fields",
    [
        [(b"traceparent", b"00-" + b"0" * 32 + b"-" + b"1" * 16 + b"-01")],
        [(b"traceparent", b"no such thing")],
        [traceparent(), traceparent()],
    ],
    ids=["zeros", "text", "two"],
)
async def test_a_malformed_parent_is_none(
    traced: Gateway, collector: Collector, upstream: Upstream, fields: list[tuple[bytes, bytes]]
) -> None:
    """Such a request begins a trace of its own, and the fields still pass to Ollama."""
    answer = await traced.ask("POST", CHAT, *fields, (b"tracestate", b"a=b"), body=BODY)
    span = await span_of(collector, answer.head.task_id)
    assert span.parent_id == ""
    assert span.trace_id not in (TRACE, "0" * 32)
    assert (await traced.ended(answer.head.task_id))["extensions"]["trace_id"] == span.trace_id
    passed = (await upstream.exchange()).head.fields
    assert [value for name, value in passed if name == b"traceparent"] == [value for _, value in fields]


async def test_the_clients_fields_pass_and_its_state_stays(
    traced: Gateway, collector: Collector, upstream: Upstream
) -> None:
    """Ollama gets traceparent and tracestate unchanged; the span keeps the state. An invalid one counts as none."""
    states = [(b"tracestate", b"rojo=1,congo=2"), (b"tracestate", b"third=3")]
    first = await traced.ask("POST", CHAT, traceparent(), *states, body=BODY)
    second = await traced.ask("POST", CHAT, traceparent(), (b"tracestate", b"not a state"), body=BODY)
    spans = await collector.spans_of(first.head.task_id, second.head.task_id)
    assert [span.trace_state for span in spans] == ["rojo=1,congo=2,third=3", ""]
    assert [span.parent_id for span in spans] == [SPAN, SPAN]
    passed = (await upstream.exchange()).head.fields
    assert [field for field in passed if field[0].startswith(b"trace")] == [traceparent(), *states]
    assert "not a state" not in traced.log, "what clients send is not logged"


async def test_what_the_client_does_not_sample_is_not_sent(traced: Gateway, collector: Collector) -> None:
    """The flag of the parent decides; the status names the trace all the same."""
    unsampled = await traced.ask("POST", CHAT, traceparent(flags="00"), body=BODY)
    sampled = await traced.ask("POST", CHAT, traceparent(), body=BODY)
    await span_of(collector, sampled.head.task_id)
    assert [span.task_id for span in collector.spans] == [sampled.head.task_id]
    assert (await traced.ended(unsampled.head.task_id))["extensions"]["trace_id"] == TRACE


async def test_failures_are_told(traced: Gateway, collector: Collector, upstream: Upstream) -> None:
    """A broken answer is an error with its reason; a 404 of Ollama is none, and has its reason all the same."""
    upstream.then(
        streaming(EVENT), answering(404, JSON, body=b'{"error":"no such model"}'), sending(then="drop"),
        answering(500, JSON, body=b"{}"),
    )  # fmt: skip
    ids = [(await traced.ask("POST", CHAT, body=BODY)).head.task_id for _ in range(4)]
    spans = await collector.spans_of(*ids)
    reasons = ["stream_incomplete", "upstream_status", "upstream_error", "upstream_status"]
    assert [span.attributes["error.type"] for span in spans] == reasons
    assert [span.status for span in spans] == [ERROR, UNSET, ERROR, ERROR]
    assert [span.attributes["http.response.status_code"] for span in spans] == [200, 404, 502, 500]
    for span, task_id in zip(spans, ids, strict=True):
        document = await traced.ended(task_id)
        check_times(span, document)
        assert span.status_message in ("", document["message"])


async def test_a_cancelled_task_has_its_span(traced: Gateway, collector: Collector, upstream: Upstream) -> None:
    """A cancel call ends the span at the time of the status."""
    stream = await held(traced, upstream)
    await next_millisecond()
    await cancel(traced, stream.task_id)
    span = await span_of(collector, stream.task_id)
    check_times(span, await traced.ended(stream.task_id))
    assert (span.attributes["error.type"], span.status) == ("cancelled", ERROR)


async def test_a_kept_call_whose_client_left(traced: Gateway, collector: Collector, upstream: Upstream) -> None:
    """It has one span, from its request to the end of the answer that goes on without the client."""
    call = await kept(traced, upstream, traceparent())
    await call.leave()
    assert not collector.spans
    call.finish(EVENT)
    span, document = await span_of(collector, call.task_id), await traced.ended(call.task_id)
    check_times(span, document)
    assert (span.trace_id, span.parent_id, span.status) == (TRACE, SPAN, UNSET)
    assert span.attributes["ollama_gateway.detached"] is True
    assert span.attributes["ollama_gateway.response"] == "kept"


async def test_each_attempt_is_a_task_with_a_span(traced: Gateway, collector: Collector, fresh_id: str) -> None:
    """A client that tries again with the same id gets two spans, told apart by their attempts."""
    for _ in range(2):
        await traced.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)
    await until(lambda: len(collector.spans) == 2, what="two spans")
    assert sorted(span.attributes["ollama_gateway.attempt"] for span in collector.spans) == [1, 2]
    assert {span.task_id for span in collector.spans} == {fresh_id}


async def test_a_request_that_is_no_task_has_no_span(traced: Gateway, collector: Collector, upstream: Upstream) -> None:
    """Pollers, health checks and refused requests are not traced."""
    stream = await held(traced, upstream)
    assert (await traced.ask("POST", CHAT, (b"X-Task-Id", stream.task_id.encode()), body=BODY)).status == 409
    assert (await traced.ask("GET", "/readyz", traceparent())).status == 200
    assert (await traced.ask("GET", "/nowhere", traceparent())).status == 404
    await stream.end()
    await span_of(collector, stream.task_id)
    assert len(collector.spans) == 1


async def test_no_secret_leaves(launch: Launch, collector: Collector, upstream: Upstream) -> None:
    """Bodies, header fields and credentials are in no span, the name of the key is; the SDK's headers are sent."""
    gateway = await launch(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_EXPORTER_OTLP_HEADERS="x-tenant=tenant-1",
        OTEL_SERVICE_NAME="my-service", OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
        GATEWAY_INSTANCE="here:1", GATEWAY_API_KEYS="ann:hidden-key-0123456789", ERROR_TEXT_BYTES="1024", **SOON,
    )  # fmt: skip
    upstream.default = answering(500, EVENTS, (b"X-Answer", b"hidden-answer-field"), body=b'{"error":"hidden-answer"}')
    answer = await gateway.ask(
        "POST", f"{CHAT}?api_key=hidden-query&plain=1", (b"Authorization", b"Bearer hidden-key-0123456789"),
        (b"X-Secret", b"hidden-field"), (b"X-Task-Label", b"nightly"), body=b'{"prompt":"hidden-prompt"}',
    )  # fmt: skip
    span = await span_of(collector, answer.head.task_id)
    assert not [body for body in collector.bodies if b"hidden" in body]
    assert span.attributes["url.query"] == "api_key=REDACTED&plain=1"
    assert (span.attributes["ollama_gateway.owner"], span.attributes["ollama_gateway.label"]) == ("ann", "nightly")
    assert {name: span.resource[name] for name in ("service.name", "service.instance.id")} == {
        "service.name": "my-service", "service.instance.id": "here:1",
    }  # fmt: skip
    assert span.resource["deployment.environment.name"] == "test"
    assert "service.version" in span.resource
    [(path, fields), *_] = collector.requests
    assert (path, fields["x-tenant"], fields["content-type"]) == ("/v1/traces", "tenant-1", "application/x-protobuf")


async def test_what_waits_is_sent_at_the_exit(launch: Launch, collector: Collector, upstream: Upstream) -> None:
    """Spans of the last seconds are sent before the process ends, also those of tasks that the end cuts."""
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, DRAIN_SEC="0")  # the SDK waits for 5 s
    answer = await gateway.ask("POST", CHAT, body=BODY)
    stream = await held(gateway, upstream)
    gateway.process.terminate()
    await until(lambda: gateway.process.poll() is not None, what="the gateway ends")
    spans = {span.task_id: span for span in collector.spans}
    assert spans.keys() == {answer.head.task_id, stream.task_id}
    assert spans[stream.task_id].attributes["error.type"] == "shutdown"


@pytest.mark.alone
@pytest.mark.parametrize("trouble", ["away", "refusing", "redirecting", "slow"])
async def test_a_collector_in_trouble_delays_nothing(
    launch: Launch, collector: Collector, upstream: Upstream, trouble: str
) -> None:
    """Requests and statuses go on, the log has one line and one at the exit, which takes at most three seconds more."""
    endpoint = f"http://127.0.0.1:{free_port()}/hidden-path" if trouble == "away" else collector.endpoint
    collector.status = 307 if trouble == "redirecting" else 503
    if trouble == "slow":
        collector.released.clear()
    patient = PATIENT if trouble == "slow" else {}
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, LOG_FORMAT="json", **SOON, **patient)
    client, longest = await gateway.connect(), 0.0
    for _ in range(200):
        begun = time.monotonic()
        answer = await client.ask("POST", CHAT, body=BODY)
        longest = max(longest, time.monotonic() - begun)
        assert answer.status == 200
        assert (await gateway.ended(answer.head.task_id))["state"] == "SUCCESS"
    assert longest < LONGEST_SECONDS
    if trouble != "slow":
        await until(lambda: "traces: " in gateway.log, what="a line about the collector")
    begun = time.monotonic()
    await gateway.stop()
    assert time.monotonic() - begun < MOST_EXIT_SECONDS + A_BUSY_MACHINE
    lines = [json.loads(line) for line in gateway.log.splitlines()]
    about = [line for line in lines if line["logger"] == "gateway.tracing"]
    assert [line["level"] for line in about] == ["warning"] * (1 if trouble == "slow" else 2)
    assert all(line["message"].startswith("traces: ") for line in about)
    if trouble == "redirecting":
        assert "set OTEL_EXPORTER_OTLP_ENDPOINT to the address that it leads to" in about[0]["message"]
    assert not [line for line in lines if line["logger"].startswith(("opentelemetry", "urllib3"))]
    assert "hidden" not in gateway.log


async def test_without_the_variable_nothing_is_loaded(
    launch: Launch, collector: Collector, store: Store, tmp_path: Path
) -> None:
    """Of OpenTelemetry and what it needs no module is loaded, and the status has no trace id."""
    # The process says at its end what it has loaded.
    report = "import atexit, sys\natexit.register(lambda: print('MODULES', *filter(sys.modules.get, sys.modules)))\n"
    (tmp_path / "sitecustomize.py").write_text(report)
    others = {"REDIS_URL": store.url, "OTEL_SERVICE_NAME": "x", "PYTHONPATH": str(tmp_path)}
    plain, traced = await launch(**others), await launch(**others, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
    answers = [await gateway.ask("POST", CHAT, traceparent(), body=BODY) for gateway in (plain, traced)]
    assert "trace_id" not in (await plain.ended(answers[0].head.task_id))["extensions"]
    await plain.stop()
    await traced.stop()
    without, with_traces = loaded(plain.log), loaded(traced.log)
    assert {name for name in without if is_for_traces(name)} == set()
    assert {
        "gateway.tracing.exporter",
        "gateway.tracing.sdk_log",
        "opentelemetry.sdk.trace",
        "requests",
    } <= with_traces
    assert {name for name in with_traces - without if name.startswith("gateway.")} == {
        "gateway.tracing", "gateway.tracing.context", "gateway.tracing.exporter", "gateway.tracing.sdk_log",
        "gateway.tracing.span",
    }  # fmt: skip


async def test_opentelemetrys_own_switch_turns_all_off(launch: Launch, collector: Collector) -> None:
    """With OTEL_SDK_DISABLED=true no span is sent, and no status names a trace that nothing has."""
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_SDK_DISABLED="true", **SOON)
    answer = await gateway.ask("POST", CHAT, traceparent(), body=BODY)
    assert "trace_id" not in (await gateway.ended(answer.head.task_id))["extensions"]
    await gateway.stop()
    assert (collector.requests, "traces" in gateway.log) == ([], False)


def loaded(log: str) -> set[str]:
    """The modules that a process says it has loaded."""
    [line] = [line for line in log.splitlines() if line.startswith("MODULES ")]
    return set(line.split())


def is_for_traces(module: str) -> bool:
    """Whether only traces need a module. redis-py would import OpenTelemetry for its own metrics."""
    return module.startswith(("gateway.tracing", "opentelemetry", "requests", "urllib3", "google.protobuf"))


async def test_without_the_packages_one_line_warns(launch: Launch, collector: Collector, tmp_path: Path) -> None:
    """The gateway says so at its start, and works without traces."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text('"""Stands in the way of the real one."""\n')
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, PYTHONPATH=str(tmp_path))
    answer = await gateway.ask("POST", CHAT, traceparent(), body=BODY)
    assert "trace_id" not in (await gateway.ended(answer.head.task_id))["extensions"]
    [line] = [line for line in gateway.log.splitlines() if "traces" in line]
    assert line.endswith("OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's SDK is not installed")
    assert " WARNING " in line


async def test_wrong_variables_of_the_sdk_turn_traces_off(launch: Launch, collector: Collector) -> None:
    """One line warns, without the value; the gateway works."""
    wrong = {"OTEL_BSP_MAX_QUEUE_SIZE": "-5"}
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **wrong)
    assert (await gateway.ask("POST", CHAT, body=BODY)).status == 200
    [line] = [line for line in gateway.log.splitlines() if "traces" in line]
    assert line.endswith("OpenTelemetry's SDK does not start with these OTEL_* variables (ValueError)")


async def test_a_wrong_context_of_the_sdk_is_one_line(launch: Launch, collector: Collector) -> None:
    """OpenTelemetry reads OTEL_PYTHON_CONTEXT while it is loaded: neither the value nor a traceback is logged."""
    wrong = {"OTEL_PYTHON_CONTEXT": "hidden-value"}
    gateway = await launch(OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, **wrong, **SOON)
    answer = await gateway.ask("POST", CHAT, body=BODY)
    await span_of(collector, answer.head.task_id)
    [line] = [line for line in gateway.log.splitlines() if "traces" in line]
    assert line.endswith("the value of OTEL_PYTHON_CONTEXT is not known, and has no effect; unset the variable")
    assert not [word for word in ("hidden", "Traceback") if word in gateway.log]
