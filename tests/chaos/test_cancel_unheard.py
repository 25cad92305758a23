"""A cancel call at another gateway, while the store's notices do not reach the one that runs the task."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.chaos.load import relay
from tests.support.faults import HalfOpen, SubscribersRefused
from tests.support.outcome import outcome
from tests.support.streams import cancel, held
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store


HEARTBEAT_SECONDS = 5
CANCELLED = ("FAILED", "cancelled", "cancelled")


async def check(runner: Gateway, other: Gateway, store: Store, upstream: Upstream) -> None:
    """The call reaches the task within a heartbeat all the same."""
    stream = await held(runner, upstream)
    calling = asyncio.ensure_future(cancel(other, stream.task_id))
    await within(HEARTBEAT_SECONDS, stream.exchange.closed.wait(), "the upstream's connection is closed")
    assert (await calling).status_code in (200, 202)
    assert await within(GUARD_SECONDS, stream.is_cut(), "the client's connection is closed")
    assert outcome(await runner.ended(stream.task_id)) == CANCELLED
    assert outcome(await store.document(stream.task_id)) == CANCELLED


async def test_a_store_that_forbids_subscriptions(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """With a store that allows neither to publish nor to subscribe, a task is cancelled within a heartbeat."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": str(HEARTBEAT_SECONDS)}
    async with SubscribersRefused(store) as fault:
        await fault.begin()
        runner, other = await launch(**settings), await launch(**settings)
        await check(runner, other, store, upstream)
        await fault.end()


async def test_a_subscription_that_died_silently(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """With a subscription that is half-open since a while, a task is cancelled within a heartbeat."""
    store = await new_store()
    async with HalfOpen(store) as fault:
        runner = await launch(REDIS_URL=fault.url, HEARTBEAT_SEC=str(HEARTBEAT_SECONDS))
        other = await launch(REDIS_URL=store.url, HEARTBEAT_SEC=str(HEARTBEAT_SECONDS))
        await until(lambda: _says_store_is(runner, "up"), what="the store is there")
        await fault.begin()
        await relay(runner, 2)
        await until(lambda: _says_store_is(runner, "down"), what="the cut is noticed")
        await fault.end()
        await until(lambda: _says_store_is(runner, "up"), what="new connections are made, where someone writes")
        await check(runner, other, store, upstream)


async def _says_store_is(gateway: Gateway, condition: str) -> bool:
    return bool((await gateway.http.get("/readyz")).json()["store"] == condition)
