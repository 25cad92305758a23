"""compose.cluster.yaml as it runs: HAProxy, three gateways, Redis with a replica and three Sentinels.

Contract sections 10.3 and 10.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.container.stack import every
from tests.support.waiting import until

if TYPE_CHECKING:
    import httpx

    from tests.container.stack import Stack

# The first test waits for the stack.
pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]


async def chat(client: httpx.AsyncClient, model: str) -> str:
    """The id of a task that ended well."""
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 4}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["X-Task-Id"]


async def instances(client: httpx.AsyncClient, task_ids: list[str]) -> set[str]:
    """The gateways that served these tasks, each of which has ended well."""
    documents: list[dict[str, Any]] = [(await client.get(f"/tasks/status/{i}")).json() for i in task_ids]
    assert {document["state"] for document in documents} == {"SUCCESS"}
    return {document["extensions"]["instance"] for document in documents}


def role(cluster: Stack, service: str) -> str:
    """What a Redis says of itself: master or slave."""
    return cluster.sh("redis-cli role", service).split()[0]


async def test_it_serves_and_survives_the_loss_of_redis(cluster: Stack, model: str) -> None:
    """All three gateways serve. If Redis is killed, its replica takes over, and every task is found still."""
    async with cluster.client() as client:
        task_ids: list[str] = []

        async def do_all_serve() -> bool:
            task_ids.append(await chat(client, model))
            return await instances(client, task_ids) == {"gateway-1", "gateway-2", "gateway-3"}

        await until(do_all_serve, 120, "HAProxy has found all three gateways")
        # On a busy machine the Sentinels may have changed the roles once already.
        primary, replica = sorted(("redis-1", "redis-2"), key=lambda service: role(cluster, service))
        assert (role(cluster, primary), role(cluster, replica)) == ("master", "slave")
        cluster.compose("kill", primary)
        task_ids.append(await chat(client, model))
        await until(every(1, lambda: role(cluster, replica) == "master"), 120, "the replica takes over")

        async def are_stored() -> bool:
            stored = cluster.sh(f"redis-cli exists {' '.join('ts:ollama:' + i for i in task_ids)}", replica)
            return int(stored) == len(task_ids)

        await until(every(1, are_stored), 120, "every status is in the new primary")
        await instances(client, task_ids)
        cluster.up(primary)
        await until(every(1, lambda: role(cluster, primary) == "slave"), 120, "the old primary follows the new one")
