"""What the list promises: it is told with the documents, and nothing is missing, set back or forgotten."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gateway.store.interface import Record, StoreError, Written
from gateway.store.redis import RedisStore
from gateway.tasks.task import Stage, State
from tests.support.records import BOOT, ids, put, record, walk, write
from tests.support.waiting import next_millisecond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.store import Store as Server

INDEX = "tsx:ollama:{index}:"


@pytest_asyncio.fixture(loop_scope="session", params=["before the first look", "later"])
async def store(server: Server, request: pytest.FixtureRequest, patience: None) -> AsyncIterator[RedisStore]:
    """The empty server, as one gateway process has it, that has or has not looked at its clock yet."""
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    if request.param == "later":
        await store.watch(())
    await server.client.config_resetstat()
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def other(server: Server, store: RedisStore) -> AsyncIterator[RedisStore]:
    """The same as another process has it."""
    other = RedisStore(server.url, boot="boot-2", longest_ttl_seconds=3600)
    yield other
    await other.close()


async def listed(server: Server, key: str = "all") -> list[str]:
    """The ids in one of the lists, as they stand in the server."""
    return [str(place)[14:] for place in await server.client.zrange(INDEX + key, 0, -1)]


async def beats(server: Server) -> list[str]:
    """The ids that count as in flight."""
    return [str(name) for name in await server.client.zrange(INDEX + "beats", 0, -1)]


async def steps(server: Server) -> int:
    """How often a script was called."""
    return int((await server.client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"])


@asynccontextmanager
async def unlistable(server: Server) -> AsyncIterator[None]:
    """Meanwhile documents can be written, but no list."""
    await server.client.acl_setuser("default", commands=["-zadd"], keys=["*"], enabled=True)
    try:
        yield
    finally:
        await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)


# -- when it is told --


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("stage", Stage)
async def test_who_hears_that_it_is_written_finds_it_listed(
    store: RedisStore, other: RedisStore, server: Server, stage: Stage, is_new: bool
) -> None:
    """When a write is answered the lists have it, for every process and whatever becomes of the one that wrote it."""
    await write(store, [record("t", stage, is_new=is_new)])
    assert await listed(server) == await listed(server, stage.state) == ["t"]
    assert await beats(server) == ([] if stage.state in (State.SUCCESS, State.FAILED) else ["t"])
    assert ids(await other.page(10, stage.state, None)) == ["t"]


async def test_a_claim_is_listed_before_anything_else_is_asked(store: RedisStore, server: Server) -> None:
    """What is asked after a claim was answered finds it in the list; so nothing of it can be written before."""
    await put(store, [record("t", attempt=0)])
    assert await listed(server) == await beats(server) == await listed(server, State.PENDING) == ["t"]


async def test_a_batch_costs_one_step(store: RedisStore, server: Server) -> None:
    """Ends of ids that are our own cost a SET each, and all their places in the list one step, or none."""
    batch = [record(f"t{n:02}", Stage.DONE, is_new=True) for n in range(40)]
    assert await write(store, batch) == [Written(True, 1)] * 40
    assert await steps(server) <= 1
    assert await listed(server) == await listed(server, State.SUCCESS) == [f"t{n:02}" for n in range(40)]


@pytest.mark.parametrize("owner", ["", "a key, 100% ours"])
@pytest.mark.parametrize("count", [1, 3])
async def test_plain_steps_list_what_the_script_would(server: Server, owner: str, count: int) -> None:
    """What a new request leaves in the lists does not depend on how they are told, nor on our clock."""
    kept = []
    for looks in (False, True):
        await server.client.flushall()
        store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
        if looks:
            await store.watch(())
        await server.client.config_resetstat()
        stages = [Stage.DONE, Stage.ERROR, Stage.DONE][:count]
        await put(store, [record(f"t{n}", s, created_ms=n, owner=owner, is_new=True) for n, s in enumerate(stages)])
        assert await steps(server) == (0 if looks else 1)
        kept.append(await contents(server))
        await store.close()
    now = (await server.client.time())[0]
    assert kept[0].keys() == kept[1].keys()
    for key, content in kept[0].items():
        if key.endswith("expiry"):
            assert content.keys() == kept[1][key].keys()
            assert all(abs(score - (now + 60)) <= 3 for score in (*content.values(), *kept[1][key].values()))
        else:
            assert content == kept[1][key]


@pytest.mark.parametrize("seconds", [-60.0, 60.0])
async def test_a_clock_that_was_not_seen_lately_is_not_trusted(
    server: Server, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """After a machine's sleep, or a while without the store, the server looks at its own clock."""
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    await store.watch(())
    now = time.time()
    monkeypatch.setattr("gateway.store.redis.time.time", lambda: now + seconds)
    await server.client.config_resetstat()
    await put(store, [record("a", Stage.DONE, is_new=True)])
    assert await steps(server) == 1
    await store.watch(())
    await put(store, [record("b", Stage.DONE, is_new=True)])
    assert await steps(server) == 1
    await store.close()


