"""Promises of the terminal's commands in the container: one name on the PATH, for the container's own gateway."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import run

if TYPE_CHECKING:
    import httpx

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]


async def test_the_commands_work_by_exec_from_any_directory(stack: Stack, client: httpx.AsyncClient) -> None:
    """`ollama-gateway` asks the gateway beside it, as the plain user and on the read-only root."""
    answer = await client.get("/v1/models", headers={"X-Task-Id": "by-exec"})
    assert answer.status_code == 200
    document = json.loads(stack.sh("cd / && ollama-gateway status by-exec --wait --json"))
    assert (document["task_id"], document["state"]) == ("by-exec", "SUCCESS")
    assert "by-exec" in stack.sh("cd /tmp && ollama-gateway tasks --limit 5")
    assert stack.sh("ollama-gateway status never; echo $?", check=False).endswith("4\n")


async def test_an_argument_is_a_command(stack: Stack, client: httpx.AsyncClient) -> None:
    """`docker run IMAGE tasks` asks a gateway and ends; it starts no second server."""
    assert (await client.get("/v1/models", headers={"X-Task-Id": "by-run"})).status_code == 200
    beside = ("docker", "run", "--rm", "--network", f"container:{stack.container()['Id']}", GATEWAY_IMAGE)
    assert "by-run" in run(*beside, "tasks", "--limit", "5")
    assert run(*beside, "--help").startswith("usage: ollama-gateway")
