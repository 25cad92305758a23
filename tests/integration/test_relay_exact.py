"""Owns the promise that the relay changes nothing: targets, fields, bodies and framing, both ways.

Contract sections 2.1, 2.2 and 3.1. The scripted upstream records the exact bytes; no HTTP library stands
between a test and the wire.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted import CHUNKED, EVENTS, JSON, answering, head, sending, streaming
from tests.support.waiting import within
from tests.support.wire import LAST_CHUNK, chunk, request

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.wire import Field


CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'

TARGETS = [
    b"/v1/models/library%2Fllama3", b"/v1/models/a%2fb", b"/v1/models/a%3Fb", b"/v1/models/a%2520b",
    b"/v1/models/a%252Fb", b"/v1/models/%C3%A9%e2%82%ac", b"/v1/models/a+b%20c", b"/v1/models/m:latest;v=1",
    b"/v1/models/~!$'()*,@=-_", b"/v1/models/a..b/...", b"/v1/", b"/v1/models/", b"/v1//models//x", b"/v1/x?",
    b"/v1/x?q=%3F&r=%26", b"/v1/x?a=1&&b=2&", b"/v1/x?a=1+2;b=3", b"/v1/x?a=b?c=d", b"/v1/x?next=/../y",
    b"/v1/x?q=%25%32%46", b"/v1/x?q=%", b"/v1/x?" + b"k" * 4000,
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.decode()[:40])
async def test_the_target_arrives_byte_for_byte(gateway: Gateway, upstream: Upstream, target: bytes) -> None:
    """Path and query reach the upstream as the bytes they were."""
    answer = await gateway.ask("GET", target)
    assert answer.status == 200
    assert upstream.exchanges[0].head.target == target


async def test_an_absolute_form_target_means_its_path(tracked: Gateway, upstream: Upstream) -> None:
    """`GET http://host/v1/x` is relayed as `/v1/x`."""
    answer = await tracked.ask("GET", b"http://127.0.0.1/v1/x%2F?a=%3F")
    assert answer.status == 200
    assert upstream.exchanges[0].head.target == b"/v1/x%2F?a=%3F"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"])
async def test_any_method_is_relayed(tracked: Gateway, upstream: Upstream, method: str) -> None:
    """Every method reaches the upstream as it is."""
    answer = await tracked.ask(method, "/v1/things/1")
    assert answer.status == 200
    assert upstream.exchanges[0].head.method == method


async def test_the_host_is_the_upstreams(gateway: Gateway, upstream: Upstream) -> None:
    """There is one Host and it names the upstream, whatever the client said."""
    await gateway.ask("GET", CHAT, host=b"localhost:11535")
    assert upstream.exchanges[0].head.all("host") == [b"127.0.0.1:%d" % upstream.port]


async def test_a_body_with_a_length_arrives_with_that_length(gateway: Gateway, upstream: Upstream) -> None:
    """A Content-Length body keeps its framing and its bytes."""
    await gateway.ask("POST", CHAT, JSON, body=BODY)
    got = upstream.exchanges[0]
    assert got.head.all("content-length") == [b"%d" % len(BODY)]
    assert got.head.all("transfer-encoding") == []
    assert bytes(got.body.data) == BODY


async def test_a_chunked_body_arrives_with_one_framing(gateway: Gateway, upstream: Upstream) -> None:
    """A chunked body arrives chunked, never with a Content-Length beside it, and whole."""
    await gateway.ask("POST", CHAT, JSON, chunks=[BODY, b" ", b"\n" * 70_000])
    got = upstream.exchanges[0]
    assert got.head.all("transfer-encoding") == [b"chunked"]
    assert got.head.all("content-length") == []
    assert bytes(got.body.data) == BODY + b" " + b"\n" * 70_000


async def test_an_empty_body_with_a_length_keeps_it(gateway: Gateway, upstream: Upstream) -> None:
    """`Content-Length: 0` is passed on and nothing is invented for it."""
    await gateway.ask("POST", CHAT, body=b"")
    got = upstream.exchanges[0].head
    assert got.all("content-length") == [b"0"]
    assert got.all("transfer-encoding") == []


async def test_a_request_without_a_body_gets_no_framing(gateway: Gateway, upstream: Upstream) -> None:
    """A POST without a body says nothing about one."""
    await gateway.ask("POST", CHAT)
    got = upstream.exchanges[0].head
    assert got.all("content-length") == []
    assert got.all("transfer-encoding") == []


async def test_pieces_of_an_upload_go_on_as_they_come(gateway: Gateway, upstream: Upstream) -> None:
    """The upstream has the first part of a body while the client still owes the rest."""
    halves: asyncio.Queue[bytes] = asyncio.Queue()

    async def script(exchange: Exchange) -> None:
        for _ in range(2):
            halves.put_nowait(await exchange.connection.reader.readexactly(5))
        await exchange.send(head(200, (b"Content-Length", b"0")))

    upstream.then(script)
    client = await gateway.connect()
    await client.send(request("POST", CHAT, (b"Content-Length", b"10")) + b"01234")
    assert await within(30, halves.get(), "the first half") == b"01234"
    await client.send(b"56789")
    assert await within(30, halves.get(), "the second half") == b"56789"
    assert (await client.answer()).status == 200


RESPONSE_FIELDS: list[Field] = [
    (b"Content-Type", b"application/json; charset=utf-8"), (b"Set-Cookie", b"a=1"), (b"X-Twice", b"1"),
    (b"Set-Cookie", b"b=2"), (b"X-Twice", b"2"), (b"Server", b"scripted"),
    (b"Date", b"Tue, 15 Nov 1994 08:12:31 GMT"), (b"X-Latin", b"caf\xe9"), (b"Content-Length", b"2"),
]  # fmt: skip


async def test_response_fields_keep_order_and_duplicates(gateway: Gateway, upstream: Upstream) -> None:
    """The client gets the upstream's fields in their order, and X-Task-Id as the only addition."""
    upstream.then(sending(head(200, *RESPONSE_FIELDS) + b"{}"))
    answer = await gateway.ask("GET", CHAT)
    sent = [(name.lower(), value) for name, value in RESPONSE_FIELDS]
    assert [pair for pair in answer.head.lowered if pair[0] != b"x-task-id"] == sent
    assert len(answer.head.all("x-task-id")) == 1
    assert answer.data == b"{}"


