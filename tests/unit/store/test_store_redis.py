"""What the Redis store promises beyond the in-process table: keys, TTLs, foreign values, and a server that fails."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.store.answers import Saved
from gateway.store.interface import StoreError, Written
from gateway.store.redis import RedisStore
from gateway.store.redis_answers import RedisAnswers
from gateway.tasks.stages import Stage, State
from tests.support.answers import EVENT_ID, HEAD, part, save
from tests.support.ports import free_port
from tests.support.records import BOOT, ids, put, record, stage_and_attempt, stored, text_of, walk
from tests.support.store import Store as Server
from tests.support.tap import tapped
from tests.support.waiting import next_millisecond, until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.store.interface import Record
    from tests.conftest import NewStore

    Call = Callable[[RedisStore], Awaitable[object]]

DOCUMENT = "ts:ollama:"
OURS = "tsx:ollama:"
LISTS = "tsx:ollama:2:"
LONGEST_TTL_SECONDS = 3600


def client_of(server: Server, boot: str = BOOT) -> RedisStore:
    """The store of one gateway process."""
    return RedisStore(server.url, boot=boot, longest_ttl_seconds=LONGEST_TTL_SECONDS)


@pytest.fixture
async def store(server: Server, patience: None) -> AsyncIterator[RedisStore]:
    """A client of the empty server."""
    await server.client.flushall()
    store = client_of(server)
    yield store
    await store.close()


@pytest.fixture
async def other(server: Server, store: RedisStore) -> AsyncIterator[RedisStore]:
    """The same store, of another gateway process."""
    other = client_of(server, boot="boot-2")
    yield other
    await other.close()


# -- keys --


async def test_the_keys_are_the_contracts(store: RedisStore, server: Server) -> None:
    """Only documents are under ts:ollama:, all else is under tsx:ollama:, and every key has a TTL."""
    await put(store, [record(stage.value, stage, ttl_seconds=60, owner="alice") for stage in Stage])
    await store.ask_cancel("1:queued")
    keys = await server.keys()
    assert {key for key in keys if not key.startswith(OURS)} == {DOCUMENT + stage for stage in Stage}
    assert all(key.startswith(LISTS) for key in keys if key.startswith(OURS))
    for key in keys:
        seconds = await server.client.ttl(key)
        if key.startswith(OURS) and key != CANCELS:
            assert LONGEST_TTL_SECONDS <= seconds <= 2 * LONGEST_TTL_SECONDS
        else:
            assert 55 <= seconds <= 60


@pytest.mark.usefixtures("patience")
async def test_no_command_looks_at_all_keys(new_store: NewStore) -> None:
    """Writing, reading, listing with a filter too, looking and cancelling work without SCAN and KEYS."""
    server = await new_store()
    store = client_of(server)
    await walk(store)  # the lists are begun, which looks through what there may be
    await server.client.config_resetstat()
    await put(store, [record(f"t{n}", Stage.DONE, created_ms=n) for n in range(50)])
    await text_of(store, "t1")
    await walk(store, limit=7, state=State.SUCCESS)
    await put(store, [record("t", Stage.STREAMING, grace_seconds=0)])
    await next_millisecond()
    await store.ask_cancel("1:t")
    await store.watch(())
    await store.end_earlier_run()
    assert not {name for name in await server.commands() if "scan" in name or name in ("keys", "sort", "randomkey")}
    await store.close()


@pytest.mark.usefixtures("patience")
async def test_a_page_costs_its_limit(new_store: NewStore) -> None:
    """A page of five reads about five documents, however many tasks there are of its state or of others."""
    server = await new_store()
    store = client_of(server)
    await put(store, [record(f"done{n}", Stage.DONE, created_ms=1000 + n) for n in range(500)])
    await put(store, [record("old", Stage.ERROR, created_ms=1)])
    await walk(store)
    for state in (None, State.SUCCESS, State.FAILED):
        await server.client.config_resetstat()
        await store.page(5, state, None)
        stats = await server.client.info("commandstats")
        assert stats["cmdstat_get"]["calls"] <= 6
    await store.close()


# -- what other processes do --


async def test_another_process_cannot_claim_what_is_in_flight(store: RedisStore, other: RedisStore) -> None:
    """A claim names its process: the same creation time from another process is another request."""
    claim = record("t", attempt=0)
    assert await put(store, [claim]) == [Written(True, 1)]
    assert await put(other, [record("t", attempt=0, boot="boot-2")]) == [Written(False, 1)]
    assert await put(store, [claim]) == [Written(True, 1)]
    await put(store, [record("t", Stage.DONE)])
    assert await put(other, [record("t", attempt=0, created_ms=2000, boot="boot-2")]) == [Written(True, 2)]
    assert await put(store, [record("t", Stage.ERROR)]) == [Written(False, 2)]


@pytest.mark.parametrize("late", [Stage.STREAMING, Stage.DONE])
async def test_another_process_cannot_write_an_equal_attempt(
    store: RedisStore, other: RedisStore, server: Server, late: Stage
) -> None:
    """After an eviction the id is the claim's: its former request neither goes on with it nor ends it."""
    await put(store, [record("t", Stage.STREAMING)])
    await server.client.delete(DOCUMENT + "t")
    assert await put(other, [record("t", attempt=0, boot="boot-2")]) == [Written(True, 1)]
    assert await put(store, [record("t", late)]) == [Written(False, 1)]
    assert await put(other, [record("t", Stage.ERROR, boot="boot-2")]) == [Written(True, 1)]
    assert await stage_and_attempt(store, "t") == ("error", 1)


