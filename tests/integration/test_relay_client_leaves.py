"""Owns the promise for a client that leaves: the upstream is closed and the task ended within a second.

Contract section 3.4 and acceptance 5: in every phase, streaming or not, by FIN, RST or half-close.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import CLIENT_LEFT, outcome
from tests.support.scripted import CHUNKED, EVENTS, JSON, Gated, head, sending, streaming
from tests.support.waiting import until, within
from tests.support.wire import chunk, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.wire import Client

    Leave = Callable[[Client], Awaitable[None]]


pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'
LENGTH = (b"Content-Length", b"1000")


async def by_fin(client: Client) -> None:
    """Close the connection."""
    await client.close()


async def by_reset(client: Client) -> None:
    """Reset the connection."""
    client.reset()


async def by_half_close(client: Client) -> None:
    """Close only the sending side."""
    client.half_close()


LEAVES = [by_fin, by_reset, by_half_close]

PHASES: dict[str, bytes] = {
    "before the head": b"",
    "before the first byte of a stream": head(200, EVENTS, CHUNKED),
    "before the first byte of a plain answer": head(200, JSON, LENGTH),
    "in a stream": head(200, EVENTS, CHUNKED) + chunk(b"data: {}\n\n"),
    "in a plain answer": head(200, JSON, LENGTH) + b"some of it",
    "in a chunked plain answer": head(200, JSON, CHUNKED) + chunk(b"some of it"),
    "in an answer without framing": head(200, JSON) + b"some of it",
}


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("sent", PHASES.values(), ids=PHASES.keys())
async def test_leaving_closes_the_upstream_and_ends_the_task(
    gateway: Gateway, upstream: Upstream, sent: bytes, leave: Leave, fresh_id: str
) -> None:
    """In each phase: upstream closed and task FAILED cancelled, client_disconnect, within a second."""
    upstream.then(sending(sent, then="wait"))
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)
    got = await upstream.exchange()
    if sent:
        await client.head()
    if b"some of it" in sent or b"data: " in sent:
        assert await within(30, client.piece(), "the first piece")
    await leave(client)
    await within(1, got.closed.wait(), "the upstream is closed")
    assert outcome(await gateway.ended(fresh_id, seconds=1)) == CLIENT_LEFT


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_leaving_while_uploading_closes_the_upstream(
    gateway: Gateway, upstream: Upstream, framing: str, leave: Leave, fresh_id: str
) -> None:
    """A client that leaves inside its request body closes the upstream; the body is never completed."""
    client = await gateway.connect()
    task: tuple[bytes, bytes] = (b"X-Task-Id", fresh_id.encode())
    if framing == "length":
        await client.send(request("POST", CHAT, task, (b"Content-Length", b"1000000")) + b"x" * 1000)
    else:
        await client.send(request("POST", CHAT, task, CHUNKED) + chunk(b"x" * 1000))
    got = await upstream.exchange()
    await leave(client)
    await within(1, got.closed.wait(), "the upstream is closed")
    assert not got.body.complete
    assert outcome(await gateway.ended(fresh_id, seconds=1)) == CLIENT_LEFT


async def test_leaving_after_the_last_byte_is_no_failure(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Who has the whole answer may leave: the task stays SUCCESS."""
    answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)
    assert answer.body.complete
    assert (await gateway.status(fresh_id))["state"] == "SUCCESS"
    await gateway.ask("GET", CHAT)
    assert (await gateway.status(fresh_id))["state"] == "SUCCESS"


async def test_leaving_after_the_end_event_is_no_failure(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Who has seen the end event may leave before the terminator: the task stays SUCCESS."""
    upstream.then(streaming(b"data: [DONE]\n\n", then="wait"))
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)
    await client.up_to(b"[DONE]")
    await client.close()
    await within(1, upstream.exchanges[0].closed.wait(), "the upstream is closed")
    document = await gateway.status(fresh_id)
    assert (document["state"], document["stage"]) == ("SUCCESS", "done")


async def test_one_client_leaving_leaves_the_others_alone(gateway: Gateway, upstream: Upstream) -> None:
    """Only the leaver's own request is ended."""
    streams = [Gated(), Gated()]
    upstream.then(*streams)
    clients = [await gateway.connect(), await gateway.connect()]
    heads = []
    for client, stream in zip(clients, streams, strict=True):
        await client.send(request("POST", CHAT, body=BODY))
        stream.head()
        heads.append(await client.head())
    await clients[0].close()
    assert outcome(await gateway.ended(heads[0].task_id, seconds=1)) == CLIENT_LEFT
    streams[1].piece(b"data: [DONE]\n\n")
    streams[1].end()
    answer = await clients[1].rest(heads[1])
    assert (answer.data, answer.body.complete) == (b"data: [DONE]\n\n", True)
    await clients[1].close()


@pytest.mark.parametrize("size", [40_000, 100_000, 120_000, 300_000])
async def test_leaving_after_a_large_body_in_one_burst(
    gateway: Gateway, upstream: Upstream, fresh_id: str, size: int
) -> None:
    """However large the body was that came at once, who leaves while Ollama is silent is noticed."""
    upstream.gated(EVENTS)
    client = await gateway.connect()
    await client.send(
        request("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), (b"Content-Length", b"%d" % size)) + bytes(10)
    )
    got = await upstream.exchange()
    await client.send(bytes(size - 10))
    await until(lambda: got.body.complete, what="the upload is there")
    await client.close()
    await within(1, got.closed.wait(), "the upstream is closed")
    assert outcome(await gateway.ended(fresh_id, seconds=1)) == CLIENT_LEFT


async def test_a_half_close_of_who_does_not_read_is_noticed(
    gateway: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """A half-close counts as leaving also while the answer is stuck in front of a client that does not read."""

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(head(200, EVENTS, CHUNKED))
        while not exchange.closed.is_set():
            await exchange.send(chunk(bytes(60_000)))

    upstream.then(script)
    client = await gateway.connect()
    client.stop_reading()
    await client.send(request("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY))
    got = await upstream.exchange()
    await until(lambda: got.body.complete, what="the request is there")
    client.half_close()
    await within(1, got.closed.wait(), "the upstream is closed")
    assert outcome(await gateway.ended(fresh_id, seconds=1)) == CLIENT_LEFT
