"""One client connection, driven by hand: who is answered when, and what of it stays behind."""

from __future__ import annotations

import asyncio
import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import NotFound
from gateway.http import limits
from gateway.http.connection import GatewayHttpProtocol
from gateway.metrics.counts import Counts
from gateway.net import vanished
from gateway.net.vanished import PeerWatch
from tests.support.waiting import until

if TYPE_CHECKING:
    from gateway.http.request import Request

PIPELINED = 500
ASKED = b"GET /nothing HTTP/1.1\r\nHost: a\r\n\r\n"


class Socket:
    """A transport that takes all, and remembers what."""

    def __init__(self) -> None:
        self.written = b""
        self.is_reading = True
        self.is_closed = False

    def write(self, data: bytes) -> None:
        """Takes it."""
        self.written += data

    def pause_reading(self) -> None:
        """Nothing more will come."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """More may come."""
        self.is_reading = True

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return self.is_closed

    def close(self) -> None:
        """It was."""
        self.is_closed = True

    abort = close

    def write_eof(self) -> None:
        """Nothing more is written."""

    def set_write_buffer_limits(self, high: int) -> None:
        """It has none."""

    def get_write_buffer_size(self) -> int:
        """Nothing waits here."""
        return 0

    def get_extra_info(self, name: str) -> Any:
        """A socket that acknowledges nothing."""
        return SimpleNamespace(getsockopt=lambda *_: bytes(256))


class Refusing:
    """An application that refuses each request at once, or keeps it."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.peers = PeerWatch()
        self.opened: list[Request] = []
        self.keeps = False

    def open(self, request: Request) -> None:
        """One more request."""
        self.opened.append(request)
        if self.keeps:
            request.answered_by(Kept(request))
        else:
            request.refuse(NotFound("nothing here"))


class Kept:
    """Who answers a request when he is told to."""

    def __init__(self, request: Request) -> None:
        self.request = request

    def on_request(self) -> None:
        """Not yet."""

    on_writable = on_left = on_request


class Subject:
    """A connection, its socket and its application."""

    def __init__(self) -> None:
        self.application = Refusing()
        self.socket = Socket()
        self.reads = 0
        state: Any = SimpleNamespace(connections=set(), total_requests=0)
        config: Any = None
        self.connection = GatewayHttpProtocol(config, state, {"gateway": self.application})
        transport: Any = self.socket
        self.connection.connection_made(transport)

    def receive(self, data: bytes) -> bytes:
        """Bytes of the client's, as long as they are read; the rest."""
        while data and self.socket.is_reading and not self.socket.is_closed:
            buffer = self.connection.get_buffer(-1)
            size = min(len(buffer), len(data))
            buffer[:size] = data[:size]
            data = data[size:]
            self.reads += 1
            self.connection.buffer_updated(size)
        return data

    @property
    def answers(self) -> int:
        """How many answers were written."""
        return self.socket.written.count(b"HTTP/1.1 404")


async def test_nobody_is_answered_who_takes_no_answers() -> None:
    """Pipelined requests wait while the client takes nothing, and are not even read; then each gets its answer."""
    subject = Subject()
    subject.receive(ASKED)
    subject.connection.pause_writing()
    for _ in range(PIPELINED):
        subject.receive(ASKED)
    assert subject.answers == 1
    assert not subject.socket.is_reading
    subject.connection.resume_writing()
    assert subject.answers == len(subject.application.opened) > 10
    assert subject.socket.is_reading
    subject.connection.connection_lost(None)


async def test_many_requests_in_one_read_are_answered_in_order() -> None:
    """However many there are, none is answered inside another's answer."""
    subject = Subject()
    subject.receive(ASKED * 50)
    assert [request.target for request in subject.application.opened] == [b"/nothing"] * 50
    assert subject.answers == 50
    subject.connection.connection_lost(None)


def head_of(size: int, fields: int) -> bytes:
    """A request whose head has about `size` bytes in so many fields."""
    start = b"GET /nothing HTTP/1.1\r\nHost: a\r\n" + b"b: c\r\n" * (fields - 2)
    return start + b"X: " + b"y" * max(0, size - len(start) - 7) + b"\r\n\r\n"


SIZES = st.sampled_from([0, 200, 4_000, 20_000, 40_000, 65_536])


async def read_on(subject: Subject, rest: bytes) -> None:
    """What was not read yet, whenever the connection reads again."""
    while rest and not subject.socket.is_closed:
        await until(lambda: subject.socket.is_reading or subject.socket.is_closed)
        rest = subject.receive(rest)