async def test_of_many_claims_at_once_one_wins(store: RedisStore, other: RedisStore) -> None:
    """Processes that claim the same ids at the same moment agree on one winner for each."""
    names = [f"t{n}" for n in range(50)]
    mine, others = await asyncio.gather(
        put(store, [record(name, attempt=0, created_ms=1000) for name in names]),
        put(other, [record(name, attempt=0, created_ms=1001, boot="boot-2") for name in names]),
    )
    for name, one, two in zip(names, mine, others, strict=True):
        assert {one.is_written, two.is_written} == {True, False}, name
        assert (await stored(store, name))["extensions"]["boot"] == (BOOT if one.is_written else "boot-2")


FOREIGN = [
    "", "hello", "0", "-1.5e300", "null", "true", '"text"', "[]", "[1,2]", "{}", '{"extensions":5}', "{broken",
    '{"extensions":null}', '{"stage":"done"}', '{"extensions":[]}', "[" * 2000, "\x00\xff", '{"stage":"queued"}',
]  # fmt: skip


@pytest.mark.parametrize("value", FOREIGN)
async def test_a_foreign_value_does_not_block(store: RedisStore, server: Server, value: str) -> None:
    """A malformed document is overwritten, as if the key were empty."""
    await server.client.set(DOCUMENT + "t", value)
    assert await put(store, [record("t", attempt=0)]) == [Written(True, 1)]
    assert await stage_and_attempt(store, "t") == ("queued", 1)
    assert await server.ttl("t") > 0


async def test_a_key_of_another_type_does_not_block(store: RedisStore, server: Server) -> None:
    """A list, a hash, a set or a sorted set under a task's key is replaced by its document."""
    await server.client.rpush(DOCUMENT + "list", "x")
    await server.client.hset(DOCUMENT + "hash", "a", "b")
    await server.client.sadd(DOCUMENT + "set", "x")
    await server.client.zadd(DOCUMENT + "zset", {"x": 1})
    names = ["list", "hash", "set", "zset"]
    assert await put(store, [record(name, Stage.FORWARDING) for name in names]) == [Written(True, 1)] * 4
    for name in names:
        assert await stage_and_attempt(store, name) == ("forwarding", 1)
    await server.client.delete(*(DOCUMENT + name for name in names))
    await server.client.rpush(DOCUMENT + "list", "x")
    assert await put(store, [record("list", Stage.DONE)]) == [Written(True, 1)]
    assert await stage_and_attempt(store, "list") == ("done", 1)


