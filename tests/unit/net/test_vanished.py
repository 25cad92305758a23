"""Owns how a peer that vanished without a word is told from one that is alive and takes nothing.

A vanished peer is a socket whose kernel drops all that comes: it acknowledges nothing, and says nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.errors import UpstreamBroken
from gateway.net import vanished
from gateway.net.vanished import KEEPALIVE, SILENCE_SECONDS, Debt
from gateway.upstream.pool import AwaitedAnswer, Upstream
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SO_ATTACH_FILTER = 26


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Where the upstream would listen; it reads and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds are tenths, and the kernel asks after one second, twice."""
    monkeypatch.setattr(vanished, "SILENCE_SECONDS", 1.0)
    monkeypatch.setattr(vanished, "_TICK_SECONDS", 0.1)
    monkeypatch.setattr(vanished, "_LOOK_SECONDS", 0.1)
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    short = [(level, name, 1 if name in names else value) for level, name, value in KEEPALIVE]
    monkeypatch.setattr(vanished, "KEEPALIVE", short)


def vanish(peer: socket.socket) -> None:
    """From here on nothing reaches the peer, as if its machine had lost its power (Linux, socket(7))."""
    drop_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
    peer.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(drop_all)))


async def asked(listener: socket.socket, body: bytes = b"") -> tuple[AwaitedAnswer, socket.socket, Upstream]:
    """An exchange that waits for its answer, and the peer's end of it."""
    upstream = Upstream("127.0.0.1", listener.getsockname()[1])
    connection = await upstream.open()
    peer, _ = listener.accept()
    answer = AwaitedAnswer(connection, "POST")
    connection.send(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body) + body, is_last=True)
    return answer, peer, upstream


@pytest.mark.usefixtures("hurried")
async def test_a_peer_that_acknowledges_nothing_is_given_up(listener: socket.socket) -> None:
    """An upstream that vanished before the request reached it is noticed, and called by its name."""
    upstream = Upstream("127.0.0.1", listener.getsockname()[1])
    connection = await upstream.open()
    peer, _ = listener.accept()
    with peer:
        vanish(peer)
        answer = AwaitedAnswer(connection, "GET")
        connection.send(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n", is_last=True)
        with pytest.raises(UpstreamBroken, match="no longer answers"):
            await within(30, answer.head())


@pytest.mark.usefixtures("hurried")
async def test_a_peer_that_is_waited_for_is_asked_after(listener: socket.socket) -> None:
    """An upstream that took the request and then vanished is noticed by the kernel's own probes."""
    answer, peer, _ = await asked(listener)
    with peer:
        received = await asyncio.get_running_loop().run_in_executor(None, peer.recv, 1000)
        assert received.startswith(b"POST")
        await until(lambda: not unacknowledged(answer), what="the request is acknowledged")
        vanish(peer)
        with pytest.raises(UpstreamBroken):
            await within(30, answer.head())


@pytest.mark.usefixtures("hurried")
async def test_a_peer_with_a_closed_window_is_alive(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upstream that takes nothing more for a long time, but acknowledges that, is waited for."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    answer, peer, upstream = await asked(listener, bytes(4_000_000))
    with peer:
        looks = counted_looks(upstream, monkeypatch)
        await until(lambda: looks() > 40, 60, "four times the silence that is allowed has passed")
        assert answer._connection.is_open
        upstream.release(answer._connection)
        await until(lambda: not answer._connection.is_open)


def unacknowledged(answer: AwaitedAnswer) -> int:
    """Segments that the peer has not acknowledged."""
    transport = cast("asyncio.Transport", answer._connection._transport)
    info = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[24:28], sys.byteorder)


def counted_looks(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the pool's connections were looked at since."""
    count = 0
    look = upstream._peers._look_at

    def counting(*arguments: Any) -> None:
        nonlocal count
        count += 1
        look(*arguments)

    monkeypatch.setattr(upstream._peers, "_look_at", counting)
    return lambda: count


def info(*, probes: int = 0, unacknowledged: int = 0, silent_ms: int = 0) -> bytes:
    """Linux's tcp_info, as far as it counts here."""
    return bytes([1, 0, 0, probes]) + bytes(20) + struct.pack("I28xI", unacknowledged, silent_ms)


@pytest.mark.parametrize("owed", [{"probes": 1}, {"unacknowledged": 3}])
def test_a_debt_is_overdue_after_a_silence(owed: dict[str, int]) -> None:
    """Data or a probe without an acknowledgement, and not a word for the time allowed: the peer has vanished."""
    debt = Debt()
    assert not debt.is_overdue(info(**owed, silent_ms=900_000), 1000.0), "it may owe since a moment only"
    assert not debt.is_overdue(info(**owed, silent_ms=910_000), 1010.0)
    assert debt.is_overdue(info(**owed, silent_ms=990_000), 1000.0 + SILENCE_SECONDS)


@pytest.mark.parametrize("owed", [{"probes": 1}, {"unacknowledged": 3}])
def test_whoever_is_heard_is_alive(owed: dict[str, int]) -> None:
    """A peer that always owes something, and is always heard, is never given up; the time counts from its last word."""
    debt = Debt()
    for second in range(0, 1000, 15):
        assert not debt.is_overdue(info(**owed, silent_ms=20_000), second)
    assert not debt.is_overdue(info(**owed, silent_ms=int(SILENCE_SECONDS * 1000) - 1000), 1064.0)
    assert debt.is_overdue(info(**owed, silent_ms=int(SILENCE_SECONDS * 1000) + 1000), 1066.0)


def test_who_owes_nothing_may_be_silent() -> None:
    """A peer that has acknowledged all may say nothing for ever: keepalive looks after it."""
    debt = Debt()
    assert not debt.is_overdue(info(unacknowledged=1), 0.0)
    assert not debt.is_overdue(info(silent_ms=900_000), 900.0)
    assert not debt.is_overdue(info(unacknowledged=1, silent_ms=1_800_000), 1800.0)


def test_the_times_are_those_that_are_promised() -> None:
    """A minute where a peer is waited for, two where it owes an acknowledgement, with two looks in between."""
    seconds = {name: value for _, name, value in KEEPALIVE}
    asked_for = seconds[socket.TCP_KEEPINTVL] * seconds[socket.TCP_KEEPCNT]
    assert seconds[socket.TCP_KEEPIDLE] + asked_for <= 60
    assert SILENCE_SECONDS + 2 * vanished._LOOK_SECONDS <= 120
