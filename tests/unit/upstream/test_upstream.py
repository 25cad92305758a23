"""Ollama as a peer, byte by byte: framing, breaks, what may be used again, and how much waits."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.errors import UpstreamBroken, UpstreamFailure, UpstreamTimeout, UpstreamUnavailable
from gateway.upstream import pool
from gateway.upstream.connection import Connection, ConnectionState
from gateway.upstream.pool import AwaitedAnswer, Upstream
from tests.support.crowded import CrowdedUpstream
from tests.support.ports import refusing_port
from tests.support.scripted import CHUNKED, Gated, answering, head, sending
from tests.support.scripted import Upstream as Peer
from tests.support.waiting import next_turn, until, until_steady, within
from tests.support.wire import LAST_CHUNK, chunk, set_reset_on_close

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.http.head import Fields
    from tests.support.scripted import Exchange, Script

OK = b"HTTP/1.1 200 OK\r\n"
REQUEST = b"GET /v1/x HTTP/1.1\r\nhost: h\r\n\r\n"
HELD_BYTES = 256 * 1024  # the contract's bound per stream


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A scripted server of one test's own."""
    peer = Peer()
    await peer.start()
    yield peer
    await peer.stop()


@pytest.fixture
async def upstream(peer: Peer) -> AsyncIterator[Upstream]:
    """The pool under test."""
    upstream = Upstream("127.0.0.1", peer.port)
    yield upstream
    upstream.close()


class Asked(AwaitedAnswer):
    """One exchange on a connection, which has all else that is asked of it here."""

    def __init__(self, connection: Connection, method: str) -> None:
        super().__init__(connection, method)
        self.connection = connection
        self.taken = asyncio.Event()

    def on_answer(self) -> None:
        """There is an answer, or there will be none."""
        super().on_answer()
        self.taken.set()

    def on_taken(self) -> None:
        """The upstream takes more."""
        self.taken.set()

    async def drain(self) -> None:
        """Waits until the upstream has taken most of what was written, or is gone."""
        while self.connection.is_write_paused and self.connection.is_open:
            self.taken.clear()
            await self.taken.wait()

    @property
    def is_drained(self) -> bool:
        """Whether the message is complete and all of it was taken."""
        return self.connection.state is ConnectionState.COMPLETE and not self.connection.waiting

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


async def begun(upstream: Upstream, method: str, *, is_fresh: bool = False) -> Asked:
    """An exchange on a connection that was kept alive, or on a new one."""
    connection = None if is_fresh else upstream.take()
    return Asked(connection or await upstream.open(), method)


@asynccontextmanager
async def asking(upstream: Upstream, method: str = "GET", data: bytes = REQUEST) -> AsyncIterator[Asked]:
    """An exchange that has sent a whole request, its connection taken back in the end as the proxy does it."""
    asked = await begun(upstream, method)
    try:
        asked.send(data.replace(b"GET", method.encode(), 1), is_last=True)
        yield asked
    finally:
        upstream.release(asked.connection)


async def body_of(connection: Asked) -> bytes:
    """All that comes of the body. Raises where it breaks off."""
    pieces = []
    while piece := await within(30, connection.piece(), "a piece"):
        pieces.append(piece)
    return b"".join(pieces)


async def ask(upstream: Upstream, method: str = "GET") -> tuple[int, Fields, bytes]:
    """One exchange, complete."""
    async with asking(upstream, method) as connection:
        status, fields = await within(30, connection.head(), "the head")
        return status, fields, await body_of(connection)


async def opened(peer: Peer, upstream: Upstream) -> int:
    """How many connections the peer has seen after one more, ordinary exchange."""
    assert (await ask(upstream))[0] == 200
    return len(peer.connections)


# -- messages --


async def test_a_response_with_a_length(peer: Peer, upstream: Upstream) -> None:
    """Status, fields in order with duplicates and lower-case names, and the body."""
    peer.then(answering(404, (b"X-B", b"1"), (b"x-a", b"two  words"), (b"X-B", b"3"), body=b"hello"))
    status, fields, body = await ask(upstream)
    assert (status, body) == (404, b"hello")
    assert fields == [(b"x-b", b"1"), (b"x-a", b"two  words"), (b"x-b", b"3"), (b"content-length", b"5")]


async def test_a_chunked_response(peer: Peer, upstream: Upstream) -> None:
    """Chunks of any size and with extensions are the body without their framing."""
    parts = [chunk(b"a"), b"3;x=y\r\nbcd\r\n", chunk(b"e" * 100_000), LAST_CHUNK]
    peer.then(sending(head(200, CHUNKED), *parts))
    assert (await ask(upstream))[2] == b"abcd" + b"e" * 100_000


