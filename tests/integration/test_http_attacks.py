"""Owns the promises about crowds: slow attackers by the hundred, streams that idle by the thousand.

With the real numbers. slowhttptest is a Debian package: without it its test is skipped at home
and fails in CI.
"""

from __future__ import annotations

import asyncio
import csv
import os
import resource
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted import CHUNKED, EVENTS, head
from tests.support.waiting import until, until_steady, within
from tests.support.wire import LAST_CHUNK, chunk, request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream

pytestmark = pytest.mark.alone

ATTACKERS = 500


async def slowhttptest(gateway: Gateway, mode: str, folder: Path) -> list[dict[str, int]]:
    """An attack of 500 connections, all open within 2 s; the state of its sockets second by second."""
    command = shutil.which("slowhttptest")
    if command is None:
        if os.environ.get("CI"):
            raise AssertionError("slowhttptest is not installed")
        pytest.skip("slowhttptest is not installed")
    words = f"-c {ATTACKERS} -r {ATTACKERS} -i 5 -l 36 -p 3 -s 100000 -g -o {folder / mode} -u {gateway.base_url}/own"
    attack = await asyncio.create_subprocess_exec(
        command, f"-{mode}", *words.split(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await within(50, attack.communicate(), "the attack is over")
    with (folder / f"{mode}.csv").open() as table:
        rows = [{name: int(value) for name, value in row.items() if name} for row in csv.DictReader(table)]
    assert b"No open connections left" in output, output
    return rows


async def probe(gateway: Gateway, attacks: asyncio.Future[list[list[dict[str, int]]]]) -> float:
    """The slowest answer that a new client gets while the attacks last."""
    slowest = 0.0
    while not attacks.done():
        start = time.monotonic()
        assert (await within(3, gateway.ask("POST", "/v1/own", body=b"{}"), "an answer")).status == 200
        slowest = max(slowest, time.monotonic() - start)
        await until_steady(attacks.done, steady_seconds=0.05)
    return slowest


SERVED_SECONDS = 5  # an attacker holds its connection for 10 or 30 s; a busy machine takes its time, too


async def test_slow_attackers_do_not_keep_others_out(launch: Launch, upstream: Upstream, tmp_path: Path) -> None:
    """500 slow heads and 500 slow bodies: others are served throughout, and the attackers are closed within 30 s."""
    gateway = await launch()
    attacks = asyncio.ensure_future(asyncio.gather(*(slowhttptest(gateway, mode, tmp_path) for mode in "HB")))
    assert await probe(gateway, attacks) < SERVED_SECONDS
    # They end when none is connected any more; the last is connected 2 s after the first.
    for mode, rows, seconds in zip("HB", await attacks, (13, 33), strict=True):
        assert max(row["Connected"] for row in rows) == ATTACKERS, mode
        assert min(row["Service Available"] for row in rows) > 0, mode
        assert rows[-1]["Seconds"] <= seconds, (mode, rows)
    assert not any(exchange.body.complete for exchange in upstream.exchanges if exchange.body.size > 2)


STREAMS = 2_000
CHARGE_BOUND = 64 * 1024


class _Listener(asyncio.Protocol):
    """A client of a stream that only keeps what comes: 2,000 of them have to be cheap."""

    def __init__(self) -> None:
        self.got = b""
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(request("POST", "/v1/chat/completions", body=b'{"stream":true}'))

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True


async def test_two_thousand_idle_streams(launch: Launch, upstream: Upstream) -> None:
    """2,000 streams that wait cost 64 KB each at most, none breaks, and each gets the end that comes for all."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    go_on = asyncio.Event()
    end = chunk(b"data: [DONE]\n\n") + LAST_CHUNK

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(head(200, EVENTS, CHUNKED) + chunk(b"data: {}\n\n"))
        await go_on.wait()
        await exchange.send(end)

    gateway = await launch()
    assert (await gateway.ask("GET", "/v1/own")).status == 200
    upstream.default = script
    before = gateway.resident_bytes
    loop = asyncio.get_running_loop()
    listeners: list[_Listener] = []
    transports = []
    for _ in range(STREAMS):
        transport, listener = await loop.create_connection(_Listener, "127.0.0.1", gateway.port)
        transports.append(transport)
        listeners.append(listener)
    await until(lambda: all(b"data: {}" in listener.got for listener in listeners), 120, "every stream begins")
    assert (gateway.resident_bytes - before) / STREAMS < CHARGE_BOUND
    go_on.set()
    await until(lambda: all(listener.got.endswith(end) for listener in listeners), 30, "every stream ends")
    assert not any(listener.is_lost for listener in listeners)
    for transport in transports:
        transport.close()