async def contents(server: Server) -> dict[str, dict[str, float]]:
    """All our own keys with what is in them."""
    keys = sorted(str(key) for key in await server.keys() if str(key).startswith(INDEX))
    found: dict[str, dict[str, float]] = {}
    for key in keys:
        is_hash = await server.client.type(key) == "hash"
        found[key] = (
            await server.client.hgetall(key)
            if is_hash
            else dict(await server.client.zrange(key, 0, -1, withscores=True))
        )
    return found


# -- whom it follows --


@pytest.mark.parametrize("created_ms", [1, 4999, 5001, 9000])
@pytest.mark.parametrize("attempt", [1, 5])
async def test_it_follows_a_claim_after_an_eviction(
    store: RedisStore, other: RedisStore, server: Server, attempt: int, created_ms: int
) -> None:
    """Where a document was evicted attempts begin again: the list has the new request, whatever its gateway's clock."""
    await put(store, [record("t", Stage.DONE, attempt=attempt, created_ms=5000)])
    await server.client.delete("ts:ollama:t")
    claim = record("t", attempt=0, created_ms=created_ms, boot="boot-2")
    assert await put(other, [claim]) == [Written(True, 1)]
    assert (await listed(server), await listed(server, State.PENDING)) == (["t"], ["t"])
    assert await beats(server) == ["t"]
    assert ids(await store.page(10, None, None)) == ["t"]
    await put(other, [record("t", Stage.ERROR, created_ms=created_ms, boot="boot-2")])
    assert ids(await store.page(10, State.FAILED, None)) == ["t"]
    assert [await listed(server, key) for key in (State.PENDING, State.SUCCESS)] == [[], []]
    assert await beats(server) == []


async def test_it_follows_a_claim_of_an_id_whose_first_end_is_written_late(
    store: RedisStore, other: RedisStore, server: Server
) -> None:
    """A generated id that was sent again before its end was written is listed as the request that holds it."""
    await put(other, [record("t", attempt=0, created_ms=2000, boot="boot-2")])
    late = record("t", Stage.DONE, created_ms=1000, is_new=True)
    assert await put(store, [late]) == [Written(False, 1)]
    await put(other, [record("t", Stage.STREAMING, created_ms=2000, boot="boot-2")])
    assert await walk(store) == await walk(other, state=State.RUNNING) == ["t"]
    assert await walk(store, state=State.SUCCESS) == []
    await put(other, [record("t", Stage.ERROR, created_ms=2000, boot="boot-2")])
    assert await walk(store) == await walk(other, state=State.FAILED) == ["t"]


async def test_a_request_that_was_made_lost_is_listed_though_its_claim_never_was(
    store: RedisStore, other: RedisStore, server: Server
) -> None:
    """A gateway that was killed between a claim and its place in the list leaves nothing that no list shows."""
    await put(store, [record("t", Stage.DONE, attempt=3, created_ms=5000)])
    await server.client.delete("ts:ollama:t")
    async with unlistable(server):
        await put(other, [record("t", attempt=0, created_ms=1000, boot="boot-2", grace_seconds=0)])
    await next_millisecond()
    await store.read(["t"], ())
    assert ids(await store.page(10, State.FAILED, None)) == ["t"]


