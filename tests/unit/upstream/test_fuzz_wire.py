"""Owns what no answer of Ollama's may do to us, however broken and however cut: the response parser, the end watch.

A corpus of good messages is mutated, the same way in every run. h11 reads the same bytes as a second opinion.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from dataclasses import dataclass

import h11
import pytest

from gateway.errors import UpstreamFailure
from gateway.relay.stream_end import Ending, end_watch
from gateway.upstream.connection import Connection
from gateway.upstream.pool import AwaitedAnswer
from tests.support.mutation import cases
from tests.support.waiting import within

RESPONSES = [
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n{\"id\":\"abc\"}\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nT: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"10\r\ndata: {\"a\":1}\n\n \r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 201 Created\r\n"
    b"Content-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nhi",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked \r\n\r\n2\r\nhi\r\n0\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\n\r\nold",
    b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n\x00\x00\x00",
]  # fmt: skip


class Transport(asyncio.Transport):
    """A transport that carries nothing and remembers that it was closed; all have one socket, which is not used."""

    socket = socket.socket()

    def __init__(self) -> None:
        super().__init__({"socket": self.socket})
        self.is_closed = False

    def is_closing(self) -> bool:
        return self.is_closed

    def abort(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        """Nothing waits to be read."""

    def resume_reading(self) -> None:
        """Nothing waits to be read."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """The request; no one reads it."""


@dataclass(slots=True)
class Seen:
    """What a request learns of its answer: 0 without a head; `failure` is empty where the message was whole."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    failure: str


async def received(pieces: list[bytes], method: str) -> Seen:
    """What comes of an answer in these pieces, behind which the connection ends."""
    connection, transport = Connection(idle_timeout_seconds=0), Transport()
    connection.connection_made(transport)
    return await ended(connection, transport, pieces, method)


async def ended(connection: Connection, transport: Transport, pieces: list[bytes], method: str) -> Seen:
    """The same on a connection that is there."""
    answer = AwaitedAnswer(connection, method)
    connection.send(b"", is_last=True)
    for piece in pieces:
        if transport.is_closed:
            break
        connection.data_received(piece)
    if not transport.is_closed:
        connection.eof_received()
    connection.connection_lost(None)
    return await within(1, taken(answer), "the answer ends")


async def taken(answer: AwaitedAnswer) -> Seen:
    """All that a request can read, to the end."""
    seen = Seen(0, [], b"", "")
    try:
        seen.status, fields = await answer.head()
        seen.fields = list(fields)
        while piece := await answer.piece():
            seen.body += piece
    except UpstreamFailure as failure:
        seen.failure = type(failure).__name__
    return seen


def second_opinion(message: bytes, method: str) -> tuple[int, bytes] | None:
    """Status and body as h11 reads them; None where it finds no whole message."""
    peer = h11.Connection(h11.CLIENT)
    peer.send(h11.Request(method=method, target="/", headers=[("host", "x")]))
    peer.send(h11.EndOfMessage())
    status, body = 0, b""
    try:
        peer.receive_data(message)
        peer.receive_data(b"")
        while True:
            match peer.next_event():
                case h11.Response(status_code=code):
                    status = code
                case h11.Data(data=data):
                    body += bytes(data)
                case h11.EndOfMessage():
                    return status, body
                case h11.NEED_DATA | h11.PAUSED | h11.ConnectionClosed():
                    return None
    except h11.RemoteProtocolError:
        return None


@pytest.mark.parametrize("method", ["POST", "HEAD"])
async def test_no_answer_harms_the_parser(method: str) -> None:
    """It never raises, always ends, reads the same however the bytes are cut, and no other message than h11."""
    ends: Counter[str] = Counter()
    for message, pieces in cases(RESPONSES, 20_000):
        whole, cut = await received([message], method), await received(pieces, method)
        assert cut == whole, (message, pieces)
        ends[whole.failure] += 1
        opinion = second_opinion(message, method)
        if opinion and not whole.failure:
            ends["agreed"] += 1
            assert (whole.status, whole.body) == opinion, message
    assert min(ends[""], ends["UpstreamBroken"], ends["agreed"]) > ends.total() / 20


async def test_what_follows_a_message_is_judged_alone() -> None:
    """Whatever came before it on a kept connection, a message is read as it is on a new one."""
    followed = 0
    messages = list(cases(RESPONSES, 20_000))
    for number, ((_, odd), (message, pieces)) in enumerate(zip(messages, reversed(messages), strict=True)):
        before = odd if number % 2 else [RESPONSES[number // 2 % len(RESPONSES)]]
        connection, transport = Connection(idle_timeout_seconds=0), Transport()
        connection.connection_made(transport)
        AwaitedAnswer(connection, "GET")
        connection.send(b"", is_last=True)
        for piece in before:
            if not transport.is_closed:
                connection.data_received(piece)
        connection.take()
        if connection.is_reusable:
            followed += 1
            connection.leave()
            assert await ended(connection, transport, pieces, "POST") == await received(pieces, "POST"), (
                before,
                message,
            )
        else:
            connection.connection_lost(None)
    assert followed > len(messages) / 6


STREAMS = {
    b"/v1/chat/completions": [
        b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n',
        b'data: {"choices":[]}\r\n\r\n: a comment\r\n\r\ndata:[DONE]\r\n\r\n',
        b'data: {"x":"data: [DONE]"}\n\ndata: {"error":{"message":"no"}}\n\n',
        b'event: error\ndata: {"message":"x"}\n\n',
    ],
    b"/v1/responses": [
        b'event: response.created\ndata: {"type":"response.created"}\n\n'
        b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n',
        b'data: {"type":"response.output_text.delta"}\n\ndata: {"type":"response.incomplete"}\n\n',
        b'event: response.failed\ndata: {}\n\n',
    ],
    b"/v1/messages": [
        b'event: message_start\ndata: {"type":"message_start"}\n\n'
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        b'event: ping\rdata: {}\r\revent: error\rdata: {"type":"error"}\r\r',
    ],
}  # fmt: skip


def ending(path: bytes, pieces: list[bytes]) -> Ending | None:
    """What a stream on `path` says of its end."""
    watch = end_watch(path)
    assert watch is not None
    for piece in pieces:
        found = watch.feed(piece)
        if found is not None:
            return found
    return watch.at_end()


@pytest.mark.parametrize("path", STREAMS)
def test_no_stream_confuses_the_watch(path: bytes) -> None:
    """It never raises and finds the same end however the bytes are cut."""
    ends = set()
    for message, pieces in cases(STREAMS[path], 20_000):
        whole = ending(path, [message])
        assert ending(path, pieces) == whole, (message, pieces)
        ends.add(whole)
    assert ends == {*Ending, None}


def test_the_corpora_differ_from_run_to_run_by_nothing() -> None:
    """The same seed gives the same cases, so that a failure in CI is one at home."""
    runs = [list(itertools.islice(cases(RESPONSES, 200), 200)) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len({message for message, _ in runs[0]}) > 150
