"""Owns `Prefer: respond-async`: what its client gets at once, and what is not honoured (contract 9.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kept import ASYNC, DONE_EVENT, EVENTS, KEEP, WHOLE, bearer, code_of, kept, new_id, read, route
from tests.support.outcome import CLIENT_LEFT, DONE, failed, outcome
from tests.support.ports import free_port
from tests.support.scripted import JSON, answering, streaming
from tests.support.streams import BODY, CHAT, cancel
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.integration.conftest import Pair
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response

KEYS = {"GATEWAY_API_KEYS": "alice:sk-of-alice-async,bob:sk-of-bob-async"}


def assert_accepted(answer: Response, task_id: str) -> None:
    """The answer is a 202 as promised."""
    assert answer.status == 202, answer.data
    assert answer.head.get("location") == route(task_id).encode()
    assert answer.head.get("preference-applied") == b"respond-async"
    assert answer.head.task_id == task_id
    assert answer.json()["task_id"] == task_id


async def test_it_is_answered_at_once_and_fetched_later(pair: Pair, upstream: Upstream) -> None:
    """202 with the document, detached from the first, its Location and the preference; the answer is read there."""
    stream = upstream.gated()
    task_id = new_id()
    answer = await pair.first.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), ASYNC, body=BODY)
    assert_accepted(answer, task_id)
    document = answer.json()
    assert document["state"] in ("PENDING", "RUNNING")
    assert (document["extensions"]["is_detached"], document["extensions"]["response"]) == (True, "kept")

    async def is_told() -> bool:
        return bool((await pair.other.status(task_id))["extensions"]["is_detached"])

    await until(is_told, what="the other gateway knows that the call is detached")
    stream.head()
    for event in EVENTS:
        stream.piece(event)
    stream.end()
    assert (await read(pair.other, task_id)).data == WHOLE
    assert outcome(await pair.ended(task_id)) == DONE
    exchange = upstream.exchanges[0]
    assert bytes(exchange.body.data) == BODY


async def test_it_needs_no_id(pair: Pair, upstream: Upstream) -> None:
    """A generated id is in the 202."""
    upstream.then(streaming(*EVENTS))
    answer = await pair.first.ask("POST", CHAT, ASYNC, body=BODY)
    assert_accepted(answer, answer.head.task_id)
    assert (await read(pair.other, answer.head.task_id)).data == WHOLE


async def test_its_connection_goes_on(pair: Pair, upstream: Upstream) -> None:
    """The client may send its next request at once, and closing the connection ends nothing."""
    stream = upstream.gated()
    client = await pair.first.connect()
    first = await client.ask("POST", CHAT, ASYNC, body=BODY)
    second = await client.ask("GET", f"/tasks/status/{first.head.task_id}")
    assert second.status == 200
    await client.close()
    stream.head()
    stream.piece(DONE_EVENT)
    stream.end()
    assert outcome(await pair.ended(first.head.task_id)) == DONE


async def test_the_document_tells_the_place_in_the_queue(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """With `MAX_RUNNING` the 202 comes while the request waits, with its position."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    first = await kept(gateway, upstream)
    for position in (1, 2):
        upstream.then(streaming(*EVENTS))
        answer = await gateway.ask("POST", CHAT, ASYNC, body=BODY)
        extensions = answer.json()["extensions"]
        assert (answer.status, answer.json()["stage"]) == (202, "queued")
        assert (extensions["queue_position"], extensions["queue_length"]) == (position, position)
        last = answer.head.task_id
    first.finish()
    assert (await read(gateway, last)).data == WHOLE


