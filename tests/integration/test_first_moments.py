"""Owns what signals do to a gateway that starts, and to one that is all but gone: none is lost, none kills it.

Only the first hundredths of a second, before any line of the gateway has run, are the interpreter's.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import elapse
from tests.support.gateway import COMMAND, Gateway
from tests.support.ports import refusing_port
from tests.support.process import kill, spawn
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.scripted import Upstream

    Begin = Callable[..., Awaitable[Gateway]]


START_SECONDS = 60.0
SOON_SECONDS = 90.0  # what is left of a start, and a stop, on a busy machine


@pytest.fixture
async def begin(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Begin]:
    """Starts a gateway, and waits only until its signals wait, or until it has said that it listens."""
    begun: list[Gateway] = []

    async def begin(*, has_said: bool, **settings: str) -> Gateway:
        gateway = Gateway(tmp_path / "gateway.log", UPSTREAM_BASE=f"http://127.0.0.1:{upstream.port}", **settings)
        gateway.process = spawn(COMMAND, gateway.log_path, gateway.settings)
        begun.append(gateway)
        if has_said:
            await until(lambda: has_port(gateway), START_SECONDS, "it has the port")
        else:
            await until(lambda: signals_wait(gateway) or has_port(gateway), START_SECONDS, "signals wait, or did")
        return gateway

    yield begin
    for gateway in begun:
        await gateway.http.aclose()
        if gateway.process.poll() is None:
            await kill(gateway.process)


def has_port(gateway: Gateway) -> bool:
    """Whether it has said that it listens."""
    return "listens on" in gateway.log


def signals_wait(gateway: Gateway) -> bool:
    """Whether SIGTERM would be held back now, as the kernel has it."""
    assert gateway.process.poll() is None, gateway.log
    lines = Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines()
    (blocked,) = [int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:")]
    return bool(blocked >> (signal.SIGTERM - 1) & 1)


async def ends_well(gateway: Gateway) -> None:
    """It ends soon, with 0, and without a word about it."""
    code = await within(SOON_SECONDS, asyncio.to_thread(gateway.process.wait), "the process ends")
    assert code == 0, (code, gateway.log)
    gateway.check_log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("has_said", "later"), [(False, 0.0), (False, 0.1), (True, 0.0), (True, 0.1), (True, 0.4)])
async def test_a_gateway_that_starts_stops_when_told(begin: Begin, number: int, has_said: bool, later: float) -> None:
    """At whatever moment of the start SIGTERM or SIGINT comes, the gateway ends with 0, soon, with no traceback."""
    with refusing_port() as port:
        gateway = await begin(has_said=has_said, REDIS_URL=f"redis://127.0.0.1:{port}")
        await elapse(later, time.monotonic(), "each moment of the start is to be met")
        gateway.process.send_signal(number)
        await ends_well(gateway)


@pytest.mark.parametrize("has_said", [False, True])
async def test_a_gateway_that_starts_outlives_sighup(begin: Begin, has_said: bool) -> None:
    """SIGHUP asks for the keys to be read again; before they are read at all it changes nothing."""
    gateway = await begin(has_said=has_said)
    gateway.process.send_signal(signal.SIGHUP)
    await until(gateway.is_serving, START_SECONDS, "it serves")
    gateway.process.terminate()
    await ends_well(gateway)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_may_come_to_the_last_moment(begin: Begin, number: int) -> None:
    """A signal that is repeated until the process is gone gives the same exit code as one signal."""
    gateway = await begin(has_said=True)
    await until(gateway.is_serving, START_SECONDS, "it serves")
    gateway.process.terminate()

    def is_gone() -> bool:
        gateway.process.send_signal(number)
        return gateway.process.poll() is not None

    await until(is_gone, SOON_SECONDS, "the process ends")
    await ends_well(gateway)
