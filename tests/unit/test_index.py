"""What the list promises though it is told a moment later: nothing is missing, set back or forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gateway import index as index_module
from gateway.records import StoreError, Written
from gateway.store import RedisStore
from gateway.task import Stage, State
from tests.conftest import started_store
from tests.support.records import BOOT, ids, put, record, walk, write
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.store import Store as Server

INDEX = "tsx:ollama:{index}:"
LONG_SECONDS = 3600.0
SOON_SECONDS = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """A server of this file's own, which may be emptied."""
    server = await started_store(tmp_path_factory)
    yield server
    await server.close()


@pytest_asyncio.fixture(loop_scope="session")
async def store(server: Server) -> AsyncIterator[RedisStore]:
    """The empty server, as one gateway process has it."""
    await server.client.flushall()
    await server.client.config_resetstat()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    yield store
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def other(server: Server, store: RedisStore) -> AsyncIterator[RedisStore]:
    """The same as another process has it."""
    other = RedisStore(server.url, boot="boot-2", longest_ttl_seconds=3600)
    yield other
    await other.close()


@pytest.fixture
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list is told when somebody asks, or there is enough to tell."""
    monkeypatch.setattr(index_module, "_LINGER_SECONDS", LONG_SECONDS)


async def listed(server: Server, key: str = "all") -> list[str]:
    """The ids in one of the lists, as they stand in the server."""
    return [str(place)[14:] for place in await server.client.zrange(INDEX + key, 0, -1)]


async def steps(server: Server) -> int:
    """How often a script was called."""
    return int((await server.client.info("commandstats")).get("cmdstat_evalsha", {"calls": 0})["calls"])


# -- when it is told --


async def test_it_is_told_soon(store: RedisStore, server: Server) -> None:
    """Without anybody asking, what was written is listed a moment later."""
    await write(store, [record("t")])

    async def is_there() -> bool:
        return await listed(server) == ["t"]

    await until(is_there, SOON_SECONDS, "it is listed")


@pytest.mark.usefixtures("never_by_itself")
async def test_a_page_knows_what_its_own_process_wrote(store: RedisStore, server: Server) -> None:
    """Who asks the gateway that wrote a status finds it in the list, however lately that was."""
    for n in range(5):
        await write(store, [record(f"t{n}", created_ms=n)])
        assert await listed(server) == [f"t{i}" for i in range(n)]
        assert ids(await store.page(10, None, None))[0] == f"t{n}"


@pytest.mark.usefixtures("never_by_itself")
async def test_many_tasks_cost_one_step(store: RedisStore, server: Server) -> None:
    """Ends of ids that are our own cost a SET each, and all their places in the list one step."""
    for n in range(40):
        assert await write(store, [record(f"t{n:02}", Stage.DONE, is_new=True)]) == [Written(True, 1)]
    assert await steps(server) == 0
    await store.flush()
    assert await steps(server) == 1
    assert await listed(server) == await listed(server, State.SUCCESS) == [f"t{n:02}" for n in range(40)]


@pytest.mark.usefixtures("never_by_itself")
async def test_many_at_once_wait_for_nothing(store: RedisStore, server: Server) -> None:
    """At 64 tasks the list is told without waiting for the end of the linger."""
    await write(store, [record(f"t{n}", Stage.DONE, is_new=True) for n in range(63)])
    assert await listed(server) == []
    await write(store, [record("last", Stage.DONE, is_new=True)])

    async def are_there() -> bool:
        return len(await listed(server)) == 64

    await until(are_there, SOON_SECONDS, "all are listed")


@pytest.mark.usefixtures("never_by_itself")
async def test_a_request_is_told_of_once(store: RedisStore, server: Server) -> None:
    """Of what a request became in a moment the list learns the last; a claim counts as granted all the same."""
    await put(store, [record("t", Stage.DONE, attempt=5, created_ms=1)])
    await server.client.delete("ts:ollama:t")  # evicted: attempts begin again
    assert await write(store, [record("t", attempt=0, created_ms=2)]) == [Written(True, 1)]
    assert await write(store, [record("t", Stage.DONE, created_ms=2)]) == [Written(True, 1)]
    begun = await steps(server)
    await store.flush()
    assert await steps(server) == begun + 1
    assert (await listed(server, State.SUCCESS), await listed(server, State.PENDING)) == (["t"], [])
    assert (await server.client.hget(INDEX + "entry", "t") or "").startswith("1:3:")


@pytest.mark.usefixtures("never_by_itself")
async def test_closing_tells_what_is_left(store: RedisStore, server: Server) -> None:
    """A gateway that stops leaves nothing unlisted behind."""
    await write(store, [record("t")])
    await store.close()
    assert await listed(server) == ["t"]


# -- what comes late --


@pytest.mark.usefixtures("never_by_itself")
@pytest.mark.parametrize("is_claim", [True, False])
async def test_a_late_word_sets_nothing_back(
    store: RedisStore, other: RedisStore, server: Server, is_claim: bool
) -> None:
    """What one process tells late of an ended request does not take the place of another's next attempt."""
    await write(store, [record("t", attempt=0 if is_claim else 1, created_ms=1000)])
    await write(store, [record("t", Stage.DONE, created_ms=1000)])
    assert await put(other, [record("t", attempt=0, created_ms=2000, boot="boot-2")]) == [Written(True, 2)]
    await store.flush()
    assert (await listed(server, State.PENDING), await listed(server, State.SUCCESS)) == (["t"], [])
    assert await server.client.zrange(INDEX + "beats", 0, -1) == ["t"]
    assert ids(await other.page(10, None, None)) == ["t"]