async def test_a_response_byte_by_byte(peer: Peer, upstream: Upstream) -> None:
    """However the bytes are cut, the message is the same."""
    message = head(200, (b"X-A", b"1"), CHUNKED) + chunk(b"hello") + chunk(b" world") + LAST_CHUNK
    peer.then(sending(*(message[i : i + 1] for i in range(len(message)))))
    status, fields, body = await ask(upstream)
    assert (status, body) == (200, b"hello world")
    assert fields == [(b"x-a", b"1"), (b"transfer-encoding", b"chunked")]


async def test_pieces_come_as_they_are_sent(peer: Peer, upstream: Upstream) -> None:
    """A piece can be read while the next one is still to be sent."""
    gated = Gated()
    peer.then(gated)
    async with asking(upstream) as connection:
        gated.head()
        assert (await within(30, connection.head()))[0] == 200
        for piece in (b"one", b"two", b"three"):
            gated.piece(piece)
            assert await within(30, connection.piece()) == piece
            assert not connection.is_drained
        gated.end()
        assert await within(30, connection.piece()) == b""
        assert connection.is_drained


@pytest.mark.parametrize("status", [100, 102, 103, 199])
async def test_interim_responses_are_passed_over(peer: Peer, upstream: Upstream, status: int) -> None:
    """1xx answers and their fields are not the answer; the final one is, and the connection stays good."""
    interim = head(status, (b"Link", b"</x>"))
    peer.then(sending(interim + interim, interim, head(201, (b"X-A", b"1"), (b"Content-Length", b"2")) + b"hi"))
    got, fields, body = await ask(upstream)
    assert (got, body) == (201, b"hi")
    assert fields == [(b"x-a", b"1"), (b"content-length", b"2")]
    assert await opened(peer, upstream) == 1


@pytest.mark.parametrize(
    "fields", [((b"Content-Length", b"1000"),), (CHUNKED,), ()], ids=["length", "chunked", "no framing"]
)
async def test_a_response_to_head_has_no_body(peer: Peer, upstream: Upstream, fields: Fields) -> None:
    """HEAD ends with the head, whatever length it tells, and the next request is answered rightly."""
    peer.then(sending(head(200, *fields)))
    status, got, body = await ask(upstream, "HEAD")
    assert (status, body) == (200, b"")
    assert got == [(name.lower(), value) for name, value in fields]
    peer.then(answering(200, body=b"next"))
    assert (await ask(upstream))[2] == b"next"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body(peer: Peer, upstream: Upstream, status: int) -> None:
    """204 and 304 end with their head, and the connection is used again."""
    peer.then(sending(head(status, (b"Etag", b"x"))))
    assert await ask(upstream) == (status, [(b"etag", b"x")], b"")
    assert await opened(peer, upstream) == 1


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
async def test_a_body_until_the_connection_closes(peer: Peer, upstream: Upstream, version: bytes) -> None:
    """Without any framing a clean end of the connection is the end of the body."""
    peer.then(sending(version + b" 200 OK\r\nX-A: 1\r\n\r\nhel", b"lo", then="drop"))
    assert await ask(upstream) == (200, [(b"x-a", b"1")], b"hello")
    assert await opened(peer, upstream) == 2


async def test_an_empty_body_until_close(peer: Peer, upstream: Upstream) -> None:
    """A head and a clean end are a whole message of nothing."""
    peer.then(sending(OK + b"\r\n", then="drop"))
    assert (await ask(upstream))[2] == b""


async def test_trailers_are_no_header_fields(peer: Peer, upstream: Upstream) -> None:
    """Fields behind a chunked body do not appear among those in front of it (RFC 9110 section 6.5.1)."""
    peer.then(sending(head(200, CHUNKED) + chunk(b"x") + b"0\r\nX-Trailer: late\r\nServer: evil\r\n\r\n"))
    _, fields, body = await ask(upstream)
    assert body == b"x"
    assert fields == [(b"transfer-encoding", b"chunked")]


TRAILERS = {
    "a length": b"Content-Length: 0",
    "another length": b"Content-Length: 5\r\nContent-Length: 6",
    "a length that is none": b"Content-Length: abc",
    "a coding": b"Transfer-Encoding: gzip",
    "an end": b"Connection: close",
    "an upgrade": b"Connection: upgrade\r\nUpgrade: h2c",
    "no field": b"what is this",
    "a folded line": b"X: a\r\n b",
}


