"""What a gateway and a real store promise together: rights that are missing, a store that comes back empty."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import new_boot
from gateway.store.redis import RedisStore
from gateway.tasks.stages import Stage, State
from gateway.tracking.answers import StoreUnavailable
from gateway.tracking.tracker import Tracker
from tests.support.records import ids, text_of
from tests.support.tracking import Cut, begun
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import NewStore
    from tests.support.store import Store as Server

pytestmark = pytest.mark.alone  # an answer of the store that comes after 250 ms would count as none

PROBES = 6
NEEDED = ["evalsha", "zadd", "zrem", "zcard", "ttl", "zrange", "get"]


@asynccontextmanager
async def gateway_of(server: Server, heartbeat_seconds: float = 3600) -> AsyncIterator[tuple[Tracker, RedisStore]]:
    """A tracker with this store, running."""
    boot = new_boot("m-r")
    store = RedisStore(server.url, boot=boot, longest_ttl_seconds=3600)
    tracker = Tracker(
        store,
        algorithm_id="a",
        instance="i",
        boot=boot,
        ttl_running_seconds=3600,
        ttl_done_seconds=3600,
        heartbeat_seconds=heartbeat_seconds,
    )
    run = asyncio.create_task(tracker.run())
    try:
        yield tracker, store
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await tracker.close()


async def forbid(server: Server, *rules: str) -> None:
    """The gateway's account may do all but this."""
    await server.client.execute_command("ACL", "SETUSER", "default", "on", "nopass", "~*", "&*", "+@all", *rules)


@pytest.mark.parametrize("command", NEEDED)
async def test_a_missing_right_is_one_lasting_failure(
    new_store: NewStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The store is away as long as a right is missing that is needed, in one line, whatever requests do meanwhile."""
    server = await new_store()
    probes = 0
    probe = RedisStore.probe
    one_at_a_time = asyncio.Lock()  # a probe from before the right is taken may say that the store is well

    async def counted_probe(store: RedisStore) -> None:
        nonlocal probes
        async with one_at_a_time:
            probes += 1
            await probe(store)

    monkeypatch.setattr(RedisStore, "probe", counted_probe)
    with caplog.at_level(logging.INFO, logger="gateway.tracker"):
        async with gateway_of(server) as (tracker, store):
            await until(lambda: probes, what="it runs")
            async with one_at_a_time:
                await forbid(server, f"-{command}")
            for n in range(3):  # of each kind of write
                tracker.forward(await begun(tracker, f"claimed-{n}", "POST", "/v1/x", ""))
                tracker.finish(tracker.begin(None, "POST", "/v1/x", ""), None, "")
            await until(lambda: not tracker.is_store_up, what="it notices")
            seen, conditions = probes, set()

            def has_probed() -> bool:
                conditions.add(tracker.is_store_up)
                return probes >= seen + PROBES

            await until(has_probed, what="several probes")
            assert conditions == {False}
            away = [line for line in caplog.records if "the store is away" in line.getMessage()]
            assert len(away) == 1
            assert not [line for line in caplog.records if "is back" in line.getMessage()]
            await forbid(server)
            await until(lambda: tracker.is_store_up, 5, "it is back")

            async def is_written() -> bool:
                return await text_of(store, "claimed-2") is not None

            await until(is_written, 5, "what was kept is written")


async def test_without_channels_cancels_are_looked_for(new_store: NewStore, caplog: pytest.LogCaptureFixture) -> None:
    """A store that forbids SUBSCRIBE and PUBLISH is well; that cancels are looked for is said once."""
    server = await new_store()
    await forbid(server, "-subscribe", "-publish", "resetchannels")
    cut = asyncio.Event()
    with caplog.at_level(logging.INFO, logger="gateway.tracker"):
        async with gateway_of(server) as (tracker, store):
            task = await begun(tracker, "t", "POST", "/v1/x", "")
            tracker.forward(task)
            task.run_by(Cut(cut.set))

            async def is_running() -> bool:
                return f'"{Stage.FORWARDING}"' in (await text_of(store, "t") or "")

            await until(is_running, what="it is written")
            await store.ask_cancel(tracker._own.name(task))
            await until(cut.is_set, what="it is found")
            assert tracker.is_store_up
    said = [line for line in caplog.messages if "built anew" not in line]
    assert [line for line in said if "forbids to subscribe" in line] == said[:1] == said


async def test_a_store_that_comes_back_empty_knows_all_that_runs(new_store: NewStore) -> None:
    """Without waiting for a heartbeat each task in flight has its document and its place in the list again."""
    server = await new_store()
    async with gateway_of(server) as (tracker, store):
        running = [await begun(tracker, f"t{n}", "POST", "/v1/x", "") for n in range(5)]
        for task in running[:3]:
            tracker.forward(task)
        await until(lambda: not tracker.unsaved, what="all is written")
        await server.kill()
        await until(lambda: not tracker.is_store_up, what="it notices")
        await server.start()

        async def is_all_there() -> bool:
            try:
                page = await tracker.answers.page(50, None, None)
            except StoreUnavailable:
                return False
            return tracker.is_store_up and sorted(ids(page)) == [task.task_id for task in running]

        await until(is_all_there, 5, "all is there")
        assert [await text_of(store, task.task_id) is None for task in running] == [False] * 5
        assert len((await tracker.answers.page(50, State.RUNNING, None)).documents) == 3


async def test_a_heartbeat_puts_back_the_list(new_store: NewStore) -> None:
    """What the store lost while it was well, documents and lists, is there again after a heartbeat."""
    server = await new_store()
    async with gateway_of(server, heartbeat_seconds=0.2) as (tracker, _):
        await begun(tracker, "t", "POST", "/v1/x", "")
        await until(lambda: not tracker.unsaved, what="it is written")
        await server.client.flushall()

        async def is_listed() -> bool:
            return ids(await tracker.answers.page(50, State.PENDING, None)) == ["t"]

        await until(is_listed, what="it is listed again")
        assert tracker.is_store_up
