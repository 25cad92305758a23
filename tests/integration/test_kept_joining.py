"""Owns retries of a kept call: they join the one that runs or has ended well (contract 9.5)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import (
    ASYNC,
    DONE_EVENT,
    EVENTS,
    KEEP,
    WHOLE,
    Kept,
    bearer,
    code_of,
    delete,
    ended_call,
    kept,
    new_id,
    read,
)
from tests.support.outcome import CLIENT_LEFT, DONE, outcome
from tests.support.scripted import JSON, answering, head, sending, streaming
from tests.support.streams import BODY, CHAT, cancel
from tests.support.waiting import GUARD_SECONDS, until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.integration.conftest import Pair
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Field, Response

JOINED = "x-task-joined"


async def again(gateway: Gateway, task_id: str, *fields: Field, body: bytes = BODY, path: str = CHAT) -> Response:
    """Sends the same request, unless told otherwise, and reads its whole answer."""
    return await gateway.ask("POST", path, (b"X-Task-Id", task_id.encode()), KEEP, *fields, body=body)


async def joined(gateway: Gateway, call: Kept, *fields: Field, body: bytes = BODY) -> Client:
    """A retry whose head says that it has joined."""
    client = await gateway.send("POST", CHAT, call.name, KEEP, *fields, body=body)
    head = await client.head()
    assert (head.status, head.get(JOINED), head.task_id) == (200, b"true", call.task_id)
    return client


async def test_a_retry_joins_the_call_that_runs(pair: Pair, upstream: Upstream) -> None:
    """It is given the same answer from its first byte, live, with `X-Task-Joined: true`; Ollama sees one call."""
    call = await kept(pair.first, upstream)
    call.script.piece(EVENTS[0])
    await call.client.up_to(EVENTS[0])
    await call.leave(is_reset=True)
    retries = [await joined(gateway, call) for gateway in (*pair, *pair)]
    for retry in retries:
        await within(GUARD_SECONDS, retry.up_to(EVENTS[0]))
    call.finish(*EVENTS[1:-1])
    for retry in retries:
        rest = await within(GUARD_SECONDS, retry.up_to(b"0\r\n\r\n"))
        assert rest.count(b"data: ") == len(EVENTS) - 1
    assert len(upstream.exchanges) == 1
    end = await pair.ended(call.task_id)
    assert (outcome(end), end["extensions"]["attempt"]) == (DONE, 1)


async def test_a_retry_joins_while_the_first_client_is_there(pair: Pair, upstream: Upstream) -> None:
    """Both get all of it, and the call is not detached."""
    call = await kept(pair.first, upstream)
    retry = await joined(pair.other, call)
    call.finish(*EVENTS[:-1])
    assert (await within(GUARD_SECONDS, retry.up_to(b"0\r\n\r\n"))).count(b"data: ") == len(EVENTS)
    assert (await within(GUARD_SECONDS, call.client.up_to(b"0\r\n\r\n"))).count(b"data: ") == len(EVENTS)
    assert (await pair.ended(call.task_id))["extensions"]["is_detached"] is False


async def test_a_retry_joins_before_the_head(pair: Pair, upstream: Upstream) -> None:
    """It waits as the first client does, and gets a plain answer, too."""
    upstream.then(script := _Held(b'{"own":1}'))
    task_id = new_id()
    asked = [asyncio.ensure_future(again(gateway, task_id)) for gateway in pair]
    await upstream.exchange()
    asked += [asyncio.ensure_future(again(gateway, task_id)) for gateway in (*pair, *pair)]
    await pair.first.at(task_id, "forwarding")
    script.go.set()
    answers = [await within(GUARD_SECONDS, one) for one in asked]
    assert {(answer.status, answer.data) for answer in answers} == {(200, b'{"own":1}')}
    assert sum(answer.head.get(JOINED) == b"true" for answer in answers) == len(answers) - 1
    assert len(upstream.exchanges) == 1


class _Held:
    """Answers once `go` is set."""

    def __init__(self, body: bytes) -> None:
        self.go = asyncio.Event()
        self.body = body

    async def __call__(self, exchange: Exchange) -> None:
        """The script."""
        await exchange.read()
        await self.go.wait()
        await exchange.send(head(200, JSON, (b"Content-Length", b"%d" % len(self.body))) + self.body)


async def test_a_retry_joins_after_success(pair: Pair, upstream: Upstream) -> None:
    """It is given the answer as it was, without a new call or a new attempt."""
    upstream.then(answering(201, JSON, (b"X-Own", b"1"), (b"Set-Cookie", b"a=b"), body=b'{"own":2}'))
    task_id = new_id()
    first = await again(pair.first, task_id)
    await pair.ended(task_id)
    for gateway in (*pair, *pair):
        answer = await again(gateway, task_id)
        assert (answer.status, answer.data, answer.head.get(JOINED)) == (201, first.data, b"true")
        assert answer.head.get("x-own") == b"1"
        assert answer.head.get("set-cookie") is None
    assert len(upstream.exchanges) == 1
    assert (await pair.other.status(task_id))["extensions"]["attempt"] == 1


@pytest.mark.parametrize("is_ended", [False, True])
async def test_another_request_is_422(pair: Pair, upstream: Upstream, is_ended: bool) -> None:
    """Another method, target or body: `task_id_reused`, not to be tried again, and Ollama sees none of it."""
    call = await kept(pair.first, upstream)
    if is_ended:
        call.finish()
        await pair.ended(call.task_id)
    others: list[tuple[str, str, bytes]] = [
        ("PUT", CHAT, BODY), ("POST", CHAT + "?a=1", BODY), ("POST", "/v1/completions", BODY), ("POST", CHAT, b""),
        ("POST", CHAT, BODY[:-1]), ("POST", CHAT, b"X" + BODY[1:]), ("POST", CHAT, BODY + b" "),
        ("POST", CHAT, BODY * 10_000),
    ]  # fmt: skip
    for gateway in pair:
        for method, path, body in others:
            answer = await gateway.ask(method, path, call.name, KEEP, body=body)
            assert code_of(answer) == (422, "task_id_reused"), (method, path, body[:50])
            assert answer.head.get("x-should-retry") == b"false"
            assert answer.head.task_id == call.task_id
    call.finish()
    assert len(upstream.exchanges) == 1
    end = await pair.ended(call.task_id)
    assert (outcome(end), end["extensions"]["attempt"]) == (DONE, 1)


async def test_the_framing_of_the_body_does_not_matter(pair: Pair, upstream: Upstream) -> None:
    """The same bytes in chunks are the same body; other fields do not count."""
    task_id = await ended_call(pair.first, upstream)
    for gateway in pair:
        answer = await gateway.ask(
            "POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, (b"X-Retry-Count", b"1"), chunks=[BODY[:5], BODY[5:]]
        )
        assert (answer.status, answer.data, answer.head.get(JOINED)) == (200, WHOLE, b"true")
        awaited = await gateway.connect()
        whole = request("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, (b"Expect", b"100-continue"), body=BODY)
        await awaited.send(whole[: -len(BODY)])
        assert (await awaited.head()).status == 100
        await awaited.send(BODY)
        assert (await awaited.answer()).data == WHOLE


async def test_a_retry_with_a_large_body_joins(pair: Pair, upstream: Upstream) -> None:
    """The body is compared as it comes, whatever its size."""
    body = b"b" * 3_000_000
    call = Kept(pair.first, upstream)
    await call.ask(body=body)
    retries = [asyncio.ensure_future(again(gateway, call.task_id, body=body)) for gateway in pair]
    call.script.head()
    call.finish(*EVENTS[:-1])
    for retry in retries:
        answer = await within(GUARD_SECONDS, retry)
        assert (answer.data, answer.head.get(JOINED)) == (WHOLE, b"true")
    other = await again(pair.other, call.task_id, body=body[:-1] + b"c")
    assert code_of(other) == (422, "task_id_reused")
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("is_ended", [False, True])
async def test_another_keys_id_is_409(gateways: Launch, store: Store, upstream: Upstream, is_ended: bool) -> None:
    """With keys no caller joins the call of another key, or learns of it. That holds for `admin`, too."""
    keys = {"GATEWAY_API_KEYS": "alice:sk-of-alice-join,bob:sk-of-bob-join,admin:sk-of-admin-join"}
    first = await gateways(REDIS_URL=store.url, **keys)
    other = await gateways(REDIS_URL=store.url, GATEWAY_INSTANCE="another:11535", **keys)
    alice, bob, admin = (bearer(f"sk-of-{name}-join") for name in ("alice", "bob", "admin"))
    call = await kept(first, upstream, alice)
    if is_ended:
        call.finish()
        await until(lambda: _is_ended(first, call.task_id, alice))
    for gateway in (first, other):
        for key in (bob, admin):
            assert code_of(await again(gateway, call.task_id, key)) == (409, "task_id_in_use")
    call.finish()
    for gateway in (first, other):
        assert (await within(GUARD_SECONDS, again(gateway, call.task_id, alice))).head.get(JOINED) == b"true"
    assert len(upstream.exchanges) == 1


async def _is_ended(gateway: Gateway, task_id: str, key: Field) -> bool:
    answer = await gateway.ask("GET", f"/tasks/status/{task_id}", key)
    return bool(answer.json()["state"] == "SUCCESS")


async def test_after_failed_it_is_a_new_attempt(pair: Pair, upstream: Upstream) -> None:
    """What failed is not given again: not an error of Ollama's, not a broken stream, not a cancel."""
    task_id = new_id()
    upstream.then(answering(500, JSON, body=b"{}"), streaming(*EVENTS[:3], then="drop"), sending(then="wait"))
    assert (await again(pair.first, task_id)).status == 500
    await pair.ended(task_id)
    second = await again(pair.other, task_id)
    assert (second.status, second.head.get(JOINED), second.body.complete) == (200, None, False)
    await pair.ended(task_id, attempt=2)
    third = await pair.first.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=BODY)
    await upstream.exchange(2)
    await cancel(pair.other, task_id)
    assert code_of(await third.answer()) == (499, "cancelled")
    await pair.ended(task_id, attempt=3)
    upstream.then(streaming(*EVENTS))
    last = await again(pair.other, task_id)
    assert (last.status, last.data, last.head.get(JOINED)) == (200, WHOLE, None)
    assert (await pair.ended(task_id, attempt=4))["extensions"]["attempt"] == 4


