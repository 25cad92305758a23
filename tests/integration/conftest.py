"""Owns the fixtures of several files here: all programs under the launcher, and a gateway with the real model."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.launched import Running
from tests.support.process import is_alive, kill, terminate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel
    from tests.support.store import Store

    Start = Callable[..., Running]


@pytest.fixture
async def live(gateways: Launch, store: Store, model: EmbeddedModel) -> Gateway:
    """A gateway in front of the real model."""
    return await gateways(REDIS_URL=store.url, UPSTREAM_BASE=model.base)


class Pair(NamedTuple):
    """Two gateways of one store; without a store, one that is both."""

    first: Gateway
    other: Gateway

    async def ended(self, task_id: str, attempt: int = 1) -> dict[str, Any]:
        """The first one's document of this attempt, once both gateways say that it has ended: the store has it then."""
        await self.other.ended(task_id, attempt=attempt)
        return await self.first.ended(task_id, attempt=attempt)


OTHER = {"GATEWAY_INSTANCE": "other-gateway:11535"}


@pytest.fixture
async def two(gateways: Launch, store: Store) -> Pair:
    """Two gateways that share the session's store."""
    return Pair(await gateways(REDIS_URL=store.url), await gateways(REDIS_URL=store.url, **OTHER))


@pytest.fixture(params=["store", "in-process"])
async def pair(request: pytest.FixtureRequest, gateways: Launch, store: Store) -> Pair:
    """Two gateways of one store, and one without any: what holds for both takes this."""
    if request.param == "store":
        return Pair(await gateways(REDIS_URL=store.url), await gateways(REDIS_URL=store.url, **OTHER))
    alone = await gateways()
    return Pair(alone, alone)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts everything once; whatever is left at the end is stopped and checked."""
    started: list[Running] = []

    def begin(ollama: str | None = None, **settings: str) -> Running:
        started.append(Running(tmp_path, ollama, settings))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None and await terminate(running.process, 40) is None:
            for program in ("ollama", "gateway", "pull", "listener"):
                for pid in running.pids(program):
                    if is_alive(pid):
                        os.killpg(pid, signal.SIGKILL)
            await kill(running.process)
            raise AssertionError(f"did not stop:\n{running.log[-4000:]}")
