"""The gateway's own errors: the HTTP status, the stable code, and a body that OpenAI clients understand.

Pure: no I/O, no clock, no logging. Ollama's own error answers are not errors here: the gateway relays them unchanged.
"""

import json

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{status} · Ollama Gateway</title>
<h1>Ollama Gateway</h1>
<p>{status}: {message}.</p>
{advice}
"""


class GatewayError(Exception):
    """The gateway refuses a request, or cannot complete it.

    `status` is the HTTP status, `code` the stable machine-readable name, the message is for people.
    """

    status = 500
    code = "gateway_error"
    retry_after_seconds: int | None = None
    allowed = ""  # methods
    length: int | None = None  # of what the client asked a range of, in bytes
    is_retry_useless = False  # the same request would fail again, so client libraries should not retry
    is_last = False  # the gateway closes the connection after the answer
    advice = ""  # HTML, written here: what a person can do about it

    def body(self, *, has_detail: bool = False) -> bytes:
        """The answer's body, UTF-8 JSON in OpenAI's error shape. `has_detail` adds `detail`, as our own routes have."""
        error = {"message": str(self), "type": "gateway_error", "param": None, "code": self.code}
        detail = {"detail": str(self)} if has_detail else {}
        return json.dumps({**detail, "error": error}, separators=(",", ":")).encode()

    def page(self) -> bytes:
        """The same as a UTF-8 HTML page, for a person who opened one of our own routes in a browser."""
        from html import escape  # its tables take memory that few gateways need

        return _PAGE.format(status=self.status, message=escape(str(self)), advice=self.advice).encode()


class InvalidPath(GatewayError):
    """The target could mean a path outside `/v1/` once it is decoded."""

    status, code = 400, "invalid_path"


class InvalidTaskId(GatewayError):
    """`X-Task-Id` is sent twice or does not match the id pattern."""

    status, code = 400, "invalid_task_id"


class InvalidHeader(GatewayError):
    """A field of the gateway's own, `X-Task-…`, is sent twice or has a value that is not allowed."""

    status, code = 400, "invalid_header"


class TaskIdInUse(GatewayError):
    """A request with the same `X-Task-Id` is still in flight."""

    status, code = 409, "task_id_in_use"
    is_retry_useless = True

    @classmethod
    def in_store(cls, task_id: str) -> "TaskIdInUse":
        """The store has the id, and this gateway does not."""
        return cls(f"the task id {task_id!r} is in flight at another gateway, or another key's")


class Unauthorized(GatewayError):
    """API keys are on and the request has no valid key."""

    status, code = 401, "unauthorized"
    advice = '<p>A browser cannot send a key by itself: <a href="/#api">the dashboard</a> asks for it.</p>'


class OriginNotAllowed(GatewayError):
    """A page in a browser sent the request, and its origin or its host name is not allowed."""

    status, code = 403, "origin_not_allowed"


class Forbidden(GatewayError):
    """The API key is valid, but does not give this right."""

    status, code = 403, "forbidden"


class NotFound(GatewayError):
    """The gateway has no such path."""

    status, code = 404, "not_found"


class MethodNotAllowed(GatewayError):
    """TRACE: an answer would echo the request's credentials. Or a method that a route does not have."""

    status, code = 405, "method_not_allowed"
    allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class BodyTooLarge(GatewayError):
    """The request body is longer than MAX_BODY_BYTES."""

    status, code = 413, "body_too_large"
    is_last = True


class TooManyConnections(GatewayError):
    """More than MAX_CONNECTIONS connections are open. The gateway answers this before it reads a request."""

    status, code = 503, "too_many_connections"
    retry_after_seconds = 5


class QueueFull(GatewayError):
    """As many requests wait as may. `retry_after_seconds`: when there will probably be room."""

    status, code = 429, "queue_full"

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__("too many requests wait for Ollama; try again later")
        self.retry_after_seconds = retry_after_seconds


class StartTimeout(GatewayError):
    """The request was not with Ollama within its `X-Task-Start-Timeout`."""

    status, code = 504, "start_timeout"
    is_retry_useless = True


class TaskTimeout(GatewayError):
    """The answer had not begun within the request's `X-Task-Timeout`."""

    status, code = 504, "task_timeout"
    is_retry_useless = True


class ResponseTooLarge(GatewayError):
    """The client has left and the answer cannot be kept, so no client can get it."""

    code = "response_too_large"


class TaskIdReused(GatewayError):
    """A kept task has this `X-Task-Id`, and another method, target or body."""

    status, code = 422, "task_id_reused"
    is_retry_useless = True


class KeepUnavailable(GatewayError):
    """Too much is kept already to begin a call whose answer only its keeping could deliver."""

    status, code = 503, "keep_unavailable"
    retry_after_seconds = 5


class InvalidParameter(GatewayError):
    """A query parameter of a route has a value that is not allowed."""

    status, code = 422, "invalid_parameter"


class ResponseNotKept(GatewayError):
    """The answer of this task was not to be kept."""

    status, code = 404, "response_not_kept"


class ResponseGone(GatewayError):
    """The answer of this task was kept, and is no longer."""

    status, code = 410, "response_gone"


class GenerationChanged(GatewayError):
    """Another answer stands in the place of the one that the client had begun to read."""

    status, code = 412, "generation_changed"


class OffsetNotSatisfiable(GatewayError):
    """The offset is behind the end of the answer."""

    status, code = 416, "offset_not_satisfiable"

    def __init__(self, text: str, length: int) -> None:
        super().__init__(text)
        self.length = length  # of the answer, in bytes


class StoreAway(GatewayError):
    """The store has to be asked, and is away."""

    status, code = 503, "store_unavailable"
    retry_after_seconds = 2


class Cancelled(GatewayError):
    """The task was cancelled before its answer began."""

    status, code = 499, "cancelled"

    def __init__(self) -> None:
        super().__init__("the task was cancelled")


class ShuttingDown(GatewayError):
    """The gateway began to stop before the answer began."""

    status, code = 503, "shutting_down"
    retry_after_seconds = 5
    is_last = True


class UpstreamFailure(GatewayError):
    """The exchange with Ollama failed."""

    status, code = 502, "upstream_error"


class UpstreamUnavailable(UpstreamFailure):
    """The gateway cannot connect: Ollama is not running, or is still starting."""

    status, code = 503, "upstream_unavailable"
    retry_after_seconds = 2


class UpstreamBroken(UpstreamFailure):
    """Ollama reset or closed the connection, or sent malformed HTTP, before the message was complete."""


class UpstreamTimeout(UpstreamFailure):
    """Ollama stayed silent for longer than UPSTREAM_IDLE_TIMEOUT_SEC."""

    status, code = 504, "upstream_timeout"
