"""Owns the promise that one message is one request: no one hides a second one in it, whatever the framing says.

Every message holds a request for `/v1/foreign` somewhere; the scripted upstream must never see
it, nor a request with two lengths, nor a refused body that looks whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_cases import CHUNKED, END, GET, HOST, bare, get, post
from tests.support.waiting import within
from tests.support.wire import chunk

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


FOREIGN = b"GET /v1/foreign HTTP/1.1\r\nHost: a\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(FOREIGN)
TE = b"Transfer-Encoding: chunked"
CHUNK = chunk(FOREIGN)
# What a lenient peer might read as chunked, or as no framing at all.
CODINGS = [
    b"Transfer-Encoding: chunked", b"Transfer-Encoding:chunked", b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding: chunked ", b"TRANSFER-ENCODING: CHUNKED", b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx", b"Transfer-Encoding: chunk", b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'", b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: identity",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,chunked", b"Transfer-Encoding: chunked chunked", b"Transfer-Encoding:",
    b"Transfer-Encoding: \x0bchunked", b"Transfer-Encoding: \x0cchunked", b"Transfer-Encoding: chunked\x00",
    b"Transfer-Encoding: \x00chunked", b"Transfer-Encoding: \xa0chunked", b"Transfer-Encoding: chun\xe7ked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x",
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
    b"X: y\r\n Transfer-Encoding: chunked", b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
    b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\n chunked", b"Transfer-\x00Encoding: chunked",
    b"\x00Transfer-Encoding: chunked", b"Transfer-Encoding\x00: chunked", b"Transfer Encoding: chunked",
]  # fmt: skip
# Alone these are read as what they say.
UNDERSTOOD = CODINGS[:5]
LENGTHS = [
    b"Content-Length: 0\r\n" + LENGTH, LENGTH + b"\r\nContent-Length: 0", LENGTH + b"\r\n" + LENGTH,
    b"Content-Length: 0, %d" % len(FOREIGN), b"Content-Length: 0,0", b"Content-Length: +0", b"Content-Length: -0",
    b"Content-Length: 0x0", b"Content-Length: 0 0", b"Content-Length: 0_0", b"Content-Length: 0.0",
    b"Content-Length: 0e0", b"Content-Length:", b"Content-Length: \x000", b"Content-Length: \x0b0",
    b"Content-Length: 18446744073709551616", b"Content-Length: 18446744073709551653", b"Content-Length: \xb2",
    b"Content-Length : 0", b" Content-Length: 0", b"X: y\r\n Content-Length: 0", b"Content-Length:\r\n 0",
    b"X: y\nContent-Length: 0", b"X: y\rContent-Length: 0", b"Content-Length\x00: 0", b"Content-Length: 0;",
]  # fmt: skip
CHUNKS = [
    b"0\n\r\n", b"0\r\r\n", b"0\r\n\n", b"0\n\n", b"0\r\rX", b" 0\r\n\r\n", b"0 \r\n\r\n", b"0\t\r\n\r\n",
    b"0x0\r\n\r\n",
    b"+0\r\n\r\n", b"-0\r\n\r\n", b"0_0\r\n\r\n", b"0.\r\n\r\n", b"\r\n0\r\n\r\n", b"\r\n\r\n", b"g\r\n\r\n",
    b"10000000000000000\r\n", b"fffffffffffffffff\r\n", b"1\r\nx0\r\n\r\n", b"1\r\nx\n0\r\n\r\n", b"1\r\nx\r0\r\n\r\n",
    b"1\r\nxx\r\n0\r\n\r\n", b"1\r\n\r\n0\r\n\r\n", b"0;\n\r\n", b"0;a\nb\r\n\r\n", b"0;a\rb\r\n\r\n",
    b"0;\x00\r\n\r\n",
    b'0;a="\r\n\r\n', b"0 ;a\r\n\r\n", b"0\r\n Host: a\r\n\r\n", b"0\r\nContent-Length: 0\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\nX: y\n\r\n",
]  # fmt: skip
HEADS = {
    "HTTP/1.0 with chunks": b"POST /v1/own HTTP/1.0\r\n" + HOST + TE + b"\r\n\r\n" + END,
    "HTTP/1.0 with chunks, kept alive": b"POST /v1/own HTTP/1.0\r\n" + TE + b"\r\nConnection: keep-alive\r\n\r\n" + END,
    "no version": b"GET /v1/own\r\n\r\n",
    "HTTP/2.0": b"POST /v1/own HTTP/2.0\r\n" + HOST + b"\r\n",
    "a request line in a request line": b"GET /v1/own HTTP/1.1 GET /v1/foreign HTTP/1.1\r\n" + HOST + b"\r\n",
    "a bare LF in the target": b"GET /v1/own\nGET /v1/foreign HTTP/1.1\r\n" + HOST + b"\r\n",
    "a bare CR in the target": b"GET /v1/own\rGET /v1/foreign HTTP/1.1\r\n" + HOST + b"\r\n",
    "no Host, then one": GET + b"\r\n",
    "two Hosts": get(b"Host: b"),
    "a list of Hosts": bare(b"Host: a, b"),
    "a Host that is a head": bare(b"Host: a\nX: y"),
    "CONNECT, then a request through the tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "CONNECT with a length": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 0\r\n\r\n",
    "an upgrade with both lengths": post(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH, TE, body=END),
    "an upgrade with a bad chunk": post(b"Connection: Upgrade", b"Upgrade: h2c", TE, body=b"0\n\r\n"),
    "HTTP/2 by prior knowledge": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}
REFUSED = (
    {f"length and {coding!r}": post(LENGTH, coding, body=END) for coding in CODINGS}
    | {f"{coding!r} alone": post(coding, body=END) for coding in CODINGS if coding not in UNDERSTOOD}
    | {f"{length!r}": post(length, body=b"") for length in LENGTHS}
    | {f"{chunk!r}": CHUNKED + chunk for chunk in CHUNKS}
    | HEADS
)


@pytest.mark.parametrize("start", REFUSED.values(), ids=REFUSED)
async def test_an_ambiguous_message_is_refused_with_all_that_follows(
    tracked: Gateway, upstream: Upstream, start: bytes
) -> None:
    """It gets one refusal and the end of the connection; what is behind it is no one's request."""
    client = await tracked.connect()
    await client.send(start + FOREIGN)
    answer = await within(30, client.answer(), "the refusal")
    assert answer.status in (400, 501, 505), answer
    assert await within(30, client.at_end(), "the connection is closed")
    assert_nothing_foreign(upstream)
    assert not any(exchange.body.complete for exchange in upstream.exchanges)