@pytest.mark.parametrize("value", ["hello", "[]", '{"extensions":5}', "null", b"\xff\xfe", ["a list"]])
async def test_a_foreign_value_does_not_break_the_list(
    store: RedisStore, server: Server, value: str | bytes | list[str]
) -> None:
    """A foreign value in a document's place is left out of the list and is no document; the others stay."""
    await put(store, [record("a", created_ms=1), record("b", created_ms=2), record("c", created_ms=3)])
    await server.client.delete(DOCUMENT + "b")
    if isinstance(value, list):
        await server.client.rpush(DOCUMENT + "b", *value)
    else:
        await server.client.set(DOCUMENT + "b", value)
    assert await walk(store, limit=1) == ["c", "a"]
    if not isinstance(value, str):
        assert await text_of(store, "b") is None


async def test_scripts_may_be_forgotten(store: RedisStore, server: Server) -> None:
    """After SCRIPT FLUSH (a restart, a failover) the next write still happens, once."""
    for attempt in (1, 2, 3):
        assert await put(store, [record("t", attempt=0, created_ms=attempt)]) == [Written(True, attempt)]
        await server.client.script_flush()
        assert await put(store, [record("t", Stage.DONE, attempt=attempt, created_ms=attempt)]) == [
            Written(True, attempt)
        ]
        await server.client.script_flush()
    assert await walk(store) == ["t"]


# -- the lists --


async def sizes(server: Server) -> dict[str, int]:
    """The sizes of all lists and their indexes, without the marks."""
    counts = {}
    for key in await server.keys():
        if key.startswith(LISTS) and key != LISTS + "lists":
            counts[key] = len([member for member in await server.client.zrange(key, 0, -1) if member != "#"])
    return counts


async def test_listing_clears_what_is_gone(store: RedisStore, server: Server) -> None:
    """A place whose document was deleted or evicted leaves the list that is read, and the page is full without it."""
    await put(store, [record(f"t{n}", created_ms=n) for n in range(10)])
    await server.client.delete(*(DOCUMENT + f"t{n}" for n in range(5, 10)))
    assert await walk(store, limit=2) == ["t4", "t3", "t2", "t1", "t0"]
    assert (await sizes(server))[LISTS + "PENDING"] == 5


# -- cancelling --

CANCELS = LISTS + "cancels"
CANCEL_SECONDS = 60


async def test_all_hear_of_a_cancel_at_once(store: RedisStore, other: RedisStore) -> None:
    """Every listening gateway hears the name, also the one that asked."""
    heard: list[str] = []
    listening = [asyncio.create_task(each.listen(heard.append)) for each in (store, other)]
    try:

        async def is_heard() -> bool:
            await store.ask_cancel("2:t")
            return heard.count("2:t") >= 2

        await until(is_heard, 30, "both hear it")
        assert set(heard) == {"2:t"}
    finally:
        for each in listening:
            each.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


async def test_who_does_not_listen_finds_it(store: RedisStore, other: RedisStore) -> None:
    """A cancel is also found by looking, as long as the task has not ended."""
    await put(other, [record("t", Stage.STREAMING, boot="boot-2")])
    await store.ask_cancel("boot-2:1000:t")
    assert await other.watch(()) == ["boot-2:1000:t"]
    assert await other.watch(()) == ["boot-2:1000:t"]
    await put(other, [record("t", Stage.CANCELLED, boot="boot-2")])
    assert await other.watch(()) == []


async def test_cancels_are_forgotten(store: RedisStore, server: Server) -> None:
    """A cancel that no gateway heard in time is dropped with the next one, and all of them have a TTL."""
    await server.client.zadd(CANCELS, {"1:old": 1, "1:new": 4_000_000_000})
    await store.ask_cancel("1:t")
    assert set(await server.client.zrange(CANCELS, 0, -1)) == {"1:new", "1:t"}
    assert 0 < await server.client.ttl(CANCELS) <= CANCEL_SECONDS


@pytest.mark.usefixtures("patience")
async def test_without_rights_to_channels_a_cancel_is_found(new_store: NewStore) -> None:
    """An account that may neither publish nor subscribe can still cancel: the others find it when they look."""
    server = await new_store()
    await server.client.acl_setuser(
        "plain", enabled=True, passwords=["+secret"], keys=["ts:ollama:*", "tsx:ollama:*"], commands=["+@all"],
        reset_channels=True,
    )  # fmt: skip
    store = RedisStore(
        f"redis://plain:secret@127.0.0.1:{server.port}/0", boot=BOOT, longest_ttl_seconds=LONGEST_TTL_SECONDS
    )
    await put(store, [record("t", Stage.STREAMING)])
    await store.ask_cancel("1:t")
    assert await store.watch(()) == ["1:t"]
    with pytest.raises(StoreError):
        await within(30, store.listen(print))
    await store.close()


