"""A malformed record in Redis has no effect: it is left out, replaced, and logged once.

Against a real server: each field and entry in every wrong shape, each key in every wrong type.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store.interface import Written
from gateway.store.redis import RedisStore
from gateway.tasks.document import fields_of
from gateway.tasks.stages import MAX_ATTEMPT, Stage, State
from tests.support.forged import (
    ENTRIES,
    EXTENSIONS,
    FIELDS,
    KINDS,
    LISTS,
    PLACES,
    SHAPES,
    document,
    forge_document,
    forge_key,
    with_shape,
)
from tests.support.records import BOOT, begin_lists, ids, put, record, stage_and_attempt, text_of, walk
from tests.support.store import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.store import Store as Server

NO_ONE: tuple[str, ...] = ()
OURS = {"PENDING", "SUCCESS", "RUNNING", "lists", "expiry", "beats", "cancels", "SUCCESS@alice"}
LATER = 2_000


@pytest.fixture
async def store(server: Server, patience: None) -> AsyncIterator[RedisStore]:
    """The store of one gateway process, on the empty server."""
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    await begin_lists(store)
    yield store
    await store.close()


async def all_goes_on(store: RedisStore, name: str = "z") -> None:
    """Claims, ends, heartbeats, reads, lists, looks and cancels work, and return what was written."""
    plain, run, claim = f"{name}-plain", f"{name}-run", f"{name}-claim"
    batch = [
        record(plain, Stage.DONE, created_ms=LATER, owner="alice"),
        record(run, Stage.STREAMING, created_ms=LATER),
        record(claim, attempt=0, created_ms=LATER),
    ]
    assert await put(store, batch[:1]) == [Written(True, 1)]
    assert await put(store, batch[1:]) == [Written(True, 1)] * 2
    assert await put(store, [record(claim, Stage.DONE, created_ms=LATER)]) == [Written(True, 1)]
    await store.watch(NO_ONE)
    await store.end_earlier_run()
    await store.ask_cancel(f"{BOOT}:{LATER}:{run}")
    assert f"{BOOT}:{LATER}:{run}" in await store.watch(NO_ONE)
    for task_id, stage in ((plain, "done"), (run, "streaming"), (claim, "done")):
        assert await stage_and_attempt(store, task_id) == (stage, 1)
    assert {plain, run, claim} <= set(await walk(store))
    assert run in await walk(store, state=State.RUNNING)
    assert plain in await walk(store, state=State.SUCCESS, owner="alice")


# -- documents --


@pytest.mark.parametrize("stage", [Stage.STREAMING, Stage.DONE])
@pytest.mark.parametrize("field", FIELDS + EXTENSIONS)
async def test_a_forged_document_is_left_out_and_replaced(
    store: RedisStore, server: Server, field: str, stage: Stage
) -> None:
    """Any field may be malformed: lists, reads and looks skip the record and log it, and the next claim replaces it."""
    forged = {f"t{n}": with_shape(f"t{n}", field, shape, stage) for n, shape in enumerate(SHAPES.values())}
    for task_id, text in forged.items():
        await forge_document(server.client, task_id, text)
        await server.client.zadd(LISTS + "beats", {task_id: 1})
    malformed = {task_id for task_id, text in forged.items() if fields_of(text, task_id) is None}
    assert malformed
    page = await store.page(100, None, None)
    assert (set(ids(page)) & malformed, page.skipped) == (set(), len(malformed))
    assert [task_id for task_id in forged if await text_of(store, task_id) is None] == sorted(
        malformed, key=list(forged).index
    )
    await all_goes_on(store)
    batch = [record(task_id, attempt=0, created_ms=LATER) for task_id in malformed]
    for written in await put(store, batch):
        assert written.is_written
        assert 1 <= written.attempt <= MAX_ATTEMPT
    for task_id in malformed:
        assert (await stage_and_attempt(store, task_id))[0] == "queued"
    assert (await store.page(100, None, None)).skipped == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stage", [Stage.STREAMING, Stage.DONE])
async def test_a_forged_attempt_is_no_bar_to_any_write(
    store: RedisStore, server: Server, shape: str, stage: Stage
) -> None:
    """Under an id of ours in use, each kind of write replaces it: a first end, a heartbeat and an end."""
    forged = with_shape("t", "attempt", SHAPES[shape], stage, created_ms=1)
    for one in (record("t", Stage.DONE), record("t", Stage.STREAMING), record("t", Stage.ERROR)):
        await server.client.set(DOCUMENTS + "t", forged)
        assert await put(store, [one, record("other", Stage.STREAMING)]) == [Written(True, 1)] * 2
        assert await stage_and_attempt(store, "t") == (json.loads(one.head + '0,"lost_after_ms":null}}')["stage"], 1)
        assert await server.ttl("t") > 0


async def test_another_owners_forged_document_does_not_hold_an_id(store: RedisStore, server: Server) -> None:
    """A malformed record that looks like another key's running task cannot block an id."""
    forged = document("t", owner="bob") | {"message": 5}
    await server.client.set(DOCUMENTS + "t", json.dumps(forged))
    assert await put(store, [record("t", attempt=0, owner="alice")]) == [Written(True, 1)]


