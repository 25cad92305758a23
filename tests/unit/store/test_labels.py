"""The lists of labels: exact, each with a TTL, whole again after an eviction, and read at the cost of a page."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import StoreError, Written
from gateway.store.layout import LIST_PREFIX, label_list_name
from gateway.store.redis import RedisStore
from gateway.tasks.stages import Stage
from tests.support.records import BOOT, begin_lists, ids, put, record, walk
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.store import Store as Server

JOB = "job:1@x"
LABEL_KEYS = [label_list_name(JOB, None), label_list_name(JOB, "alice"), "labels", "label-expiry"]
STAGES = [Stage.QUEUED, Stage.STREAMING, Stage.DONE, Stage.ERROR, Stage.DONE]
ALL = [f"t{n}" for n in range(len(STAGES) - 1, -1, -1)]
MANY = 20_000


@pytest.fixture
async def store(server: Server, patience: None, caplog: pytest.LogCaptureFixture) -> AsyncIterator[RedisStore]:
    """The store of one gateway process that has looked once, on the empty server."""
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    await begin_lists(store)
    yield store
    await store.close()
    assert [record for record in caplog.get_records("call") if record.exc_info] == [], "a rebuild that broke"


async def several(store: RedisStore) -> None:
    """Tasks of a label, newest last, and some without it between them."""
    tasks = [record(f"t{n}", stage, created_ms=n, owner="alice", label=JOB) for n, stage in enumerate(STAGES)]
    others = [record(f"o{n}", created_ms=n, owner="alice", label=label) for n, label in enumerate(["", "job", "x"])]
    await put(store, [*tasks, *others])


async def places(server: Server, name: str) -> list[str]:
    """The ids in a list of a label, as the server has them."""
    members = await server.client.zrange(LIST_PREFIX + name, 0, -1)
    return [str(member)[14:] for member in members if str(member) != "#"]


@asynccontextmanager
async def counted(server: Server) -> AsyncIterator[dict[str, int]]:
    """The commands that the server runs meanwhile, by name; filled at the end."""
    await server.client.config_resetstat()
    calls: dict[str, int] = {}
    yield calls
    stats = await server.client.info("commandstats")
    calls |= {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}


@pytest.mark.parametrize("label", ["job", "a:b", ":", "@alice", "#", "#begun:1", '"', "\\", "l" * 128])
@pytest.mark.parametrize("owner", ["", "alice"])
async def test_a_task_is_listed_by_its_label_through_its_whole_life(
    store: RedisStore, server: Server, owner: str, label: str
) -> None:
    """From its first write on, with the label of any characters, by the same script call, and by its owner too."""
    for stage in (Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.DONE):
        async with counted(server) as calls:
            await put(store, [record("t", stage, owner=owner, label=label)])
        assert calls["evalsha"] == 1
        assert await walk(store, label=label) == ["t"]
        assert await walk(store, label=label, owner="alice") == ["t"] * (owner == "alice")
        assert await walk(store, label=label, owner="bob") == []
        assert await walk(store, label=label + "x") == await walk(store, label=label[:-1] or "y") == []


def test_no_two_lists_have_one_name() -> None:
    """Whatever stands in a label, a list of one owner is none of another owner or of all."""
    pairs = [(label, owner) for label in ("a", "a:b", ":a", "alice:a", "@a") for owner in (None, "alice", "a", "a.b")]
    assert len({label_list_name(*pair) for pair in pairs}) == len(pairs)


async def test_a_new_attempt_with_another_label_leaves_the_old_list(store: RedisStore, server: Server) -> None:
    """Also one without a label; the lists on the server have nothing of the attempt before."""
    for created_ms, label in enumerate(["old", "new", "", "old"], 1):
        for stage in (Stage.QUEUED, Stage.DONE):
            attempt = 0 if stage is Stage.QUEUED else created_ms
            one = record("t", stage, attempt=attempt, created_ms=created_ms, owner="alice", label=label)
            assert await put(store, [one]) == [Written(True, created_ms)]
            for name in ("old", "new"):
                assert await walk(store, label=name) == ["t"] * (name == label)
                for owner in (None, "alice"):
                    assert await places(server, label_list_name(name, owner)) == ["t"] * (name == label)


async def test_a_lost_task_keeps_its_label(store: RedisStore) -> None:
    """A task whose gateway is silent is FAILED in the list of its label."""
    await put(store, [record("t", Stage.STREAMING, label=JOB, grace_seconds=-1, boot="other")])
    page = await store.page(10, None, None, label=JOB, exempt=())
    assert '"stage":"lost"' in page.documents[0]
    assert await walk(store, label=JOB) == ["t"]


async def test_every_key_has_a_ttl(store: RedisStore, server: Server) -> None:
    """From its first moment on, also after it was evicted; none gets a shorter one from another gateway's settings."""
    await several(store)
    assert [key for key in await server.keys() if await server.client.ttl(key) < 0] == []
    for name in LABEL_KEYS:
        await server.client.delete(LIST_PREFIX + name)
        await several(store)
        assert await server.client.ttl(LIST_PREFIX + name) > 0
    brief = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=1)
    await put(brief, [record("t0", label=JOB, owner="alice", created_ms=0)])
    await brief.close()
    for name in LABEL_KEYS:
        assert await server.client.ttl(LIST_PREFIX + name) > 3700


