"""The machines that the other tests of this directory stand on do what they say."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.cluster.conftest import NewCluster
    from tests.cluster.nodes import Cluster, Node


STARTED = re.compile(r"(ollama_gateway_)?process_start_time_seconds \d")


async def says_store_is(node: Node, condition: str) -> bool:
    """Whether the node's /readyz says so."""
    return bool((await node.gateway.http.get("/readyz")).json()["store"] == condition)


async def test_a_cluster_serves(cluster: Cluster) -> None:
    """Each node relays, and each knows the tasks of the others."""
    for node in cluster.nodes:
        answer = await node.gateway.http.post(CHAT, content=BODY)
        assert answer.status_code == 200
        told = await cluster.ask_all(answer.headers["X-Task-Id"])
        assert [document["state"] for document in told] == ["SUCCESS"] * 3
        assert {document["extensions"]["instance"] for document in told} == {node.machine.name}


async def test_a_cut_is_silent_and_heals(cluster: Cluster) -> None:
    """A cut between two machines parts these two alone, ends no connection by itself, and heals."""
    first, other, _ = cluster.nodes
    cluster.cut(first, cluster.store)
    await until(lambda: says_store_is(first, "down"), what="the node misses its store")
    assert await says_store_is(other, "up")
    cluster.heal(first, cluster.store)
    await until(lambda: says_store_is(first, "up"), what="the node has its store again")
    cluster.cut(first)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.open_connection(first.machine.address, first.gateway.port), 1)
    cluster.heal(first)
    assert await says_store_is(first, "up")


async def test_nodes_have_clocks_of_their_own(new_cluster: NewCluster) -> None:
    """A node's wall clock can be set apart from the others'."""
    async with new_cluster(clock_shifts_seconds=(90, -90)) as cluster:
        for node, shift in zip(cluster.nodes, (90, -90), strict=True):
            answer = await node.gateway.http.get("/metrics")
            (line,) = [line for line in answer.text.splitlines() if STARTED.match(line)]
            assert abs(float(line.split()[1]) - time.time() - shift) < 45


async def test_a_killed_node_comes_back(cluster: Cluster) -> None:
    """A node that was killed starts again at the same address."""
    node = cluster.nodes[0]
    await node.kill()
    await node.start()
    assert (await node.gateway.http.post(CHAT, content=BODY)).status_code == 200


KILLED = """
import asyncio, os, pathlib, sys
from tests.cluster.nodes import Cluster
async def main():
    async with Cluster(pathlib.Path(sys.argv[1]), 1) as cluster:
        print(*(os.fstat(machine.namespace).st_ino for machine in cluster.network.machines), flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.usefixtures("machines")
async def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """If the tests are killed, every program on the machines dies, and with the last one its namespace ends."""
    tests = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert tests.stdout is not None
        line = await asyncio.wait_for(tests.stdout.readline(), 60)
        namespaces = {int(number) for number in line.split()}
        assert len(namespaces) == 3
        assert len(users_of(namespaces)) == 3  # the tests on the client's machine, the store, the gateway
    finally:
        tests.kill()
        await tests.wait()
    await until(lambda: not users_of(namespaces), 10, "all are gone")


def users_of(namespaces: set[int]) -> list[str]:
    """The processes in these network namespaces. None of them has a name that could hold it otherwise."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if (process / "ns" / "net").stat().st_ino in namespaces:
                found.append(process.name)
    return found
