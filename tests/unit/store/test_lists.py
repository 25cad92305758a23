"""The lists change with the documents; no task is missing, set back or forgotten."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store.interface import StoreError, Written
from gateway.store.layout import LIST_PREFIX, list_names
from gateway.store.redis import RedisStore
from gateway.tasks.stages import Stage, State
from tests.support.forged import all_documents
from tests.support.records import BOOT, begin_lists, ids, put, record, walk
from tests.support.waiting import next_millisecond, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.store import Store as Server


@pytest.fixture
async def store(server: Server, patience: None, caplog: pytest.LogCaptureFixture) -> AsyncIterator[RedisStore]:
    """The store of one gateway process that has looked once, on the empty server."""
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    await begin_lists(store)
    await server.client.config_resetstat()
    yield store
    await store.close()
    assert [record for record in caplog.get_records("call") if record.exc_info] == [], "a rebuild that broke"


@pytest.fixture
async def other(server: Server, store: RedisStore) -> AsyncIterator[RedisStore]:
    """The same, of another process."""
    other = RedisStore(server.url, boot="boot-2", longest_ttl_seconds=3600)
    yield other
    await other.close()


async def members(server: Server, name: str) -> list[str]:
    """All that stands in one of the lists."""
    return [str(member) for member in await server.client.zrange(LIST_PREFIX + name, 0, -1)]


async def listed(server: Server, name: str) -> list[str]:
    """The ids in one of the lists, as the server has them."""
    return [place[14:] for place in await members(server, name) if place[0].isdigit()]


async def beats(server: Server) -> list[str]:
    """The ids that count as in flight."""
    return await members(server, "beats")


async def list_keys(server: Server) -> list[str]:
    """The keys of all lists and their indexes."""
    return [str(key) for key in await server.keys() if str(key).startswith(LIST_PREFIX)]


@asynccontextmanager
async def without(server: Server, *rights: str) -> AsyncIterator[None]:
    """Makes the server refuse some commands meanwhile."""
    await server.client.acl_setuser("default", commands=[f"-{right}" for right in rights], keys=["*"], enabled=True)
    try:
        yield
    finally:
        await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)


# -- one step --


@pytest.mark.parametrize("owner", ["", "alice"])
@pytest.mark.parametrize("stage", Stage)
async def test_a_status_that_is_written_is_listed(
    store: RedisStore, other: RedisStore, server: Server, stage: Stage, owner: str
) -> None:
    """When a write is answered, the lists have it, for every process, even if its writer dies then."""
    await put(store, [record("t", stage, owner=owner)])
    for name in list_names(stage.state, "") + list_names(stage.state, owner):
        assert await listed(server, name) == ["t"]
    assert await beats(server) == ([] if stage.state in (State.SUCCESS, State.FAILED) else ["t"])
    assert ids(await other.page(10, stage.state, None)) == ids(await other.page(10, None, None, owner=owner)) == ["t"]


async def test_a_task_stands_in_the_lists_of_its_state_alone(store: RedisStore, server: Server) -> None:
    """What moves on leaves its old lists in the same step, and a new attempt takes the place of the old one."""
    stages = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.DONE]
    for attempt in (1, 2):
        for stage in stages:
            await put(store, [record("t", stage, attempt=attempt, created_ms=attempt, owner="alice")])
            for name in list_names(None, None) + list_names(None, "alice"):
                assert await listed(server, name) == ["t"] * (name.partition("@")[0] == stage.state), (stage, name)
            assert await server.client.zcard(LIST_PREFIX + "expiry") == 2, "the task, and the mark"


async def test_a_batch_is_one_command(store: RedisStore, server: Server) -> None:
    """A batch costs one script call, whatever it holds: claims, heartbeats, ends."""
    batch = [record(f"t{n:02}", stage, attempt=n % 2) for n, stage in enumerate([*Stage] * 5)]
    assert await put(store, batch) == [Written(True, 1)] * len(batch)
    assert (await server.client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1


async def test_a_batch_whose_lists_cannot_be_written_is_written_when_it_is_repeated(
    store: RedisStore, server: Server
) -> None:
    """A script that fails half-way fails the batch; once repeated, the documents and lists have the batch."""
    batch = [record("a", created_ms=1), record("b", Stage.DONE, created_ms=2)]
    async with without(server, "zadd"):
        with pytest.raises(StoreError):
            await put(store, batch)
    assert await put(store, batch) == [Written(True, 1)] * 2
    assert await walk(store) == ["b", "a"]
    assert await listed(server, State.SUCCESS) == ["b"]


async def test_every_key_has_a_ttl_from_its_first_moment_on(store: RedisStore, server: Server) -> None:
    """However few tasks there are, and whichever key is new, every key expires."""
    for n, stage in enumerate(Stage):
        await put(store, [record(f"t{n}", stage, created_ms=n, owner=f"o{n}")])
        assert [key for key in await server.keys() if await server.client.ttl(key) < 0] == []


@pytest.mark.parametrize("name", ["expiry", "beats", "lists", "RUNNING", "RUNNING@alice"])
async def test_a_key_that_was_evicted_has_a_ttl_again(store: RedisStore, server: Server, name: str) -> None:
    """Also where a heartbeat alone begins it anew."""
    batch = [record("t", Stage.STREAMING, owner="alice")]
    await put(store, batch)
    await server.client.delete(LIST_PREFIX + name)
    await put(store, batch)
    assert await server.client.ttl(LIST_PREFIX + name) > 0


async def test_gateways_that_look_keep_the_lists_alive(store: RedisStore, server: Server) -> None:
    """A list without changes lives as long as any gateway does: otherwise it would look like an evicted one."""
    await put(store, [record("t", Stage.STREAMING, ttl_seconds=3600), record("d", Stage.DONE, owner="alice")])
    for key in await list_keys(server):
        await server.client.expire(key, 100)
    await store.watch(())
    assert min([await server.client.ttl(key) for key in await list_keys(server)]) > 3600


# -- which request is listed --


@pytest.mark.parametrize("created_ms", [1, 4999, 5001, 9000])
@pytest.mark.parametrize("attempt", [1, 5])
async def test_a_claim_after_an_eviction_is_listed(
    store: RedisStore, other: RedisStore, server: Server, attempt: int, created_ms: int
) -> None:
    """If a document was evicted, attempts begin again: the lists show the new request, whatever its clock."""
    await put(store, [record("t", Stage.DONE, attempt=attempt, created_ms=5000)])
    await server.client.delete("ts:ollama:t")
    claim = record("t", attempt=0, created_ms=created_ms, boot="boot-2")
    assert await put(other, [claim]) == [Written(True, 1)]
    assert ids(await store.page(10, State.PENDING, None)) == ids(await store.page(10, None, None)) == ["t"]
    assert await beats(server) == ["t"]
    await put(other, [record("t", Stage.ERROR, created_ms=created_ms, boot="boot-2")])
    assert ids(await store.page(10, State.FAILED, None)) == ids(await store.page(10, None, None)) == ["t"]
    assert [ids(await store.page(10, state, None)) for state in (State.PENDING, State.SUCCESS)] == [[], []]
    assert await beats(server) == []


async def test_a_late_end_of_an_id_that_was_claimed_is_not_listed(store: RedisStore, other: RedisStore) -> None:
    """A generated id that is sent again before its end was written is listed as the request that holds it."""
    await put(other, [record("t", attempt=0, created_ms=2000, boot="boot-2")])
    assert await put(store, [record("t", Stage.DONE, created_ms=1000)]) == [Written(False, 1)]
    await put(other, [record("t", Stage.STREAMING, created_ms=2000, boot="boot-2")])
    assert await walk(store) == await walk(other, state=State.RUNNING) == ["t"]
    assert await walk(store, state=State.SUCCESS) == []


async def test_an_end_whose_running_document_was_evicted_is_listed_once(store: RedisStore, server: Server) -> None:
    """The old place stays until it expires, and no page shows it."""
    await put(store, [record("t", Stage.STREAMING)])
    await server.client.delete("ts:ollama:t")
    await put(store, [record("t", Stage.DONE)])
    assert await walk(store) == await walk(store, state=State.SUCCESS) == ["t"]
    assert await walk(store, state=State.RUNNING) == []


async def test_a_late_word_of_a_running_task_does_not_end_its_end(store: RedisStore, other: RedisStore) -> None:
    """A task that was called lost meanwhile is listed as FAILED, whatever its own process reports later."""
    await put(store, [record("t", Stage.STREAMING)])
    await other.read(["t"], ())
    await put(store, [record("t", Stage.LOST)])
    await put(store, [record("t", Stage.STREAMING)])
    assert await walk(store, state=State.FAILED) == ["t"]
    assert await walk(store, state=State.RUNNING) == []


# -- lists that were evicted --

STAGES = [Stage.QUEUED, Stage.STREAMING, Stage.DONE, Stage.ERROR, Stage.DONE]
ALL = [f"t{n}" for n in range(len(STAGES) - 1, -1, -1)]


async def several(store: RedisStore, owner: str = "alice") -> None:
    """A task of each state, newest last."""
    await put(store, [record(f"t{n}", stage, created_ms=n, owner=owner) for n, stage in enumerate(STAGES)])


@pytest.mark.parametrize("name", [*State, *(f"{state}@alice" for state in State), "lists", "expiry", "beats"])
@pytest.mark.parametrize("is_written_again", [True, False])
async def test_a_list_that_was_evicted_is_whole_again(
    store: RedisStore, server: Server, name: str, is_written_again: bool
) -> None:
    """Whichever key Redis evicts, also if a write has created it again, a page lacks no task."""
    await several(store)
    await server.client.delete(LIST_PREFIX + name)
    if is_written_again:
        await put(store, [record("more", stage, created_ms=9, owner="alice") for stage in [Stage.QUEUED, Stage.DONE]])
        await put(store, [record("fail", Stage.ERROR, created_ms=10, owner="alice")])
    more = ["fail", "more"] * is_written_again
    assert await walk(store) == await walk(store, owner="alice") == more + ALL
    assert await walk(store, state=State.SUCCESS) == await walk(store, state=State.SUCCESS, owner="alice") == [
        *more[1:], "t4", "t2",
    ]  # fmt: skip
    for state in State:
        assert await walk(store, state=state) == await walk(store, state=state, owner="alice")


async def test_a_list_may_be_evicted_before_the_names_of_all(store: RedisStore, server: Server) -> None:
    """A list that a write has created again becomes complete, even if the names of all lists are evicted then."""
    await several(store)
    await server.client.delete(LIST_PREFIX + "SUCCESS@alice")
    await put(store, [record("more", Stage.DONE, created_ms=9, owner="alice")])
    await server.client.delete(LIST_PREFIX + "lists")
    assert await walk(store) == ["more", *ALL]
    assert await walk(store, state=State.SUCCESS, owner="alice") == ["more", "t4", "t2"]


async def test_all_lists_may_be_evicted_at_once(store: RedisStore, server: Server) -> None:
    """The documents alone are enough; tasks in flight are watched again."""
    await several(store)
    await server.client.delete(*await list_keys(server))
    assert await walk(store) == ALL
    assert sorted(await beats(server)) == ["t0", "t1"]
    members = await server.client.zrange(LIST_PREFIX + "expiry", 0, -1)
    assert len([member for member in members if member != "#"]) == len(STAGES)


async def test_a_list_is_never_silently_incomplete(store: RedisStore, server: Server) -> None:
    """While an evicted list cannot be rebuilt, the answer is an error (503), not a shorter page."""
    await several(store)
    await server.client.delete(LIST_PREFIX + State.SUCCESS)
    await put(store, [record("new", Stage.DONE, created_ms=9)])
    await server.client.set("tsx:ollama:rebuild", "another gateway", ex=60)
    with pytest.raises(StoreError):
        await store.page(10, State.SUCCESS, None)
    with pytest.raises(StoreError):
        await store.page(10, None, None)
    assert ids(await store.page(10, State.FAILED, None)) == ["t3"]
    await server.client.delete("tsx:ollama:rebuild")
    assert ids(await store.page(10, State.SUCCESS, None)) == ["new", "t4", "t2"]


async def test_waiting_for_a_list_opens_no_connections(store: RedisStore, server: Server) -> None:
    """A list that is not complete is no failure of a connection, however often it is looked at."""
    await several(store)
    await server.client.delete(LIST_PREFIX + State.SUCCESS)
    await server.client.set("tsx:ollama:rebuild", "another gateway", ex=60)
    before = (await server.client.info("stats"))["total_connections_received"]
    with pytest.raises(StoreError):
        await store.page(10, State.SUCCESS, None)
    assert (await server.client.info("stats"))["total_connections_received"] <= before + 1


async def test_the_lists_are_built_without_a_reader(store: RedisStore, server: Server) -> None:
    """A gateway's look finds that the lists are incomplete: after an upgrade they are ready before a reader comes."""
    await several(store)
    await server.client.delete(*await list_keys(server))
    await store.watch(())

    async def is_built() -> bool:
        return await listed(server, State.SUCCESS) == ["t2", "t4"]

    await until(is_built, what="the lists are built")
    await until(lambda: _is_complete(server), what="they are complete")


