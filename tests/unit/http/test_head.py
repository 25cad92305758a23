"""Which request heads are refused before anything of them is believed, and the timer of a connection."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.head import Fields, Refusal, check_head, head_bytes, is_host
from gateway.net.deadline import Deadline
from tests.support.waiting import until, until_steady

pytestmark = pytest.mark.alone

HOST = (b"host", b"localhost")
MARGIN_SECONDS = 0.2


def refused(fields: Fields, *, method: str = "POST", version: str = "1.1", target: bytes = b"/v1/x") -> int | None:
    """The status with which a head is refused, None where it is not; any other exception fails the test."""
    try:
        check_head(method, version, target, fields, dict(fields))
    except Refusal as refusal:
        return refusal.status
    return None


@given(
    st.sampled_from(["GET", "CONNECT", "OPTIONS"]), st.text(max_size=3), st.binary(max_size=60), st.binary(max_size=40)
)
def test_any_head_is_taken_or_refused(method: str, version: str, target: bytes, value: bytes) -> None:
    """Whatever stands in a head, the answer is yes or a Refusal with a status of the family 4xx or 5xx."""
    for name in (b"host", b"transfer-encoding"):
        status = refused([HOST, (name, value)], method=method, version=version, target=target)
        assert status is None or 400 <= status < 600


@pytest.mark.parametrize("first", [b"http://localhost", b"https://evil.example"])
def test_two_origins_are_none(first: bytes) -> None:
    """A page's Origin counts alone (RFC 6454 section 7.3): of two, a permitted one must not hide the other."""
    origin = (b"origin", first)
    assert refused([HOST, origin]) is None
    assert refused([HOST, origin, (b"origin", b"http://localhost")]) == 400


@given(st.binary(max_size=30))
def test_a_host_is_a_name_or_an_address_and_a_port(value: bytes) -> None:
    """What is taken has none of the bytes that mean something else to the next reader."""
    if is_host(value):
        assert value
        assert not re.search(rb"[\x00-\x20\x7f-\xff,/?#@\\\"<>^`{|}]", value)


@pytest.mark.parametrize(
    "value", [b"a", b"a.b-c_d~1", b"a:1", b"a:", b"1.2.3.4:65535", b"[::1]", b"[2001:db8::1]:80", b"a%20b"]
)
def test_hosts_that_are_taken(value: bytes) -> None:
    """Names, addresses and ports as RFC 3986 section 3.2 has them."""
    assert is_host(value)


@pytest.mark.parametrize(
    "value",
    [b"", b":", b":80", b"a:b", b"a:123456", b"a b", b"a,b", b"a@b", b"a/b", b"[a]", b"[::1", b"::1", b"[::1]a",
     b"[1.2.3.4]", b"[fe80::1%25eth0]", b"a%2", b"a%zz", b"a\n", b"[]", b"[::1]:x"],
)  # fmt: skip
def test_hosts_that_are_refused(value: bytes) -> None:
    """Anything else, an empty one and a list of two included."""
    assert not is_host(value)
    assert refused([(b"host", value)]) == 400


CODINGS = [
    (b"chunked", None), (b"Chunked", None), (b"chunked, chunked", 400), (b"chunked, gzip", 400),
    (b"gzip", 400), (b"", 400), (b",chunked", 501), (b"chunked,", 400), (b"gzip, chunked", 501),
    (b"xchunked", 400), (b"chunked;a=b", 400),
]  # fmt: skip


@pytest.mark.parametrize(("value", "status"), CODINGS)
def test_chunked_is_the_one_coding(value: bytes, status: int | None) -> None:
    """Once and last, and in HTTP/1.1 only."""
    assert refused([HOST, (b"transfer-encoding", value)]) == status
    assert refused([HOST, (b"transfer-encoding", value)], version="1.0") == 400


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.binary(max_size=20)), max_size=5), st.binary(max_size=50)
)
def test_the_size_of_a_head_is_that_of_its_bytes(fields: Fields, target: bytes) -> None:
    """Counted from its parts, a head has as many bytes as written out."""
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    assert head_bytes("GET", target, fields) == len(b"GET " + target + b" HTTP/1.1\r\n" + lines + b"\r\n")


class Watched:
    """A deadline, and when it expired."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.start = self.loop.time()
        self.expired: list[float] = []
        self.deadline = Deadline(self.loop, lambda: self.expired.append(self.loop.time() - self.start))


@pytest.mark.parametrize("moves", [(0.1,), (0.05, 0.1), (30, 0.1), (0.02, 30, 0.1)])
async def test_a_deadline_expires_once_at_its_last_time(moves: tuple[float, ...]) -> None:
    """Moved forth or back, it expires when the last move said, and only then."""
    watched = Watched()
    for seconds in moves:
        watched.deadline.move(seconds)
    await until(lambda: watched.expired, 30)
    await until_steady(lambda: len(watched.expired), steady_seconds=0.1)
    assert len(watched.expired) == 1
    assert 0.1 <= watched.expired[0] < 0.1 + MARGIN_SECONDS


async def test_a_deadline_that_is_off_does_not_expire() -> None:
    """Off means off, until it is moved again."""
    watched = Watched()
    watched.deadline.move(0.02)
    watched.deadline.off()
    await until_steady(lambda: len(watched.expired), steady_seconds=0.1)
    assert watched.expired == []
    watched.deadline.move(0.02)
    await until(lambda: watched.expired, 30)
    watched.deadline.move(0.02)
    watched.deadline.cancel()
    await until_steady(lambda: len(watched.expired), steady_seconds=0.1)
    assert len(watched.expired) == 1