async def test_a_full_queue_is_429(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """Errors that come before come as ever: `queue_full`."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1", MAX_QUEUED="0")
    call = await kept(gateway, upstream)
    answer = await gateway.ask("POST", CHAT, ASYNC, body=BODY)
    assert code_of(answer) == (429, "queue_full")
    assert answer.head.get("retry-after")
    call.finish()
    await gateway.ended(call.task_id)


async def test_it_is_answered_when_the_whole_body_is_here(pair: Pair, upstream: Upstream) -> None:
    """Not before; a client that leaves inside its body has made no call at Ollama."""
    upstream.then(streaming(*EVENTS))
    client = await pair.first.connect()
    task_id = new_id()
    await client.send(
        b"POST %b HTTP/1.1\r\nHost: x\r\nX-Task-Id: %b\r\nPrefer: respond-async\r\nExpect: 100-continue\r\n"
        b"Content-Length: 9\r\n\r\n" % (CHAT.encode(), task_id.encode())
    )
    assert (await client.head()).status == 100
    await client.send(b"half")
    await pair.first.at(task_id, "queued")
    assert upstream.exchanges == []
    await client.send(b"-half")
    assert_accepted(await client.answer(), task_id)
    assert (await read(pair.other, task_id)).data == WHOLE
    assert bytes(upstream.exchanges[0].body.data) == b"half-half"

    task_id = new_id()
    await client.send(
        b"POST %b HTTP/1.1\r\nHost: x\r\nX-Task-Id: %b\r\nPrefer: respond-async\r\nContent-Length: 9\r\n\r\nhalf"
        % (CHAT.encode(), task_id.encode())
    )
    await pair.first.at(task_id, "queued")
    await client.close()
    assert outcome(await pair.ended(task_id)) == CLIENT_LEFT
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_its_body_may_have_as_many_bytes_as_an_answer(
    gateways: Launch, store: Store, upstream: Upstream, is_chunked: bool
) -> None:
    """Up to the smaller of `MAX_BODY_BYTES` and `MAX_RESPONSE_BYTES`; more is 413, and a failed task at most."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RESPONSE_BYTES="100000", MAX_KEPT_BYTES="1000000")
    body = b"x" * 100_000
    upstream.then(streaming(*EVENTS))
    task_id = (
        await gateway.ask("POST", CHAT, ASYNC, **({"chunks": [body]} if is_chunked else {"body": body}))
    ).head.task_id
    assert (await read(gateway, task_id)).data == WHOLE
    assert upstream.exchanges[0].body.size == len(body)
    body += b"x"
    answer = await gateway.ask("POST", CHAT, ASYNC, **({"chunks": [body]} if is_chunked else {"body": body}))
    assert code_of(answer) == (413, "body_too_large")
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Prefer", b"return=minimal"), (b"Prefer", b"respond-async")],
        [(b"Prefer", b"return=minimal, respond-async, wait=10")],
        [(b"prefer", b"Respond-Async")],
        [(b"Prefer", b'respond-async; x="y"')],
        [(b"Prefer", b"a , respond-async"), (b"Prefer", b"b")],
    ],
)
async def test_the_token_counts_in_any_field(tracked: Gateway, upstream: Upstream, fields: list[Field]) -> None:
    """Anywhere among other preferences, in any case of letters; then no Prefer goes upstream."""
    upstream.then(streaming(*EVENTS))
    answer = await tracked.ask("POST", CHAT, *fields, body=BODY)
    assert answer.status == 202
    await tracked.ended(answer.head.task_id)
    assert upstream.exchanges[0].head.all("prefer") == []


@pytest.mark.parametrize(
    "value",
    [
        b"return=minimal",
        b"respond-asynchronously",
        b"respond-async-not",
        b"handling=respond-async",
        b'x="respond"',
        b"",
    ],
)
async def test_other_preferences_pass(tracked: Gateway, upstream: Upstream, value: bytes) -> None:
    """An unknown preference is Ollama's, and the call an ordinary one."""
    answer = await tracked.ask("POST", CHAT, (b"Prefer", value), body=BODY)
    assert (answer.status, answer.head.get("preference-applied")) == (200, None)
    assert upstream.exchanges[0].head.all("prefer") == [value]
    assert (await tracked.status(answer.head.task_id))["extensions"]["response"] is None


@pytest.mark.parametrize("value", [b'a="b, respond-async"', b'a="b, respond-async, c"', b'a="\\", respond-async, "'])
async def test_a_quoted_text_is_no_token(tracked: Gateway, upstream: Upstream, value: bytes) -> None:
    """Inside a quoted value of another preference it is not meant (RFC 7240, RFC 9110 5.6.4)."""
    answer = await tracked.ask("POST", CHAT, (b"Prefer", value), body=BODY)
    assert answer.status == 200
    assert upstream.exchanges[0].head.all("prefer") == [value]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_get_and_head_are_never_asynchronous(tracked: Gateway, upstream: Upstream, method: str) -> None:
    """The field passes as it is."""
    answer = await tracked.ask(method, "/v1/own", ASYNC)
    assert (answer.status, answer.head.get("preference-applied")) == (200, None)
    assert upstream.exchanges[0].head.all("prefer") == [b"respond-async"]