async def _is_complete(server: Server) -> bool:
    return await server.client.zscore(LIST_PREFIX + "lists", "#") is not None


async def test_a_list_that_is_evicted_while_it_is_built_is_built_again(store: RedisStore, server: Server) -> None:
    """A mark that goes with the list shows it: tasks that were added before the eviction are missing."""
    await several(store)
    await server.client.delete(LIST_PREFIX + "lists")
    step = store._rebuild._step

    async def evict(name: str, *arguments: Any) -> None:
        await step(name, *arguments)
        if name == "add":
            await server.client.delete(LIST_PREFIX + State.SUCCESS)

    store._rebuild._step = evict  # type: ignore[method-assign, assignment]
    await store._rebuild.wait(30, [])
    store._rebuild._step = step  # type: ignore[method-assign]
    assert await server.client.zscore(LIST_PREFIX + State.SUCCESS, "#") is None
    assert await server.client.zscore(LIST_PREFIX + "lists", "#") is not None
    assert await walk(store, state=State.FAILED) == ["t3"]
    assert await walk(store, state=State.SUCCESS) == ["t4", "t2"]


async def test_what_is_written_while_lists_are_built_is_in_them(store: RedisStore, server: Server) -> None:
    """Tasks that begin, move on and end meanwhile are listed once, with their present state."""
    await put(store, [record(f"old{n}", Stage.STREAMING, created_ms=n) for n in range(300)])
    await server.client.delete(*await list_keys(server))
    building = store._rebuild.begin()
    for n in range(300):
        await put(store, [record(f"old{n}", Stage.DONE, created_ms=n), record(f"new{n}", created_ms=1000 + n)])
    await building
    assert len(await walk(store, state=State.SUCCESS)) == 300
    assert await walk(store, state=State.RUNNING) == []
    assert len(await walk(store)) == 600


