"""The gateway's own errors: which HTTP status, which stable code, and the body OpenAI clients understand.

Pure: no I/O, no clock, no logging. Raised by target, proxy and upstream; turned into answers by proxy, app and server.
Errors that Ollama itself answers never come through here, they are relayed as they are.
"""

import json
from html import escape

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
    """A request the gateway itself has to refuse or cannot bring to an end.

    `status` is the HTTP status, `code` the stable machine-readable name, the message is for people.
    """

    status = 500
    code = "gateway_error"
    retry_after_seconds: int | None = None
    is_retry_useless = False  # the same request sent again by a client library would only meet the same
    is_last = False  # the connection is closed behind the answer
    advice = ""  # HTML of ours, what a person can do about it

    def body(self, *, has_detail: bool = False) -> bytes:
        """The answer's body, UTF-8 JSON: OpenAI's error shape; `has_detail` adds what our own routes' errors have."""
        error = {"message": str(self), "type": "gateway_error", "param": None, "code": self.code}
        detail = {"detail": str(self)} if has_detail else {}
        return json.dumps({**detail, "error": error}, separators=(",", ":")).encode()

    def page(self) -> bytes:
        """The same for a person who opened one of our own routes in a browser, UTF-8 HTML."""
        return _PAGE.format(status=self.status, message=escape(str(self)), advice=self.advice).encode()


class InvalidPath(GatewayError):
    """The target could mean a path outside `/v1/` once somebody decodes it."""

    status, code = 400, "invalid_path"


class InvalidTaskId(GatewayError):
    """`X-Task-Id` was sent twice or does not match the id pattern."""

    status, code = 400, "invalid_task_id"


class TaskIdInUse(GatewayError):
    """A request with the same `X-Task-Id` is still in flight."""

    status, code = 409, "task_id_in_use"
    is_retry_useless = True


class Unauthorized(GatewayError):
    """API keys are on and the request carries none that is valid."""

    status, code = 401, "unauthorized"
    advice = '<p>A browser cannot send a key by itself: <a href="/#api">the dashboard</a> asks for it.</p>'


class OriginNotAllowed(GatewayError):
    """A page in a browser sent the request, and its origin or the host name it uses is not allowed."""

    status, code = 403, "origin_not_allowed"


class NotFound(GatewayError):
    """The path is none of the gateway's."""

    status, code = 404, "not_found"


class MethodNotAllowed(GatewayError):
    """TRACE: an answer would echo the request's credentials."""

    status, code = 405, "method_not_allowed"


class BodyTooLarge(GatewayError):
    """The request body is longer than MAX_BODY_BYTES."""

    status, code = 413, "body_too_large"
    is_last = True


class TooManyConnections(GatewayError):
    """More than MAX_CONNECTIONS connections are open; answered by server, before any request."""

    status, code = 503, "too_many_connections"
    retry_after_seconds = 5


class Cancelled(GatewayError):
    """Somebody cancelled the task before its answer began."""

    status, code = 499, "cancelled"


class ShuttingDown(GatewayError):
    """The gateway was told to stop before the answer began."""

    status, code = 503, "shutting_down"
    retry_after_seconds = 5
    is_last = True


class UpstreamFailure(GatewayError):
    """Something went wrong between the gateway and Ollama."""

    status, code = 502, "upstream_error"


class UpstreamUnavailable(UpstreamFailure):
    """No connection: Ollama is not running or still starting."""

    status, code = 503, "upstream_unavailable"
    retry_after_seconds = 2


class UpstreamBroken(UpstreamFailure):
    """Ollama reset, closed or garbled the connection before the message was complete."""


class UpstreamTimeout(UpstreamFailure):
    """Ollama stayed silent for longer than UPSTREAM_IDLE_TIMEOUT_SEC."""

    status, code = 504, "upstream_timeout"