async def test_without_kept_answers_it_is_not_honoured(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """`MAX_RESPONSE_BYTES=0`: the call is an ordinary one and the field passes; the keep field is 400."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RESPONSE_BYTES="0")
    answer = await gateway.ask("POST", CHAT, ASYNC, body=BODY)
    assert answer.status == 200
    assert upstream.exchanges[0].head.all("prefer") == [b"respond-async"]
    assert code_of(await gateway.ask("POST", CHAT, KEEP, body=BODY)) == (400, "invalid_header")
    assert (await gateway.ask("POST", CHAT, (b"X-Task-Keep", b"false"), body=BODY)).status == 200
    assert code_of(await read(gateway, answer.head.task_id)) == (404, "response_not_kept")


async def test_keep_false_beside_it_does_not_take_it_back(tracked: Gateway, upstream: Upstream) -> None:
    """`Prefer: respond-async` counts as `X-Task-Keep: true`."""
    upstream.then(streaming(*EVENTS))
    answer = await tracked.ask("POST", CHAT, ASYNC, KEEP, body=BODY)
    assert answer.status == 202
    assert (await read(tracked, answer.head.task_id)).data == WHOLE


async def test_errors_that_come_before_come_as_ever(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """400, 401 and 409, and nothing reaches Ollama."""
    gateway = await gateways(REDIS_URL=store.url, **KEYS)
    alice, bob = bearer("sk-of-alice-async"), bearer("sk-of-bob-async")
    assert code_of(await gateway.ask("POST", CHAT, ASYNC, body=BODY)) == (401, "unauthorized")
    bad = await gateway.ask("POST", CHAT, alice, ASYNC, (b"X-Task-Id", b"/"), body=BODY)
    assert code_of(bad) == (400, "invalid_task_id")
    bad = await gateway.ask("POST", CHAT, alice, ASYNC, (b"X-Task-Priority", b"high"), body=BODY)
    assert code_of(bad) == (400, "invalid_header")
    stream = upstream.gated()
    name = (b"X-Task-Id", new_id().encode())
    assert (await gateway.ask("POST", CHAT, alice, ASYNC, name, body=BODY)).status == 202
    taken = await gateway.ask("POST", CHAT, bob, ASYNC, name, body=BODY)
    assert code_of(taken) == (409, "task_id_in_use")
    await upstream.exchange()
    stream.head()
    stream.end()
    assert len(upstream.exchanges) == 1


async def test_an_upstream_that_is_away_is_told_to_readers(launch: Launch, store: Store) -> None:
    """After the 202 an error is the task's: FAILED, and a reader gets what a client would have got."""
    gateway = await launch(REDIS_URL=store.url, UPSTREAM_BASE=f"http://127.0.0.1:{free_port()}")
    answer = await gateway.ask("POST", CHAT, ASYNC, body=BODY)
    assert answer.status == 202
    assert outcome(await gateway.ended(answer.head.task_id)) == failed("upstream_unavailable")
    error = await read(gateway, answer.head.task_id)
    assert code_of(error) == (503, "upstream_unavailable")
    assert error.head.get("retry-after")
    assert error.head.task_id == answer.head.task_id


async def test_a_start_timeout_counts(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """`X-Task-Start-Timeout` ends one that waits: FAILED `timeout`, and readers get `start_timeout`."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    call = await kept(gateway, upstream)
    answer = await gateway.ask("POST", CHAT, ASYNC, (b"X-Task-Start-Timeout", b"1"), body=BODY)
    assert answer.status == 202
    assert outcome(await gateway.ended(answer.head.task_id)) == failed("timeout")
    assert code_of(await read(gateway, answer.head.task_id)) == (504, "start_timeout")
    call.finish()
    await gateway.ended(call.task_id)
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_a_cancel_ends_it(gateways: Launch, store: Store, upstream: Upstream, is_waiting: bool) -> None:
    """In the queue and with Ollama."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    call = await kept(gateway, upstream) if is_waiting else None
    if call is None:
        upstream.gated()
    answer = await gateway.ask("POST", CHAT, ASYNC, body=BODY)
    await gateway.at(answer.head.task_id, "queued" if is_waiting else "forwarding")
    exchange = await upstream.exchange()
    assert (await cancel(gateway, answer.head.task_id)).status_code == 200
    assert outcome(await gateway.ended(answer.head.task_id)) == ("FAILED", "cancelled", "cancelled")
    assert code_of(await read(gateway, answer.head.task_id)) == (499, "cancelled")
    if call is not None:
        call.finish()
        await gateway.ended(call.task_id)
    else:
        await within(GUARD_SECONDS, exchange.closed.wait())


async def test_an_answer_of_the_upstream_that_is_an_error_is_kept(pair: Pair, upstream: Upstream) -> None:
    """Ollama's own status, fields and bytes."""
    upstream.then(answering(404, JSON, (b"X-Own", b"1"), body=b'{"error":"no such model"}'))
    accepted = await pair.first.ask("POST", CHAT, ASYNC, body=BODY)
    answer = await read(pair.other, accepted.head.task_id)
    assert (answer.status, answer.data) == (404, b'{"error":"no such model"}')
    assert answer.head.get("x-own") == b"1"
    assert answer.head.get("content-type") == b"application/json"
    assert outcome(await pair.ended(accepted.head.task_id)) == failed("upstream_status")


async def test_many_at_once(pair: Pair, upstream: Upstream) -> None:
    """100 of 100 are accepted over one connection, and read at the other gateway."""
    upstream.default = streaming(*EVENTS)
    client = await pair.first.connect()
    ids = [(await client.ask("POST", CHAT, ASYNC, body=BODY)).head.task_id for _ in range(100)]
    await until(lambda: len(upstream.exchanges) == 100)
    assert {(await read(pair.other, task_id)).data for task_id in ids} == {WHOLE}