async def test_of_two_gateways_one_builds(store: RedisStore, other: RedisStore, server: Server) -> None:
    """Both answer; the documents are scanned once."""
    await several(store)
    await server.client.delete(*await list_keys(server))
    await server.client.config_resetstat()
    pages = await asyncio.gather(store.page(10, None, None), other.page(10, None, None), return_exceptions=True)
    assert [ids(page) if not isinstance(page, BaseException) else [] for page in pages].count(ALL) >= 1
    assert await walk(other) == ALL
    scans = (await server.client.info("commandstats"))["cmdstat_scan"]["calls"]
    assert scans <= 2


async def test_foreign_keys_are_passed_over(store: RedisStore, server: Server) -> None:
    """Rebuilding uses documents only; other values, and documents of no task, stay as they are."""
    await several(store)
    for task_id, text in all_documents(created_ms=0):
        await server.client.set(f"ts:ollama:{task_id}", text, ex=60)
    await server.client.set("ts:ollama:a b", "{}", ex=60)
    await server.client.set("ts:ollama:odd", '{"extensions":{"attempt":1}}', ex=60)
    await server.client.rpush("ts:ollama:list", "x")
    await server.client.delete(*await list_keys(server))
    assert [task_id for task_id in await walk(store) if task_id in ALL] == ALL


