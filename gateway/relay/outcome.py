"""What a task becomes, decided here and nowhere else: from the answer that came whole, or from what broke it off.

Pure. Called by proxy, once per task.
"""

from gateway.errors import (
    Cancelled,
    GatewayError,
    ShuttingDown,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.relay.stream_end import Ending
from gateway.tasks.task import Reason


class ClientLeft(Exception):
    """The client closed its connection before its answer was complete."""

    def __init__(self) -> None:
        super().__init__("the client closed the connection")


def outcome_of_message(status: int, ending: Ending | None, *, needs_ending: bool) -> tuple[Reason | None, str]:
    """The reason (None: SUCCESS) and the message of a task whose answer of HTTP `status` came whole.

    `ending` is how an event stream announced its own end, which those have to that have one (contract 4.4).
    """
    if not 200 <= status < 300:
        return Reason.UPSTREAM_STATUS, f"the upstream answered HTTP {status}"
    if ending is Ending.ERROR:
        return Reason.STREAM_ERROR, "the stream ended with an error event"
    if needs_ending and ending is None:
        return Reason.STREAM_INCOMPLETE, "the stream ended without its end event"
    return None, "complete"


def outcome_of_failure(error: GatewayError | ClientLeft, *, is_started: bool) -> tuple[Reason, str]:
    """The reason and the message of a task that was broken off; `is_started` says that its answer had begun."""
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    if is_started and reason is Reason.UPSTREAM_ERROR:
        reason = Reason.UPSTREAM_TRUNCATED
    return reason, str(error)


# The first that fits.
_REASONS: list[tuple[type[Exception], Reason]] = [
    (ClientLeft, Reason.CLIENT_DISCONNECT),
    (UpstreamUnavailable, Reason.UPSTREAM_UNAVAILABLE),
    (UpstreamTimeout, Reason.TIMEOUT),
    (UpstreamFailure, Reason.UPSTREAM_ERROR),
    (Cancelled, Reason.CANCELLED),
    (ShuttingDown, Reason.SHUTDOWN),
    (GatewayError, Reason.GATEWAY_ERROR),
]
