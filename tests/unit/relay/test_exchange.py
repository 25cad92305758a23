"""One exchange without a client's socket: when its place with Ollama is free again (contract 8.6), and when it opens a
connection to Ollama.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.errors import UpstreamBroken
from gateway.http.head import parse_target
from gateway.http.request import Request
from gateway.queue.places import Places
from gateway.relay.exchange import Exchange
from gateway.store.memory import MemoryStore
from gateway.tasks.options import TaskOptions
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream as Pool
from tests.support.scripted import Upstream
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.errors import GatewayError
    from gateway.http.wire import Wire
    from gateway.relay.base import Relay


class UnreadWire:
    """The connection of a client that takes the head of its answer, and then reads nothing more."""

    is_read_paused = False

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    @property
    def is_writable(self) -> bool:
        """Until something was sent."""
        return not self.sent

    def send(self, data: bytes) -> None:
        """Takes it, once."""
        self.sent.append(data)

    def __getattr__(self, name: str) -> Any:
        """All else does nothing."""
        return lambda *_, **__: None


def new_tracker() -> Tracker:
    """A tracker whose store answers at once."""
    return Tracker(
        MemoryStore(), algorithm_id="a", instance="i", boot="b", ttl_running_seconds=60, ttl_done_seconds=60,
        heartbeat_seconds=10,
    )  # fmt: skip


def whole_request(wire: UnreadWire) -> Request:
    """A request that is complete."""
    fields = [(b"host", b"h"), (b"content-length", b"0")]
    request = Request(cast("Wire", wire), "POST", b"/v1/x", fields, is_http_10=False, is_keep_alive=True)
    request.is_whole = True
    return request


@pytest.mark.parametrize("is_whole", [True, False], ids=["complete", "broken off"])
async def test_the_place_is_free_once_ollama_has_ended_though_the_client_reads_nothing(*, is_whole: bool) -> None:
    """What is left of the answer waits for the client, but Ollama has no more to do for it."""
    upstream = Upstream()
    await upstream.start()
    script = upstream.gated()
    tracker, pool = new_tracker(), Pool("127.0.0.1", upstream.port)
    relay = cast("Relay", SimpleNamespace(upstream=pool, tracker=tracker, max_body_bytes=100))
    wire, places = UnreadWire(), Places(1, 0)
    request = whole_request(wire)
    place = places.reserve("", is_low=False, is_ready=True)
    task = tracker.begin(None, "POST", "/v1/x", "", place=place)
    Exchange(relay, request, parse_target(b"/v1/x"), task, place).begin(TaskOptions())
    exchange = await upstream.exchange()
    script.head()
    await until(lambda: wire.sent, what="the head is here")
    with_head = exchange.sent_bytes
    script.piece(b"data: the rest\n\n")
    await until(lambda: exchange.sent_bytes > with_head, what="a piece was sent")
    assert places.running == 1
    if is_whole:
        script.end()
    else:
        exchange.drop()
    await until(lambda: places.running == 0, what="the place is free")
    assert wire.sent == wire.sent[:1]
    pool.close()
    await upstream.stop()


@pytest.mark.parametrize("is_granted", [True, False], ids=["granted", "refused"])
async def test_a_claim_and_the_connection_to_ollama_do_not_wait_for_each_other(*, is_granted: bool) -> None:
    """The connection is opened while the store is asked. If the id is refused, it waits for the next request."""
    upstream = Upstream()
    await upstream.start()
    tracker, pool = new_tracker(), Pool("127.0.0.1", upstream.port)
    claims: list[Callable[[bool], None]] = []
    held = SimpleNamespace(
        claim=lambda _, then: claims.append(then), forward=tracker.forward, answer=tracker.answer,
        settle=tracker.settle, finish=tracker.finish,
    )  # fmt: skip
    refused: list[GatewayError] = []
    relay = cast(
        "Relay",
        SimpleNamespace(upstream=pool, tracker=held, max_body_bytes=100, refuse=lambda _, error: refused.append(error)),
    )
    wire = UnreadWire()
    task = tracker.begin("chosen", "POST", "/v1/x", "")
    Exchange(relay, whole_request(wire), parse_target(b"/v1/x"), task).begin(TaskOptions())
    await until(lambda: pool.has_idle, what="a connection is open")
    assert not upstream.exchanges
    [claimed] = claims
    claimed(is_granted)
    if is_granted:
        await until(lambda: wire.sent, what="the answer is here")
    else:
        assert len(refused) == 1
        assert pool.has_idle
    assert len(upstream.connections) == 1
    pool.close()
    await upstream.stop()


async def test_a_connection_that_is_not_needed_waits_in_the_pool_or_is_closed() -> None:
    """One that Ollama has closed meanwhile is not kept."""
    upstream = Upstream()
    await upstream.start()
    pool = Pool("127.0.0.1", upstream.port)
    good, lost = await pool.open(), await pool.open()
    lost.abort(UpstreamBroken("lost"))
    pool.keep(lost)
    assert not pool.has_idle
    pool.keep(good)
    assert pool.take() is good
    assert good.is_reused
    good.abort(UpstreamBroken("the test ends"))
    await upstream.stop()