async def test_when_the_answer_is_gone_it_is_a_new_attempt(pair: Pair, upstream: Upstream) -> None:
    """After a DELETE of one that has ended, also with another body."""
    task_id = await ended_call(pair.first, upstream)
    await pair.ended(task_id)
    assert (await delete(pair.other, task_id)).status == 204
    upstream.then(streaming(*EVENTS), streaming(*EVENTS[5:]))
    answer = await again(pair.other, task_id, body=BODY + b" ")
    assert (answer.status, answer.data, answer.head.get(JOINED)) == (200, WHOLE, None)
    assert (await pair.ended(task_id, attempt=2))["extensions"]["attempt"] == 2
    assert (await again(pair.first, task_id, body=BODY + b" ")).head.get(JOINED) == b"true"


async def test_a_call_that_is_not_kept_is_not_joined(pair: Pair, upstream: Upstream) -> None:
    """While it runs 409, whichever of the two is not kept; after its end a new attempt."""
    task_id = new_id()
    name = (b"X-Task-Id", task_id.encode())
    stream = upstream.gated()
    plain = await pair.first.send("POST", CHAT, name, body=BODY)
    await upstream.exchange()
    for gateway in pair:
        assert code_of(await again(gateway, task_id)) == (409, "task_id_in_use")
    stream.head()
    stream.piece(DONE_EVENT)
    stream.end()
    assert (await plain.answer()).status == 200
    await pair.ended(task_id)
    upstream.then(streaming(*EVENTS))
    answer = await again(pair.other, task_id)
    assert (answer.data, answer.head.get(JOINED)) == (WHOLE, None)

    call = await kept(pair.first, upstream)
    for gateway in pair:
        refused = await gateway.ask("POST", CHAT, call.name, body=BODY)
        assert code_of(refused) == (409, "task_id_in_use")
    call.finish()
    await pair.ended(call.task_id)


