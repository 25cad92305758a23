"""Gateways that are restarted and killed behind HAProxy and Envoy, with clients at work: what is lost, counted.

Contract sections 4.10 and 10.5. The balancers learn of a stop by /readyz alone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from tests.cluster.load import END, Load, ask_at_once, begun, generating, let_all
from tests.support.outcome import outcome
from tests.support.streams import stored_states
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from tests.cluster.balancers import Balancer
    from tests.cluster.conftest import Balanced
    from tests.cluster.nodes import Node
    from tests.support.streams import HeldStream

REQUESTS = 500
HEARTBEAT_SECONDS = 1.0
# Three heartbeats, and two seconds in which it is found; another for the test's own view of it.
LOST_SECONDS = 3 * HEARTBEAT_SECONDS + 2 + 1
LOST = ("FAILED", "lost", "lost")


async def test_a_rolling_restart_loses_nothing(front: Balancer, balanced: Balanced) -> None:
    """Three gateways are replaced one after another under ten clients: no request fails, each task is SUCCESS.

    Two of the clients have streams that last longer than the notice, so each gateway drains with some.
    """
    nodes = balanced.cluster.nodes
    let_all(nodes, generating(seconds=0.1, long_seconds=3.0))
    async with Load(front, clients=10, long_clients=2) as load:
        for node in nodes:
            before = len(node.upstream.exchanges)
            await until(lambda: len(node.upstream.exchanges) > before, what=f"{node} has requests")  # noqa: B023
            await node.restart()
        await until(lambda: len(load.task_ids) + len(load.failures) >= REQUESTS, what="enough requests")
    assert load.failures == []
    states = await stored_states(balanced.cluster.store, load.task_ids)
    assert {task_id: state for task_id, state in states.items() if state != "SUCCESS"} == {}


async def test_a_killed_gateway_takes_only_its_own_requests(front: Balancer, balanced: Balanced) -> None:
    """SIGKILL breaks what is on that gateway, within 2 s, and nothing else; what comes then is served by the others.

    The tasks that were on it are `lost` after three heartbeats.
    """
    nodes, store = balanced.cluster.nodes, balanced.cluster.store
    streams = [await begun(front, nodes) for _ in range(9)]
    silent, killed = await begun(front, nodes, has_head=False)
    broken = [stream for stream, node in streams if node is killed]
    others = [stream for stream, node in streams if node is not killed]
    assert broken
    assert others
    let_all(nodes, generating(seconds=0, long_seconds=0))
    since = time.monotonic()
    knows = [asyncio.create_task(within(2, _is_broken(stream), "a client knows")) for stream in broken]
    knows_silent = asyncio.create_task(within(2, silent.client.answer(), "the client of a silent request knows"))
    await killed.kill()
    load = await ask_at_once(front, 100)
    assert load.failures == []
    assert all(await asyncio.gather(*knows))
    answer = await knows_silent
    assert (answer.status, answer.json()["error"]["code"]) == (502, "gateway_lost")
    for stream in others:
        assert END in await stream.end()
    assert sum(len(node.upstream.exchanges) for node in nodes) == 10 + 100, "no request that had begun is repeated"
    survivor = next(node for node in nodes if node is not killed)
    for stream in [silent, *broken]:
        await until(lambda: _is_lost(survivor, stream.task_id), since + LOST_SECONDS - time.monotonic(), "it is lost")  # noqa: B023
    ended = await stored_states(store, [stream.task_id for stream in others] + load.task_ids)
    assert set(ended.values()) == {"SUCCESS"}


async def _is_broken(stream: HeldStream) -> bool:
    """Whether the client's connection ends before the end of the message."""
    try:
        rest = await stream.client.reader.read()
    except ConnectionError:
        return True
    return END not in rest


async def _is_lost(node: Node, task_id: str) -> bool:
    """Whether the node says that the task is lost."""
    return outcome(await node.gateway.status(task_id)) == LOST
