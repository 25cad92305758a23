"""Decides what an exchange becomes: how its task ends, and how its client learns of a failure.

Pure. No other module decides this. A message that came whole goes through `outcome_of_message`, an exchange that broke
off through `outcome_of_failure`.
"""

from enum import Enum
from typing import NamedTuple

from gateway.errors import (
    Cancelled,
    GatewayError,
    QueueFull,
    ResponseTooLarge,
    ShuttingDown,
    StartTimeout,
    TaskTimeout,
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


class Notice(Enum):
    """What the client gets at the end."""

    ANSWER = "the rest of the answer"
    BREAK = "the end of its connection, in the middle of the answer"
    ERROR = "an error instead of an answer, once the store has the task's end"
    ERROR_AT_ONCE = "the same without that wait"
    NOTHING = "nothing: it has left"


class Outcome(NamedTuple):
    """The end of an exchange.

    `reason` is None for SUCCESS. `status_code` is the HTTP status that the task gets, None if it keeps the upstream's.
    """

    reason: Reason | None
    message: str
    notice: Notice = Notice.ANSWER
    status_code: int | None = None


_WHERE_TEXT = "; ERROR_TEXT_BYTES is 0, so its text is not in the status"
_COMPLETE = Outcome(None, "complete")
_STREAM_ERROR = Outcome(Reason.STREAM_ERROR, "the stream ended with an error event")
_STREAM_INCOMPLETE = Outcome(Reason.STREAM_INCOMPLETE, "the stream ended without its end event")


def outcome_of_message(
    status: int, ending: Ending | None, *, needs_ending: bool, is_text_kept: bool = False
) -> Outcome:
    """The end after an answer of HTTP `status` that came whole, or whose end event came.

    `ending` is how an event stream announced its end. `needs_ending` says that it has to announce it. `is_text_kept`
    says that statuses have the beginning of an error answer.
    """
    if not 200 <= status < 300:
        where = "" if is_text_kept or status < 400 else _WHERE_TEXT
        return Outcome(Reason.UPSTREAM_STATUS, f"the upstream answered HTTP {status}{where}")
    if ending is Ending.ERROR:
        return _STREAM_ERROR
    if needs_ending and ending is None:
        return _STREAM_INCOMPLETE
    return _COMPLETE


def outcome_of_failure(error: GatewayError | ClientLeft, *, is_started: bool) -> Outcome:
    """The end after `error` broke the exchange off. `is_started` says that the answer to the client had begun."""
    reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
    if is_started and reason is Reason.UPSTREAM_ERROR:
        reason = Reason.UPSTREAM_TRUNCATED
    status_code = error.status if isinstance(error, GatewayError) and not is_started else None
    return Outcome(reason, str(error), _notice_of(error, is_started=is_started), status_code)


def _notice_of(error: GatewayError | ClientLeft, *, is_started: bool) -> Notice:
    if isinstance(error, ClientLeft):
        return Notice.NOTHING
    if is_started:
        return Notice.BREAK
    return Notice.ERROR_AT_ONCE if isinstance(error, ShuttingDown) else Notice.ERROR


# The first kind that fits decides.
_REASONS: list[tuple[type[Exception], Reason]] = [
    (ClientLeft, Reason.CLIENT_DISCONNECT),
    (UpstreamUnavailable, Reason.UPSTREAM_UNAVAILABLE),
    (UpstreamTimeout, Reason.TIMEOUT),
    (UpstreamFailure, Reason.UPSTREAM_ERROR),
    (StartTimeout, Reason.TIMEOUT),
    (TaskTimeout, Reason.TIMEOUT),
    (QueueFull, Reason.QUEUE_FULL),
    (ResponseTooLarge, Reason.RESPONSE_TOO_LARGE),
    (Cancelled, Reason.CANCELLED),
    (ShuttingDown, Reason.SHUTDOWN),
    (GatewayError, Reason.GATEWAY_ERROR),
]
