"""Owns the promises about an upstream that is not there, breaks off, talks nonsense or falls silent.

Contract sections 3.5 to 3.8: a terminator is never forged, an error says whose fault it was, and a request is
tried again only where that cannot do anything twice.
"""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import DONE, failed, outcome
from tests.support.ports import free_port, refusing_port
from tests.support.scripted import CHUNKED, JSON, Upstream, answering, head, sending, streaming
from tests.support.waiting import until, within
from tests.support.wire import chunk, request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Script
    from tests.support.store import Store
    from tests.support.wire import Response


CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'


def assert_gateway_error(answer: Response, status: int, code: str) -> None:
    """An error of ours: OpenAI's shape, the stable code, JSON, and the task's id."""
    assert answer.status == status
    assert answer.head.all("content-type") == [b"application/json"]
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("gateway_error", code)
    assert isinstance(error["message"], str)
    assert error["message"]
    assert "param" in error
    assert answer.head.task_id


async def test_a_refused_connection_is_503_with_retry_after(launch: Launch, store: Store) -> None:
    """No one listens: 503 upstream_unavailable, Retry-After, and the task says so."""
    with refusing_port() as port:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}", REDIS_URL=store.url)
        answer = await gateway.ask("POST", CHAT, body=BODY)
        assert_gateway_error(answer, 503, "upstream_unavailable")
        assert int(answer.head.get("retry-after") or b"-1") > 0
        document = await gateway.ended(answer.head.task_id)
    assert outcome(document) == failed("upstream_unavailable")
    assert document["extensions"]["status_code"] == 503


async def test_an_upstream_that_comes_later_is_used(launch: Launch) -> None:
    """Requests succeed as soon as the upstream listens; nothing remembers that it did not."""
    late = Upstream()
    port = free_port()
    gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")
    assert (await gateway.ask("GET", CHAT)).status == 503
    await late.start(port)
    try:
        assert (await gateway.ask("GET", CHAT)).status == 200
    finally:
        await late.stop()