async def test_a_good_document_of_another_is_respected(store: RedisStore, server: Server) -> None:
    """A well-formed record counts: an id that is in flight elsewhere stays refused."""
    await server.client.set(DOCUMENTS + "t", json.dumps(document("t", boot="other")))
    assert await put(store, [record("t", attempt=0, created_ms=LATER)]) == [Written(False, 1)]


async def test_the_count_of_attempts_stays_at_its_end(store: RedisStore, server: Server) -> None:
    """After attempt 2^31 a claim gets that number again, and late writes of the earlier request are refused."""
    last = document("t", Stage.DONE, boot="other")
    last["extensions"]["attempt"] = MAX_ATTEMPT
    await server.client.set(DOCUMENTS + "t", json.dumps(last))
    assert await put(store, [record("t", attempt=0, created_ms=LATER)]) == [Written(True, MAX_ATTEMPT)]
    late = record("t", Stage.DONE, attempt=MAX_ATTEMPT, created_ms=1000)
    assert await put(store, [late]) == [Written(False, MAX_ATTEMPT)]
    assert await walk(store) == ["t"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "string"])
async def test_a_key_of_another_type_is_left_out_of_the_list(store: RedisStore, server: Server, kind: str) -> None:
    """Under a document's key any other type counts as malformed, and is replaced."""
    await put(store, [record("t", Stage.DONE), record("other", Stage.DONE)])
    await forge_key(server.client, DOCUMENTS + "t", kind)
    page = await store.page(10, None, None)
    assert (ids(page), page.skipped) == (["other"], 1)
    assert await put(store, [record("t", attempt=0, created_ms=LATER)]) == [Written(True, 1)]
    await all_goes_on(store)


async def test_many_malformed_records_make_short_pages(store: RedisStore, server: Server) -> None:
    """A page ends after a thousand malformed records. The walk finds each task once and counts each record once."""
    await put(store, [record("first", Stage.DONE, created_ms=1), record("last", Stage.DONE, created_ms=9_000)])
    pipe = server.client.pipeline()
    for n in range(2500):
        pipe.set(f"{DOCUMENTS}t{n}", "{}", ex=60)
        pipe.zadd(LISTS + "SUCCESS", {f"{1000 + n:013d}:t{n}": 0})
    await pipe.execute()
    found: list[str] = []
    skipped, cursor, pages = 0, None, 0
    while pages == 0 or cursor is not None:
        page = await store.page(10, None, cursor)
        found, skipped, cursor, pages = found + ids(page), skipped + page.skipped, page.next_cursor, pages + 1
    assert (found, skipped) == (["last", "first"], 2500)
    assert 2 < pages < 6


# -- the list --


