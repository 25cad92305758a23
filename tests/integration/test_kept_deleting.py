"""Owns DELETE of a kept answer in all states of its task, and its expiry (contract 9.1 and 9.4)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import (
    ASYNC,
    EVENTS,
    KEEP,
    WHOLE,
    Kept,
    code_of,
    delete,
    ended_call,
    kept,
    new_id,
    read,
    response_of,
    route,
    until_response,
)
from tests.support.outcome import DONE, outcome
from tests.support.scripted import answering
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.integration.conftest import Pair
    from tests.support.scripted import Upstream
    from tests.support.store import Store

SIDES = pytest.mark.parametrize("side", ["first", "other"])


@SIDES
async def test_an_ended_answer_is_deleted(pair: Pair, upstream: Upstream, side: str) -> None:
    """204, then 410 everywhere; the status says `deleted` with a new event, and nothing else of it changes."""
    task_id = await ended_call(pair.first, upstream)
    before = await pair.ended(task_id)
    answer = await delete(getattr(pair, side), task_id)
    assert (answer.status, answer.data) == (204, b"")
    assert answer.head.get("cross-origin-resource-policy") == b"same-origin"
    for gateway in pair:
        assert code_of(await read(gateway, task_id)) == (410, "response_gone")
        assert code_of(await delete(gateway, task_id)) == (410, "response_gone")
        after = await gateway.status(task_id)
        assert after["event_id"] != before["event_id"]
        assert after["extensions"].pop("response") == "deleted"
        assert outcome(after) == DONE
        assert {**after["extensions"], "lost_after_ms": 0} == {
            **{name: value for name, value in before["extensions"].items() if name != "response"}, "lost_after_ms": 0
        }  # fmt: skip


async def test_its_bytes_leave_the_store(two: Pair, store: Store, upstream: Upstream) -> None:
    """No body and no field of it is left there."""
    task_id = await ended_call(two.first, upstream)
    await two.ended(task_id)
    assert (await delete(two.other, task_id)).status == 204
    left = [key for key in await store.keys() if task_id in key and key.startswith("tsx:")]
    assert not [key for key in left if "body" in key]
    for key in left:
        assert "event-stream" not in (await store.client.get(key) or "")


@SIDES
async def test_a_running_call_with_its_client_goes_on(pair: Pair, upstream: Upstream, side: str) -> None:
    """It is no longer kept, its readers are broken off, and its client gets all."""
    call = Kept(pair.first, upstream)
    await call.ask()
    call.script.head()
    call.script.piece(EVENTS[0])
    readers = [await gateway.send("GET", route(call.task_id)) for gateway in pair]
    for reader in readers:
        await within(GUARD_SECONDS, reader.up_to(EVENTS[0]))
    assert (await delete(getattr(pair, side), call.task_id)).status == 204
    for reader in readers:
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, reader.reader.read())
    await until_response(pair.first, call.task_id, "deleted")
    await until_response(pair.other, call.task_id, "deleted")
    for gateway in pair:
        assert code_of(await read(gateway, call.task_id)) == (410, "response_gone")
    call.finish(*EVENTS[1:-1])
    answer = await within(GUARD_SECONDS, call.client.answer())
    assert (answer.data, answer.body.complete) == (WHOLE, True)
    assert outcome(await pair.ended(call.task_id)) == DONE
    assert await response_of(pair.other, call.task_id) == "deleted"


@SIDES
@pytest.mark.parametrize("has_head", [False, True])
async def test_a_running_call_without_a_client_is_cancelled(
    pair: Pair, upstream: Upstream, side: str, has_head: bool
) -> None:
    """FAILED `cancelled`, and Ollama's connection is closed."""
    call = Kept(pair.first, upstream)
    await (call.begin if has_head else call.ask)()
    await call.leave()
    await until(lambda: is_readable(pair, call.task_id))
    assert (await delete(getattr(pair, side), call.task_id)).status == 204
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    assert outcome(await pair.ended(call.task_id)) == ("FAILED", "cancelled", "cancelled")
    await until_response(pair.other, call.task_id, "deleted")
    for gateway in pair:
        assert code_of(await read(gateway, call.task_id)) == (410, "response_gone")


async def is_readable(pair: Pair, task_id: str) -> bool:
    """Whether the other gateway knows the answer: 202, for it is not there yet, or 200."""
    return (await read(pair.other, task_id, "wait=0", method="HEAD")).status in (200, 202)


