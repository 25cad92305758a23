"""How a request is admitted: what it waits for in the store before it is a task counts as its wait (contract 5)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.http.head import parse_target
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.queue.places import Places
from gateway.relay.proxy import Proxy
from gateway.tracking.tracked import MAX_WAIT_SECONDS, MAX_WAITS_SECONDS
from gateway.upstream.pool import Upstream
from tests.support.keeping import keeping_of
from tests.support.ports import free_port
from tests.support.tracking import tracking
from tests.support.waiting import until

if TYPE_CHECKING:
    from gateway.http.wire import Wire
    from gateway.tracking.tracked import TrackedTask
    from gateway.tracking.tracker import Tracker


def asked(task_id: bytes, owner: str) -> Request:
    """A whole request whose client is not looked at."""
    wire: Any = SimpleNamespace(is_writable=True, is_read_paused=False, send=len, finish=id, hold_reading=dict)
    fields = [(b"host", b"h"), (b"x-task-id", task_id)]
    request = Request(cast("Wire", wire), "POST", b"/v1/x", fields, is_http_10=False, is_keep_alive=True)
    request.is_whole, request.owner = True, owner
    return request


def in_flight(tracker: Tracker) -> dict[str, TrackedTask]:
    """The tasks of a tracker, by id."""
    return tracker._in_flight


async def test_the_look_for_an_id_and_its_claim_are_one_wait() -> None:
    """A full queue has room for another key's request, and the store does not answer: 300 ms in all, not 500."""
    async with tracking() as subject:
        places = Places(1, 1)
        upstream = Upstream("127.0.0.1", free_port())
        tracker = subject.tracker
        proxy = Proxy(upstream, tracker, Counts(), places, keeping_of(tracker), max_body_bytes=100)
        for name in (b"running", b"waiting"):
            proxy.open(asked(name, "alice"), parse_target(b"/v1/x"))
        assert places.is_full
        subject.store.door.clear()
        proxy.open(asked(b"new", "bob"), parse_target(b"/v1/x"))
        assert "new" not in in_flight(subject.tracker), "it is asked for first"
        await until(lambda: "new" in in_flight(subject.tracker), 5, "it is a task")
        assert in_flight(subject.tracker)["new"].wait_left <= MAX_WAITS_SECONDS - MAX_WAIT_SECONDS
        subject.store.door.set()
        upstream.close()


async def test_a_look_for_an_id_that_fails_inside_the_gateway_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    """The client would wait for ever. The log has the failure."""
    async with tracking() as subject:
        sent: list[bytes] = []
        places = Places(1, 0)
        upstream, tracker = Upstream("127.0.0.1", free_port()), subject.tracker
        proxy = Proxy(upstream, tracker, Counts(), places, keeping_of(tracker), max_body_bytes=100)
        places.reserve("", is_low=False, is_ready=True)

        async def fail(task_id: str, owner: str) -> bool:
            raise RuntimeError(f"no look for {task_id} of {owner!r}")

        subject.tracker.is_taken = fail  # type: ignore[method-assign]
        request = asked(b"new", "")
        request.wire.send = sent.append
        proxy.open(request, parse_target(b"/v1/x"))
        await until(lambda: sent, 5, "an answer")
        assert sent[0].startswith(b"HTTP/1.1 500 ")
        assert "no look for new" in caplog.text