async def test_an_asynchronous_retry_joins(pair: Pair, upstream: Upstream) -> None:
    """202 with the present document, while it runs and after; and an ordinary retry joins an asynchronous call."""
    stream = upstream.gated()
    task_id = new_id()
    name = (b"X-Task-Id", task_id.encode())
    assert (await pair.first.ask("POST", CHAT, name, ASYNC, body=BODY)).status == 202
    await pair.other.at(task_id, "forwarding")
    for gateway in pair:
        answer = await gateway.ask("POST", CHAT, name, ASYNC, body=BODY)
        assert (answer.status, answer.json()["state"]) == (202, "RUNNING")
        assert answer.head.get("preference-applied") == b"respond-async"
        other = await gateway.ask("POST", CHAT, name, ASYNC, body=BODY + b" ")
        assert code_of(other) == (422, "task_id_reused")
    waiting = [asyncio.ensure_future(again(gateway, task_id)) for gateway in pair]
    stream.head()
    for event in EVENTS:
        stream.piece(event)
    stream.end()
    for one in waiting:
        answer = await within(GUARD_SECONDS, one)
        assert (answer.data, answer.head.get(JOINED)) == (WHOLE, b"true")
    await pair.ended(task_id)
    for gateway in pair:
        answer = await gateway.ask("POST", CHAT, name, ASYNC, body=BODY)
        assert (answer.status, answer.json()["state"]) == (202, "SUCCESS")
    assert len(upstream.exchanges) == 1


