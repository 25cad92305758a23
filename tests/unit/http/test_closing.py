"""How a connection closes: each reason in its way, and never back to an earlier phase."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.http import closing, limits
from gateway.http.closing import Lifecycle, Phase, Reason, Way
from gateway.net.deadline import Deadline


class Transport:
    """A transport that remembers what was done to it, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.waiting_bytes = 0

    def is_closing(self) -> bool:
        """Whether it was closed."""
        return not {"close", "abort"}.isdisjoint(self.done)

    def close(self) -> None:
        """Close once all is sent."""
        self.done.append("close")

    def abort(self) -> None:
        """Close now."""
        self.done.append("abort")

    def write_eof(self) -> None:
        """Send a FIN."""
        self.done.append("eof")

    def resume_reading(self) -> None:
        """Read, also if reading was paused."""
        self.done.append("read")

    def get_write_buffer_size(self) -> int:
        """What is not sent yet."""
        return self.waiting_bytes

    def get_extra_info(self, name: str) -> Any:
        """A socket that can be told to reset."""
        return SimpleNamespace(setsockopt=lambda *_: self.done.append("reset"))


def connection() -> tuple[Lifecycle, Transport]:
    """An open connection, whose deadline no one waits for."""
    loop, transport = asyncio.get_running_loop(), Transport()
    as_transport: Any = transport
    return Lifecycle(loop, as_transport, Deadline(loop, lambda: None)), transport


DONE = {
    Way.LINGER: (Phase.LINGERING, ["eof", "read"]),
    Way.FLUSH: (Phase.FLUSHING, ["close"]),
    Way.ABORT: (Phase.CLOSED, ["abort"]),
    Way.RESET: (Phase.CLOSED, ["reset", "abort"]),
}


@pytest.mark.parametrize("is_sending", [False, True])
@pytest.mark.parametrize("reason", Reason)
async def test_each_reason_closes_in_its_way(reason: Reason, is_sending: bool) -> None:
    """A client that is still sending gets the time to read an answer, unless the reason is against that."""
    lifecycle, transport = connection()
    way = closing._WAYS[reason]
    if way is Way.FINISH:
        way = Way.LINGER if is_sending else Way.FLUSH
    lifecycle.close(reason, is_sending=is_sending)
    assert (lifecycle.phase, transport.done) == DONE[way]
    assert lifecycle.is_closing


@pytest.mark.parametrize("reason", Reason)
async def test_a_server_that_stops_waits_for_no_client(reason: Reason) -> None:
    """Nothing lingers at the server's end."""
    lifecycle, _ = connection()
    lifecycle.stop()
    assert not lifecycle.is_closing
    lifecycle.close(reason, is_sending=True)
    assert lifecycle.phase in (Phase.FLUSHING, Phase.CLOSED)


@pytest.mark.parametrize("first", Reason)
@pytest.mark.parametrize("second", Reason)
async def test_a_phase_never_goes_back(first: Reason, second: Reason) -> None:
    """A second reason changes nothing, but an abort or a reset ends a gentle close."""
    lifecycle, transport = connection()
    lifecycle.close(first, is_sending=True)
    phase, done = lifecycle.phase, transport.done[:]
    lifecycle.stop()
    lifecycle.close(second, is_sending=True)
    if phase is not Phase.CLOSED and closing._WAYS[second] in (Way.ABORT, Way.RESET):
        assert lifecycle.phase is Phase.CLOSED
        assert transport.done[-1] == "abort"
    else:
        assert (lifecycle.phase, transport.done) == (phase, done)
    lifecycle.lost()
    assert lifecycle.phase is Phase.CLOSED


async def test_lingering_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lingering ends by a silence once the answer is sent, by too many bytes, or when its time is over."""
    lifecycle, transport = connection()
    lifecycle.close(Reason.REFUSED, is_sending=True)
    assert lifecycle.on_dropped(limits.LINGER_BYTES)
    assert not lifecycle.on_dropped(1)
    transport.waiting_bytes = 1
    assert lifecycle.on_silence(), "the answer is still on its way"
    transport.waiting_bytes = 0
    assert not lifecycle.on_silence()
    monkeypatch.setattr(limits, "LINGER_SECONDS", -1.0)
    late, waiting = connection()
    waiting.waiting_bytes = 1
    late.close(Reason.REFUSED, is_sending=True)
    assert not late.on_silence()
    assert not late.on_dropped(1)