async def test_without_the_right_to_scan_the_lists_begin_anew(
    store: RedisStore, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The lists then have the tasks that are written from then on, and the log says so once."""
    await several(store)
    lists = await list_keys(server)
    async with without(server, "scan"):
        for n in range(2):
            await server.client.delete(*lists)
            await put(store, [record(f"new{n}", created_ms=9)])
            assert await walk(store) == [f"new{n}"]
    assert len([line for line in caplog.messages if "forbids to build the lists anew" in line]) == 1


async def test_a_list_outlives_the_names_of_all(store: RedisStore, server: Server) -> None:
    """Where `lists` alone was evicted, a list that is still there is known again: its own eviction is noticed later."""
    await several(store)
    await put(store, [record("b", Stage.DONE, created_ms=9, owner="bob")])
    await server.client.delete("ts:ollama:b", LIST_PREFIX + "lists")
    await walk(store)
    await put(store, [record("b", Stage.DONE, created_ms=10, owner="bob")])
    await server.client.delete(LIST_PREFIX + "SUCCESS@alice", LIST_PREFIX + "SUCCESS@bob")
    assert await walk(store, state=State.SUCCESS, owner="alice") == ["t4", "t2"]
    assert await walk(store, owner="bob") == ["b"]


async def test_a_document_that_comes_back_keeps_its_place(
    store: RedisStore, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page takes a task out of the lists where its document is gone, and not where it was written again since."""
    await put(store, [record("t", Stage.STREAMING), record("gone", Stage.STREAMING)])
    await server.client.delete("ts:ollama:t", "ts:ollama:gone")
    forget = store._pages._forget

    async def write_first(names: list[str], places: list[str]) -> None:
        await put(store, [record("t", Stage.DONE)])
        await forget(names, places)

    monkeypatch.setattr(store._pages, "_forget", write_first)
    assert await walk(store) == []
    monkeypatch.undo()
    assert await walk(store) == await walk(store, state=State.SUCCESS) == ["t"]
    assert await listed(server, State.RUNNING) == ["t"]  # until it expires; no page shows it


async def test_a_gateway_that_slept_completes_nothing(store: RedisStore, other: RedisStore, server: Server) -> None:
    """Where it lost its lock, and a list was evicted since it added to it, the end is the other gateway's to tell."""
    await several(store)
    await server.client.delete(LIST_PREFIX + State.SUCCESS)
    step = store._rebuild._step

    async def sleep_at_the_end(name: str, *arguments: Any) -> None:
        if name == "end":
            await server.client.set("tsx:ollama:rebuild", "the other", ex=60)
            await server.client.delete(LIST_PREFIX + State.SUCCESS)
            await other._rebuild._step("begin", "the other", [], [])
        await step(name, *arguments)

    store._rebuild._step = sleep_at_the_end  # type: ignore[method-assign, assignment]
    await store._rebuild.wait(30, [])
    store._rebuild._step = step  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await store.page(10, State.SUCCESS, None)
    assert await server.client.get("tsx:ollama:rebuild") == "the other"
    await server.client.delete("tsx:ollama:rebuild")
    assert await walk(store, state=State.SUCCESS) == ["t4", "t2"]
    marks = [m for name in State for m in await members(server, name) if m.startswith("#")]
    assert set(marks) == {"#"}


async def test_another_server_in_the_middle_completes_nothing(store: RedisStore, server: Server) -> None:
    """After a failover the cursor of SCAN means nothing: what was looked through is not all. It is begun again."""
    await several(store)
    await server.client.delete(LIST_PREFIX + State.SUCCESS)
    step = store._rebuild._step

    async def lose_the_connection(name: str, *arguments: Any) -> None:
        await step(name, *arguments)
        if name == "begin":
            await server.client.client_kill_filter(_type="normal", skipme=True)
            await until(is_closed, what="the writer's connection is gone")

    async def is_closed() -> bool:
        return not store._pipeline.is_open

    store._rebuild._step = lose_the_connection  # type: ignore[method-assign, assignment]
    await store._rebuild.wait(30, [])
    assert await server.client.zscore(LIST_PREFIX + State.SUCCESS, "#") is None
    store._rebuild._step = step  # type: ignore[method-assign]
    assert await walk(store, state=State.SUCCESS) == ["t4", "t2"]


@pytest.mark.parametrize("is_known", [True, False])
async def test_lists_of_another_type_do_not_stop_building(store: RedisStore, server: Server, is_known: bool) -> None:
    """Keys of owners who ask for nothing, known or not, are deleted as they are met."""
    await several(store)
    for n in range(3):
        await put(store, [record(f"b{n}", Stage.DONE, created_ms=10 + n, owner=f"bob{n}")])
        await server.client.set(f"{LIST_PREFIX}SUCCESS@bob{n}", "x", ex=60)
    await server.client.delete(LIST_PREFIX + State.SUCCESS, *([] if is_known else [LIST_PREFIX + "lists"]))
    assert await walk(store) == ["b2", "b1", "b0", *ALL]
    assert await walk(store, owner="bob1") == ["b1"]


async def test_a_task_is_listed_until_its_document_expires(store: RedisStore, server: Server) -> None:
    """A list that is built anew holds no task for less time than the document has left, which Redis tells rounded."""
    await several(store)
    await server.client.delete(*await list_keys(server))

    async def is_late_in_a_second() -> bool:
        return int((await server.client.time())[1]) > 600_000

    await until(is_late_in_a_second, what="what is rounded down expires in the second after the next")
    for n, left_ms in enumerate([60_400, 61_480, 62_500, 499_480]):
        await server.client.pexpire(f"ts:ollama:t{n}", left_ms)
    await walk(store)
    expiry: Any = await server.client.zrange(LIST_PREFIX + "expiry", 0, -1, withscores=True)
    for n in range(4):
        [swept_at] = [score for member, score in expiry if member.endswith(f":t{n}")]
        assert (swept_at + 1) * 1000 >= await server.client.pexpiretime(f"ts:ollama:t{n}")


async def test_a_text_that_is_too_long_is_not_looked_into(store: RedisStore, server: Server) -> None:
    """Building does not decode what no gateway has written: that would hold up the server for seconds."""
    await several(store)
    long = await server.document("t0") | {"message": "x" * 2_000_000}
    await server.client.set("ts:ollama:long", json.dumps(long), ex=60)
    await server.client.delete(*await list_keys(server))
    assert await walk(store) == ALL
    assert "long" not in await listed(server, State.PENDING)


async def test_a_right_that_is_missing_midway_completes_nothing(store: RedisStore, server: Server) -> None:
    """Only the right to SCAN is not essential. Where documents may not be read, no list is called complete."""
    await several(store)
    await server.client.delete(LIST_PREFIX + State.SUCCESS)
    await server.client.acl_setuser(
        "default", reset_keys=True, keys=["tsx:ollama:*", "ts:ollama:t0"], commands=["+@all"], enabled=True
    )
    try:
        with pytest.raises(StoreError):
            await store.page(10, State.SUCCESS, None)
    finally:
        await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    assert await walk(store, state=State.SUCCESS) == ["t4", "t2"]


async def test_documents_that_must_not_be_read_are_not_taken_for_malformed(
    store: RedisStore, other: RedisStore, server: Server
) -> None:
    """Without the right to GET no list is complete without them, and no other process's end is overwritten."""
    await several(store)
    await server.client.delete(*await list_keys(server))
    async with without(server, "get"):
        with pytest.raises(StoreError):
            await store.page(10, None, None)
        with pytest.raises(StoreError):
            await put(other, [record("t4", attempt=0, created_ms=9, boot="boot-2", owner="bob")])
    await server.client.delete("tsx:ollama:rebuild")  # which cannot be given back without GET, and expires
    assert await walk(store) == ALL
    assert await walk(store, state=State.SUCCESS) == ["t4", "t2"]


async def test_thousands_of_wrong_scores_are_put_right_first(store: RedisStore, server: Server) -> None:
    """A list whose order is not right yet is not shown."""
    count = 5000
    for start in range(0, count, 500):
        await put(store, [record(f"t{n}", Stage.DONE, created_ms=n) for n in range(start, start + 500)])
    wrong = {f"{n:013}:t{n}": n * 7919 % 1000 + 1 for n in range(count)}
    await server.client.zadd(LIST_PREFIX + State.SUCCESS, wrong)

    async def found() -> list[str]:
        with suppress(StoreError):
            return await walk(store, state=State.SUCCESS)
        return []

    assert await until(found, what="all scores are right") == [f"t{n}" for n in range(count - 1, -1, -1)]


# -- gateways of the version before, which write documents and know other lists --


async def end_elsewhere(server: Server, task_id: str, stage: Stage = Stage.DONE) -> None:
    """A gateway of the version before moves its task on."""
    document = await server.document(task_id)
    document |= {"stage": stage, "state": stage.state}
    document["extensions"]["lost_after_ms"] = None
    await server.client.set(f"ts:ollama:{task_id}", json.dumps(document), ex=600)


async def test_an_end_that_the_version_before_wrote_is_listed(store: RedisStore, server: Server) -> None:
    """Once the task counts as silent it is found to have ended, and stands under the state that it has."""
    await put(store, [record("t", Stage.STREAMING, owner="alice", grace_seconds=0)])
    await end_elsewhere(server, "t")
    await next_millisecond()
    await store.watch(())
    assert await walk(store, state=State.SUCCESS) == await walk(store, state=State.SUCCESS, owner="alice") == ["t"]
    assert await walk(store, state=State.RUNNING) == await beats(server) == []


async def test_a_task_of_the_version_before_stays_listed(store: RedisStore, server: Server) -> None:
    """Heartbeats and ends there keep the document alive, but not its place: that is made anew when it has expired."""
    await put(store, [record(f"t{n}", Stage.STREAMING, created_ms=n) for n in range(3)])
    await end_elsewhere(server, "t1")
    await server.client.delete("ts:ollama:t2")
    expired = await members(server, "expiry")
    await server.client.zadd(LIST_PREFIX + "expiry", {member: 1 for member in expired if member != "#"})
    await store.watch(())
    assert await walk(store) == ["t1", "t0"]
    assert await walk(store, state=State.SUCCESS) == await listed(server, State.SUCCESS) == ["t1"]
    assert await walk(store, state=State.RUNNING) == await listed(server, State.RUNNING) == ["t0"]
