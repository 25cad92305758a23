"""Owns the fixtures of the failures: trials of a fault, and gateways that a test may kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.chaos.rules import StoreFaultRules, is_quick
from tests.chaos.trial import Trial
from tests.conftest import started_store
from tests.support.gateway import Gateway
from tests.support.process import kill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch
    from tests.support.scripted import Upstream

TRIALS = 3


@pytest_asyncio.fixture(scope="class", loop_scope="session")
async def trials(
    request: pytest.FixtureRequest, scripted: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> list[Trial]:
    """The fault of a class of rules, tried with a store and a gateway of its own; again only where time was short."""
    assert request.cls is not None
    rules: type[StoreFaultRules] = request.cls
    done: list[Trial] = []
    while len(done) < TRIALS and not any(map(is_quick, done)):
        done.append(await _tried(rules, scripted, tmp_path_factory))
    return done


async def _tried(rules: type[StoreFaultRules], upstream: Upstream, paths: pytest.TempPathFactory) -> Trial:
    store = await started_store(paths)
    fault = rules.fault(store)
    gateway = new_gateway(paths, upstream, REDIS_URL=fault.url, HEARTBEAT_SEC="1")
    trial = Trial(fault, gateway, upstream)
    try:
        await fault.prepare()
        await trial.run(is_at_start=rules.is_at_start)
        await gateway.stop()
    finally:
        await put_down(gateway)
        await fault.close()
        await store.close()
        await upstream.forget()
    return trial


def new_gateway(paths: pytest.TempPathFactory, upstream: Upstream, **settings: str) -> Gateway:
    """A gateway in front of this upstream, not yet started."""
    base = {"UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}"}
    return Gateway(paths.mktemp("gateway") / "gateway.log", **(base | settings))


async def put_down(gateway: Gateway) -> None:
    """Close what leads to a gateway, and kill it if it still runs; paused and dead ones are fine."""
    await gateway.http.aclose()
    await gateway.close_clients()
    if hasattr(gateway, "process") and gateway.process.poll() is None:
        await kill(gateway.process)


@pytest_asyncio.fixture(loop_scope="session")
async def mortal(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Launch]:
    """Starts gateways that a test may kill or pause; those that still run are killed at its end."""
    gateways: list[Gateway] = []

    async def start(**settings: str) -> Gateway:
        gateways.append(new_gateway(tmp_path_factory, upstream, **settings))
        return await gateways[-1].start()

    yield start
    for gateway in gateways:
        await put_down(gateway)
