"""Owns odd answers: an upstream that ends each message in one of many ways, clients that know what is theirs, rounds.

Each request names its mark and the ending it wants in its target, and each answer is made of that mark alone; what the
upstream sends beside it is made of EVIL. A round is one request of every client. Between two rounds the gateway is
stopped: so what an upstream says late lies in the sockets when the next requests do. tests/chaos/test_odd_answers.py
calls it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.support.scripted import CHUNKED, head
from tests.support.waiting import until, within
from tests.support.wire import LAST_CHUNK, chunk, request, set_reset_on_close

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.support.gateway import Gateway

EVIL = head(200, (b"X-Mark", b"evil"), (b"Content-Length", b"9")) + b"evil;evil"
WHOLE, EMPTY, BROKEN, ERROR = "whole", "empty", "broken off", "an error of the gateway's"


def body(mark: bytes) -> bytes:
    """The body that belongs to a mark; its length is the mark's as well."""
    return (mark + b";") * (int(mark) % 23 + 1)


def length(mark: bytes, *, more: int = 0, status: int = 200) -> bytes:
    """A head with the length of the body, and perhaps of more."""
    return head(status, (b"X-Mark", mark), (b"Content-Length", b"%d" % (len(body(mark)) + more)))


def coded(mark: bytes) -> bytes:
    """A head of a chunked body."""
    return head(200, (b"X-Mark", mark), CHUNKED)


def plain(mark: bytes) -> bytes:
    """A good answer, framed by its length."""
    return length(mark) + body(mark)


def chunks(mark: bytes, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    """A good answer in two chunks, with what may stand between and behind them."""
    whole, half = body(mark), len(body(mark)) // 2
    parts = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in (whole[:half], whole[half:]) if part]
    return coded(mark) + b"".join(parts) + b"0\r\n" + trailers + b"\r\n"


@dataclass(frozen=True)
class Ending:
    """What is sent, what is done behind it, what is sent once the client has its answer, what may become of it."""

    make: Callable[[bytes], bytes]
    outcomes: tuple[str, ...] = (WHOLE,)
    then: str = "keep"
    late: bytes | None = None  # b"": a FIN
    method: str = "GET"
    is_cut: bool = False  # goes out byte by byte


ENDINGS = [
    Ending(plain),
    Ending(plain, method="POST"),
    Ending(plain, method="early"),
    Ending(plain, is_cut=True),
    Ending(chunks),
    Ending(chunks, is_cut=True),
    Ending(lambda m: chunks(m, extension=b";x=1")),
    Ending(lambda m: chunks(m, b"Content-Length: 0\r\n")),
    Ending(lambda m: chunks(m, b"Transfer-Encoding: gzip\r\nX: y\r\n"), is_cut=True),
    Ending(lambda m: chunks(m, b"Connection: close\r\n")),
    Ending(lambda m: chunks(m).replace(b"chunked", b"chunked \t", 1)),
    Ending(lambda m: plain(m).replace(b"\r\n\r\n", b" \t\r\n\r\n", 1)),
    Ending(lambda m: head(100) + head(103, (b"Link", b"</x>")) + plain(m)),
    Ending(lambda m: head(102) + chunks(m), is_cut=True),
    Ending(lambda m: head(200, (b"X-Mark", m)) + body(m), then="close"),
    Ending(plain, then="close"),
    Ending(plain, then="reset", outcomes=(WHOLE, BROKEN, ERROR)),
    Ending(lambda m: head(204, (b"X-Mark", m)), (EMPTY,)),
    Ending(lambda m: length(m, status=304), (EMPTY,)),
    Ending(lambda m: head(204, (b"X-Mark", m)) + EVIL, (EMPTY,)),
    Ending(lambda m: length(m, status=304), (EMPTY,), late=EVIL),
    Ending(lambda m: head(304, (b"X-Mark", m), CHUNKED), (EMPTY,), late=chunk(EVIL) + LAST_CHUNK),
    Ending(length, (EMPTY,), method="HEAD"),
    Ending(lambda m: length(m) + EVIL, (EMPTY,), method="HEAD"),
    Ending(coded, (EMPTY,), method="HEAD", late=EVIL),
    # a second answer, at once or late
    Ending(lambda m: plain(m) + EVIL),
    Ending(lambda m: chunks(m) + EVIL, is_cut=True),
    Ending(lambda m: chunks(m, b"X: y\r\n") + b"HTTP/1.1 2"),
    Ending(lambda m: plain(m) + b"\r\n"),
    Ending(plain, late=EVIL),
    Ending(chunks, late=EVIL),
    Ending(plain, late=head(408, (b"Connection", b"close"), (b"Content-Length", b"0"))),
    Ending(plain, late=head(100)),
    Ending(chunks, late=b"\r\n"),
    Ending(plain, late=b""),
    # what splits an answer
    Ending(lambda m: head(150, (b"Content-Length", b"%d" % len(EVIL))) + EVIL + plain(m), (ERROR,)),
    Ending(lambda m: head(104, CHUNKED) + chunk(EVIL) + LAST_CHUNK + plain(m), (ERROR,)),
    Ending(lambda m: head(199, (b"Transfer-Encoding", b"chunked\t")) + chunk(EVIL) + plain(m), (ERROR,)),
    Ending(lambda m: head(100) + b"evil" + plain(m), (ERROR,)),
    Ending(lambda m: head(200, CHUNKED, (b"Content-Length", b"3")) + body(m) + EVIL, (ERROR,)),
    Ending(lambda m: head(200, CHUNKED, CHUNKED) + chunk(chunk(EVIL) + LAST_CHUNK) + LAST_CHUNK, (ERROR,)),
    Ending(lambda m: head(200, (b"Content-Length", b"3"), (b"Content-Length", b"4")) + EVIL, (ERROR,)),
    # messages that break off
    Ending(lambda m: b"", (ERROR,), then="close"),
    Ending(lambda m: b"", (ERROR,), then="reset", method="POST"),
    Ending(lambda m: plain(m)[:12], (ERROR,), then="close"),
    Ending(lambda m: length(m, more=5) + body(m), (BROKEN,), then="close"),
    Ending(lambda m: length(m, more=5) + body(m), (BROKEN, ERROR), then="reset"),
    Ending(lambda m: chunks(m).removesuffix(b"0\r\n\r\n"), (BROKEN,), then="close"),
    Ending(lambda m: chunks(m).removesuffix(b"\r\n"), (BROKEN,), then="close"),
    Ending(lambda m: chunks(m).removesuffix(b"0\r\n\r\n") + b"zz\r\n" + EVIL, (BROKEN,)),
    Ending(lambda m: coded(m) + chunk(body(m))[:-2] + EVIL, (BROKEN,)),
    Ending(lambda m: chunks(m, b"X: y\r\n" * 12_000), (BROKEN,)),
    Ending(lambda m: coded(m) + chunk(body(m)) + b"5;" + b"x" * 70_000, (BROKEN,)),
]


