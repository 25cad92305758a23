"""Owns the promise that the gateway speaks HTTP/1.1 as the RFCs have it: the cases of tests/support/http_cases.py.

The table in docs/behaviour.md is made from the cases and compared as text: after a change of a
case, paste what the failing test shows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.http_cases import CASES, Case
from tests.support.process import ROOT
from tests.support.waiting import within

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.wire import Client, Response


PAGE = (ROOT / "docs" / "behaviour.md").read_text()
HEADING = "| RFC | Case | Answer |\n|---|---|---|\n"
BRIEF_BYTES = 1000


async def check(case: Case, client: Client, upstream: Upstream) -> None:
    """Read what the case promises, in order, and see whether the connection goes on."""
    *statuses, last = case.answers.split(" ")
    method = case.raw.lstrip().split(b" ")[0].decode("latin-1")
    for allowed in statuses if last == "-" else [*statuses, last]:
        answer = await within(30, client.answer(method if method == "HEAD" else "GET"), f"answer {allowed}")
        assert str(answer.status) in allowed.split("|"), answer
        assert_proper(answer)
    if last == "-":
        assert await within(30, client.at_end(), "the connection is closed")
    else:
        assert (await within(30, client.ask("GET", "/v1/own"), "another answer")).status == 200
    if case.body is not None:
        assert bytes(upstream.exchanges[0].body.data) == case.body
    assert {exchange.head.target.partition(b"?")[0] for exchange in upstream.exchanges} <= {b"/v1/own"}


def assert_proper(answer: Response) -> None:
    """An answer is whole, has one Date unless it is interim, and its refusals say that they are the last."""
    assert answer.body.complete
    assert len(answer.head.all("date")) == (answer.status >= 200)
    if answer.status in (400, 431, 505):
        assert answer.head.all("connection") == [b"close"]
        assert answer.head.all("content-type") == [b"text/plain; charset=utf-8"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.rule}")
async def test_a_case(tracked: Gateway, upstream: Upstream, case: Case) -> None:
    """Sent at once, each case gets the answers that its row promises."""
    client = await tracked.connect()
    await client.send(case.raw)
    await check(case, client, upstream)


@pytest.mark.parametrize(
    "case", [case for case in CASES if len(case.raw) < BRIEF_BYTES], ids=lambda case: f"{case.section} {case.rule}"
)
async def test_a_case_byte_by_byte(tracked: Gateway, upstream: Upstream, case: Case) -> None:
    """How a message is cut into segments changes nothing about its answers."""
    client = await tracked.connect()
    for byte in case.raw:
        await client.send(bytes([byte]))
    await check(case, client, upstream)


async def test_a_refusal_ends_only_its_own_connection(tracked: Gateway, upstream: Upstream) -> None:
    """While one client is refused again and again, another's connection goes on."""
    other = await tracked.connect()
    for _ in range(20):
        broken = await tracked.connect()
        await broken.send(b"GET / HTTP/9.9\r\n\r\n")
        assert (await broken.answer()).status == 400
        assert (await other.ask("GET", "/v1/own")).status == 200


async def test_the_host_of_an_absolute_target_replaces_the_field(tracked: Gateway, upstream: Upstream) -> None:
    """What the upstream gets is its own name, whatever names the client used."""
    client = await tracked.send("GET", b"http://elsewhere:1/v1/own", host=b"here")
    assert (await client.answer()).status == 200
    assert upstream.exchanges[0].head.all("host") == [b"127.0.0.1:%d" % upstream.port]


async def test_there_are_enough_cases_and_each_once() -> None:
    """At least a hundred, no two with the same name or the same bytes."""
    assert len(CASES) >= 100
    assert len({(case.section, case.rule) for case in CASES}) == len(CASES)
    assert len({case.raw for case in CASES}) == len(CASES)


async def test_the_table_is_what_the_cases_say() -> None:
    """docs/behaviour.md has a row for each case, in order, word for word, and no other row."""
    expected = [case.row for case in CASES]
    found = PAGE.partition(HEADING)[2].split("\n\n")[0].splitlines()
    assert found == expected, "docs/behaviour.md should have:\n" + "\n".join(expected)