@pytest.mark.usefixtures("patience")
async def test_a_subscription_that_was_cut_hears_again(new_store: NewStore) -> None:
    """If the server closes the connection, it is opened again and hears later cancels; without a server it ends."""
    server = await new_store()
    store, heard = client_of(server), list[str]()
    listening = asyncio.create_task(store.listen(heard.append))

    async def is_cut() -> bool:
        return bool(await server.client.client_kill_filter(_type="pubsub"))

    async def is_heard() -> bool:
        await store.ask_cancel("1:t")
        return bool(heard)

    await until(is_cut, 30, "the subscription is there")
    await until(is_heard, 30, "it is there again")
    await server.kill()
    with pytest.raises(StoreError):
        await within(30, listening)
    await store.close()


# -- a cluster --


class OneNodeCluster(Server):
    """A server in cluster mode that has all slots."""

    async def start(self, *arguments: str) -> None:
        """Starts it, and waits until it serves its slots."""
        await super().start("--cluster-enabled", "yes", "--cluster-port", str(free_port()), *arguments)
        await self.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        async def is_whole() -> bool:
            return "cluster_state:ok" in str(await self.client.execute_command("CLUSTER", "INFO"))

        await until(is_whole, 30, "the cluster is whole")


async def test_a_cluster_is_refused_with_one_clear_word(tmp_path: Path) -> None:
    """A cluster counts as away, and the reason says so and what to use, also if it has all slots."""
    server = OneNodeCluster(tmp_path)
    store, answers = client_of(server), RedisAnswers(server.url, max_stored_bytes=1_000)
    try:
        await server.start()
        calls: list[Awaitable[object]] = [
            store.probe(),
            put(store, [record("t")]),
            store.ask_cancel("1:t"),
            store.page(1, None, None),
        ]
        calls += [save(answers, part(head=HEAD)), answers.read("t", 0), answers.drop("t", "1-a", EVENT_ID)]
        for call in calls:
            with pytest.raises(StoreError, match=r"Redis Cluster.*one primary") as refusal:
                await call
            assert refusal.value.kind == "CLUSTER"
    finally:
        await answers.close()
        await store.close()
        await server.close()


# -- connections --


async def test_an_idle_connection_that_the_server_closed_costs_nothing(store: RedisStore, server: Server) -> None:
    """After CLIENT KILL, as after the server's `timeout`, the next write, read and look succeed, and write once."""
    for attempt in (1, 2, 3):
        await store.probe()
        await put(store, [record("t", attempt=0, created_ms=attempt)])
        await server.client.client_kill_filter(_type="normal", skipme=True)
        assert await put(store, [record("t", Stage.DONE, attempt=attempt, created_ms=attempt)]) == [
            Written(True, attempt)
        ]
        await server.client.client_kill_filter(_type="normal", skipme=True)
        assert await stage_and_attempt(store, "t") == ("done", attempt)
        await server.client.client_kill_filter(_type="normal", skipme=True)
        await store.watch(())


@pytest.mark.usefixtures("patience")
async def test_a_probe_is_a_write(new_store: NewStore) -> None:
    """A server that accepts reads and refuses writes, a replica, does not pass the probe."""
    server = await new_store()
    store = client_of(server)
    await put(store, [record("t")])
    await server.client.replicaof("127.0.0.1", server.port)
    assert await stage_and_attempt(store, "t") == ("queued", 1)
    with pytest.raises(StoreError, match=r"(?i)read.?only"):
        await store.probe()
    await server.client.replicaof("NO", "ONE")
    await store.probe()
    await store.close()


async def test_expired_entries_go_without_any_write(store: RedisStore, server: Server) -> None:
    """The look that each gateway makes once a second removes expired tasks from the lists, thousands at a time."""
    await put(store, [record(f"t{n}", Stage.DONE, ttl_seconds=1) for n in range(2500)])

    async def is_clear() -> bool:
        await store.watch(())
        return not any((await sizes(server)).values())

    await until(is_clear, 30, "the lists are empty")


