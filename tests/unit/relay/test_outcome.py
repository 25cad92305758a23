"""How a task ends and what its client gets, case by case."""

from __future__ import annotations

import pytest

from gateway.errors import (
    BodyTooLarge,
    Cancelled,
    GatewayError,
    ShuttingDown,
    UpstreamBroken,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.relay.outcome import ClientLeft, Notice, outcome_of_failure, outcome_of_message
from gateway.relay.stream_end import Ending
from gateway.tasks.task import Reason

MESSAGES = [
    (200, None, False, None),
    (299, None, False, None),
    (200, Ending.COMPLETE, True, None),
    (200, None, True, Reason.STREAM_INCOMPLETE),
    (200, Ending.ERROR, True, Reason.STREAM_ERROR),
    (199, None, False, Reason.UPSTREAM_STATUS),
    (304, None, False, Reason.UPSTREAM_STATUS),
    (500, Ending.COMPLETE, True, Reason.UPSTREAM_STATUS),
]


@pytest.mark.parametrize(("status", "ending", "needs_ending", "reason"), MESSAGES)
def test_a_whole_message(status: int, ending: Ending | None, needs_ending: bool, reason: Reason | None) -> None:
    """Only a 2xx, with the end event where the stream has to have one, is SUCCESS; the client gets the answer."""
    outcome = outcome_of_message(status, ending, needs_ending=needs_ending)
    assert (outcome.reason, outcome.notice, outcome.status_code) == (reason, Notice.ANSWER, None)


FAILURES = [
    (ClientLeft(), Reason.CLIENT_DISCONNECT, Notice.NOTHING, None),
    (UpstreamUnavailable("x"), Reason.UPSTREAM_UNAVAILABLE, Notice.ERROR, 503),
    (UpstreamTimeout("x"), Reason.TIMEOUT, Notice.ERROR, 504),
    (UpstreamBroken("x"), Reason.UPSTREAM_ERROR, Notice.ERROR, 502),
    (Cancelled(), Reason.CANCELLED, Notice.ERROR, 499),
    (ShuttingDown("x"), Reason.SHUTDOWN, Notice.ERROR_AT_ONCE, 503),
    (BodyTooLarge("x"), Reason.GATEWAY_ERROR, Notice.ERROR, 413),
    (GatewayError("x"), Reason.GATEWAY_ERROR, Notice.ERROR, 500),
]


@pytest.mark.parametrize(("error", "reason", "notice", "status"), FAILURES)
def test_a_failure_before_the_answer(
    error: GatewayError | ClientLeft, reason: Reason, notice: Notice, status: int | None
) -> None:
    """The client gets the error, and the task its status; a client that has left gets nothing."""
    assert outcome_of_failure(error, is_started=False) == (reason, str(error), notice, status)


@pytest.mark.parametrize(("error", "reason", "notice", "status"), FAILURES)
def test_a_failure_in_the_answer(
    error: GatewayError | ClientLeft, reason: Reason, notice: Notice, status: int | None
) -> None:
    """The answer breaks off, and the task keeps the upstream's status; a broken upstream has truncated it."""
    if reason is Reason.UPSTREAM_ERROR:
        reason = Reason.UPSTREAM_TRUNCATED
    notice = notice if notice is Notice.NOTHING else Notice.BREAK
    assert outcome_of_failure(error, is_started=True) == (reason, str(error), notice, None)