@pytest.mark.parametrize("trailers", TRAILERS.values(), ids=TRAILERS)
async def test_trailers_are_not_interpreted(peer: Peer, upstream: Upstream, trailers: bytes) -> None:
    """Whatever stands behind a chunked body, the message is whole, and the next one on that connection is as well."""
    peer.then(sending(head(200, CHUNKED) + chunk(b"hello") + b"0\r\n" + trailers + b"\r\n\r\n"))
    assert (await ask(upstream))[2] == b"hello"
    peer.then(sending(head(200, CHUNKED) + chunk(b"next") + LAST_CHUNK))
    assert (await ask(upstream))[2] == b"next"
    assert len(peer.connections) == 1


PADDED = {
    "a coding and a space": (head(200, (b"Transfer-Encoding", b"chunked ")) + chunk(b"hi") + LAST_CHUNK),
    "a coding and a tab": (head(200, (b"Transfer-Encoding", b"chunked\t")) + chunk(b"hi") + LAST_CHUNK),
    "a coding between them": (head(200, (b"Transfer-Encoding", b" \tchunked \t ")) + chunk(b"hi") + LAST_CHUNK),
    "a length and a space": head(200, (b"Content-Length", b"2 ")) + b"hi",
    "a length and tabs": head(200, (b"Content-Length", b"\t2\t\t")) + b"hi",
}


@pytest.mark.parametrize("message", PADDED.values(), ids=PADDED)
async def test_white_space_around_a_value_is_no_part_of_it(peer: Peer, upstream: Upstream, message: bytes) -> None:
    """Framing is understood with blanks around it, and every value comes without them (RFC 9110 section 5.5)."""
    peer.then(sending(message.replace(b"\r\n\r\n", b"\r\nX-A: a  b \t\r\nX-B: \t \r\n\r\n", 1)))
    _, fields, body = await ask(upstream)
    assert body == b"hi"
    assert fields[0][1] in (b"chunked", b"2")
    assert fields[1:] == [(b"x-a", b"a  b"), (b"x-b", b"")]


@pytest.mark.parametrize("size", [b"2;x=y", b"2 ;x", b"0002", b"2;" + b"x" * 60_000, b"2\t; \xff"])
async def test_extensions_of_a_chunk_are_skipped(peer: Peer, upstream: Upstream, size: bytes) -> None:
    """What stands behind a chunk's size is no part of the body, however long the size is (RFC 9112 section 7.1.1)."""
    peer.then(sending(head(200, CHUNKED) + size + b"\r\nhi\r\n", LAST_CHUNK))
    assert (await ask(upstream))[2] == b"hi"


# -- messages that break off --

