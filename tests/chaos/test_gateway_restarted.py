"""A gateway is killed and started again in its place, with the same name, long before its heartbeats are overdue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.outcome import outcome
from tests.support.streams import HeldStream, held, stored_states
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.chaos.conftest import LaunchMortal
    from tests.conftest import NewStore
    from tests.support.scripted import Upstream


HEARTBEAT_SECONDS = 60
AT_ONCE_SECONDS = 5.0  # contract 4.10
STREAMS = 50


async def test_it_ends_its_earlier_run(mortal: LaunchMortal, new_store: NewStore, upstream: Upstream) -> None:
    """What it had in flight is lost as soon as it is back, not three heartbeats later, and no one else is needed."""
    store = await new_store()
    gateway = await mortal(REDIS_URL=store.url, HEARTBEAT_SEC=str(HEARTBEAT_SECONDS), GATEWAY_INSTANCE="phoenix")
    streams = [await held(gateway, upstream) for _ in range(STREAMS)]
    ids = [stream.task_id for stream in streams]
    assert set((await stored_states(store, ids)).values()) == {"RUNNING"}
    await gateway.kill()
    await gateway.start()
    begun = time.monotonic()

    async def is_nothing_in_flight() -> bool:
        return set((await stored_states(store, ids)).values()) == {"FAILED"}

    await until(is_nothing_in_flight, AT_ONCE_SECONDS, "its former tasks are lost")
    assert time.monotonic() - begun <= AT_ONCE_SECONDS
    assert {outcome(await store.document(task_id)) for task_id in ids} == {("FAILED", "lost", "lost")}


async def test_it_ends_no_tasks_of_other_gateways(
    mortal: LaunchMortal, new_store: NewStore, upstream: Upstream
) -> None:
    """What another gateway has in flight goes on when this one starts again."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": str(HEARTBEAT_SECONDS)}
    gateway = await mortal(**settings, GATEWAY_INSTANCE="phoenix")
    other = await mortal(**settings, GATEWAY_INSTANCE="heron")
    own, foreign = HeldStream(), HeldStream()
    await foreign.begin(other, upstream)  # the older one, which would be called lost first
    await own.begin(gateway, upstream)
    untouched = await store.raw(foreign.task_id)
    await gateway.kill()
    await gateway.start()

    async def is_lost() -> bool:
        return (await stored_states(store, [own.task_id]))[own.task_id] == "FAILED"

    await until(is_lost, AT_ONCE_SECONDS, "its former task is lost")
    assert await store.raw(foreign.task_id) == untouched