@SIDES
async def test_a_client_that_leaves_after_the_delete_ends_its_call(pair: Pair, upstream: Upstream, side: str) -> None:
    """What is not kept any more does not outlive its client."""
    call = await kept(pair.first, upstream)
    await until(lambda: is_readable(pair, call.task_id))
    assert (await delete(getattr(pair, side), call.task_id)).status == 204
    await until_response(pair.first, call.task_id, "deleted")
    await call.client.close()
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    assert outcome(await pair.ended(call.task_id)) == ("FAILED", "cancelled", "client_disconnect")


async def test_one_that_waits_in_the_queue_is_cancelled(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """An asynchronous call that has not begun never reaches Ollama."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    call = await kept(gateway, upstream)
    waiting = (await gateway.ask("POST", CHAT, ASYNC, body=BODY)).head.task_id
    assert (await delete(gateway, waiting)).status == 204
    assert outcome(await gateway.ended(waiting)) == ("FAILED", "cancelled", "cancelled")
    call.finish()
    await gateway.ended(call.task_id)
    assert len(upstream.exchanges) == 1


async def test_a_failed_call_is_deleted(pair: Pair, upstream: Upstream) -> None:
    """As any other that has ended."""
    upstream.then(answering(500, body=b"own"))
    task_id = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    await pair.ended(task_id)
    assert (await delete(pair.other, task_id)).status == 204
    for gateway in pair:
        assert code_of(await read(gateway, task_id)) == (410, "response_gone")


@pytest.mark.parametrize("has_store", [True, False])
async def test_an_answer_expires(gateways: Launch, store: Store, upstream: Upstream, has_store: bool) -> None:
    """`TTL_RESPONSE` after its end it is 410, while the status stays; the renewal of those that run is no end."""
    settings = {"REDIS_URL": store.url} if has_store else {}
    gateway = await gateways(TTL_RESPONSE="4", **settings)
    task_id = await ended_call(gateway, upstream)
    assert (await read(gateway, task_id)).data == WHOLE

    async def is_gone() -> bool:
        answer = await read(gateway, task_id)
        return answer.status == 410 and code_of(answer) == (410, "response_gone")

    await until(is_gone, what="the answer has expired")
    assert outcome(await gateway.status(task_id)) == DONE


async def test_one_that_runs_does_not_expire(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """Heartbeats renew all keys of a running answer, however long nothing comes; each key has a TTL from the first."""
    gateway = await gateways(REDIS_URL=store.url, TTL_RESPONSE="1", TTL_RUNNING="5", HEARTBEAT_SEC="1")
    call = await kept(gateway, upstream)
    call.script.piece(EVENTS[0])
    await call.client.up_to(EVENTS[0])
    await call.leave()
    ttls: list[int] = []

    async def is_renewed() -> bool:
        found = [key for key in await store.keys() if call.task_id in key]
        ttls.extend([await store.client.pttl(key) for key in found if "body" in key])
        assert min([await store.client.pttl(key) for key in found]) > 0
        return sum(later > earlier for earlier, later in pairwise(ttls)) >= 8

    await until(is_renewed, what="the answer has been renewed eight times, in more than its TTL")
    reader = await gateway.send("GET", route(call.task_id))
    head = await reader.head()  # it is there before the end, from which on TTL_RESPONSE counts
    call.finish(*EVENTS[1:-1])
    assert (await reader.rest(head)).data == WHOLE


@SIDES
async def test_a_respond_async_call_is_cancelled_if_its_answer_is_deleted_before_its_body_is_whole(
    pair: Pair, upstream: Upstream, side: str
) -> None:
    """Nothing could give its answer out: 499, and Ollama never sees it."""
    task_id = new_id()
    client = await pair.first.connect()
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nX-Task-Id: %b\r\nPrefer: respond-async\r\nContent-Length: 9\r\n\r\nhalf"
    await client.send(head % (CHAT.encode(), task_id.encode()))

    async def is_known() -> bool:
        answer = await getattr(pair, side).ask("GET", f"/tasks/status/{task_id}")
        return bool(answer.status == 200)

    await until(is_known, what="the task is known where its answer is deleted")
    assert (await delete(getattr(pair, side), task_id)).status == 204
    await until_response(pair.first, task_id, "deleted")
    await client.send(b"other")
    assert code_of(await client.answer("POST")) == (499, "cancelled")
    assert not upstream.exchanges
    assert outcome(await pair.ended(task_id))[1:] == ("cancelled", "cancelled")


async def test_a_second_delete_changes_no_event(two: Pair, upstream: Upstream) -> None:
    """Two calls at once: one of them deletes, and every gateway tells of its event."""
    task_id = await ended_call(two.first, upstream)
    await two.ended(task_id)
    await asyncio.gather(*[delete(gateway, task_id) for gateway in (two.first, two.other, two.first)])
    first, other = [await gateway.status(task_id) for gateway in two]
    assert first["event_id"] == other["event_id"]