# -- what comes late --


async def claim_unlisted(store: RedisStore, server: Server, claim: Record) -> None:
    """A claim is granted, and the list cannot be told."""
    async with unlistable(server):
        assert await put(store, [claim]) == [Written(True, 1)]
    assert await listed(server) == []
    await next_millisecond()


@pytest.mark.parametrize("is_evicted", [True, False])
@pytest.mark.parametrize("created_ms", [500, 2000])
async def test_a_late_claim_sets_nothing_back(
    store: RedisStore, other: RedisStore, server: Server, is_evicted: bool, created_ms: int
) -> None:
    """What one process tells late of a claim does not take the place of another's, whatever their clocks."""
    await claim_unlisted(store, server, record("t", attempt=0, created_ms=1000))
    if is_evicted:
        await server.client.delete("ts:ollama:t")
    else:
        await put(other, [record("t", Stage.LOST, attempt=2, created_ms=1000, boot="boot-2")])
    attempt = 1 if is_evicted else 3
    claim = record("t", attempt=0, created_ms=created_ms, boot="boot-2")
    assert await put(other, [claim]) == [Written(True, attempt)]
    await put(store, [record("any")])
    assert sorted(await listed(server, State.PENDING)) == ["any", "t"]
    assert f"{created_ms:013}:t" in await server.client.zrange(INDEX + "all", 0, -1)
    assert sorted(await listed(server)) == sorted(await beats(server)) == ["any", "t"]


async def test_a_late_word_of_a_running_task_does_not_end_its_end(store: RedisStore, other: RedisStore) -> None:
    """A task that was called lost meanwhile is listed as FAILED, whatever its own process tells after."""
    await put(store, [record("t", Stage.STREAMING)])
    await other.read(["t"], ())
    await put(store, [record("t", Stage.LOST)])
    await put(store, [record("t", Stage.STREAMING)])
    assert await walk(store, state=State.FAILED) == ["t"]
    assert await walk(store, state=State.RUNNING) == []


# -- what fails --


async def test_a_batch_whose_list_cannot_be_written_is_not_written(store: RedisStore, server: Server) -> None:
    """Documents and list fail together; the batch, repeated, has both."""
    batch = [record("a", created_ms=1), record("b", Stage.DONE, created_ms=2, is_new=True)]
    async with unlistable(server):
        with pytest.raises(StoreError):
            await write(store, batch)
    assert await listed(server) == []
    assert await write(store, batch) == [Written(True, 1)] * 2
    assert await listed(server) == ["a", "b"]
    assert await listed(server, State.SUCCESS) == ["b"]


async def test_a_claim_that_could_not_be_listed_is_with_the_next_batch(store: RedisStore, server: Server) -> None:
    """The next batch tells the list of it, too; where that fails, the one after, and once."""
    await claim_unlisted(store, server, record("t", attempt=0, created_ms=1))
    async with unlistable(server):
        with pytest.raises(StoreError):
            await write(store, [record("a", created_ms=2)])
    await write(store, [record("a", created_ms=2)])
    assert await listed(server) == sorted(await beats(server), reverse=True) == ["t", "a"]
    await server.client.delete(INDEX + "all", INDEX + "entry")
    await write(store, [record("b", created_ms=3)])
    assert await listed(server) == ["b"]


async def test_every_key_has_a_ttl_from_its_first_moment_on(store: RedisStore, server: Server) -> None:
    """However few tasks there are, and whichever key is new, none lives for ever."""
    for n, stage in enumerate(Stage):
        await put(store, [record(f"t{n}", stage, created_ms=n, owner=f"o{n}", is_new=n % 2 == 0)])
        assert [key for key in await server.keys() if await server.client.ttl(key) < 0] == []