class Peer(asyncio.Protocol):
    """One connection of the upstream."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.got = b""
        self.is_lost = False
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The gateway has connected."""
        self.transport = transport
        self.trial.connections += 1
        self.trial.peers.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone, by whomever."""
        self.is_lost = True
        self.trial.peers.discard(self)

    def data_received(self, data: bytes) -> None:
        """A request is answered as soon as its head is whole; what comes of a body is dropped."""
        self.got += data
        while (end := self.got.find(b"\r\n\r\n")) >= 0:
            target = self.got.split(b" ", 2)[1]
            self.got = self.got[end + 4 :]
            if self.got.startswith(b"body"):
                self.got = self.got[4:]
            _, _, mark, number = target.split(b"/")
            self.answer(mark, ENDINGS[int(number)])

    def answer(self, mark: bytes, ending: Ending) -> None:
        """All that this ending sends at once."""
        message = ending.make(mark)
        if ending.is_cut:
            for i in range(len(message)):
                self.transport.write(message[i : i + 1])
        else:
            self.transport.write(message)
        if ending.then == "reset":
            set_reset_on_close(self.transport.get_extra_info("socket"))
        if ending.then != "keep":
            self.transport.close()
        if ending.late is not None:
            self.trial.late.append((self, ending.late))

    def say_late(self, data: bytes) -> None:
        """Bytes that were not asked for, or a FIN: they are in the gateway's socket when this returns."""
        if self.is_lost or self.transport.is_closing():
            return
        with contextlib.suppress(ConnectionError):  # the gateway has closed it
            if data:
                os.write(self.transport.get_extra_info("socket").fileno(), data)
            else:
                self.transport.write_eof()
            self.trial.said_late += 1


class Caller(asyncio.Protocol):
    """One client: a connection as long as it lasts, one request at a time, every byte that comes."""

    def __init__(self) -> None:
        self.got = b""
        self.method = ""
        self.is_lost = True
        self.transport: Any = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The gateway is there."""
        self.transport, self.is_lost = transport, False

    def ask(self, mark: bytes, number: int) -> None:
        """The next request; `early` sends half of its body."""
        self.got, self.done = b"", asyncio.get_running_loop().create_future()
        method = self.method = ENDINGS[number].method
        target = f"/v1/{mark.decode()}/{number}"
        if method in ("POST", "early"):
            data = request("POST", target, (b"Content-Length", b"4" if method == "POST" else b"8"), (b"X-Mark", mark))
            self.transport.write(data + b"body")
        else:
            self.transport.write(request(method, target))

    def data_received(self, data: bytes) -> None:
        """Some of the answer."""
        self.got += data
        if not self.done.done() and answer_of(self.got, self.method)[1]:
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The gateway has closed."""
        self.is_lost = True
        if not self.done.done():
            self.done.set_result(None)