BROKEN_HEADS: dict[str, Script] = {
    "closed": sending(then="drop"),
    "reset": sending(then="reset"),
    "half a head": sending(OK + b"X-A: ", then="drop"),
    "interim only": sending(head(100), then="drop"),
    "not http": sending(b"hello there\r\n\r\n"),
    "tls": sending(b"\x16\x03\x01\x00\xa5"),
    "http 2": sending(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00"),
    "bad status": sending(b"HTTP/1.1 banana\r\n\r\n"),
    "bad length": sending(OK + b"Content-Length: -5\r\n\r\n"),
    "two lengths": sending(OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
    "nul in a value": sending(OK + b"X-A: a\x00b\r\nContent-Length: 0\r\n\r\n"),
    "interim with a length": sending(
        head(150, (b"Content-Length", b"2")) + b"hi" + head(200, (b"Content-Length", b"0"))
    ),
    "interim in chunks": sending(head(103, CHUNKED) + LAST_CHUNK + head(200, (b"Content-Length", b"0"))),
    "interim with an empty body": sending(head(110, (b"Content-Length", b"0")) + head(200, (b"Content-Length", b"0"))),
    "interim in padded chunks": sending(head(199, (b"Transfer-Encoding", b"\tchunked\t")) + LAST_CHUNK),
    "a body before the final head": sending(head(100) + b"hello" + head(200, (b"Content-Length", b"0"))),
    "two codings": sending(head(200, CHUNKED, CHUNKED) + LAST_CHUNK),
    "both framings": sending(head(200, CHUNKED, (b"Content-Length", b"5")) + LAST_CHUNK),
    "a head without end": sending(OK + b"X: y\r\n" * 50_000),
    "interim heads without end": sending(head(100) * 12_000),
    "empty lines": sending(b"\r\n\r\n\r\n"),
    "switching": sending(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxyz"),
}


@pytest.mark.parametrize("script", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
async def test_no_head_is_a_broken_upstream(peer: Peer, upstream: Upstream, script: Script) -> None:
    """Closed, reset or garbled before the head is whole: UpstreamBroken with a reason, and the connection goes."""
    peer.then(script)
    async with asking(upstream) as connection:
        with pytest.raises(UpstreamBroken, match=r"Ollama|protocol"):
            await within(30, connection.head())
    assert await opened(peer, upstream) == 2


BROKEN_BODIES: dict[str, tuple[bytes, ...]] = {
    "short": (head(200, (b"Content-Length", b"9")) + b"hello",),
    "no last chunk": (head(200, CHUNKED) + chunk(b"hello"),),
    "cut chunk": (head(200, CHUNKED) + b"9\r\nhello",),
    "cut last chunk": (head(200, CHUNKED) + chunk(b"hello") + b"0\r\n",),
    "cut trailer": (head(200, CHUNKED) + chunk(b"hello") + b"0\r\nX: y\r\n",),
    "cut extension": (head(200, CHUNKED) + chunk(b"hello") + b"5;x=",),
}


@pytest.mark.parametrize("then", ["drop", "reset"])
@pytest.mark.parametrize("pieces", BROKEN_BODIES.values(), ids=BROKEN_BODIES)
async def test_a_body_cut_short_is_no_end(peer: Peer, upstream: Upstream, pieces: tuple[bytes, ...], then: str) -> None:
    """What came is read, but never an end: the break is an error."""
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await sending(*pieces)(exchange)
        await seen.wait()
        await sending(read=False, then=then)(exchange)

    peer.then(script)
    async with asking(upstream) as connection:
        assert (await within(30, connection.head()))[0] == 200
        assert await within(30, connection.piece()) == b"hello"
        seen.set()
        with pytest.raises(UpstreamBroken):
            await within(30, connection.piece())
        assert not connection.is_drained


async def test_a_reset_does_not_end_a_body_until_close(peer: Peer, upstream: Upstream) -> None:
    """Where only the connection's end delimits the body, a reset is no end."""
    seen = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK + b"\r\nhello")
        await seen.wait()
        exchange.reset()

    peer.then(script)
    async with asking(upstream) as connection:
        await within(30, connection.head())
        assert await within(30, connection.piece()) == b"hello"
        seen.set()
        with pytest.raises(UpstreamBroken):
            await within(30, connection.piece())


ODD_CHUNKS = [
    b"zz\r\nhello\r\n", b"-1\r\n", b"5\r\nhelloX\r\n", b"\x00", b"5 5\r\n", b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n",
    b"1_0\r\n", b" 5\r\nhello\r\n", b"5\nhello\n", b"\r\n", b"5;\x00\r\nhello\r\n", b"5;a\rb\r\nhello\r\n", b";x\r\n",
    b"5 \r\nhello\r\n", b"00000000000000005\r\nhello\r\n", b"0\r\nX: y\n\r\n", b"0\r\nX: a\rb\r\n\r\n", b"0\n\n",
]  # fmt: skip


@pytest.mark.parametrize("garbage", ODD_CHUNKS)
async def test_garbage_between_chunks_is_no_end(peer: Peer, upstream: Upstream, garbage: bytes) -> None:
    """A chunk that is none breaks the message."""
    peer.then(sending(head(200, CHUNKED) + chunk(b"first"), garbage + LAST_CHUNK))
    async with asking(upstream) as connection:
        await within(30, connection.head())
        with pytest.raises(UpstreamBroken):
            await body_of(connection)
    assert await opened(peer, upstream) == 2


ENDLESS = {
    "a chunk's extension": (b"5;", b"x" * 1000),
    "many extensions": (b"5", b";x" * 500),
    "a trailer": (b"0\r\nX: ", b"x" * 1000),
    "trailers": (b"0\r\n", b"X: y\r\n" * 100),
    "a size of noughts": (b"", b"0" * 1000),
}


@pytest.mark.parametrize(("first", "rest"), ENDLESS.values(), ids=ENDLESS)
async def test_an_upstream_that_does_not_get_on_is_broken(
    peer: Peer, upstream: Upstream, first: bytes, rest: bytes
) -> None:
    """64 KiB of lines behind which the body does not get on break the message, while it still comes."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, CHUNKED) + chunk(b"hello") + first)
        while not exchange.closed.is_set():
            await exchange.send(rest)

    peer.then(script)
    async with asking(upstream) as connection:
        await within(30, connection.head())
        assert await within(30, connection.piece()) == b"hello"
        with pytest.raises(UpstreamBroken):
            await within(30, connection.piece())
    assert (await peer.exchange()).sent_bytes < 8 * 1024 * 1024  # what the sockets hold


@pytest.mark.parametrize("is_whole", [True, False])
async def test_an_early_answer_outlives_the_write_that_fails(is_whole: bool) -> None:
    """An upstream that answers before it has the request, and resets: its answer is read before the write counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = Upstream("127.0.0.1", listener.getsockname()[1])
        connection = await begun(upstream, "POST")
        sock, _ = listener.accept()
        set_reset_on_close(sock)
        with sock:  # the loop does not turn meanwhile: answer and reset lie in the socket when the write fails
            sock.send(head(413, (b"Content-Length", b"5" if is_whole else b"6")) + b"large")
        connection.send(b"x" * 1_000_000, is_last=False)
        status, _ = await within(30, connection.head(), "the answer")
        assert (status, await within(30, connection.piece())) == (413, b"large")
        if is_whole:
            assert connection.state is ConnectionState.COMPLETE
        else:
            with pytest.raises(UpstreamBroken):
                await within(30, connection.piece())
        assert not connection.is_reusable
        upstream.release(connection.connection)


async def test_a_reset_under_a_write_is_no_end(peer: Peer, upstream: Upstream) -> None:
    """Where only the connection's end delimits an early answer, the failed write does not end it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        upstream = Upstream("127.0.0.1", listener.getsockname()[1])
        connection = await begun(upstream, "POST")
        sock, _ = listener.accept()
        set_reset_on_close(sock)
        with sock:
            sock.send(OK + b"\r\nhello")
        connection.send(b"x" * 1_000_000, is_last=False)
        await within(30, connection.head())
        assert await within(30, connection.piece()) == b"hello"
        with pytest.raises(UpstreamBroken):
            await within(30, connection.piece())
        upstream.release(connection.connection)


async def test_pieces_that_came_before_a_break_are_read_first(peer: Peer, upstream: Upstream) -> None:
    """What the upstream sent before it broke off reaches the client."""
    peer.then(sending(head(200, CHUNKED) + chunk(b"hello"), then="drop"))
    async with asking(upstream) as connection:
        await within(30, connection.head())
        await until(lambda: not connection.is_open, what="the connection is lost")
        assert await within(30, connection.piece()) == b"hello"
        with pytest.raises(UpstreamBroken):
            await within(30, connection.piece())


# -- the pool --


async def test_a_connection_is_used_again(peer: Peer, upstream: Upstream) -> None:
    """Exchanges that ended well follow each other on one connection, lengths and chunks alike."""
    for n in range(5):
        script = answering(200, body=b"x" * n) if n % 2 else sending(head(200, CHUNKED) + chunk(b"x") + LAST_CHUNK)
        peer.then(script)
        async with asking(upstream) as connection:
            assert connection.is_reused == (n > 0)
            await within(30, connection.head())
            assert await body_of(connection) == b"x" * (n if n % 2 else 1)
    assert len(peer.connections) == 1


async def test_exchanges_at_once_have_their_own_connections(peer: Peer, upstream: Upstream) -> None:
    """Twenty at once are twenty connections, and twenty more are no further ones."""
    gates = [Gated() for _ in range(20)]
    peer.then(*gates)
    asked = [asyncio.create_task(ask(upstream)) for _ in gates]
    await until(lambda: len(peer.exchanges) == 20, what="all are there")
    for n, gate in enumerate(gates):
        gate.head()
        gate.piece(b"%d" % n)
        gate.end()
    assert {answer[2] for answer in await asyncio.gather(*asked)} == {b"%d" % n for n in range(20)}
    await asyncio.gather(*(ask(upstream) for _ in range(20)))
    assert len(peer.connections) == 20


NOT_AGAIN: dict[str, Script] = {
    "connection: close": sending(head(200, (b"Connection", b"close"), (b"Content-Length", b"1")) + b"x"),
    "http 1.0": sending(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"),
    "bytes behind the end": sending(head(200, (b"Content-Length", b"1")) + b"xyz"),
    "another response behind it": sending((head(200, (b"Content-Length", b"1")) + b"x") * 2),
    "half a response behind it": sending(head(200, (b"Content-Length", b"1")) + b"xHTTP/1.1 2"),
    "a body behind 204": sending(head(204) + b"x"),
    "204 with a length": sending(head(204, (b"Content-Length", b"1"))),
    "304 with a length": sending(head(304, (b"Content-Length", b"1"))),
    "304 with chunks": sending(head(304, CHUNKED)),
    "padded close": sending(head(200, (b"Connection", b"keep-alive\t, Close "), (b"Content-Length", b"1")) + b"x"),
    "bytes behind the trailers": sending(head(200, CHUNKED) + chunk(b"x") + b"0\r\nX: y\r\n\r\nHTTP"),
    "bytes behind the chunks": sending(head(200, CHUNKED) + chunk(b"x") + LAST_CHUNK + b"\x00"),
}


@pytest.mark.parametrize("script", NOT_AGAIN.values(), ids=NOT_AGAIN)
async def test_a_connection_that_may_lie_is_not_used_again(peer: Peer, upstream: Upstream, script: Script) -> None:
    """The message counts, but no one else gets that connection, for he might get another's bytes."""
    peer.then(script)
    assert (await ask(upstream))[2] in (b"x", b"")
    assert await opened(peer, upstream) == 2


@pytest.mark.parametrize("late", [head(200, (b"Content-Length", b"5")) + b"wrong", b"HTTP/1.1 2", b"\x00garbage"])
async def test_bytes_on_an_idle_connection_end_it(peer: Peer, upstream: Upstream, late: bytes) -> None:
    """An answer no one asked for is given to no one."""
    assert await opened(peer, upstream) == 1
    await peer.exchanges[0].send(late)
    await until(peer.connections[0].closed.is_set, what="the pool closes it")
    peer.then(answering(200, body=b"right"))
    assert (await ask(upstream))[2] == b"right"


UNASKED = {
    "an answer": head(200, (b"Content-Length", b"5")) + b"wrong",
    "a time-out": head(408, (b"Connection", b"close"), (b"Content-Length", b"0")),
    "an interim answer": head(100),
    "a line end": b"\r\n",
    "an end": b"",
}


@pytest.mark.parametrize("late", UNASKED.values(), ids=UNASKED)
async def test_a_connection_with_something_in_its_socket_is_not_taken(
    peer: Peer, upstream: Upstream, late: bytes
) -> None:
    """What came on an idle connection before the next request, and is not read yet, becomes no one's answer."""
    assert await opened(peer, upstream) == 1
    sock = peer.connections[0].transport.get_extra_info("socket")
    if late:
        assert os.write(sock.fileno(), late) == len(late)
    else:
        sock.shutdown(socket.SHUT_WR)
    assert upstream.take() is None  # the loop has not turned: no one has read it
    peer.then(answering(200, body=b"right"))
    assert (await ask(upstream))[2] == b"right"
    await within(30, peer.connections[0].closed.wait(), "the connection is closed")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_died_idle_is_not_taken(peer: Peer, upstream: Upstream, reset: bool) -> None:
    """What the upstream closed meanwhile is noticed before a request is sent there."""
    async with asking(upstream) as connection:
        await within(30, connection.head())
        await body_of(connection)
    peer.connections[0].end(reset)
    await until(lambda: not connection.is_open, what="the end is noticed")
    assert await opened(peer, upstream) == 2


async def test_a_connection_that_dies_under_a_request_says_so(peer: Peer, upstream: Upstream) -> None:
    """A kept-alive connection closed before any byte of an answer is told from one that answered half."""
    await ask(upstream)
    peer.then(sending(then="drop"), sending(OK, then="drop"))
    async with asking(upstream) as connection:
        with pytest.raises(UpstreamBroken):
            await within(30, connection.head())
        assert connection.is_reused
        assert not connection.has_received
    async with asking(upstream) as connection:
        with pytest.raises(UpstreamBroken):
            await within(30, connection.head())
        assert connection.has_received


async def test_a_fresh_connection_can_be_asked_for(peer: Peer, upstream: Upstream) -> None:
    """What is tried again goes to a new connection, though an idle one is there."""
    await ask(upstream)
    connection = await begun(upstream, "GET", is_fresh=True)
    assert not connection.is_reused
    upstream.release(connection.connection)
    await until(lambda: len(peer.connections) == 2, what="a second connection")


async def test_an_unfinished_exchange_closes_its_connection(peer: Peer, upstream: Upstream) -> None:
    """Given back before its end, with the body unread or the request unsent, a connection is closed at once."""
    gated = Gated()
    peer.then(gated)
    async with asking(upstream) as connection:
        gated.head()
        await within(30, connection.head())
    await within(30, (await peer.exchange()).closed.wait(), "closed in the middle of the answer")
    peer.then(sending(head(200, (b"Content-Length", b"2")) + b"ok", read=False))
    early = await begun(upstream, "POST")
    early.send(b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nhalf", is_last=False)
    await within(30, early.head())
    assert await body_of(early) == b"ok"
    assert not early.is_reusable
    upstream.release(early.connection)
    await within(30, (await peer.exchange(1)).closed.wait(), "closed with the request unsent")


async def test_an_answer_that_was_not_taken_is_not_left_to_the_next_request(peer: Peer, upstream: Upstream) -> None:
    """A complete answer of which something still waits, reading paused, closes its connection."""
    peer.then(answering(200, body=b"x" * 70_000))
    async with asking(upstream) as connection:
        await until(lambda: connection.state is ConnectionState.COMPLETE, what="the answer is here")
        assert connection.waiting
    assert upstream.take() is None
    assert await opened(peer, upstream) == 2


async def test_closing_the_pool_closes_what_is_idle(peer: Peer, upstream: Upstream) -> None:
    """After close no connection is left open."""
    await asyncio.gather(*(ask(upstream) for _ in range(3)))
    upstream.close()
    for connection in peer.connections:
        await within(30, connection.closed.wait(), "closed")


async def test_a_connection_that_is_lost_at_once_is_unavailable(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No exchange begins on a connection that was lost while it was being opened."""
    made = Connection.connection_made

    def made_and_lost(connection: Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        connection.connection_lost(None)

    monkeypatch.setattr(Connection, "connection_made", made_and_lost)
    with pytest.raises(UpstreamUnavailable, match="Ollama closed the connection"):
        await upstream.open()


async def test_a_connection_whose_caller_was_cancelled_waits_in_the_pool(peer: Peer, upstream: Upstream) -> None:
    """It is opened all the same, and the next request uses it."""
    opening = asyncio.create_task(upstream.open())
    await next_turn()
    opening.cancel()
    await until(lambda: upstream.has_idle, what="the connection is open")
    assert await opened(peer, upstream) == 1


async def test_a_peer_that_does_not_accept_in_time_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full queue of connections at the peer is not waited for without end."""
    monkeypatch.setattr(pool, "_CONNECT_TIMEOUT_SECONDS", 0.1)
    async with CrowdedUpstream() as crowded:
        with pytest.raises(UpstreamUnavailable, match="does not accept connections"):
            await within(30, Upstream("127.0.0.1", crowded.port).open(), "an answer")


async def test_nobody_listening_is_unavailable() -> None:
    """A refused connection is UpstreamUnavailable, again and again, and says when to come back."""
    with refusing_port() as port:
        upstream = Upstream("127.0.0.1", port)
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable) as caught:
                await begun(upstream, "GET")
        assert caught.value.retry_after_seconds


@pytest.mark.parametrize(
    ("host", "port", "field"),
    [("127.0.0.1", 11434, b"127.0.0.1:11434"), ("::1", 1, b"[::1]:1"), ("ollama", 80, b"ollama:80")],
)
def test_the_host_field_names_the_upstream(host: str, port: int, field: bytes) -> None:
    """Host and port as HTTP writes them, an IPv6 address in brackets."""
    assert Upstream(host, port).host_field == field


# -- the end from our side --


@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_abort_closes_at_once_and_tells_nobody(
    peer: Peer, upstream: Upstream, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aborting closes the connection within a second; who aborts need not hear of it, and nothing can be taken."""
    gated = Gated()
    peer.then(gated)
    async with asking(upstream) as connection:
        if when == "in the body":
            gated.head()
            await within(30, connection.head())
            gated.piece(b"hello")
            await until(lambda: connection.waiting, what="a piece is here")
        await peer.exchange()
        told: list[str] = []
        monkeypatch.setattr(connection, "on_answer", lambda: told.append("answer"))
        connection.abort(UpstreamFailure("the client left"))
        await within(1, peer.connections[0].closed.wait(), "closed")
        assert not told
        assert not connection.waiting
        with pytest.raises(UpstreamFailure, match="the client left"):
            await within(1, connection.piece())


# -- how much waits --


async def test_a_slow_reader_slows_the_upstream(peer: Peer, upstream: Upstream) -> None:
    """While no one reads, the upstream is stopped by TCP; what waits here is bounded; then all of it comes."""
    total = 64 * 1024 * 1024

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(200, (b"Content-Length", b"%d" % total)))
        while exchange.sent_bytes < total:
            await exchange.send(b"x" * 65_536)

    peer.then(script)
    async with asking(upstream) as connection:
        await within(30, connection.head())
        exchange = await peer.exchange()
        assert await until_steady(lambda: exchange.sent_bytes, 0.3) < total // 2
        size, largest = 0, 0
        while piece := await within(30, connection.piece()):
            size += len(piece)
            largest = max(largest, len(piece))
        assert largest <= HELD_BYTES
        assert size == total


async def test_a_slow_upstream_slows_an_upload(peer: Peer, upstream: Upstream) -> None:
    """The uploader is told when too much waits and when it may go on, and also when the upstream goes away."""
    peer.then(stalled)
    connection = await begun(upstream, "POST")
    connection.send(b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 999999999\r\n\r\n", is_last=False)
    exchange = await peer.exchange()
    exchange.stop_reading()
    sent = 0

    async def upload() -> None:
        nonlocal sent
        while connection.is_open:
            connection.send(b"x" * 65_536, is_last=False)
            sent += 65_536
            await connection.drain()

    uploading = asyncio.create_task(upload())
    assert await until_steady(lambda: sent, 0.3) < 64 * 1024 * 1024
    exchange.reset()
    await within(30, uploading, "the upload learns of the end")
    upstream.release(connection.connection)


async def stalled(exchange: Exchange) -> None:
    """Reads nothing and answers nothing until the test is over."""
    await exchange.closed.wait()


# -- silence --


@asynccontextmanager
async def impatient(peer: Peer, seconds: float) -> AsyncIterator[Upstream]:
    """A pool that gives up a silent upstream."""
    upstream = Upstream("127.0.0.1", peer.port, idle_timeout_seconds=seconds)
    try:
        yield upstream
    finally:
        upstream.close()


@pytest.mark.parametrize("has_head", [False, True])
async def test_a_silent_upstream_is_given_up(peer: Peer, has_head: bool) -> None:
    """No byte for the idle timeout, before the head or after it: UpstreamTimeout, and the connection is closed."""
    gated = Gated()
    peer.then(gated)
    async with impatient(peer, 0.3) as upstream, asking(upstream) as connection:
        if has_head:
            gated.head()
            await within(30, connection.head())
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout) as caught:
            await within(30, connection.piece() if has_head else connection.head())
        assert time.monotonic() - started >= 0.25
        assert caught.value.status == 504
        await within(30, (await peer.exchange()).closed.wait(), "closed")


async def test_an_upstream_that_goes_on_is_not_silent(peer: Peer) -> None:
    """Pieces that come faster than the timeout keep a stream alive for longer than it."""
    gated = Gated()
    peer.then(gated)
    async with impatient(peer, 2.0) as upstream, asking(upstream) as connection:
        gated.head()
        await within(30, connection.head())
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        for n in range(9):
            loop.call_later(0.25, gated.piece, b"%d" % n)
            assert await within(30, connection.piece()) == b"%d" % n
        assert time.monotonic() - started > 2.2
        gated.end()
        assert await within(30, connection.piece()) == b""


async def test_our_own_silence_is_not_the_upstreams(peer: Peer) -> None:
    """While a request is still being sent, or its answer is not being read, no timeout runs."""
    finished = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await finished.wait()
        await exchange.answer(200, body=b"ok")

    peer.then(script)
    loop = asyncio.get_running_loop()
    async with impatient(peer, 1.0) as upstream:
        connection = await begun(upstream, "POST")
        connection.send(b"POST /v1/x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\na", is_last=False)

        def end_request() -> None:
            connection.send(b"b", is_last=True)
            finished.set()

        loop.call_later(1.5, end_request)
        assert (await within(30, connection.head()))[0] == 200
        assert await body_of(connection) == b"ok"
        upstream.release(connection.connection)


async def test_without_a_timeout_silence_is_waited_out(peer: Peer, upstream: Upstream) -> None:
    """By default nothing limits the wait for the first byte: loading a model takes minutes."""
    gated = Gated()
    peer.then(gated)
    async with asking(upstream) as connection:
        asyncio.get_running_loop().call_later(0.7, gated.head)
        assert (await within(30, connection.head()))[0] == 200
        gated.end()
        assert await body_of(connection) == b""


# -- the readiness question --


async def test_a_status_is_asked_for(peer: Peer, upstream: Upstream) -> None:
    """get_status gives the status, reads the body away and leaves the connection good."""
    peer.models = answering(200, body=b"x" * 100_000)
    assert await upstream.get_status("/v1/models", timeout_seconds=3) == 200
    peer.models = answering(500, body=b"no")
    assert await upstream.get_status("/v1/models", timeout_seconds=3) == 500
    assert len(peer.connections) == 1


async def test_a_status_that_does_not_come_in_time(peer: Peer, upstream: Upstream) -> None:
    """A silent upstream is UpstreamTimeout after the time given, and the connection is closed."""
    peer.models = stalled
    with pytest.raises(UpstreamTimeout):
        await within(30, upstream.get_status("/v1/models", timeout_seconds=0.2))
    await within(30, peer.connections[0].closed.wait(), "closed")