async def test_a_missing_date_is_added_once_and_no_server(gateway: Gateway, upstream: Upstream) -> None:
    """An answer without Date gets exactly one; Server is never ours."""
    upstream.then(sending(head(200, (b"Content-Length", b"2")) + b"{}"))
    answer = await gateway.ask("GET", CHAT)
    assert len(answer.head.all("date")) == 1
    assert answer.head.all("server") == []


async def test_an_upstream_task_id_is_replaced(gateway: Gateway, upstream: Upstream) -> None:
    """The response names our task id only, also when the upstream sends such fields."""
    upstream.then(answering(200, (b"X-Task-Id", b"theirs"), (b"x-task-id", b"too"), body=b"{}"))
    answer = await gateway.ask("GET", CHAT, (b"X-Task-Id", b"replaced-1"))
    assert answer.head.task_id == "replaced-1"


async def test_event_streams_are_marked_unbuffered(gateway: Gateway, upstream: Upstream) -> None:
    """text/event-stream carries X-Accel-Buffering: no, other types do not."""
    upstream.then(streaming(b"data: [DONE]\n\n", fields=((b"Content-Type", b"text/event-stream; charset=utf-8"),)))
    stream = await gateway.ask("POST", CHAT, body=BODY)
    plain = await gateway.ask("POST", CHAT, body=BODY)
    assert stream.head.all("x-accel-buffering") == [b"no"]
    assert plain.head.all("x-accel-buffering") == []


