"""Owns the promise that fields and answers stay with whom they belong: what is hop-by-hop, and whose cookie it is.

Contract sections 2.2 and 3.1; issue 4, items 3 and 5. tests/integration/test_relay_exact.py has the bytes.
"""

from __future__ import annotations

import asyncio
from itertools import zip_longest
from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import CLIENT_LEFT, DONE, outcome
from tests.support.scripted import answering
from tests.support.waiting import until
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.wire import Field


CHAT = "/v1/chat/completions"

# What no hop may pass on: RFC 9110 section 7.6.1, and what the sender's own Connection names.
NOMINATING = [(b"Connection", b"keep-alive, X-One,x-TWO"), (b"connection", b"cookie ,\tX-Three, te")]
STOPS: list[Field] = [
    *NOMINATING, (b"Keep-Alive", b"timeout=5, max=100"), (b"Proxy-Connection", b"keep-alive"),
    (b"Proxy-Authorization", b"Basic eDp5"), (b"Proxy-Authenticate", b"Basic"), (b"Proxy-Authentication-Info", b"x"),
    (b"Proxy-Status", b"x; error=y"), (b"TE", b"trailers, deflate"), (b"Trailer", b"X-Sum"), (b"Upgrade", b"h2c"),
    (b"x-one", b"1"), (b"X-Two", b"2"), (b"X-THREE", b"3"), (b"Cookie", b"nominated=1"),
]  # fmt: skip
PASSES: list[Field] = [
    (b"Authorization", b"Bearer sk-test"), (b"Accept", b"a"), (b"X-Twice", b"1"), (b"Via", b"1.1 before"),
    (b"X-Onerous", b""), (b"X-Twice", b"1"), (b"Forwarded", b"for=_x"), (b"Cache-Control", b"no-store"),
    (b"Keep-Alive-X", b"1"), (b"ACCEPT", b"b"), (b"Xproxy-A", b"1"), (b"Content-Language", b"de"),
    (b"X-Latin", b"caf\xe9"), (b"x-twice", b"2"), (b"Warning", b"199 - x"), (b"Pragma", b"no-cache"),
]  # fmt: skip
OURS = [
    (b"X-Task-Id", b"hop-by-hop-task"), (b"Access-Control-Request-Headers", b"x-a"),
    (b"Access-Control-Request-Private-Network", b"true"),
]  # fmt: skip
MIXED = [field for pair in zip_longest(STOPS, PASSES) for field in pair if field]
EXPECTED = [(name.lower(), value) for name, value in PASSES]


async def test_there_are_fifteen() -> None:
    """Fifteen fields that stop here, none of which may pass by another's help."""
    assert len(STOPS) == 15
    assert not {name.lower() for name, _ in STOPS} & {name for name, _ in EXPECTED}


async def test_fifteen_fields_stop_on_the_way_in(gateway: Gateway, upstream: Upstream) -> None:
    """None of fifteen hop-by-hop and nominated request fields passes, nor what is meant for the gateway.

    All others do, in order, with duplicates, and none of the gateway's own is added.
    """
    answer = await gateway.ask("GET", CHAT, *OURS, *MIXED)
    assert answer.status == 200
    assert upstream.exchanges[0].head.lowered == [(b"host", b"127.0.0.1:%d" % upstream.port), *EXPECTED]


async def test_fifteen_fields_stop_on_the_way_out(gateway: Gateway, upstream: Upstream) -> None:
    """None of fifteen hop-by-hop and nominated response fields passes; all others do, in order, with duplicates."""
    upstream.then(answering(200, *MIXED, body=b"{}"))
    answer = await gateway.ask("GET", CHAT)
    ours = (b"content-length", b"x-task-id", b"date")
    assert [field for field in answer.head.lowered if field[0] not in ours] == EXPECTED
    assert all(len(answer.head.all(name.decode())) == 1 for name in ours)
    assert answer.data == b"{}"


@pytest.mark.parametrize("field", [field for field in STOPS if field not in NOMINATING], ids=lambda field: field[0])
async def test_each_stops_by_itself(gateway: Gateway, upstream: Upstream, field: Field) -> None:
    """Each one stops in both directions without the help of the others."""
    name = field[0].decode().lower()
    around: list[Field] = [(b"Connection", name.encode())] if name.startswith("x-") or name == "cookie" else []
    upstream.then(answering(200, *around, field, field, body=b"{}"))
    answer = await gateway.ask("POST", CHAT, field, *around, field, body=b"{}")
    assert (answer.status, answer.data) == (200, b"{}")
    assert answer.head.all(name) == []
    assert upstream.exchanges[0].head.all(name) == []


# -- a thousand clients --

CLIENTS = 1000
AT_ONCE = 100


def number_of(exchange: Exchange) -> bytes:
    """Which client's request it is."""
    return exchange.head.target.rpartition(b"/")[2]


async def cookie_giver(exchange: Exchange) -> None:
    """Sets a cookie of the client's own and says what it got; every third answer never ends."""
    number, cookie = number_of(exchange), exchange.head.get("cookie") or b"none"
    body = b"%s %s %s" % (number, cookie, await exchange.read())
    length = len(body) + (int(number) % 3 == 0)
    fields = (b"Set-Cookie: session=%s; Path=/" % number, b"Content-Length: %d" % length)
    await exchange.send(b"\r\n".join((b"HTTP/1.1 200 OK", *fields)) + b"\r\n\r\n" + body)
    if length > len(body):
        await exchange.closed.wait()


async def visit(gateway: Gateway, number: int) -> None:
    """One client: it sees its own cookie, body and id; every third leaves in the middle of its answer."""
    name = b"%d" % number
    client = await gateway.connect()
    own = (b"Cookie", b"session=" + name), (b"X-Task-Id", b"cookie-" + name)
    await client.send(request("POST", f"/v1/visits/{number}", *own, body=b"body of " + name))
    head = await client.head()
    assert head.all("set-cookie") == [b"session=%s; Path=/" % name]
    assert head.task_id == f"cookie-{number}"
    expected = b"%s session=%s body of %s" % (name, name, name)
    if number % 3:
        assert (await client.rest(head)).data == expected
        # The same connection once more, and now without a cookie: none is remembered for anybody.
        again = await client.ask("POST", f"/v1/visits/{number}", body=b"again")
        assert again.data == b"%s none again" % name
    else:
        assert await client.up_to(expected) == expected
    await client.close()


@pytest.mark.timeout(300)
async def test_a_thousand_clients_see_their_own(tracked: Gateway, upstream: Upstream) -> None:
    """1,000 interleaved clients with cookies, a third leave half-way: no foreign cookie, no foreign document."""
    upstream.default = cookie_giver
    turns = asyncio.Semaphore(AT_ONCE)

    async def in_turn(number: int) -> None:
        async with turns:
            await visit(tracked, number)

    await asyncio.gather(*map(in_turn, range(CLIENTS)))
    sent = {(number_of(exchange), exchange.head.get("cookie")) for exchange in upstream.exchanges}
    assert sent == {(b"%d" % n, b"session=%d" % n) for n in range(CLIENTS)} | {
        (b"%d" % n, None) for n in range(CLIENTS) if n % 3
    }
    for number in range(CLIENTS):
        document = await tracked.ended(f"cookie-{number}")
        assert document["task_id"] == f"cookie-{number}"
        assert document["extensions"]["path"] == f"/v1/visits/{number}"
        assert outcome(document) == (DONE if number % 3 else CLIENT_LEFT)
    await until(lambda: not any(c.busy for c in upstream.connections), 30, "nothing runs on for those who left")
