"""Owns the promises of /livez and /readyz: alive is the process, ready is Ollama answering /v1/models.

Contract section 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_port, refusing_port
from tests.support.scripted import Upstream, answering, sending
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ready_while_the_upstream_answers(gateway: Gateway) -> None:
    """An upstream that answers /v1/models with 200 makes the gateway ready and alive."""
    assert (await gateway.http.get("/readyz")).status_code == 200
    assert (await gateway.http.get("/livez")).status_code == 200


async def test_alive_but_not_ready_without_an_upstream(launch: Launch) -> None:
    """Nobody listens upstream: alive with 200, not ready with 503."""
    with refusing_port() as port:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        assert (await gateway.http.get("/livez")).status_code == 200
        assert (await gateway.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize("script", [answering(500), answering(404), sending(then="drop")])
async def test_not_ready_while_the_upstream_is_unwell(launch: Launch, upstream: Upstream, script: object) -> None:
    """An upstream that answers /v1/models with an error, or not at all, is not ready."""
    upstream.models = script  # type: ignore[assignment]
    gateway = await launch()
    assert (await gateway.http.get("/readyz")).status_code == 503
    assert (await gateway.http.get("/livez")).status_code == 200


async def test_not_ready_while_the_upstream_hangs(launch: Launch, upstream: Upstream) -> None:
    """An upstream that accepts and says nothing is not ready, and the answer comes within 5 s."""

    async def script(exchange: Exchange) -> None:
        await exchange.closed.wait()

    upstream.models = script
    gateway = await launch()
    assert (await gateway.http.get("/readyz", timeout=5)).status_code == 503


async def test_ready_as_soon_as_the_upstream_is(launch: Launch) -> None:
    """Readiness follows the upstream within seconds, up and down again."""
    upstream = Upstream()
    port = free_port()
    gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")

    async def is_ready() -> bool:
        return (await gateway.http.get("/readyz")).status_code == 200

    async def is_not_ready() -> bool:
        return not await is_ready()

    assert await is_not_ready()
    await upstream.start(port)
    await until(is_ready, 10, "ready")
    await upstream.stop()
    await until(is_not_ready, 10, "not ready")


async def test_the_store_does_not_decide(launch: Launch, new_store: NewStore) -> None:
    """A store that is away leaves the gateway ready: relaying does not need it."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await store.kill()
    assert (await gateway.http.get("/readyz")).status_code == 200