ERRORS = [
    (404, JSON, b'{"error":{"message":"model not found","type":"api_error","param":null,"code":null}}'),
    (400, JSON, b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'),
    (500, JSON, b'{"error":"llama runner process has terminated"}'),
    (404, (b"Content-Type", b"text/plain"), b"404 page not found"),
    (403, None, b""),
    (503, JSON, b'{"error":"server busy, please try again"}'),
]


@pytest.mark.parametrize(("status", "kind", "body"), ERRORS, ids=range(len(ERRORS)))
async def test_upstream_errors_pass_as_they_are(
    gateway: Gateway, upstream: Upstream, status: int, kind: Field | None, body: bytes
) -> None:
    """The upstream's own errors keep status, type and body, whatever their shape."""
    upstream.then(answering(status, *([kind] if kind else []), body=body))
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert (answer.status, answer.data) == (status, body)
    assert answer.head.all("content-type") == ([kind[1]] if kind else [])


@pytest.mark.parametrize("status", [200, 201, 204, 206, 301, 304, 402, 418, 429, 499, 507])
async def test_the_status_is_the_upstreams(tracked: Gateway, upstream: Upstream, status: int) -> None:
    """Any status is passed on; a redirect is not followed."""
    length: list[Field] = [] if status == 204 else [(b"Content-Length", b"0")]
    upstream.then(sending(head(status, (b"Location", b"/v1/elsewhere"), *length)))
    answer = await tracked.ask("GET", CHAT)
    assert answer.status == status
    assert answer.head.all("location") == [b"/v1/elsewhere"]
    assert len(upstream.exchanges) == 1


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_encoded_bodies_are_left_alone(gateway: Gateway, upstream: Upstream, coding: str, framing: str) -> None:
    """A content-encoded body arrives as the bytes it was, with its field and framing."""
    body = gzip.compress(b'{"object":"list"}' * 500) if coding == "gzip" else random.Random(7).randbytes(5000)
    encoding: Field = (b"Content-Encoding", coding.encode())
    if framing == "length":
        upstream.then(answering(200, JSON, encoding, body=body))
    else:
        upstream.then(sending(head(200, JSON, encoding, CHUNKED), chunk(body[:99]), chunk(body[99:]), LAST_CHUNK))
    answer = await gateway.ask("GET", CHAT, (b"Accept-Encoding", b"gzip, br, zstd"))
    assert answer.head.all("content-encoding") == [coding.encode()]
    assert answer.body.framing == framing
    assert answer.body.complete
    assert answer.data == body


async def test_an_encoded_upload_is_left_alone(tracked: Gateway, upstream: Upstream) -> None:
    """A content-encoded request body arrives as the bytes it was."""
    body = gzip.compress(BODY * 100)
    await tracked.ask("POST", CHAT, (b"Content-Encoding", b"gzip"), body=body)
    assert bytes(upstream.exchanges[0].body.data) == body


NO_BODY = [
    ("HEAD", 200, (b"Content-Length", b"1234")),
    ("HEAD", 200, CHUNKED),
    ("HEAD", 404, (b"Content-Type", b"text/plain")),
    ("GET", 204, (b"X-A", b"1")),
    ("GET", 304, (b"ETag", b'"x"')),
    ("GET", 304, (b"Content-Length", b"1234")),
]


async def test_a_204_has_no_length(gateway: Gateway, upstream: Upstream) -> None:
    """A length that an upstream gives a 204 is not passed on, and the connection goes on (RFC 9110 section 8.6)."""
    upstream.then(sending(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"))
    client = await gateway.connect()
    answer = await client.ask("POST", "/v1/x", body=b"{}")
    assert (answer.status, answer.head.get("content-length"), answer.body.size) == (204, None, 0)
    assert (await client.ask("GET", "/v1/own")).status == 200


@pytest.mark.parametrize(("method", "status", "field"), NO_BODY)
async def test_head_204_and_304_carry_no_body(
    gateway: Gateway, upstream: Upstream, method: str, status: int, field: Field
) -> None:
    """An answer that has no body ends with its head, and the connection serves the next request."""
    upstream.then(sending(head(status, field)))
    client = await gateway.connect()
    empty = await client.ask(method, CHAT)
    assert (empty.status, empty.data) == (status, b"")
    if field is not CHUNKED:
        assert field[1] in empty.head.all(field[0].decode())
    following = await client.ask("GET", CHAT)
    assert (following.status, following.data) == (200, b"{}")


@pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", head(103, (b"Link", b"</a>; rel=preload")) * 2])
async def test_interim_answers_of_the_upstream_are_skipped(
    gateway: Gateway, upstream: Upstream, interim: bytes
) -> None:
    """A 1xx of the upstream is not the answer; the one after it is."""
    upstream.then(sending(interim + head(201, (b"Content-Length", b"2")) + b"ok"))
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert (answer.status, answer.data) == (201, b"ok")
    assert answer.head.all("link") == []


async def test_a_body_that_ends_with_the_connection_is_whole(gateway: Gateway, upstream: Upstream) -> None:
    """An answer without framing ends where the upstream closes, and is a complete message for the client."""
    upstream.then(sending(head(200, (b"Content-Type", b"text/plain")), b"one", b"two", then="drop"))
    answer = await gateway.ask("GET", CHAT)
    assert (answer.data, answer.body.complete) == (b"onetwo", True)


async def test_an_empty_chunked_body_is_whole(gateway: Gateway, upstream: Upstream) -> None:
    """A chunked answer without a chunk is an empty, complete message."""
    upstream.then(streaming(fields=(JSON,)))
    answer = await gateway.ask("GET", CHAT)
    assert (answer.data, answer.body.complete) == (b"", True)


SIZE = 50 * 1000 * 1000


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_fifty_megabytes_up_keep_their_hash(gateway: Gateway, upstream: Upstream, framing: str) -> None:
    """A 50 MB request body arrives with the same SHA-256."""
    body = random.Random(1).randbytes(SIZE)
    if framing == "length":
        answer = await gateway.ask("POST", CHAT, body=body)
    else:
        pieces = [body[at : at + 100_003] for at in range(0, SIZE, 100_003)]
        answer = await gateway.ask("POST", CHAT, chunks=pieces)
    assert answer.status == 200
    assert upstream.exchanges[0].body.size == SIZE
    assert upstream.exchanges[0].body.sha256 == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_fifty_megabytes_down_keep_their_hash(gateway: Gateway, upstream: Upstream, framing: str) -> None:
    """A 50 MB answer arrives with the same SHA-256."""
    body = random.Random(2).randbytes(SIZE)
    pieces = [body[at : at + 100_003] for at in range(0, SIZE, 100_003)]
    if framing == "length":
        upstream.then(answering(200, body=body))
    elif framing == "chunked":
        upstream.then(streaming(*pieces, fields=(JSON,)))
    else:
        upstream.then(sending(head(200), *pieces, then="drop"))
    answer = await gateway.ask("GET", CHAT)
    assert answer.body.complete
    assert answer.body.size == SIZE
    assert answer.body.sha256 == hashlib.sha256(body).hexdigest()


async def test_an_image_in_a_request_arrives_unchanged(gateway: Gateway, upstream: Upstream) -> None:
    """A base64 data URL in a chat request reaches the upstream as the same bytes."""
    image = b"data:image/png;base64," + b"iVBORw0KGgo=" * 20_000
    part = b'{"type":"image_url","image_url":{"url":"%s"}}'
    body = b'{"model":"m",  "messages":[{"role":"user","content":[' + part + b"]}]}"
    await gateway.ask("POST", CHAT, JSON, body=body % image)
    assert bytes(upstream.exchanges[0].body.data) == body % image


async def test_an_event_stream_is_relayed_byte_for_byte(gateway: Gateway, upstream: Upstream) -> None:
    """Comments, odd line ends, empty events and split UTF-8 in a stream are left as they are."""
    events = [
        b": hi\r\n\r\n",
        b"data: {\xe2\x82",
        b"\xac}\n\n",
        b"\n\n\n",
        b"retry: 5\rdata: x\r\r",
        b"data: [DONE]\n\n",
    ]
    upstream.then(streaming(*events, fields=(EVENTS,)))
    answer = await gateway.ask("POST", CHAT, body=BODY)
    assert answer.data == b"".join(events)
    assert answer.body.complete