@pytest.mark.usefixtures("never_by_itself")
async def test_a_late_word_of_a_running_task_does_not_end_its_end(store: RedisStore, other: RedisStore) -> None:
    """A task that was called lost meanwhile is listed as FAILED, whatever its own process tells after."""
    await write(store, [record("t", Stage.STREAMING)])
    await put(other, [record("t", Stage.LOST)])
    await store.flush()
    assert await walk(store, state=State.FAILED) == ["t"]
    assert await walk(store, state=State.RUNNING) == []


# -- what fails --


@pytest.mark.usefixtures("never_by_itself")
async def test_what_could_not_be_told_is_told_later(store: RedisStore, server: Server) -> None:
    """While the list cannot be written the store counts as away; nothing is forgotten, and one step tells it all."""
    await store.ping()
    await server.client.acl_setuser("default", commands=["-zadd"], keys=["*"], enabled=True)
    try:
        assert await write(store, [record("a", created_ms=1)]) == [Written(True, 1)]
        for call in (store.flush, store.ping, lambda: store.watch(()), lambda: write(store, [record("b")])):
            with pytest.raises(StoreError):
                await within(3, call())
        assert ids(await store.page(10, None, None)) == []
    finally:
        await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    assert await write(store, [record("b", created_ms=2)]) == [Written(True, 1)]
    await store.flush()
    assert await listed(server) == ["a", "b"]


@pytest.mark.usefixtures("never_by_itself")
async def test_looking_tells_it_where_nothing_else_is_written(store: RedisStore, server: Server) -> None:
    """A step that failed is repeated once a second, by the look for what was lost."""
    await write(store, [record("a")])
    await server.client.acl_setuser("default", commands=["-zadd"], keys=["*"], enabled=True)
    with pytest.raises(StoreError):
        await store.flush()
    await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    await store.watch(())
    assert await listed(server) == ["a"]


@pytest.mark.usefixtures("never_by_itself")
async def test_a_connection_that_was_closed_loses_nothing(store: RedisStore, server: Server) -> None:
    """The list is told over the next connection."""
    await write(store, [record("a")])
    await server.client.client_kill_filter(_type="normal", skipme=True)
    await store.flush()
    assert await listed(server) == ["a"]


async def test_every_key_has_a_ttl_from_its_first_moment_on(store: RedisStore, server: Server) -> None:
    """However few tasks there are, and whichever key is new, none lives for ever."""
    for n, stage in enumerate(Stage):
        await put(store, [record(f"t{n}", stage, created_ms=n, owner=f"o{n}", is_new=n % 2 == 0)])
        assert [key for key in await server.keys() if await server.client.ttl(key) < 0] == []
