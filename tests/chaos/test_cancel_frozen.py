"""A cancel call at the gateway that runs the task, the moment the store has frozen and no one knows it yet."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.support.faults import Frozen
from tests.support.outcome import outcome
from tests.support.streams import HeldStream, cancel, held
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


TRIALS = 3  # the quickest counts: the machine may be busy with something else
CLOSED_SECONDS = 0.2  # a store that does not answer is waited for longer than that
ANSWERED_SECONDS = 1.0
CANCELLED = ("FAILED", "cancelled", "cancelled")


async def test_it_does_not_wait_for_the_store(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """The upstream's connection is closed at once, the client's message is cut, the answer is 200 within a second."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    seconds: list[float] = []
    while len(seconds) < TRIALS and not any(took <= CLOSED_SECONDS for took in seconds):
        stream = await held(gateway, upstream)
        async with Frozen(store) as fault:
            await fault.begin()
            try:
                seconds.append(await _cancelled(gateway, stream))
            finally:
                await fault.end()
        await until(lambda: _is_store_up(gateway), 5, "the store is back")
    assert min(seconds) <= CLOSED_SECONDS


async def _cancelled(gateway: Gateway, stream: HeldStream) -> float:
    """How long after the call the upstream's connection was closed."""
    called = time.monotonic()
    calling = asyncio.ensure_future(cancel(gateway, stream.task_id))
    await within(ANSWERED_SECONDS, stream.exchange.closed.wait(), "the upstream's connection is closed")
    seconds = time.monotonic() - called
    answer = await within(ANSWERED_SECONDS, calling, "the call is answered")
    assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    assert await within(1, stream.is_cut(), "the client's connection is closed")
    return seconds


async def _is_store_up(gateway: Gateway) -> bool:
    return bool((await gateway.http.get("/readyz")).json()["store"] == "up")
