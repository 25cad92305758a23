"""Owns the fixtures of the failures: trials of a fault, and gateways that a test may kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.mortal import Mortal
from tests.chaos.rules import StoreFaultRules, is_calm
from tests.chaos.trial import Trial
from tests.conftest import started_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.scripted import Upstream

    LaunchMortal = Callable[..., Awaitable[Mortal]]

TRIALS = 3


@pytest.fixture(scope="class")
async def trials(
    request: pytest.FixtureRequest, scripted: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> list[Trial]:
    """The fault of a class of rules, tried with a store and a gateway of its own; again only beside other work."""
    assert request.cls is not None
    rules: type[StoreFaultRules] = request.cls
    done: list[Trial] = []
    while len(done) < TRIALS and not any(map(is_calm, done)):
        done.append(await _tried(rules, scripted, tmp_path_factory))
    return done


async def _tried(rules: type[StoreFaultRules], upstream: Upstream, paths: pytest.TempPathFactory) -> Trial:
    store = await started_store(paths)
    fault = rules.fault(store)
    gateway = Mortal(paths, upstream, REDIS_URL=fault.url, HEARTBEAT_SEC="1")
    trial = Trial(fault, gateway, upstream)
    try:
        async with fault:
            await trial.run(is_at_start=rules.is_at_start)
    finally:
        await gateway.put_down()
        await store.close()
        await upstream.forget()
    return trial


@pytest.fixture
async def mortal(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LaunchMortal]:
    """Starts gateways that a test may kill or pause; those that still run are killed at its end."""
    gateways: list[Mortal] = []

    async def start(**settings: str) -> Mortal:
        gateways.append(Mortal(tmp_path_factory, upstream, **settings))
        await gateways[-1].start()
        return gateways[-1]

    yield start
    for gateway in gateways:
        await gateway.put_down()