async def test_a_retry_waits_for_the_body_of_the_first(pair: Pair, upstream: Upstream) -> None:
    """While that is still coming; when it is whole the retry joins."""
    upstream.then(streaming(*EVENTS))
    task_id = new_id()
    first = await _half_a_request(pair.first, task_id)
    await pair.other.at(task_id, "forwarding")
    retries = [asyncio.ensure_future(again(gateway, task_id)) for gateway in pair]
    await _settled(pair, task_id)
    assert not any(retry.done() for retry in retries)
    await first.send(BODY[5:])
    assert (await first.answer()).data == WHOLE
    for retry in retries:
        answer = await within(GUARD_SECONDS, retry)
        assert (answer.data, answer.head.get(JOINED)) == (WHOLE, b"true")
    assert len(upstream.exchanges) == 1


async def test_if_the_first_breaks_off_inside_its_body_the_retry_is_the_new_attempt(
    pair: Pair, upstream: Upstream
) -> None:
    """The first one FAILED `client_disconnect`; one of those that waited begins, the others join that."""
    upstream.then(streaming(*EVENTS), streaming(*EVENTS))
    task_id = new_id()
    first = await _half_a_request(pair.first, task_id)
    await pair.other.at(task_id, "forwarding")
    retries = [asyncio.ensure_future(again(gateway, task_id)) for gateway in (*pair, *pair)]
    await _settled(pair, task_id)
    await first.close()
    answers = [await within(GUARD_SECONDS, retry) for retry in retries]
    assert {(answer.status, answer.data) for answer in answers} == {(200, WHOLE)}
    assert sum(answer.head.get(JOINED) is None for answer in answers) == 1
    end = await pair.ended(task_id)
    assert (outcome(end), end["extensions"]["attempt"]) == (DONE, 2)
    assert len(upstream.exchanges) == 2


