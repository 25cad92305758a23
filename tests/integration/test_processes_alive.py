"""The liveness probe against gateways that are full, frozen, silent and gone."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from typing import TYPE_CHECKING

from tests.support.ports import refusing_port
from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from tests.conftest import Launch

GATEWAY_SAYS = {0: "gateway: alive\n", 1: "gateway: no answer within 4 s\n"}


async def probed(port: int) -> int:
    """The exit code of the probe, started as in the image: by its path, in another directory."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "healthcheck" / "alive.py"),
        cwd="/",
        env=environment({"GATEWAY_PORT": str(port)}),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    assert said.decode() == GATEWAY_SAYS[process.returncode]
    return process.returncode


async def test_a_gateway_with_all_its_connections_lives(launch: Launch) -> None:
    """At MAX_CONNECTIONS the probe gets a 503 like others, and the gateway counts as alive."""
    gateway = await launch(MAX_CONNECTIONS="1")
    await gateway.http.aclose()
    client = await gateway.connect()
    assert (await client.ask("GET", "/livez")).status == 200
    assert [await probed(gateway.port) for _ in range(3)] == [0, 0, 0]
    assert "are refused" in gateway.log


async def test_a_frozen_gateway_does_not_live(launch: Launch) -> None:
    """A stopped process takes connections, but says nothing; it lives again when it goes on."""
    gateway = await launch()
    assert await probed(gateway.port) == 0
    gateway.process.send_signal(signal.SIGSTOP)
    try:
        assert await probed(gateway.port) == 1
    finally:
        gateway.process.send_signal(signal.SIGCONT)
    assert await probed(gateway.port) == 0


async def test_a_gateway_that_takes_no_connection_does_not_live() -> None:
    """Where even the queue of connections is full, the attempt ends at the limit."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (first, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        assert await probed(listener.getsockname()[1]) == 1


async def test_a_gateway_that_starts_lives() -> None:
    """A refused connection is no reason for a restart: supervisord starts the gateway, or ends all."""
    with refusing_port() as port:
        assert await probed(port) == 0
