"""Owns the programs on the machines: gateways with a scripted upstream each, and the store that they share.

The tests run on the client's machine: while a cluster is open, every socket that a test makes is there.
"""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis.asyncio

from tests.cluster.machines import Machine, Network
from tests.support.gateway import COMMAND, Gateway
from tests.support.process import kill
from tests.support.scripted import Upstream
from tests.support.store import Store
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable

GATEWAY_PORT = 11535
OLLAMA_PORT = 11434
STORE_PORT = 6379
CLOCK = Path(__file__).parent / "clock"
# Heartbeats and notices are as short as they may be, so that the tests are; a drain ends with its last request.
# `Cluster` takes other settings, too.
SETTINGS = {"HEARTBEAT_SEC": "1", "DRAIN_SEC": "30", "DRAIN_NOTICE_SEC": "2"}


class ClusterGateway(Gateway):
    """A gateway on a machine of its own."""

    def __init__(self, machine: Machine, log: Path, **settings: str) -> None:
        self.machine = machine
        self.host = machine.address
        super().__init__(log, **({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_PORT": str(GATEWAY_PORT)} | settings))

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self.machine.spawn(COMMAND, self.log_path, self.settings)


class ClusterStore(Store):
    """A store on a machine of its own; the tests reach it by the network."""

    def __init__(self, machine: Machine, directory: Path) -> None:
        super().__init__(directory)
        self.machine = machine
        self.port = STORE_PORT
        self.url = f"redis://{machine.address}:{self.port}/0"
        self.client = redis.asyncio.Redis(host=machine.address, port=self.port, decode_responses=True)

    async def start(self, *arguments: str) -> None:
        """Start the server, with further arguments, and wait until it answers."""
        command = [self.program, "--port", str(self.port), "--bind", self.machine.address]
        command += ["--protected-mode", "no", "--save", "", "--dir", str(self.directory), *arguments]
        self.process = self.machine.spawn(command, self.directory / "store.log", {})
        await until(self._is_up, 30, "the store answers")


class Node:
    """A machine with a gateway and its upstream. The gateway can be stopped, killed and started again."""

    def __init__(self, machine: Machine, directory: Path, clock_shift_seconds: float, settings: dict[str, str]) -> None:
        self.machine = machine
        self.upstream = Upstream()
        self.log_path = directory / f"{machine.name}.log"
        self.settings = {"UPSTREAM_BASE": f"http://127.0.0.1:{OLLAMA_PORT}", "GATEWAY_INSTANCE": machine.name}
        if clock_shift_seconds:
            self.settings |= {"PYTHONPATH": str(CLOCK), "CLOCK_SHIFT_SEC": str(clock_shift_seconds)}
        self.settings |= settings
        self.gateway = self._new_gateway()

    def __repr__(self) -> str:
        return repr(self.machine)

    def _new_gateway(self) -> ClusterGateway:
        return ClusterGateway(self.machine, self.log_path, **self.settings)

    async def start_upstream(self) -> None:
        """Let the upstream listen on this machine's loopback address."""
        with self.machine.inside():
            sock = socket.create_server(("127.0.0.1", OLLAMA_PORT), backlog=128)
        await self.upstream.start(sock=sock)

    async def start(self) -> None:
        """Start the gateway and wait until it is ready; its clients find the same address as before."""
        if hasattr(self.gateway, "process"):
            await self._close_clients()
            self.gateway = self._new_gateway()
        await self.gateway.start()
        await until(self.is_ready, what=f"{self} is ready")

    async def is_ready(self) -> bool:
        """Whether the gateway says that it is."""
        return (await self.gateway.http.get("/readyz")).status_code == 200

    async def stop(self) -> None:
        """End the gateway with SIGTERM, as an upgrade does; it exits with 0 and leaves no traceback."""
        await self.gateway.stop()

    async def restart(self) -> None:
        """Stop the gateway and start it again."""
        await self.stop()
        await self.start()

    async def kill(self) -> None:
        """End the gateway with SIGKILL. Its connections are reset by the kernel."""
        await kill(self.gateway.process)
        await self._close_clients()

    async def close(self) -> None:
        """End all that runs on the machine, without judging it."""
        if hasattr(self.gateway, "process"):
            await kill(self.gateway.process)
        await self._close_clients()
        if hasattr(self.upstream, "server"):
            await self.upstream.stop()

    async def _close_clients(self) -> None:
        await self.gateway.http.aclose()
        await self.gateway.close_clients()


class Cluster:
    """Nodes, a store and a client, a machine each; more machines can be added. Open with `async with`."""

    def __init__(
        self, directory: Path, count: int = 3, clock_shifts_seconds: tuple[float, ...] = (), **settings: str
    ) -> None:
        self.directory = directory
        self.network = Network()
        self.client = self.network.add("client")
        self._closers = contextlib.AsyncExitStack()
        self._stack = contextlib.AsyncExitStack()
        self._stack.callback(self.network.close)
        # The clients of store and gateways are made inside, since some open their sockets at once.
        self._stack.enter_context(self.client.inside())
        self.store = ClusterStore(self.network.add("store"), directory)
        self.settings = {"REDIS_URL": self.store.url} | SETTINGS | settings
        shifts = clock_shifts_seconds or (0.0,) * count
        self.nodes = [
            Node(self.network.add(f"node-{i}"), directory, shift, self.settings)
            for i, shift in enumerate(shifts, start=1)
        ]

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def _start(self) -> None:
        await self.store.start()
        for node in self.nodes:
            await node.start_upstream()
        for node in self.nodes:
            await node.start()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every program and leave the client's machine."""
        await self._closers.aclose()
        for node in self.nodes:
            await node.close()
        await self.store.close()
        await self._stack.aclose()

    def cut(self, machine: Node | Machine | ClusterStore, *others: Node | Machine | ClusterStore) -> None:
        """Lose every packet between a machine and others (all others, if none is named)."""
        self.network.cut(_machine(machine), *map(_machine, others))

    def heal(self, machine: Node | Machine | ClusterStore, *others: Node | Machine | ClusterStore) -> None:
        """End the cuts between a machine and others (all others, if none is named)."""
        self.network.heal(_machine(machine), *map(_machine, others))

    def at_end(self, close: Callable[[], Awaitable[object]]) -> None:
        """Call `close` when the cluster ends: for programs on machines that a test adds."""
        self._closers.push_async_callback(close)

    async def repair(self) -> None:
        """Make ready for the next test: every gateway runs and is ready, no upstream has a script or a record left."""
        for node in self.nodes:
            await node.upstream.forget()
            if node.gateway.process.poll() is not None:
                await node.start()
        for node in self.nodes:
            await node.gateway.close_clients()
            await until(node.is_ready, what=f"{node} is ready")

    async def ask_all(self, task_id: str) -> list[dict[str, Any]]:
        """What each node says of a task."""
        return [await node.gateway.status(task_id) for node in self.nodes]


def _machine(place: Node | Machine | ClusterStore) -> Machine:
    return place if isinstance(place, Machine) else place.machine
