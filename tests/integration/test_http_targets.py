"""Owns the promise that only `/v1/` is reachable, in whatever spelling, and that a legal target arrives unchanged."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import within

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


METHODS = ["GET", "POST", "DELETE", "OPTIONS"]
OUTSIDE = [
    b"/api/delete", b"/api/tags", b"/api", b"/", b"//", b"/v1", b"/V1/x", b"/v2/x", b"/v1x/x", b"//v1/x", b"/x/v1/x",
    b"/%76%31/x", b"/v%31/x", b"/v1%2fx", b"/v1%2Fx", b"/v1%252fx", b"/%2fv1/x", b"/%2Fapi/delete", b"/%61pi/delete",
    b"/;/v1/x", b"/v1;a/x", b"/.v1/x", b"/tasks/v1/x", b"/api/delete?/v1/", b"/api/delete?x=/v1/x", b"/?/v1/x",
    b"/v1/../api/delete", b"/v1/..", b"/v1/.", b"/v1/./x", b"/v1/x/..", b"/v1/x/../../api/delete", b"/../v1/x",
    b"/v1/%2e%2e/api/delete", b"/v1/%2E%2E/api/delete", b"/v1/.%2e/api/delete", b"/v1/%2e./api/delete", b"/v1/%2e/x",
    b"/v1/..%2fapi%2fdelete", b"/v1/%2e%2e%2fapi%2fdelete", b"/v1/x%2f..%2f..%2fapi", b"/v1/%252e%252e/api/delete",
    b"/v1/%25252e%25252e/api/delete", b"/v1/..%252fapi", b"/v1/%2%65%2%65/api", b"/v1/%%32e%%32e/api",
    b"/v1/x\\..\\..\\api", b"/v1\\..\\api", b"/v1/..%5capi", b"/v1/x%5c..%5capi", b"/v1/x%255cy", b"/v1/x%00",
    b"/v1/x%2500", b"/v1/x%0d%0aHost:%20b", b"/v1/x%0a", b"/v1/x%250D", b"/v1/x#/../../api", b"/v1/x#",
    b"http://a/api/delete", b"http://a", b"http://a/v1/../api/delete", b"http://v1/api/delete", b"http://a?/v1/x",
    b"http://a/%76%31/x", b"http://a#/v1/x", b"http:/v1/x", b"http:///v1/x", b"http://a\\/v1/x", b"file:///v1/x",
    b"a:80", b"*", b"v1/x", b"?/v1/x", b"\\v1\\x", b"/v1/\xc3\xa9/..", b"/v1/\xc0\xae\xc0\xae/api", b"/v1/x\x00",
]  # fmt: skip


@pytest.mark.parametrize("target", OUTSIDE, ids=lambda target: target.decode("latin-1"))
async def test_no_spelling_leads_outside_v1(tracked: Gateway, upstream: Upstream, target: bytes) -> None:
    """Every method gets an answer that is ours and no 5xx, at once, and nothing reaches the upstream."""
    for method in METHODS:
        client = await tracked.send(method, target, (b"Connection", b"close"), body=b"{}")
        answer = await within(30, client.answer(method), f"an answer to {method}")
        assert answer.status < 500, (method, answer)
        assert answer.status >= 400 or target in (b"/", b"//", b"http://a", b"/?/v1/x", b"http://a?/v1/x"), (
            method,
            answer,
        )
        await client.close()
    assert upstream.exchanges == []


async def test_there_are_enough_spellings() -> None:
    """At least sixty, no two alike."""
    assert len(set(OUTSIDE)) == len(OUTSIDE) >= 60


PLAIN = "ABCXYZabcxyz0189-._~!$&'()*+,;=:@"
ESCAPES = ["%2F", "%2f", "%3F", "%23", "%20", "%2B", "%25", "%2541", "%C3%A9", "%e2%82%ac", "%FF", "%80", "%7E", "%22"]
ODD = [
    "%",
    "%zz",
    "%2",
    "%%",
    "|",
    "{",
    "}",
    "^",
    "`",
    '"',
    "<",
    ">",
    "[",
    "]",
]  # sent by clients, whatever RFC 3986 says


def legal_targets(count: int, seed: int) -> list[bytes]:
    """Targets under /v1/ without a way out, all different: any bytes a path and a query may have, escapes kept odd."""
    chance = random.Random(seed)
    found: set[str] = set()
    while len(found) < count:
        parts = [piece(chance, [*ESCAPES, *ODD]) for _ in range(chance.randint(1, 5))]
        query = piece(chance, [*ESCAPES, *ODD, "/", "?", "/../", "&&", "=", "%00", "%0d%0a", "\\"])
        path = chance.choice(["/", "//", "%2F"]).join(f"p{part}p" for part in parts)
        found.add(f"/v1/{path}" + chance.choice(["", "?", f"?{query}"]))
    return [target.encode() for target in sorted(found)]


def piece(chance: random.Random, others: list[str]) -> str:
    """A few characters, some of them odd."""
    return "".join(chance.choice([*PLAIN, *others]) for _ in range(chance.randint(0, 12)))


async def test_five_hundred_legal_targets_arrive_byte_for_byte(tracked: Gateway, upstream: Upstream) -> None:
    """What is relayed is the bytes of the wire, in origin-form and in absolute-form."""
    targets = legal_targets(500, seed=4)
    client = await tracked.connect()
    for number, target in enumerate(targets):
        form = b"http://a" + target if number % 5 == 0 else target
        answer = await within(30, client.ask("GET", form), f"an answer to {form!r}")
        assert answer.status == 200, (form, answer)
    assert [exchange.head.target for exchange in upstream.exchanges] == targets