async def _half_a_request(gateway: Gateway, task_id: str) -> Client:
    client = await gateway.connect()
    whole = request("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=BODY)
    await client.send(whole[: -len(BODY) + 5])
    return client


async def _settled(pair: Pair, task_id: str) -> None:
    """Gives what has been sent before the time of several requests at both gateways."""
    for gateway in pair:
        for _ in range(10):
            await gateway.status(task_id)


async def test_a_retry_takes_no_place_in_the_queue(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """It joins while the line is full, at both gateways; others get 429."""
    settings = {"REDIS_URL": store.url, "MAX_RUNNING": "1", "MAX_QUEUED": "0"}
    first = await gateways(**settings)
    other = await gateways(GATEWAY_INSTANCE="another:11535", **settings)
    call = await kept(first, upstream)
    retries = [await joined(gateway, call) for gateway in (first, other, first)]
    assert code_of(await again(first, new_id())) == (429, "queue_full")
    call.finish(*EVENTS[:-1])
    for retry in retries:
        assert (await within(GUARD_SECONDS, retry.up_to(b"0\r\n\r\n"))).count(b"data: ") == len(EVENTS)
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("has_head", [False, True])
async def test_the_timeouts_of_a_retry_end_its_own_reading(pair: Pair, upstream: Upstream, has_head: bool) -> None:
    """504 before the head, broken off behind it; the call itself goes on."""
    call = Kept(pair.first, upstream)
    await (call.begin if has_head else call.ask)()
    limit = (b"X-Task-Timeout", b"5" if has_head else b"1")  # the head comes in time
    if has_head:
        retries = [await joined(gateway, call, limit) for gateway in pair]
        for retry in retries:
            assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, retry.reader.read())
    else:
        for gateway in pair:
            assert code_of(await within(GUARD_SECONDS, again(gateway, call.task_id, limit))) == (504, "task_timeout")
        call.script.head()
    call.finish(*EVENTS[:-1])
    assert (await read(pair.other, call.task_id)).data == WHOLE
    assert outcome(await pair.ended(call.task_id)) == DONE


async def test_a_retry_that_leaves_ends_nothing(pair: Pair, upstream: Upstream) -> None:
    """Behind its head and before it, at any gateway, with the first client there or not."""
    call = await kept(pair.first, upstream)
    for gateway in pair:
        (await joined(gateway, call)).reset()
    await call.leave()
    for gateway in pair:
        (await joined(gateway, call)).reset()
    call.finish(*EVENTS[:-1])
    assert (await read(pair.other, call.task_id)).data == WHOLE
    assert outcome(await pair.ended(call.task_id)) == DONE


async def test_a_retry_is_broken_off_with_the_call(pair: Pair, upstream: Upstream) -> None:
    """It ends as the original does."""
    call = await kept(pair.first, upstream)
    retries = [await joined(gateway, call) for gateway in pair]
    call.exchange.reset()
    for retry in retries:
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, retry.reader.read())


async def test_a_get_is_joined_too(pair: Pair, upstream: Upstream) -> None:
    """Any method that is kept."""
    upstream.then(answering(200, JSON, body=b'{"own":3}'))
    task_id = new_id()
    name = (b"X-Task-Id", task_id.encode())
    for number, gateway in enumerate((*pair, *pair)):
        answer = await gateway.ask("GET", "/v1/own", name, KEEP)
        assert (answer.data, answer.head.get(JOINED)) == (b'{"own":3}', b"true" if number else None)
    assert len(upstream.exchanges) == 1


async def test_an_asynchronous_call_whose_client_leaves_in_its_body_leaves_the_id_free(
    pair: Pair, upstream: Upstream
) -> None:
    """FAILED `client_disconnect`; the retry is a new attempt."""
    task_id = new_id()
    client = await pair.first.connect()
    whole = request("POST", CHAT, (b"X-Task-Id", task_id.encode()), ASYNC, body=BODY)
    await client.send(whole[:-5])
    await pair.first.at(task_id, "queued")
    await client.close()
    assert outcome(await pair.ended(task_id)) == CLIENT_LEFT
    upstream.then(streaming(*EVENTS))
    assert (await again(pair.other, task_id)).data == WHOLE
