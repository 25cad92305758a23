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
        task_ids = [await chat(client, model) for _ in range(6)]
        assert await instances(client, task_ids) == {"gateway-1", "gateway-2", "gateway-3"}
        assert (role(cluster, "redis-1"), role(cluster, "redis-2")) == ("master", "slave")
        cluster.compose("kill", "redis-1")
        task_ids.append(await chat(client, model))
        await until(every(1, lambda: role(cluster, "redis-2") == "master"), 60, "the replica takes over")

        async def are_stored() -> bool:
            stored = cluster.sh(f"redis-cli exists {' '.join('ts:ollama:' + i for i in task_ids)}", "redis-2")
            return int(stored) == len(task_ids)

        await until(every(1, are_stored), 30, "every status is in the new primary")
        await instances(client, task_ids)
        cluster.up("redis-1")
        await until(every(1, lambda: role(cluster, "redis-1") == "slave"), 90, "the old primary follows the new one")
