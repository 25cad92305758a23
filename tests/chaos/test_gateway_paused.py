"""A gateway is stopped by SIGSTOP for longer than its heartbeats may fail to come, and goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support.faults import elapse
from tests.support.outcome import DONE, outcome
from tests.support.streams import WHOLE, HeldStream, held, stored_states, until_beaten
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from tests.chaos.conftest import LaunchMortal
    from tests.conftest import NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store


HEARTBEAT_SECONDS = 0.5
LOST_SECONDS = 3 * HEARTBEAT_SECONDS + 2
STREAMS = 10
LOST = ("FAILED", "lost", "lost")


async def several(gateway: Gateway, upstream: Upstream) -> list[HeldStream]:
    """Some streams that run."""
    return [await held(gateway, upstream) for _ in range(STREAMS)]


async def outcomes(store: Store, streams: list[HeldStream]) -> set[tuple[str, str, str | None]]:
    """What the store says of these."""
    return {outcome(await store.document(stream.task_id)) for stream in streams}


async def test_a_pause_is_put_right(mortal: LaunchMortal, new_store: NewStore, upstream: Upstream) -> None:
    """What another gateway presumed lost meanwhile is RUNNING again once it wakes, and SUCCESS in the end."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": str(HEARTBEAT_SECONDS)}
    paused, other = await mortal(**settings), await mortal(**settings)
    streams = await several(paused, upstream)
    before = [(await store.document(stream.task_id))["event_id"] for stream in streams]
    paused.pause()

    async def are_lost() -> bool:
        return await outcomes(store, streams) == {LOST}

    await until(are_lost, LOST_SECONDS, "its tasks are lost")
    lost = [await store.document(stream.task_id) for stream in streams]
    assert {document["extensions"]["is_presumed"] for document in lost} == {True}
    paused.resume()

    seen = {*before, *(document["event_id"] for document in lost)}
    assert len(seen) == 2 * STREAMS

    async def are_running() -> bool:
        """Each with an event of its own, which follows the first heartbeat."""
        again = [await store.document(stream.task_id) for stream in streams]
        new = {document["event_id"] for document in again} - seen
        return {document["state"] for document in again} == {"RUNNING"} and len(new) == STREAMS

    await until(are_running, what="they run again")
    again = [await store.document(stream.task_id) for stream in streams]
    assert {document["extensions"]["is_presumed"] for document in again} == {False}
    assert {await stream.end() for stream in streams} == {WHOLE}
    for gateway in (paused, other):
        assert {outcome(await gateway.status(stream.task_id)) for stream in streams} == {DONE}
    await paused.stop()


async def test_a_pause_that_nobody_saw_is_none(mortal: LaunchMortal, new_store: NewStore, upstream: Upstream) -> None:
    """Alone with its store, it goes on with what it has: RUNNING after the pause, SUCCESS in the end."""
    store = await new_store()
    gateway = await mortal(REDIS_URL=store.url, HEARTBEAT_SEC=str(HEARTBEAT_SECONDS))
    streams = await several(gateway, upstream)
    gateway.pause()
    await elapse(LOST_SECONDS, time.monotonic(), "a pause in which another gateway would have called all this lost")
    gateway.resume()
    await until_beaten(store, streams[0].task_id, 3, GUARD_SECONDS)
    assert set((await stored_states(store, [stream.task_id for stream in streams])).values()) == {"RUNNING"}
    assert {await stream.end() for stream in streams} == {WHOLE}
    assert await outcomes(store, streams) == {DONE}
    await gateway.stop()