async def test_a_task_that_has_expired_leaves(store: RedisStore, server: Server) -> None:
    """Without a reader: within seconds nothing of it is in the lists, and one that was written again since stays."""
    for task_id in ("gone", "again"):
        await put(store, [record(task_id, Stage.DONE, label=JOB, owner="alice", ttl_seconds=3)])
    await server.client.expire("ts:ollama:again", 60)

    async def is_gone() -> bool:
        await store.watch(())
        return await places(server, LABEL_KEYS[0]) == await places(server, LABEL_KEYS[1]) == ["again"]

    await until(is_gone, what="it has left")
    assert await server.client.zcard(LIST_PREFIX + "label-expiry") == 2, "the task, and the mark"
    assert await walk(store, label=JOB) == ["again"]


async def test_the_name_of_a_label_expires(store: RedisStore, server: Server) -> None:
    """Names of labels whose tasks are all gone are forgotten, and their lists are empty and whole."""
    await several(store)
    await server.client.zadd(LIST_PREFIX + "labels", {LABEL_KEYS[0]: 1}, xx=True)
    await server.client.delete(LIST_PREFIX + LABEL_KEYS[0], *(f"ts:ollama:{task_id}" for task_id in ALL))
    await server.client.set("tsx:ollama:rebuild", "another gateway", ex=60)
    assert await walk(store, label=JOB) == []
    await store.watch(())
    assert await server.client.zscore(LIST_PREFIX + "labels", LABEL_KEYS[0]) is None
    assert await server.client.zscore(LIST_PREFIX + "labels", LABEL_KEYS[1]) is not None


# -- evictions --


@pytest.mark.parametrize("names", [*([name] for name in LABEL_KEYS), LABEL_KEYS[:2], LABEL_KEYS])
@pytest.mark.parametrize("is_written_again", [True, False])
async def test_a_list_that_was_evicted_is_whole_again(
    store: RedisStore, server: Server, names: list[str], is_written_again: bool
) -> None:
    """Whichever keys Redis evicts, also if a write has created them again, a page lacks no task."""
    await several(store)
    await server.client.delete(*(LIST_PREFIX + name for name in names))
    if is_written_again:
        await put(store, [record("more", created_ms=9, owner="alice", label=JOB)])
    expected = ["more"] * is_written_again + ALL
    assert await walk(store, label=JOB) == await walk(store, label=JOB, owner="alice") == expected
    assert await walk(store, label="job") == ["o1"]


async def test_a_list_is_never_silently_incomplete(store: RedisStore, server: Server) -> None:
    """While an evicted list cannot be rebuilt, the answer is an error (503); other lists are not affected."""
    await several(store)
    await server.client.delete(LIST_PREFIX + LABEL_KEYS[0])
    await server.client.set("tsx:ollama:rebuild", "another gateway", ex=60)
    with pytest.raises(StoreError):
        await store.page(10, None, None, label=JOB)
    assert ids(await store.page(10, None, None, label=JOB, owner="alice")) == ALL
    assert await walk(store, label="job") == ["o1"]
    assert len(await walk(store)) == 8
    await server.client.delete("tsx:ollama:rebuild")
    assert await walk(store, label=JOB) == ALL


async def test_an_evicted_list_of_which_no_task_is_left_is_empty(store: RedisStore, server: Server) -> None:
    """A rebuild finds nothing for it, and says so."""
    await several(store)
    await server.client.delete(LIST_PREFIX + LABEL_KEYS[0], *(f"ts:ollama:{task_id}" for task_id in ALL))
    assert await walk(store, label=JOB) == []
    await put(store, [record("t", created_ms=10, label=JOB)])
    assert await walk(store, label=JOB) == ["t"]


async def test_a_list_that_is_evicted_while_it_is_built_is_built_again(store: RedisStore, server: Server) -> None:
    """Tasks that were added before the eviction are missing, also where a write has created the list again."""
    await several(store)
    await server.client.delete(LIST_PREFIX + "labels")
    step = store._rebuild._step

    async def evict(name: str, *arguments: object) -> None:
        await step(name, *arguments)  # type: ignore[arg-type]
        if name == "add":
            await server.client.delete(LIST_PREFIX + LABEL_KEYS[0])
            await put(store, [record("new", created_ms=10, label=JOB)])

    store._rebuild._step = evict  # type: ignore[method-assign, assignment]
    await store._rebuild.wait(30, [])
    store._rebuild._step = step  # type: ignore[method-assign]
    assert await server.client.zscore(LIST_PREFIX + "labels", "#") is not None
    assert await server.client.zscore(LIST_PREFIX + LABEL_KEYS[0], "#") is None
    assert await walk(store, label=JOB) == ["new", *ALL]


