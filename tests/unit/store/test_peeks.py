"""Plain reads give what `read` and `page` give, or say that they cannot: they never guess."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store.interface import InvalidCursor, Unclear
from gateway.store.layout import LIST_PREFIX
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.tasks.document import MAX_CHARACTERS
from gateway.tasks.stages import Stage, State
from tests.support.ports import free_port
from tests.support.records import BOOT, ids, peeked, peeked_page, put, record, text_of, undated, walk
from tests.support.store import DOCUMENTS
from tests.support.tap import tapped
from tests.support.waiting import next_turn, until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.interface import PeekedPage, Record, Store
    from tests.support.store import Store as Server

LABEL = "job:1@x"


def client_of(url: str) -> RedisStore:
    """The store of one gateway process."""
    return RedisStore(url, boot=BOOT, longest_ttl_seconds=3600)


@pytest.fixture
async def redis(server: Server, patience: None) -> AsyncIterator[RedisStore]:
    """A client of the empty server, whose lists are complete."""
    await server.client.flushall()
    store = client_of(server.url)
    await walk(store)
    yield store
    await store.close()


@pytest.fixture(params=["redis", "in-process"])
def store(request: pytest.FixtureRequest, redis: RedisStore) -> Store:
    """Each of the two stores."""
    return redis if request.param == "redis" else MemoryStore()


def several() -> list[Record]:
    """Tasks of several states, owners and labels; two are of the same millisecond."""
    stages = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.DONE, Stage.ERROR, Stage.CANCELLED, Stage.DONE]
    return [
        record(
            f"t{n}",
            stage,
            created_ms=1000 + n // 2,
            owner=["", "alice", "bob"][n % 3],
            label=LABEL if n % 2 else "",
        )
        for n, stage in enumerate(stages)
    ]


def as_text(page: PeekedPage) -> tuple[list[str], str | None]:
    """The documents and the cursor of a page; it has to be plain."""
    assert not isinstance(page, Unclear)
    return [document.decode() for document, _ in page[0]], page[1]


# -- what is plain --


async def test_a_status_is_what_read_gives(store: Store) -> None:
    """The same text for each stage, with its summary; None for a task that is not there."""
    await put(store, several())
    for one in several():
        found = await peeked(store, one.task_id)
        assert found is not None
        assert not isinstance(found, Unclear)
        document = json.loads(found[0])
        assert found[0].decode() == await text_of(store, one.task_id)
        assert (found[1].task_id, found[1].state, found[1].owner) == (one.task_id, one.state, one.owner or None)
        assert (found[1].event_id, found[1].label) == (document["event_id"], one.label or None)
    assert await peeked(store, "none") is None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("state", "owner", "label"),
    [
        (None, None, ""), (State.SUCCESS, None, ""), (State.RUNNING, None, ""), (None, "alice", ""),
        (State.FAILED, "bob", ""), (None, None, LABEL), (None, "alice", LABEL), (None, None, "another"),
    ],
)  # fmt: skip
async def test_a_page_is_what_page_gives(
    store: Store, limit: int, state: State | None, owner: str | None, label: str
) -> None:
    """Page for page the same documents with the same cursors, in the same order."""
    await put(store, several())
    cursor, pages = None, 0
    while True:
        page = await store.page(limit, state, cursor, owner=owner, label=label)
        plain = await peeked_page(store, limit, state, cursor, owner=owner, label=label)
        assert as_text(plain) == (page.documents, page.next_cursor)
        cursor, pages = page.next_cursor, pages + 1
        if cursor is None:
            break
    assert pages >= 1


@pytest.mark.parametrize("cursor", ["!", "abc", "MTIz"])
async def test_a_cursor_that_is_none_is_refused(store: Store, cursor: str) -> None:
    """As `page` refuses it, before the store is asked."""
    with pytest.raises(InvalidCursor):
        await peeked_page(store, cursor=cursor)


async def test_what_is_asked_at_once_is_answered_in_order(redis: RedisStore) -> None:
    """Each of many reads that share a connection gets its own answer."""
    await put(redis, several())
    found = await asyncio.gather(*(peeked(redis, f"t{n % 8}") for n in range(200)))
    told = [one[1].task_id if one is not None and not isinstance(one, Unclear) else None for one in found]
    assert told == [f"t{n % 8}" if n % 8 < 7 else None for n in range(200)]


async def test_a_read_is_one_command_and_changes_nothing(redis: RedisStore, server: Server) -> None:
    """A status is one GET, a page one script; neither writes."""
    await put(redis, several())
    await peeked(redis, "t0")
    await peeked_page(redis)
    await server.client.config_resetstat()
    for _ in range(10):
        await peeked(redis, "t0")
        await peeked_page(redis, 2)
    stats = await server.client.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): found["calls"] for name, found in stats.items()}
    assert (calls["evalsha"], calls["get"]) == (10, 10 + 10 * 3), "3 documents for a page of 2"
    assert not calls.keys() & {"set", "zadd", "zrem", "del", "expire", "script|load"}


# -- what is unclear --


async def unclear(store: Store, task_id: str = "t", **listed: Any) -> None:
    """The status of a task, and the pages that have it, cannot be told plainly."""
    assert isinstance(await peeked(store, task_id), Unclear)
    assert isinstance(await peeked_page(store, **listed), Unclear)


async def test_a_silent_task_is_unclear(redis: RedisStore, server: Server) -> None:
    """It stays as it is: the general way makes it lost."""
    await put(redis, [record("t", Stage.STREAMING, grace_seconds=-1), record("other")])
    before = await server.raw("t")
    await unclear(redis)
    await unclear(redis, state=State.RUNNING)
    assert await server.raw("t") == before
    assert len(as_text(await peeked_page(redis, state=State.PENDING))[0]) == 1


async def test_a_presumed_loss_is_plain_until_it_is_final(redis: RedisStore, server: Server) -> None:
    """Then the general way makes it final."""
    await put(redis, [record("t", Stage.STREAMING, grace_seconds=-1, boot="another")])
    await redis.read(["t"], ())
    lost = await peeked(redis, "t")
    assert lost is not None
    assert not isinstance(lost, Unclear)
    assert (lost[1].state, lost[1].has_ended) == ("FAILED", False)
    assert len(as_text(await peeked_page(redis))[0]) == 1
    document = json.loads(lost[0])
    document["extensions"]["finished_ms"] = 2000
    await server.client.set(DOCUMENTS + "t", json.dumps(document, separators=(",", ":")), ex=60)
    await unclear(redis)


def changed(text: str, **fields: Any) -> str:
    """A document with other values."""
    document = json.loads(text)
    for name, value in fields.items():
        part = document if name in document else document["extensions"]
        part[name] = value
    return json.dumps(document, separators=(",", ":"))


@pytest.mark.parametrize(
    "forge",
    [
        lambda _: "",
        lambda _: "null",
        lambda _: "no JSON",
        lambda _: "[" * 10_000,
        lambda _: "\ud800".encode("utf-8", "surrogatepass"),
        lambda text: text[:-1],
        lambda text: text + "x",
        lambda text: changed(text, task_id="other"),
        lambda text: changed(text, event_id="a\r\nb: c"),
        lambda text: changed(text, state="SUCCESS"),
        lambda text: changed(text, owner=5),
        lambda text: changed(text, message="m" * MAX_CHARACTERS),
    ],
)
async def test_a_malformed_record_is_unclear(redis: RedisStore, server: Server, forge: Any) -> None:
    """Text that is no status document, and the status of another task."""
    await put(redis, [record("t")])
    await server.client.set(DOCUMENTS + "t", forge(await server.raw("t")), ex=60)
    await unclear(redis)


async def test_a_key_of_another_type_is_unclear(redis: RedisStore, server: Server) -> None:
    """For this task and for lists with it; other tasks are plain, over the same connection."""
    await put(redis, [record("t"), record("other", Stage.DONE)])
    await server.client.delete(DOCUMENTS + "t")
    await server.client.lpush(DOCUMENTS + "t", "x")
    await unclear(redis)
    assert not isinstance(await peeked(redis, "other"), Unclear)
    assert len(as_text(await peeked_page(redis, state=State.SUCCESS))[0]) == 1


async def test_a_list_that_is_not_complete_is_unclear(redis: RedisStore, server: Server) -> None:
    """An evicted list lacks tasks until it is rebuilt; the other way waits for that."""
    await put(redis, several())
    for name in ("lists", "SUCCESS", "labels"):
        await server.client.delete(LIST_PREFIX + name)
        label = LABEL if name == "labels" else ""
        assert isinstance(await peeked_page(redis, label=label), Unclear)
        assert await walk(redis, label=label)
        as_text(await peeked_page(redis, label=label))


async def test_scores_that_are_wrong_are_put_right(redis: RedisStore, server: Server) -> None:
    """A list whose members another program has scored is unclear once; its order is right then."""
    await put(redis, several())
    await server.client.zadd(LIST_PREFIX + "SUCCESS", {f"{1003:013d}:t6": 5})
    assert isinstance(await peeked_page(redis, state=State.SUCCESS), Unclear)
    assert len(as_text(await peeked_page(redis, state=State.SUCCESS))[0]) == 2


@pytest.mark.parametrize("place", ["no place", f"{999:013d}:t0", f"{1000:013d}:t1"])
async def test_a_place_that_is_not_the_tasks_is_unclear(redis: RedisStore, server: Server, place: str) -> None:
    """No place at all, one of another creation time, one of a list that the task has left."""
    await put(redis, several())
    await server.client.zadd(LIST_PREFIX + "SUCCESS", {place: 0})
    assert isinstance(await peeked_page(redis, state=State.SUCCESS), Unclear)


async def test_a_place_without_a_document_is_unclear(redis: RedisStore, server: Server) -> None:
    """An expired task is removed by the general way, and the page is plain again."""
    await put(redis, several())
    await server.client.delete(DOCUMENTS + "t3")
    assert await peeked(redis, "t3") is None
    assert isinstance(await peeked_page(redis), Unclear)
    page = await redis.page(1000, None, None)
    assert "t3" not in ids(page)
    assert as_text(await peeked_page(redis))[0] == page.documents


async def test_a_page_of_too_many_bytes_is_unclear(redis: RedisStore) -> None:
    """Over 4 MiB the general way ends the page early."""
    large = [record(f"t{n}", Stage.DONE, created_ms=n, message="m" * 200_000) for n in range(25)]
    await put(redis, large)
    assert isinstance(await peeked_page(redis), Unclear)
    assert len(as_text(await peeked_page(redis, 10))[0]) == 10


# -- the connection --


async def test_a_server_that_forgot_its_scripts(redis: RedisStore, server: Server) -> None:
    """They are loaded again, and the page is plain."""
    await put(redis, several())
    as_text(await peeked_page(redis))
    for _ in range(2):
        await server.client.script_flush()
        assert len(as_text(await peeked_page(redis))[0]) == 7
        await server.client.script_flush()
        redis.tell("a message")
        assert await peeked(redis, "none") is None


async def test_a_connection_that_was_closed(redis: RedisStore, server: Server) -> None:
    """Reads go on over a new one."""
    await put(redis, [record("t")])
    for _ in range(3):
        assert not isinstance(await peeked(redis, "t"), Unclear)
        await server.client.client_kill_filter(skipme=True, _type="normal")


async def test_a_store_that_is_not_there_is_unclear() -> None:
    """At once where connections are refused."""
    store = client_of(f"redis://127.0.0.1:{free_port()}/0")
    await unclear(store)
    store.tell("a message")
    await store.close()


async def test_a_store_that_hangs_is_unclear(server: Server) -> None:
    """In time for the general way to ask as well; later reads are answered when it is back."""
    await server.client.flushall()
    async with tapped(server.port) as tap:
        store = client_of(tap.url)
        assert await walk(store) == []
        tap.open.clear()
        await within(10, unclear(store), "both are told")
        tap.open.set()
        tap.cut()

        async def is_back() -> bool:
            return await peeked(store, "t") is None

        await until(is_back, what="reads are answered again")
        await store.close()


async def test_closing_answers_what_waits(server: Server, patience: None) -> None:
    """A read that is under way when the gateway stops is unclear, not lost."""
    async with tapped(server.port) as tap:
        store = client_of(tap.url)
        tap.open.clear()
        waiting = [asyncio.ensure_future(peeked(store, "t")), asyncio.ensure_future(peeked_page(store))]
        await next_turn()
        await store.close()
        for found in await within(10, asyncio.gather(*waiting), "both are told"):
            assert isinstance(found, Unclear)


async def test_the_text_is_passed_on_as_it_stands(redis: RedisStore, server: Server) -> None:
    """Blanks and fields of a later version are not touched."""
    await put(redis, [record("t")])
    text = json.dumps(json.loads(changed(str(await server.raw("t")))) | {}, indent=1)
    later = text.replace('"attempt"', '"later": 1, "attempt"')
    for one in (text, later):
        await server.client.set(DOCUMENTS + "t", one, ex=60)
        found = await peeked(redis, "t")
        assert found is not None
        assert not isinstance(found, Unclear)
        assert undated(found[0].decode()) == undated(one)