@pytest.mark.parametrize("entry", ENTRIES)
async def test_a_forged_member_of_the_expiry_is_removed(
    store: RedisStore, server: Server, entry: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Any text in `expiry` that is due: the sweep removes and logs it, and all goes on."""
    await server.client.zadd(LISTS + "expiry", dict[Any, float]([(entry, 1)]))
    await all_goes_on(store)
    assert await server.client.zscore(LISTS + "expiry", entry) is None
    assert len([line for line in caplog.messages if "malformed" in line]) == 1


async def test_thousands_of_forged_places_hide_no_task(store: RedisStore, server: Server) -> None:
    """A page has no cursor to end with while it has met nothing but what is no place: it goes on past them."""
    await put(store, [record("t", Stage.DONE)])
    await server.client.zadd(LISTS + State.SUCCESS, {f"z{n}": 0 for n in range(2500)})
    page = await store.page(10, None, None)
    assert (ids(page), page.next_cursor, page.skipped) == (["t"], None, 2500)


@pytest.mark.parametrize("score", [0, 5, -5, float("inf")])
@pytest.mark.parametrize("place", PLACES)
async def test_a_forged_place_is_removed(store: RedisStore, server: Server, place: str | bytes, score: float) -> None:
    """Any member of any list, with any score: pages work, and say that it was left out; then it is removed."""
    await put(store, [record(f"t{n}", Stage.DONE, created_ms=1000 + n) for n in range(3)])
    for name in ("SUCCESS", "beats", "expiry", "cancels"):
        await server.client.zadd(LISTS + name, dict[Any, float]([(place, score)]))
    page = await store.page(10, None, None)
    assert (ids(page), page.skipped) == (["t2", "t1", "t0"], 1)
    assert await walk(store, limit=1, state=State.SUCCESS) == ["t2", "t1", "t0"]
    assert (await store.page(10, None, None)).skipped == 0
    await all_goes_on(store)


@pytest.mark.parametrize("score", [-5, 5, float("-inf")])
async def test_a_forged_score_hides_no_task(store: RedisStore, server: Server, score: float) -> None:
    """If a place has another score than the rest, the list is put in order again, and cursors miss no task."""
    await put(store, [record(f"t{n}", Stage.DONE, created_ms=1000 + n) for n in range(6)])
    for n in (0, 3, 5):
        await server.client.zadd(LISTS + "SUCCESS", {f"{1000 + n:013d}:t{n}": score})
    assert await walk(store, limit=1) == ["t5", "t4", "t3", "t2", "t1", "t0"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(OURS))
async def test_a_key_of_the_list_may_have_any_type(store: RedisStore, server: Server, name: str, kind: str) -> None:
    """Each key of the lists in each type: the next writes, lists and looks work, and restore its own type."""
    acts = store.watch(NO_ONE), store.end_earlier_run(), store.page(10, None, None), store.ask_cancel("1:2:t")
    for n, act in enumerate(acts):
        await forge_key(server.client, LISTS + name, kind)
        await act
        await all_goes_on(store, f"z{n}")
        assert await server.client.type(LISTS + name) == "zset"


async def test_many_keys_of_another_type_at_once(store: RedisStore, server: Server) -> None:
    """All malformed records at once do no more harm than one."""
    for n, kind in enumerate(KINDS):
        for name in OURS:
            await forge_key(server.client, LISTS + name, kind)
        await all_goes_on(store, f"z{n}")


# -- what the log says --


async def test_each_is_told_of_once(store: RedisStore, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """A malformed record is logged once, however often it is read; its text cannot control a terminal."""
    caplog.set_level(logging.WARNING, "gateway.tracker")
    await forge_document(server.client, "t", "{}")
    await server.client.zadd(LISTS + "RUNNING", {"x\x1b]0;owned\x07": 0})
    for _ in range(3):
        await store.page(10, None, None)
        await text_of(store, "t")
    told = [line for line in caplog.messages if "malformed" in line]
    assert len(told) == 2
    assert all(line.isprintable() for line in told)
    assert any("ts:ollama:t" in line for line in told)


async def test_a_flood_of_them_does_not_fill_the_log(
    store: RedisStore, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """After a hundred lines, one more says that it is the last."""
    caplog.set_level(logging.WARNING, "gateway.tracker")
    for n in range(150):
        await forge_document(server.client, f"t{n}", "{}")
    await store.page(1000, None, None)
    assert len([line for line in caplog.messages if "malformed" in line]) == 101
