"""Owns what no request may do, however broken and however cut: through a real socket to the upstream's side.

A corpus of good and of smuggling messages is mutated, the same way in every run. h11 reads the same bytes as a second
opinion: what it sees as the body of a request must never arrive at the upstream as a request of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
from collections import Counter
from typing import TYPE_CHECKING

import h11
import pytest

from gateway.errors import InvalidPath
from gateway.http.head import parse_target
from tests.support.mutation import cases
from tests.support.waiting import within
from tests.support.wire import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream

pytestmark = pytest.mark.timeout(300)

CASES = 2000
AT_ONCE = 16
SILENCE_SECONDS = 0.2
CASE = b"CASENUMBER"  # becomes the number of the case, in as many bytes
OUR_REFUSALS = {501, 505}
HOST = b"Host: 127.0.0.1\r\n"
SMUGGLED = b"GET /v1/CASENUMBER/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST /v1/CASENUMBER/a HTTP/1.1\r\n" + HOST
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
REQUESTS = [
    b"GET /v1/CASENUMBER/a?b=%2F&c HTTP/1.1\r\n" + HOST + b"\r\n",
    POST + b"Content-Type: application/json\r\nContent-Length: 18\r\n\r\n{\"model\": \"small\"}",
    CHUNKED + b"\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    POST + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED + b"GET /v1/CASENUMBER/b HTTP/1.0\r\n\r\n",
    CHUNKED + b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED),
    POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    POST + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\n{}",
    POST + b"X-Task-Id: CASENUMBER\r\nConnection: x-a, close\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
    b"GET http://127.0.0.1/v1/CASENUMBER/a HTTP/1.1\r\n" + HOST + b"Origin: http://elsewhere.example\r\n\r\n",
    b"HEAD /v1/CASENUMBER/a HTTP/1.0\r\n\r\n",
    b"OPTIONS /v1/CASENUMBER/a HTTP/1.1\r\n" + HOST + b"Origin: http://localhost\r\n\r\n",
    b"DELETE /v1/CASENUMBER/%2e%2e/api/delete HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /tasks/status?limit=1 HTTP/1.1\r\n" + HOST + b"\r\n" + SMUGGLED,
    b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: keep-alive\r\n\r\n" + CHUNKED + b"\r\n1\r\nx\r\n0\r\n\r\n",
]  # fmt: skip

Asked = tuple[str, bytes, bytes | None]  # method, target, body (None where it did not come whole)


async def answer_to(gateway: Gateway, pieces: list[bytes]) -> bytes:
    """All that comes back. Behind a silence the client half-closes; then the connection has to end at once."""
    client = await Client.connect(gateway.port)
    received = b""
    with contextlib.suppress(OSError):  # the gateway was faster
        for piece in pieces:
            await client.send(piece)
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(client.piece(), SILENCE_SECONDS):
                received += piece
        client.half_close()
        while piece := await within(8, client.piece(), f"the end after {pieces}"):
            received += piece
    await client.close()
    return received


def second_opinion(message: bytes) -> Iterator[Asked]:
    """The requests that h11 finds in these bytes, as far as it takes them."""
    rest: bytes | None = message
    while rest:
        peer = h11.Connection(h11.SERVER)
        peer.receive_data(tidied(rest))
        event, body = next_or_broken(peer), b""
        if not isinstance(event, h11.Request):
            return
        method, target = event.method.decode(), event.target
        while isinstance(event := next_or_broken(peer), h11.Data):
            body += bytes(event.data)
        is_whole = isinstance(event, h11.EndOfMessage)
        yield method, target, body if is_whole else None
        rest = behind(peer) if is_whole else None


def tidied(message: bytes) -> bytes:
    """Without what a server may overlook (RFC 9112 sections 2.2 and 3) and h11 does not: empty lines ahead, spaces."""
    return re.sub(rb"\A([A-Z-]+) +([^ \r\n]+) +", rb"\1 \2 ", message.lstrip(b"\r\n"))


def behind(peer: h11.Connection) -> bytes | None:
    """What follows a whole request on its connection; None where that ends with its answer."""
    peer.send(h11.Response(status_code=204, headers=[]))
    peer.send(h11.EndOfMessage())
    return peer.trailing_data[0] if peer.our_state is h11.DONE else None


def next_or_broken(peer: h11.Connection) -> object:
    """What h11 finds next; NEED_DATA where that is nothing it takes, so that the request counts as begun."""
    try:
        return peer.next_event()
    except h11.RemoteProtocolError:
        return h11.NEED_DATA


def relayed(asked: Asked) -> Asked | None:
    """A request as it may arrive at the upstream; None where it may not."""
    with contextlib.suppress(InvalidPath):
        target = parse_target(asked[1])
        if target.is_relayed:
            return asked[0], target.wire, asked[2]
    return None


def arrived(exchange: Exchange) -> Asked:
    """A request as the upstream saw it."""
    return exchange.head.method, exchange.head.target, bytes(exchange.body.data) if exchange.body.complete else None


def is_explained(seen: list[Asked], opinion: list[Asked]) -> bool:
    """Whether what arrived is, in order, some of what the client asked for."""
    rest = iter(opinion)
    return all(any(s[:2] == o[:2] and (s[2] == o[2] or s[2] is None) for o in rest) for s in seen)


def check_head(exchange: Exchange) -> None:
    """Whatever came: what goes on is one request with one Host and one length, under /v1/."""
    head = exchange.head
    assert re.fullmatch(rb"[A-Z-]+ /v1/[!-~\x80-\xff]* HTTP/1\.1", head.line), head.raw
    assert len(head.all("host")) == 1, head.raw
    assert len(head.all("content-length") + head.all("transfer-encoding")) <= 1, head.raw
    assert not [n for n in ("connection", "te", "upgrade", "expect", "origin", "x-task-id") if head.all(n)], head.raw


async def test_no_request_gets_through_that_nobody_made(tracked: Gateway, upstream: Upstream) -> None:
    """No hang, no 5xx but our refusals, no traceback; at the upstream nothing but what h11, too, sees as requests."""
    numbered = enumerate(cases(REQUESTS, CASES))
    messages: list[bytes] = []
    statuses: Counter[int] = Counter()

    async def work() -> None:
        for number, (message, pieces) in numbered:
            name = b"%010d" % number
            messages.append(message.replace(CASE, name))
            cut = itertools.accumulate(map(len, pieces), initial=0)
            received = await answer_to(tracked, [messages[number][a:b] for a, b in itertools.pairwise(cut)])
            assert received[:9] in (b"", b"HTTP/1.1 "), (pieces, received)
            statuses.update(map(int, re.findall(rb"HTTP/1\.1 (\d{3}) ", received)))
            assert not [s for s in statuses if s >= 500 and s not in OUR_REFUSALS], (messages[number], received)

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    seen: dict[int, list[Asked]] = {}
    for exchange in upstream.exchanges:
        check_head(exchange)
        for number in set(re.findall(rb"/v1/(\d{10})/", exchange.head.target)):
            seen.setdefault(int(number), []).append(arrived(exchange))
    for number, asked in seen.items():
        opinion = [found for each in second_opinion(messages[number]) if (found := relayed(each))]
        assert is_explained(asked, opinion), (messages[number], asked, opinion)
    assert min(len(seen), statuses[400]) > len(messages) / 10