async def test_long_documents_make_short_pages(store: RedisStore) -> None:
    """A page ends at some megabytes, with a cursor, and the walk still finds every task once."""
    names = [f"t{n:03}" for n in range(300)]
    message = "x" * 30_000
    await put(store, [record(name, Stage.DONE, created_ms=1000 + n, message=message) for n, name in enumerate(names)])
    page = await store.page(1000, None, None)
    assert 4e6 < sum(map(len, page.documents)) < 12e6
    found = []
    while True:
        found += ids(page)
        if page.next_cursor is None:
            break
        page = await store.page(1000, None, page.next_cursor)
    assert found == names[::-1]


async def test_after_a_step_of_the_servers_clock_no_task_is_lost(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the server's clock steps ahead, no task counts as silent for a while."""
    await store.watch(())
    await put(store, [record("t", Stage.STREAMING, boot="other", grace_seconds=0.05)])
    store.clock.heard(int(time.time() * 1000) - 3_600_000, time.monotonic())
    await store.watch(())

    async def has_been_silent() -> bool:
        await store.watch(())
        [text] = await store.read(["t"], ())
        return int(json.loads(text or "")["extensions"]["lost_after_ms"]) < time.time() * 1000 - 500

    await until(has_been_silent, 30, "it is silent for long")
    assert (await stored(store, "t"))["stage"] == "streaming"
    monkeypatch.setattr(store.clock, "_steady_at", 0.0)
    [text] = await store.read(["t"], ())
    assert json.loads(text or "")["stage"] == "lost"


# -- a server that fails --

CALLS: dict[str, Call] = {
    "put": lambda store: put(store, [record("t")]),
    "read": lambda store: store.read(["t"]),
    "page": lambda store: store.page(5, None, None),
    "page by state": lambda store: store.page(5, State.RUNNING, None),
    "probe": lambda store: store.probe(),
    "watch": lambda store: store.watch(()),
    "end_earlier_run": lambda store: store.end_earlier_run(),
    "ask_cancel": lambda store: store.ask_cancel("1:t"),
    "tell of itself": lambda store: store.nodes.tell("{}", 600_000),
    "look at the gateways": lambda store: store.nodes.look(),
    "leave": lambda store: store.nodes.leave(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.usefixtures("patience")
async def test_a_server_that_is_gone_is_a_store_error(new_store: NewStore, call: Call) -> None:
    """A server killed under an open connection, or not there: StoreError with a reason; after its return all works."""
    server = await new_store()
    store = client_of(server)
    await put(store, [record("t", Stage.STREAMING)])
    await call(store)
    await server.kill()
    for _ in range(2):
        with pytest.raises(StoreError, match=r"\w"):
            await call(store)
    await server.start()
    await call(store)
    await store.close()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_frozen_server_is_a_store_error_in_time(new_store: NewStore, call: Call) -> None:
    """A server that accepts bytes and never replies is given up after about a second, and used again later."""
    server = await new_store()
    store = client_of(server)
    await call(store)
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreError):
            await within(10, call(store))
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    await within(30, call(store))
    await store.close()


@pytest.mark.parametrize("command", ["evalsha", "get", "zrange", "script|load"])
@pytest.mark.usefixtures("patience")
async def test_a_refusal_is_a_store_error(new_store: NewStore, command: str) -> None:
    """A server that refuses commands (here by access rules) raises StoreError, and recovers."""
    server = await new_store()
    store = client_of(server)
    await server.client.acl_setuser("default", commands=[f"-{command}"], keys=["*"], enabled=True)
    failures = [await _failure(call, store) for call in CALLS.values()]
    await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    assert StoreError in failures
    assert set(failures) <= {StoreError, None}
    assert [await _failure(call, store) for call in CALLS.values()] == [None] * len(CALLS)
    await store.close()


async def _failure(call: Call, store: RedisStore) -> type[Exception] | None:
    try:
        await call(store)
    except Exception as failure:
        return type(failure)
    return None


@pytest.mark.usefixtures("patience")
async def test_a_full_server_refuses_and_comes_back(new_store: NewStore) -> None:
    """Out of memory (noeviction) is StoreError for writes, and reads go on; with room again writes work."""
    server = await new_store()
    store = client_of(server)
    await put(store, [record("t")])
    await server.client.config_set("maxmemory", "1")
    with pytest.raises(StoreError):
        await put(store, [record("t", Stage.DONE)])
    assert await stage_and_attempt(store, "t") == ("queued", 1)
    await server.client.config_set("maxmemory", "0")
    assert await put(store, [record("t", Stage.DONE)]) == [Written(True, 1)]
    await store.close()


END, CLAIM = record("t", Stage.DONE), record("t", attempt=0)
ODD = {
    "a number": (END, b":1\r\n"),
    "a word": (END, b"+OK\r\n"),
    "nothing": (CLAIM, b"$-1\r\n"),
    "an empty list": (CLAIM, b"*0\r\n"),
    "two for one": (CLAIM, b"*2\r\n*2\r\n:1\r\n:1\r\n*2\r\n:1\r\n:1\r\n"),
    "too short": (CLAIM, b"*1\r\n*1\r\n:1\r\n"),
    "neither written nor not": (CLAIM, b"*1\r\n*2\r\n:2\r\n:1\r\n"),
    "words for numbers": (CLAIM, b"*1\r\n*2\r\n:1\r\n$1\r\nx\r\n"),
    "a reason without a document": (CLAIM, b"*1\r\n*3\r\n:0\r\n:1\r\n$1\r\nx\r\n"),
}


@pytest.mark.parametrize(("one", "odd"), ODD.values(), ids=ODD)
@pytest.mark.usefixtures("patience")
async def test_a_reply_that_cannot_be_understood_fails_the_batch(server: Server, one: Record, odd: bytes) -> None:
    """The writer is told once, that connection is not used any more, and the batch may be repeated."""
    await server.client.flushall()
    async with tapped(server.port) as tap:
        store = RedisStore(tap.url, boot=BOOT, longest_ttl_seconds=LONGEST_TTL_SECONDS)
        await put(store, [record("before")])
        told: list[object] = []
        tap.open.clear()
        store.write([one], told.append)
        tap.say(odd)
        await until(lambda: bool(told), 30, "it is told")
        assert [type(each) for each in told] == [StoreError]
        tap.open.set()
        assert await put(store, [one]) == [Written(True, 1)]
        assert tap.connections == 2
        assert len(told) == 1
        assert await walk(store) == ["t", "before"]
        await store.close()


# -- cancelled callers --


async def test_a_cancelled_reads_answer_reaches_nobody_else(store: RedisStore) -> None:
    """If callers are cancelled in the middle of a command, all others still get their own replies."""
    names = [f"t{n}" for n in range(40)]
    await put(store, [record(name, message=name) for name in names])
    for _ in range(5):
        reads = [asyncio.ensure_future(text_of(store, name)) for name in names]
        await store.probe()  # the reads are under way
        for read in reads[::2]:
            read.cancel()
        answers = await asyncio.gather(*reads[1::2])
        assert all(f'"{name}"' in (text or "") for name, text in zip(names[1::2], answers, strict=True))
        await asyncio.gather(*reads, return_exceptions=True)


async def test_a_cancelled_writes_answer_reaches_nobody_else(store: RedisStore) -> None:
    """A write that is cancelled half-way leaves no reply for the next one."""
    for n in range(10):
        cancelled = asyncio.ensure_future(put(store, [record(f"a{n}", Stage.DONE)] * 50))
        await store.probe()
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert await within(30, put(store, [record(f"b{n}")])) == [Written(True, 1)]


# -- rights --

# All that is asked of an open connection and cannot be done without.
NEEDED = [
    "set", "get", "evalsha", "time", "exists", "expire", "ttl", "zadd", "zscore", "zcard", "zrem", "zrange",
    "zrangebyscore",
]  # fmt: skip


@pytest.mark.parametrize("command", NEEDED)
async def test_a_probe_asks_all_that_is_needed(new_store: NewStore, command: str) -> None:
    """A server that refuses one command that writing, looking or reading needs never passes the probe.

    What a probe leaves behind that failed half-way does not help the ones after it.
    """
    server = await new_store()
    store = client_of(server)
    await store.probe()
    await server.client.acl_setuser("default", commands=[f"-{command}"], keys=["*"], enabled=True)
    for _ in range(6):
        with pytest.raises(StoreError) as refusal:
            await store.probe()
        assert refusal.value.kind in ("NOPERM", "ERR")
    await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    await store.probe()
    await store.close()


@pytest.mark.parametrize("keys", [["tsx:ollama:*"], ["ts:ollama:*"], ["ts:ollama:*", "tsx:ollama:probe"]])
async def test_a_probe_asks_for_all_keys_that_are_needed(new_store: NewStore, keys: list[str]) -> None:
    """An account that may not use the documents, or the lists, does not pass the probe."""
    server = await new_store()
    await server.client.acl_setuser("some", enabled=True, passwords=["+secret"], keys=keys, commands=["+@all"])
    store = RedisStore(f"redis://some:secret@127.0.0.1:{server.port}/0", boot=BOOT, longest_ttl_seconds=60)
    with pytest.raises(StoreError, match=r"(?i)permission|keys"):
        await store.probe()
    await server.client.acl_setuser("some", enabled=True, keys=["ts:ollama:*", "tsx:ollama:*"], commands=["+@all"])
    await store.probe()
    await store.close()


async def test_the_rights_that_the_docs_name_are_enough(new_store: NewStore) -> None:
    """An account made by the line in docs/redis.md can do all that a gateway does; the server has refused nothing."""
    server = await new_store()
    page = Path(__file__).parents[3].joinpath("docs", "redis.md").read_text()
    [line] = [line for line in page.splitlines() if line.startswith("ACL SETUSER ")]
    await server.client.execute_command(*line.replace(" gateway ", " docs ").replace(">PASSWORD", ">secret").split())
    store = RedisStore(f"redis://docs:secret@127.0.0.1:{server.port}/1", boot=BOOT, longest_ttl_seconds=60)
    assert [await _failure(call, store) for call in CALLS.values()] == [None] * len(CALLS)
    await put(store, [record(f"t{n}", Stage.DONE, created_ms=n, ttl_seconds=1) for n in range(3)])
    await put(store, [record("silent", Stage.STREAMING, boot="other", grace_seconds=0)])
    await next_millisecond()
    await store.watch(())
    assert await stage_and_attempt(store, "silent") == ("lost", 1)
    heard: list[str] = []
    listening = asyncio.create_task(store.listen(heard.append))

    async def is_heard() -> bool:
        await store.ask_cancel("1:t")
        return bool(heard)

    await until(is_heard, 5, "it is heard")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await store.close()
    answers = RedisAnswers(f"redis://docs:secret@127.0.0.1:{server.port}/0", max_stored_bytes=1_000)
    assert await save(answers, part(b"a", head=HEAD), part(b"b", 1, is_end=True)) == [Saved.SAVED] * 2
    assert await save(answers, part(b"x" * 1_000, task_id="u", head=HEAD)) == [Saved.NO_ROOM]
    await server.client.delete("tsx:ollama:2:answers")
    await server.client.rpush("tsx:ollama:2:answers", "x")
    assert await save(answers, part(b"", 2)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"ab"
    assert await answers.drop("t", "1-a", EVENT_ID)
    await answers.close()
    assert await server.client.execute_command("ACL", "LOG") == []


@pytest.mark.parametrize("tasks", [0, 250])
async def test_a_probe_leaves_nothing_behind(store: RedisStore, server: Server, tasks: int) -> None:
    """The probe leaves no document, no place in a list, and one key of ours, which expires."""
    await put(store, [record(f"t{n}", Stage.DONE, created_ms=n) for n in range(tasks)])
    before = await sizes(server)
    await store.probe()
    keys = set(await server.keys())
    assert "tsx:ollama:probe" in keys
    assert 0 < await server.client.ttl("tsx:ollama:probe") <= 60
    assert {key for key in keys if key.startswith(DOCUMENT)} == {f"{DOCUMENT}t{n}" for n in range(tasks)}
    after = await sizes(server)
    assert {key: size for key, size in after.items() if size} == {key: size for key, size in before.items() if size}
