"""What the span of a task says: name, times, attributes, events and status, each from the task's own values."""

from __future__ import annotations

import pytest

from gateway.tasks.task import Kept, Reason, Task
from gateway.tracing.span import Event, TaskSpan, span_of

MS = 1_000_000
CHAT = "/v1/chat/completions"


def ended(method: str = "POST", path: str = CHAT, reason: Reason | None = None, status_code: int | None = 200) -> Task:
    """A task that has ended."""
    task = Task("t-1", method, path, "", 1000)
    task.forward(1020)
    if status_code is not None:
        task.answer(status_code, True, 1300)
    task.finish(reason, "why it ended", 1900)
    return task


def span(task: Task) -> TaskSpan:
    """Its span, at a gateway called `here`, as its second attempt."""
    return span_of(task, attempt=2, instance="here")


def test_times_are_the_tasks_own() -> None:
    """From its creation to its end, with an event for each time that the status has, in nanoseconds."""
    found = span(ended())
    assert (found.start_ns, found.end_ns) == (1000 * MS, 1900 * MS)
    assert found.events == [
        Event("ollama_gateway.forwarded", 1020 * MS),
        Event("ollama_gateway.first_byte", 1300 * MS),
        Event("ollama_gateway.ended", 1900 * MS),
    ]


def test_what_did_not_happen_is_no_event() -> None:
    """A task that ended while it waited has its end alone."""
    task = Task("t-1", "POST", CHAT, "", 1000)
    task.finish(Reason.CANCELLED, "cancelled", 1500)
    assert span(task).events == [Event("ollama_gateway.ended", 1500 * MS)]


def test_the_attributes_of_http() -> None:
    """OpenTelemetry's names, and the values of the status; a query is redacted there already."""
    task = ended()
    task.query, task.request_bytes, task.response_bytes = "a=b&key=REDACTED", 12, 345
    found = span(task).attributes
    assert {name: value for name, value in found.items() if not name.startswith("ollama_gateway.")} == {
        "http.request.method": "POST", "http.route": CHAT, "url.scheme": "http", "url.path": CHAT,
        "url.query": "a=b&key=REDACTED", "http.response.status_code": 200, "http.request.body.size": 12,
        "http.response.body.size": 345,
    }  # fmt: skip


def test_our_own_attributes() -> None:
    """They begin with `ollama_gateway.`; what the task has not is left out."""
    assert {name: value for name, value in span(ended()).attributes.items() if name.startswith("ollama_gateway.")} == {
        "ollama_gateway.task_id": "t-1", "ollama_gateway.state": "SUCCESS", "ollama_gateway.stage": "done",
        "ollama_gateway.attempt": 2, "ollama_gateway.instance": "here", "ollama_gateway.stream": True,
        "ollama_gateway.detached": False,
    }  # fmt: skip
    task = ended(reason=Reason.STREAM_ERROR)
    task.label, task.owner, task.queued_ms, task.response = "nightly", "ann", 7, Kept.KEPT
    more = span(task).attributes
    assert more["ollama_gateway.reason"] == more["error.type"] == "stream_error"
    assert [more[f"ollama_gateway.{name}"] for name in ("label", "owner", "queued_ms", "response")] == [
        "nightly", "ann", 7, "kept",
    ]  # fmt: skip
    assert {type(value) for value in more.values()} == {str, int, bool}, "plain values, no enumerations"


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", CHAT, f"POST {CHAT}"),
        ("GET", "/v1/models", "GET /v1/models"),
        ("GET", "/v1/models/qwen3:8b", "GET /v1/models/{model}"),
        ("GET", "/v1/models/", "GET /v1/…"),
        ("POST", f"{CHAT}/", "POST /v1/…"),
        ("POST", "/v1/anything/1234", "POST /v1/…"),
        ("BREW", CHAT, f"HTTP {CHAT}"),
    ],
)
def test_a_name_is_one_of_few(method: str, path: str, name: str) -> None:
    """Method and path of an API that Ollama has; all others share a name, whatever a client sends."""
    found = span(ended(method, path))
    assert found.name == name
    assert found.attributes["url.path"] == path
    if method == "BREW":
        assert found.attributes["http.request.method"] == "_OTHER"
        assert found.attributes["http.request.method_original"] == "BREW"


@pytest.mark.parametrize(
    ("reason", "status_code", "is_error"),
    [
        (None, 200, False),
        (Reason.UPSTREAM_STATUS, 400, False),
        (Reason.UPSTREAM_STATUS, 404, False),
        (Reason.UPSTREAM_STATUS, 499, False),
        (Reason.UPSTREAM_STATUS, 302, True),
        (Reason.UPSTREAM_STATUS, 500, True),
        (Reason.STREAM_INCOMPLETE, 200, True),
        (Reason.CLIENT_DISCONNECT, None, True),
        (Reason.TIMEOUT, 404, True),
    ],
)
def test_a_failed_task_is_an_error(reason: Reason | None, status_code: int | None, is_error: bool) -> None:
    """But an answer of 400 to 499 from Ollama is the client's: OpenTelemetry leaves a server's span unset there."""
    found = span(ended(reason=reason, status_code=status_code))
    assert found.error == ("why it ended" if is_error else None)
    assert found.attributes.get("error.type") == (None if reason is None else reason.value)
