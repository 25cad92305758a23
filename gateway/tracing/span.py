"""What the span of an ended task says: its name, attributes, events, status and times.

Pure, and without OpenTelemetry. Attributes follow OpenTelemetry's semantic conventions for HTTP servers; the gateway's
own begin with `ollama_gateway.`. A span has only what the task's status has: no body, no header field, no credential.
"""

from typing import NamedTuple

from gateway.tasks.stages import State
from gateway.tasks.task import Reason, Task

Value = str | int | bool

_NS_PER_MS = 1_000_000
_OWN = "ollama_gateway."
# A method that the conventions do not know must not make a name of its own, nor must any path.
_METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})
_PATHS = frozenset({
    "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/completions", "/v1/embeddings",
    "/v1/images/edits", "/v1/images/generations", "/v1/messages", "/v1/models", "/v1/responses",
})  # fmt: skip
_MODEL_PREFIX, _MODEL_ROUTE = "/v1/models/", "/v1/models/{model}"
_OTHER_PATH = "/v1/\u2026"


class Event(NamedTuple):
    """Something that happened to a task, at a time in Unix nanoseconds."""

    name: str
    time_ns: int


class TaskSpan(NamedTuple):
    """What a span says. Times are Unix nanoseconds. `error` is None, or says why the span counts as an error."""

    name: str
    start_ns: int
    end_ns: int
    attributes: dict[str, Value]
    events: list[Event]
    error: str | None


def span_of(task: Task, *, attempt: int, instance: str) -> TaskSpan:
    """The span of `task`, which has ended. `attempt` is the one that this gateway knows it as."""
    end_ms = task.finished_ms if task.finished_ms is not None else task.created_ms
    return TaskSpan(
        name=_name(task),
        start_ns=task.created_ms * _NS_PER_MS,
        end_ns=end_ms * _NS_PER_MS,
        attributes=_http_attributes(task) | _own_attributes(task, attempt, instance),
        events=_events(task),
        error=_error(task),
    )


def _name(task: Task) -> str:
    method = task.method if task.method in _METHODS else "HTTP"
    return f"{method} {_route(task.path) or _OTHER_PATH}"


def _route(path: str) -> str | None:
    """The route of Ollama's that `path` belongs to; None if it is not known."""
    if path in _PATHS:
        return path
    return _MODEL_ROUTE if path.startswith(_MODEL_PREFIX) and path != _MODEL_PREFIX else None


def _http_attributes(task: Task) -> dict[str, Value]:
    is_known = task.method in _METHODS
    return _present({
        "http.request.method": task.method if is_known else "_OTHER",
        "http.request.method_original": None if is_known else task.method,
        "http.route": _route(task.path),
        "url.scheme": "http",
        "url.path": task.path,
        "url.query": task.query or None,
        "http.response.status_code": task.status_code,
        "http.request.body.size": task.request_bytes,
        "http.response.body.size": task.response_bytes,
        "error.type": task.reason,
    })  # fmt: skip


def _own_attributes(task: Task, attempt: int, instance: str) -> dict[str, Value]:
    values: dict[str, Value | None] = {
        "task_id": task.task_id,
        "state": task.state,
        "stage": task.stage,
        "reason": task.reason,
        "attempt": attempt,
        "label": task.label or None,
        "owner": task.owner or None,
        "instance": instance,
        "stream": task.is_stream,
        "detached": task.is_detached,
        "queued_ms": task.queued_ms,
        "response": task.response,
    }
    return {f"{_OWN}{name}": value for name, value in _present(values).items()}


def _present(values: dict[str, Value | None]) -> dict[str, Value]:
    """Those that are not None, enumerations as plain text."""
    return {
        name: str(value) if isinstance(value, str) else value for name, value in values.items() if value is not None
    }


def _events(task: Task) -> list[Event]:
    """In the order of their times, which a task keeps."""
    times = {"forwarded": task.started_ms, "first_byte": task.first_byte_ms, "ended": task.finished_ms}
    return [Event(f"{_OWN}{name}", ms * _NS_PER_MS) for name, ms in times.items() if ms is not None]


def _error(task: Task) -> str | None:
    """Why the task failed. An answer of 400 to 499 is the client's error, which the conventions do not count here."""
    is_clients = task.reason is Reason.UPSTREAM_STATUS and 400 <= (task.status_code or 0) < 500
    return task.message if task.state is State.FAILED and not is_clients else None
