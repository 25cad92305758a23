"""Owns what becomes of tasks whose process is gone, and that no one who lives is taken for dead.

Contract section 4.10. Whole gateways that are killed, restarted or paused are in tests/chaos.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.mortal import Mortal
from tests.support.faults import Frozen, elapse
from tests.support.outcome import DONE, outcome
from tests.support.streams import HeldStream, held
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch, NewStore
    from tests.support.scripted import Upstream
    from tests.support.store import Store


pytestmark = pytest.mark.alone  # a loss is told within two seconds

HEARTBEAT = "1"
FOUND_SECONDS = 3 * 1 + 2  # three heartbeats and a little
LOST = ("FAILED", "lost", "lost")


@pytest.fixture
async def runner(upstream: Upstream, store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mortal]:
    """A gateway that may be killed."""
    runner = Mortal(tmp_path_factory, upstream, REDIS_URL=store.url, HEARTBEAT_SEC=HEARTBEAT)
    await runner.start()
    yield runner
    await runner.put_down()


async def test_a_gateway_that_dies_leaves_nothing_behind(
    launch: Launch, runner: Mortal, store: Store, upstream: Upstream
) -> None:
    """When one of two gateways is killed its streams are lost within three heartbeats, the other's go on."""
    other = await launch(REDIS_URL=store.url, HEARTBEAT_SEC=HEARTBEAT)
    dead, living = [HeldStream() for _ in range(2)], [HeldStream() for _ in range(2)]
    for gateway, streams in ((runner, dead), (other, living)):
        for stream in streams:
            await stream.begin(gateway, upstream)
    await runner.kill()

    async def are_lost() -> bool:
        return all([(await store.document(stream.task_id))["stage"] == "lost" for stream in dead])

    await until(are_lost, FOUND_SECONDS, "the dead gateway's streams are lost")
    for stream in dead:
        assert outcome(await other.ended(stream.task_id)) == LOST
    for stream in living:
        await stream.end()
        assert outcome(await other.ended(stream.task_id)) == DONE


async def test_an_outage_loses_nobody(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """A store that was frozen for five heartbeats, so that no one could write, makes no gateway call another dead."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": HEARTBEAT}
    runner, other = await launch(**settings), await launch(**settings)
    stream = await held(runner, upstream)
    async with Frozen(store) as fault:
        await fault.begin()
        await elapse(5, time.monotonic(), "five heartbeats without a store")
        await fault.end()
    back = time.monotonic()
    while time.monotonic() < back + 4:  # longer than the grace after an outage
        answer = await other.http.get(f"/tasks/status/{stream.task_id}")
        assert answer.status_code == 503 or answer.json()["state"] == "RUNNING"
        await elapse(0.2, time.monotonic(), "between two polls")
    assert answer.status_code == 200
    await stream.end()
    assert outcome(await store.document(stream.task_id)) == DONE


async def test_many_gateways_see_one_loss(launch: Launch, runner: Mortal, store: Store, upstream: Upstream) -> None:
    """Three gateways that look and are asked at once tell the same event of a task whose gateway is gone."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": HEARTBEAT}
    others = [await launch(**settings) for _ in range(3)]
    stream = await held(runner, upstream)
    await runner.kill()
    events: set[str] = set()

    async def all_say_lost() -> bool:
        documents = await asyncio.gather(*(other.status(stream.task_id) for other in others for _ in range(5)))
        events.update(document["event_id"] for document in documents if document["stage"] == "lost")
        return all(document["stage"] == "lost" for document in documents)

    await until(all_say_lost, FOUND_SECONDS, "all say so")
    assert len(events) == 1
    assert outcome(await store.document(stream.task_id)) == LOST