# The foreign request is a body, or part of one, and arrives as that.
CARRIED = {
    "as a body": post(LENGTH, body=FOREIGN),
    "as the body of a GET": get(LENGTH) + FOREIGN,
    "as a chunk": CHUNKED + CHUNK + END,
    "as a chunk with an extension": CHUNKED + b"%x;a=b\r\n%b\r\n" % (len(FOREIGN), FOREIGN) + END,
    "as a chunk after a size with zeros": CHUNKED + b"000%x\r\n%b\r\n" % (len(FOREIGN), FOREIGN) + END,
    "with an underscore in Transfer_Encoding": post(LENGTH, b"Transfer_Encoding: chunked", body=FOREIGN),
    "with an underscore in Content_Length": post(LENGTH, b"Content_Length: 0", body=FOREIGN),
    "with the length nominated": post(LENGTH, b"Connection: Content-Length", body=FOREIGN),
    "with the coding nominated": post(TE, b"Connection: Transfer-Encoding", body=CHUNK + END),
    "with TE": post(LENGTH, b"TE: chunked", b"Connection: TE", body=FOREIGN),
    "behind an upgrade": post(b"Connection: Upgrade", b"Upgrade: h2c", LENGTH, body=FOREIGN),
    "behind a length with zeros": post(b"Content-Length: 000%d" % len(FOREIGN), body=FOREIGN),
}  # fmt: skip


@pytest.mark.parametrize("raw", CARRIED.values(), ids=CARRIED)
async def test_a_request_in_a_body_stays_a_body(tracked: Gateway, upstream: Upstream, raw: bytes) -> None:
    """It arrives as the body it is, under one framing, and the connection goes on behind it."""
    client = await tracked.connect()
    await client.send(raw + get())
    assert [(await within(30, client.answer(), "an answer")).status for _ in range(2)] == [200, 200]
    assert [bytes(exchange.body.data) for exchange in upstream.exchanges] == [FOREIGN, b""]
    assert_nothing_foreign(upstream)


# The first request is proper and ends the connection; what follows it is not read as another.
LAST = {
    "Connection: close": get(b"Connection: close"),
    "HTTP/1.0": bare(line=b"GET /v1/own HTTP/1.0\r\n"),
    "an expectation": post(b"Expect: 100-continue", b"Connection: close", b"Content-Length: 0", body=b""),
}


@pytest.mark.parametrize("raw", LAST.values(), ids=LAST)
async def test_nothing_is_read_behind_the_last_request(tracked: Gateway, upstream: Upstream, raw: bytes) -> None:
    """Where the client said that this is its last request, what follows is dropped."""
    client = await tracked.connect()
    await client.send(raw + FOREIGN)
    head = await within(30, client.head(), "an answer")
    answer = await client.rest(head if head.status == 200 else await client.head())
    assert (answer.status, answer.data) == (200, b"{}")
    assert await within(30, client.at_end(), "the connection is closed")
    assert_nothing_foreign(upstream)


async def test_a_body_that_was_not_wanted_is_no_request(tracked: Gateway, upstream: Upstream) -> None:
    """After an answer without 100 Continue, what comes may be the body or a request: neither is believed."""
    client = await tracked.connect()
    await client.send(post(b"Expect: 100-continue", LENGTH, b"X-Task-Id: not valid!", body=b""))
    answer = await within(30, client.answer(), "the refusal")
    assert (answer.status, answer.head.all("connection")) == (400, [b"close"])
    await client.send(FOREIGN)
    assert await within(30, client.at_end(), "the connection is closed")
    assert upstream.exchanges == []


async def test_there_are_enough_messages() -> None:
    """At least 87 of them, no two alike."""
    messages = [*REFUSED.values(), *CARRIED.values(), *LAST.values()]
    assert len(set(messages)) == len(messages) >= 87


def assert_nothing_foreign(upstream: Upstream) -> None:
    """The upstream saw our own request at most, and never two lengths on one."""
    for exchange in upstream.exchanges:
        assert exchange.head.target == b"/v1/own"
        assert len(exchange.head.all("content-length") + exchange.head.all("transfer-encoding")) <= 1
        assert exchange.head.raw.count(b"Host") + exchange.head.raw.count(b"host") == 1