async def test_a_rebuild_that_lost_its_names_completes_nothing(store: RedisStore, server: Server) -> None:
    """The names of the labels are evicted in the middle: the next look builds them again."""
    await several(store)
    await server.client.delete(LIST_PREFIX + "labels")
    step = store._rebuild._step

    async def evict(name: str, *arguments: object) -> None:
        if name == "end":
            await server.client.delete(LIST_PREFIX + "labels")
        await step(name, *arguments)  # type: ignore[arg-type]

    store._rebuild._step = evict  # type: ignore[method-assign, assignment]
    await store._rebuild.wait(30, [])
    store._rebuild._step = step  # type: ignore[method-assign]
    assert await server.client.zscore(LIST_PREFIX + "labels", "#") is None
    assert await walk(store, label=JOB) == ALL


# -- what others write there --


@pytest.mark.parametrize("name", LABEL_KEYS)
async def test_a_key_of_another_type_is_replaced(store: RedisStore, server: Server, name: str) -> None:
    """Writing, looking and reading go on, and the list is whole again."""
    await several(store)
    await server.client.delete(LIST_PREFIX + name)
    await server.client.set(LIST_PREFIX + name, "text", ex=60)
    assert await put(store, [record("more", created_ms=9, owner="alice", label=JOB)]) == [Written(True, 1)]
    await store.watch(())
    assert await walk(store, label=JOB) == await walk(store, label=JOB, owner="alice") == ["more", *ALL]


async def test_malformed_members_harm_nothing(store: RedisStore, server: Server) -> None:
    """In the lists, and in what says when tasks leave them."""
    await several(store)
    await server.client.zadd(LIST_PREFIX + LABEL_KEYS[0], {"odd": 0, "0000000000009:-": 0, "0000000000004:t4": 7})
    await server.client.zadd(LIST_PREFIX + "label-expiry", {"odd": 1, "1:a:b": 1, "1:a:b c d": 1})
    await store.watch(())
    assert await walk(store, label=JOB) == ALL
    members = [str(member) for member in await server.client.zrange(LIST_PREFIX + "label-expiry", 0, -1)]
    assert [member for member in members if "odd" in member or member.startswith("1:")] == []


async def test_a_place_of_another_label_is_not_shown(store: RedisStore, server: Server) -> None:
    """A gateway of the version before may write a new attempt without its label, and leave the old place."""
    await several(store)
    await server.client.zadd(LIST_PREFIX + LABEL_KEYS[0], {"0000000000001:o1": 0})
    assert await walk(store, label=JOB) == ALL


@pytest.mark.parametrize("label", ["", JOB, '"\\'])
async def test_a_document_of_the_same_request_is_known_by_its_end(
    store: RedisStore, server: Server, caplog: pytest.LogCaptureFixture, label: str
) -> None:
    """So nearly every write parses no document, not even one whose beginning is no JSON."""
    await put(store, [record("t", Stage.QUEUED, owner="alice", label=label)])
    text = await server.raw("t")
    assert text is not None
    await server.client.set("ts:ollama:t", "x" + text[1:], ex=60)
    assert await put(store, [record("t", Stage.STREAMING, owner="alice", label=label)]) == [Written(True, 1)]
    assert "ts:ollama:t" not in caplog.text


# -- cost --


@pytest.mark.timeout(120)
async def test_a_page_costs_the_same_among_many(store: RedisStore, server: Server) -> None:
    """Of 20,000 tasks with one label a page reads its own and one more, in one script call, without SCAN or KEYS."""
    for start in range(0, MANY, 250):
        numbers = range(start, start + 250)
        await put(store, [record(f"t{n}", Stage.DONE, created_ms=n, label=JOB, owner="alice") for n in numbers])
    cursor = (await store.page(1000, None, None, label=JOB, owner="alice")).next_cursor
    for limit, at, owner in ((50, None, None), (50, cursor, "alice")):
        async with counted(server) as calls:
            page = await store.page(limit, None, at, label=JOB, owner=owner)
        assert len(page.documents) == limit
        assert calls["evalsha"] == 1
        assert calls["get"] == limit + 1
        assert calls["zrange"] == 1
        assert not {"scan", "keys", "smembers"} & {*calls}
        assert sum(calls.values()) <= limit + 14, calls