NO_ANSWER: dict[str, Script] = {
    "closed": sending(then="drop"),
    "reset": sending(then="reset"),
    "half a head": sending(b"HTTP/1.1 200 OK\r\nContent-Ty", then="drop"),
    "garbage": sending(b"\x16\x03\x01 not http at all\r\n\r\n", then="drop"),
    "a bad status": sending(b"HTTP/1.1 banana OK\r\nContent-Length: 0\r\n\r\n", then="drop"),
    "a bad length": sending(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", then="drop"),
    "a status above 599": sending(b"HTTP/1.1 600 What\r\nContent-Length: 0\r\n\r\n"),
    "a status below 100": sending(b"HTTP/1.1 099 What\r\nContent-Length: 0\r\n\r\n"),
    "a length of 5000 digits": sending(b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 5000 + b"\r\n\r\n"),
    "another transfer coding": sending(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "a head of 400 KB": sending(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 65_000 + b"Content-Length: 0\r\n\r\n"),
    "an endless head": sending(b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"a" * 2_000_000, then="drop"),
}


@pytest.mark.parametrize("script", NO_ANSWER.values(), ids=NO_ANSWER.keys())
async def test_an_upstream_without_a_proper_head_is_502(gateway: Gateway, upstream: Upstream, script: Script) -> None:
    """What breaks before a whole response head is 502 upstream_error, and the task says so."""
    upstream.then(script)
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert_gateway_error(answer, 502, "upstream_error")
    assert len(upstream.exchanges) == 1
    document = await gateway.ended(answer.head.task_id)
    assert outcome(document) == failed("upstream_error")
    assert document["extensions"]["status_code"] == 502


async def test_the_client_connection_survives_a_502(gateway: Gateway, upstream: Upstream) -> None:
    """After an error of ours the client may go on on its connection."""
    upstream.then(sending(then="drop"))
    client = await gateway.connect()
    assert (await client.ask("POST", CHAT, body=BODY)).status == 502
    assert (await client.ask("POST", CHAT, body=BODY)).status == 200


async def test_an_early_answer_passes_also_where_the_upstream_resets(gateway: Gateway, upstream: Upstream) -> None:
    """An upstream that refuses an upload while it still comes, and resets: the client gets that answer, each time."""
    refusal = head(413, JSON, (b"Content-Length", b"5")) + b"large"
    for _ in range(20):
        upstream.then(sending(refusal, read=False, then="reset"))
        client = await gateway.connect()
        await client.send(request("POST", CHAT, (b"Content-Length", b"4000000")) + bytes(100_000))
        with contextlib.suppress(ConnectionError):  # the gateway has answered, and takes no more
            await client.send(bytes(3_800_000))
        answer = await within(30, client.answer(), "the refusal")
        assert (answer.status, answer.data) == (413, b"large")
        await client.close()


async def test_an_answer_has_no_more_than_its_head_says(gateway: Gateway, upstream: Upstream) -> None:
    """An interim answer with a body is a broken upstream: nothing of it goes ahead of the final answer."""
    hidden = head(200, (b"Content-Length", b"4")) + b"evil"
    interim = head(150, (b"Content-Length", b"%d" % len(hidden))) + hidden
    client = await gateway.connect()
    upstream.then(sending(interim + head(200, (b"Content-Length", b"3")) + b"yes"))
    assert_gateway_error(await client.ask("POST", CHAT, body=BODY), 502, "upstream_error")
    assert (await client.ask("POST", CHAT, body=BODY)).data == b"{}"


@pytest.mark.parametrize("first", [b"0\r\nX: ", b"5;"])
async def test_an_endless_line_costs_no_memory(gateway: Gateway, upstream: Upstream, first: bytes) -> None:
    """Trailers or an extension without end break the message after 64 KiB, and nothing of them is held."""

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(head(200, JSON, CHUNKED) + chunk(b"one") + first)
        while not exchange.closed.is_set():
            await exchange.send(b"x" * 65_536)

    upstream.then(script)
    before = gateway.resident_bytes
    answer = await within(30, gateway.ask("POST", CHAT, body=BODY), "the break")
    assert (answer.data, answer.body.complete) == (b"one", False)
    assert gateway.resident_bytes - before < 4 * 1024 * 1024
    assert outcome(await gateway.ended(answer.head.task_id)) == failed("upstream_truncated")


LENGTH = (b"Content-Length", b"100")
TRUNCATED: dict[str, Script] = {
    "reset after the head": sending(head(200, JSON, LENGTH), then="reset"),
    "closed after the head": sending(head(200, JSON, LENGTH), then="drop"),
    "short body": sending(head(200, JSON, LENGTH), b"half of it", then="drop"),
    "reset in the body": sending(head(200, JSON, LENGTH), b"half of it", then="reset"),
    "no last chunk": sending(head(200, JSON, CHUNKED), chunk(b"one"), then="drop"),
    "half a chunk": sending(head(200, JSON, CHUNKED), chunk(b"one"), b"10\r\nhalf", then="drop"),
    "half a chunk size": sending(head(200, JSON, CHUNKED), chunk(b"one"), b"1", then="drop"),
    "a bad chunk size": sending(head(200, JSON, CHUNKED), chunk(b"one"), b"zz\r\n", then="drop"),
    "half a terminator": sending(head(200, JSON, CHUNKED), chunk(b"one"), b"0\r\n", then="drop"),
    "reset between chunks": sending(head(200, JSON, CHUNKED), chunk(b"one"), then="reset"),
    "reset in an event stream": streaming(b"data: {}\n\n", then="reset"),
    "cut event stream": streaming(b"data: {}\n\n", then="drop"),
}


@pytest.mark.parametrize("script", TRUNCATED.values(), ids=TRUNCATED.keys())
async def test_a_broken_answer_is_broken_off_for_the_client_too(
    gateway: Gateway, upstream: Upstream, script: Script
) -> None:
    """A message broken at the upstream never looks whole to the client; the task is upstream_truncated."""
    upstream.then(script)
    answer = await within(30, gateway.ask("POST", CHAT, body=BODY), "the message is broken off")
    assert answer.status == 200
    assert answer.body.complete is False
    document = await gateway.ended(answer.head.task_id)
    assert outcome(document) == failed("upstream_truncated")


async def test_what_came_before_the_break_is_passed_on(gateway: Gateway, upstream: Upstream) -> None:
    """The bytes that the upstream did send reach the client before the message is broken off."""
    upstream.then(streaming(b"data: 1\n\n", b"data: 2\n\n", then="drop"))
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert (answer.data, answer.body.complete) == (b"data: 1\n\ndata: 2\n\n", False)


def dropping(exchanges: list[Exchange]) -> Script:
    """A script that takes a request and closes without a byte of an answer."""

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        exchanges.append(exchange)
        exchange.drop()

    return script


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
async def test_a_dead_kept_connection_is_retried_for_idempotent_requests(
    gateway: Gateway, upstream: Upstream, method: str
) -> None:
    """A pooled connection that dies without a byte of an answer costs an idempotent request nothing."""
    seen: list[Exchange] = []
    upstream.then(answering(200, body=b"first"), dropping(seen))
    await gateway.ask("GET", CHAT)
    known = len(upstream.connections)
    answer = await gateway.ask(method, "/v1/again")
    assert answer.status == 200
    assert [exchange.head.target for exchange in upstream.exchanges[1:]] == [b"/v1/again"] * 2
    assert seen[0].connection.number < known
    document = await gateway.ended(answer.head.task_id)
    assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_request_that_may_act_is_never_sent_twice(gateway: Gateway, upstream: Upstream, method: str) -> None:
    """A POST whose bytes were sent on a kept-alive connection that died is 502, not tried again."""
    seen: list[Exchange] = []
    upstream.then(answering(200, body=b"first"), dropping(seen))
    await gateway.ask("GET", CHAT)
    known = len(upstream.connections)
    answer = await gateway.ask(method, CHAT, body=BODY)
    assert_gateway_error(answer, 502, "upstream_error")
    assert seen[0].connection.number < known
    assert len(upstream.exchanges) == 2


async def test_a_fresh_connection_that_dies_is_not_retried(launch: Launch, upstream: Upstream) -> None:
    """Only a kept-alive connection may turn out dead: on a new one even a GET is not tried again."""
    gateway = await launch()
    upstream.then(dropping([]))
    assert (await gateway.ask("GET", CHAT)).status == 502
    assert len(upstream.exchanges) == 1


async def test_a_kept_connection_that_closed_is_found_out_before_a_post(gateway: Gateway, upstream: Upstream) -> None:
    """A pooled connection that the upstream closed long ago is not used: the POST just works."""
    await gateway.ask("GET", CHAT)
    kept = upstream.exchanges[0].connection
    kept.end()
    await within(30, kept.closed.wait(), "the gateway notices")
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert answer.status == 200
    assert upstream.exchanges[1].connection is not kept


async def test_bytes_after_an_answer_are_not_taken_for_the_next(gateway: Gateway, upstream: Upstream) -> None:
    """A connection with bytes beyond its answer is not used again."""
    upstream.then(
        sending(head(200, (b"Content-Length", b"2")) + b"ok" + head(201, (b"Content-Length", b"4")) + b"evil")
    )
    first = await gateway.ask("GET", CHAT)
    second = await gateway.ask("GET", CHAT)
    assert [(first.status, first.data), (second.status, second.data)] == [(200, b"ok"), (200, b"{}")]


@pytest.fixture
async def impatient(gateways: Launch, store: Store) -> Gateway:
    """A gateway that waits one second at most for a silent upstream."""
    return await gateways(REDIS_URL=store.url, UPSTREAM_IDLE_TIMEOUT_SEC="1")


async def test_a_silent_upstream_is_504_where_a_limit_is_set(impatient: Gateway, upstream: Upstream) -> None:
    """With UPSTREAM_IDLE_TIMEOUT_SEC no head in that time is 504 upstream_timeout and closes the upstream."""
    upstream.then(sending(then="wait"))
    answer = await within(30, impatient.ask("POST", CHAT, body=BODY), "504")
    assert_gateway_error(answer, 504, "upstream_timeout")
    await within(1, upstream.exchanges[0].closed.wait(), "the upstream is closed")
    assert outcome(await impatient.ended(answer.head.task_id)) == failed("timeout")


async def test_a_stream_that_falls_silent_is_broken_off_where_a_limit_is_set(
    impatient: Gateway, upstream: Upstream
) -> None:
    """With UPSTREAM_IDLE_TIMEOUT_SEC a stream without a piece in that time is broken off, FAILED timeout."""
    upstream.then(streaming(b"data: {}\n\n", then="wait"))
    answer = await within(30, impatient.ask("POST", CHAT, body=BODY), "the break")
    assert (answer.data, answer.body.complete) == (b"data: {}\n\n", False)
    assert outcome(await impatient.ended(answer.head.task_id)) == failed("timeout")


async def test_the_limit_is_on_silence_not_on_length(gateways: Launch, upstream: Upstream) -> None:
    """A stream that keeps talking lives longer than the idle limit, which no stall of a busy machine reaches."""
    gateway = await gateways(UPSTREAM_IDLE_TIMEOUT_SEC="4")
    stream = upstream.gated()
    client = await gateway.send("POST", CHAT, body=BODY)
    stream.head()
    begun = monotonic()

    def has_talked_beyond_the_limit() -> bool:
        stream.piece(b": still here\n\n")
        return monotonic() - begun > 4.5

    await until(has_talked_beyond_the_limit)
    stream.piece(b"data: [DONE]\n\n")
    stream.end()
    answer = await client.answer()
    assert answer.body.complete
    assert outcome(await gateway.ended(answer.head.task_id)) == DONE