def answer_of(got: bytes, method: str) -> tuple[bytes, bool, bytes, bytes]:
    """Head, whether the message is whole by it, body, and what stands behind that."""
    first, end, rest = got.partition(b"\r\n\r\n")
    if not end:
        return first, False, b"", b""
    fields = dict(line.lower().split(b": ", 1) for line in first.split(b"\r\n")[1:])
    if method == "HEAD" or first.split()[1] in (b"204", b"304"):
        return first, True, b"", rest
    if b"content-length" in fields:
        size = int(fields[b"content-length"])
        return first, len(rest) >= size, rest[:size], rest[size:]
    return first, *unchunked(rest)


def unchunked(rest: bytes) -> tuple[bool, bytes, bytes]:
    """Whether a chunked body is whole, its bytes so far, and what stands behind it."""
    found = b""
    while True:
        line, end, behind = rest.partition(b"\r\n")
        if not end:
            return False, found, b""
        size = int(line, 16)
        if not size:
            return behind.startswith(b"\r\n"), found, behind[2:]
        found, rest = found + behind[:size], behind[size + 2 :]
        if len(behind) < size + 2:
            return False, found, b""


class Trial:
    """Clients and the upstream, around one gateway with one pool."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.connections = 0
        self.said_late = 0
        self.callers: list[Caller] = []
        self.peers: set[Peer] = set()
        self.late: list[tuple[Peer, bytes]] = []
        self.asked = 0
        self.outcomes: Counter[tuple[int, str]] = Counter()

    async def listen(self) -> int:
        """The upstream's port."""
        self.server = await asyncio.get_running_loop().create_server(lambda: Peer(self), "127.0.0.1", 0)
        port: int = self.server.sockets[0].getsockname()[1]
        return port

    async def run(self, gateway: Gateway, rounds: int, clients: int) -> None:
        """So many rounds of requests by so many clients."""
        callers = self.callers = [await self._connected(gateway) for _ in range(clients)]
        for _ in range(rounds):
            for i, caller in enumerate(callers):
                first, _, _, behind = answer_of(caller.got, caller.method)
                assert not behind, caller.got
                if caller.is_lost or b"connection: close" in first:
                    caller.transport.abort()
                    callers[i] = await self._connected(gateway)
            asked = self._ask_while_stopped(gateway, callers)
            await within(30, asyncio.gather(*(caller.done for caller in callers)), "each has its answer")
            for caller, (mark, number) in zip(callers, asked, strict=True):
                outcome = judged(caller, mark)
                assert outcome in ENDINGS[number].outcomes, (number, outcome, caller.got)
                self.outcomes[number, outcome] += 1

    async def close(self) -> None:
        """No connection is left open."""
        self.server.close()
        ends: list[Caller | Peer] = [*self.callers, *self.peers]
        for end in ends:
            end.transport.abort()
        await until(lambda: all(end.is_lost for end in ends), what="all are closed")

    async def _connected(self, gateway: Gateway) -> Caller:
        _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", gateway.port)
        return caller

    def _ask_while_stopped(self, gateway: Gateway, callers: list[Caller]) -> list[tuple[bytes, int]]:
        asked = []
        gateway.process.send_signal(signal.SIGSTOP)
        try:
            late, self.late = self.late, []
            for peer, data in late:
                peer.say_late(data)
            for caller in callers:
                self.asked += 1
                asked.append((b"%d" % (100_000 + self.asked), self.chance.randrange(len(ENDINGS))))
                caller.ask(*asked[-1])
        finally:
            gateway.process.send_signal(signal.SIGCONT)
        return asked


def judged(caller: Caller, mark: bytes) -> str:
    """What became of a request; AssertionError where a byte is not its own."""
    first, is_whole, found, behind = answer_of(caller.got, caller.method)
    assert not behind, caller.got
    status = first.split()[1] if first else b""
    if status == b"502":
        assert is_whole, caller.got
        assert b'"code":"upstream_error"' in found, caller.got
        return ERROR
    assert b"x-mark: " + mark + b"\r\n" in first + b"\r\n", caller.got
    assert body(mark).startswith(found), caller.got
    if not is_whole:
        return BROKEN
    if status != b"200" or caller.method == "HEAD":
        return EMPTY
    return WHOLE if found == body(mark) else "cut"
