"""One exchange without a client's socket: when its place with Ollama is free again (contract 8.6)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

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


@pytest.mark.parametrize("is_whole", [True, False], ids=["complete", "broken off"])
async def test_the_place_is_free_once_ollama_has_ended_though_the_client_reads_nothing(*, is_whole: bool) -> None:
    """What is left of the answer waits for the client, but Ollama has no more to do for it."""
    upstream = Upstream()
    await upstream.start()
    script = upstream.gated()
    tracker = Tracker(
        MemoryStore(), algorithm_id="a", instance="i", boot="b", ttl_running_seconds=60, ttl_done_seconds=60,
        heartbeat_seconds=10,
    )  # fmt: skip
    pool = Pool("127.0.0.1", upstream.port)
    relay = cast("Relay", SimpleNamespace(upstream=pool, tracker=tracker, max_body_bytes=100))
    wire, places = UnreadWire(), Places(1, 0)
    fields = [(b"host", b"h"), (b"content-length", b"0")]
    request = Request(cast("Wire", wire), "POST", b"/v1/x", fields, is_http_10=False, is_keep_alive=True)
    request.is_whole = True
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
