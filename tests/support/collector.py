"""Owns the collector: a real receiver of OTLP over HTTP, which decodes what the gateway's OpenTelemetry SDK sends.

It takes all, refuses all, redirects all, or holds every request until the test releases it. It runs in threads of its
own, so that a test that waits does not keep it from answering.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVER, ERROR, UNSET = 2, 2, 0  # of opentelemetry/proto/trace/v1/trace.proto: kinds and status codes


@dataclass(frozen=True)
class Span:
    """One span as it came. Ids are hexadecimal, "" for none; times are Unix nanoseconds."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    trace_state: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[tuple[str, int]]
    status: int
    status_message: str
    resource: dict[str, Any]

    @property
    def task_id(self) -> str:
        """The task that it is of."""
        found = self.attributes["ollama_gateway.task_id"]
        assert isinstance(found, str)
        return found


class Collector:
    """The receiver. `status` is what it answers; clear `released` to hold what comes from then on."""

    def __init__(self) -> None:
        self.status = 200
        self.released = threading.Event()
        self.released.set()
        self.spans: list[Span] = []
        self.requests: list[tuple[str, dict[str, str]]] = []  # path and fields of each
        self.bodies: list[bytes] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        """Stop; what is held is let go."""
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    async def spans_of(self, *task_ids: str) -> list[Span]:
        """The spans of these tasks, in this order, as soon as each has one; exactly one each."""
        wanted = set(task_ids)
        await until(lambda: wanted <= {s.task_id for s in self.spans}, GUARD_SECONDS, "each task has a span")
        found = [span for span in self.spans if span.task_id in wanted]
        assert len(found) == len(wanted), "more than one span for a task"
        return sorted(found, key=lambda span: task_ids.index(span.task_id))

    def take(self, path: str, fields: dict[str, str], body: bytes) -> int:
        """A request has come. What it is answered with."""
        self.requests.append((path, fields))
        self.bodies.append(body)
        self.released.wait(GUARD_SECONDS)
        if self.status == 200:
            self.spans += spans_in(body)
        return self.status

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = collector.take(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(status)
                self.send_header("content-type", "application/x-protobuf")
                if 300 <= status < 400:
                    self.send_header("location", f"{collector.endpoint}/elsewhere")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: Any) -> None:
                """Says nothing."""

        return Handler


def spans_in(body: bytes) -> list[Span]:
    """The spans of one request."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Span(
            name=span.name,
            kind=span.kind,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            trace_state=span.trace_state,
            start_ns=span.start_time_unix_nano,
            end_ns=span.end_time_unix_nano,
            attributes=values_of(span.attributes),
            events=[(event.name, event.time_unix_nano) for event in span.events],
            status=span.status.code,
            status_message=span.status.message,
            resource=values_of(part.resource.attributes),
        )
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def values_of(attributes: Iterable[Any]) -> dict[str, Any]:
    """Attributes by name, as plain values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}