@settings(deadline=None)
@given(st.lists(st.tuples(SIZES, st.integers(2, 128)), min_size=1, max_size=40))
async def test_pipelined_heads_are_bounded_by_bytes(heads: list[tuple[int, int]]) -> None:
    """Behind a waiting request at most 256 KiB are read, or too many small ones refused; then all get their answers."""
    subject = Subject()
    subject.application.keeps = True
    subject.receive(ASKED)
    data = b"".join(head_of(*head) for head in heads)
    rest = subject.receive(data)
    assert len(data) - len(rest) <= limits.PIPELINE_BYTES
    if not subject.socket.is_closed:
        subject.application.keeps = False
        (waiting,) = subject.application.opened
        waiting.refuse(NotFound("nothing here"))
        await read_on(subject, rest)
        await until(lambda: subject.socket.is_closed or subject.answers == 1 + len(heads))
    subject.connection.connection_lost(None)


@pytest.mark.parametrize("size", [40_000, 65_536])
async def test_long_heads_are_never_refused(size: int) -> None:
    """What a client pipelines in long heads waits in its socket; the connection stays, and no answer is missing."""
    subject = Subject()
    subject.application.keeps = True
    subject.receive(ASKED)
    rest = subject.receive(head_of(size, 128) * 30)
    assert rest
    assert not subject.socket.is_closed
    subject.application.keeps = False
    subject.application.opened[0].refuse(NotFound("nothing here"))
    await read_on(subject, rest)
    await until(lambda: subject.answers == 31)
    subject.connection.connection_lost(None)


@pytest.mark.parametrize("keeps", [False, True], ids=["answered", "lost"])
async def test_a_connection_that_is_gone_leaves_no_cycles(keeps: bool) -> None:
    """What a client leaves behind goes with the last reference; the collector need not look for it."""
    gc.collect()
    gc.disable()
    try:
        subject = Subject()
        subject.application.keeps = keeps
        subject.receive(ASKED)
        subject.connection.connection_lost(None)
        subject.application.opened.clear()
        asyncio.get_running_loop().call_soon(lambda: None)
        gc.set_debug(gc.DEBUG_SAVEALL)
        del subject
        gc.collect()
        left = {type(thing).__name__ for thing in gc.garbage if type(thing).__module__.startswith("gateway")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == set()


async def test_a_client_that_vanished_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not acknowledge what it was sent is cut off, and who answers it learns that it has left."""
    monkeypatch.setattr(vanished, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(vanished, "_TICK_SECONDS", 0.01)
    subject = Subject()
    owes = bytes(24) + b"\1\0\0\0" + bytes(228)
    monkeypatch.setattr(subject.socket, "get_extra_info", lambda _: SimpleNamespace(getsockopt=lambda *_: owes))
    await until(lambda: subject.socket.is_closed, what="it is cut off")
    subject.connection.connection_lost(None)
    assert not subject.application.peers._peers


LINE = b"z" * 60_000


@pytest.mark.parametrize(
    "rest", [b"0\r\n\r\nGET /nothing HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n" % LINE, b"1;%b\r\nx\r\n" % LINE]
)
async def test_a_body_that_has_almost_filled_its_share_does_not_make_thousands_of_reads(rest: bytes) -> None:
    """Neither for the head of the next request nor for the line of a chunk, though no byte too many is read."""
    subject = Subject()
    subject.application.keeps = True
    subject.receive(b"POST /nothing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    subject.application.opened[0].read_ahead()
    size = limits.QUEUED_BODY_BYTES - 2
    subject.receive(b"%x\r\n%b\r\n" % (size, b"x" * size))
    subject.receive(rest)
    assert subject.application.opened[0].waiting_bytes == limits.QUEUED_BODY_BYTES - 1
    assert subject.reads < 1100
    subject.connection.connection_lost(None)


async def test_a_body_that_exactly_fills_its_share_is_read_to_its_end() -> None:
    """Its last chunk, too, and a trailer, in short reads."""
    subject = Subject()
    subject.application.keeps = True
    subject.receive(b"POST /nothing HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
    request = subject.application.opened[0]
    request.read_ahead()
    size = limits.QUEUED_BODY_BYTES - 2
    rest = subject.receive(b"%x\r\n%b\r\n0\r\nx-sum: %b\r\n\r\n" % (size, b"x" * size, b"y" * 500))
    assert (rest, request.is_whole, request.waiting_bytes) == (b"", True, size + 1)
    subject.connection.connection_lost(None)
