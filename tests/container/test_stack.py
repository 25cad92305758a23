"""Promises of the running stack: it answers, its states are in Redis, and only one door is open."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.container.stack import run

if TYPE_CHECKING:
    import httpx

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
SLOW_SECONDS = 120  # between what the gateway writes and our look at it: docker's commands take their time
QUESTION = [{"role": "user", "content": "Write a long story about a lighthouse."}]


def chat(model: str, **more: object) -> dict[str, object]:
    return {"model": model, "messages": QUESTION, "max_tokens": 16, **more}


def test_one_command_brings_up_a_healthy_stack(stack: Stack) -> None:
    """`docker compose up --build --wait` ended with 0 (else no test runs), and both services are healthy."""
    assert stack.health() == "healthy"
    assert stack.container("redis")["State"]["Health"]["Status"] == "healthy"


async def test_a_chat_through_the_published_port(client: httpx.AsyncClient, model: str) -> None:
    """The model behind the gateway answers an OpenAI chat."""
    answer = await client.post("/v1/chat/completions", json=chat(model))
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"].strip()
    assert answer.headers["x-task-id"]


async def test_the_state_is_in_redis_with_its_lifetime(stack: Stack, client: httpx.AsyncClient, model: str) -> None:
    """While a stream runs its document says RUNNING and lives an hour; after it SUCCESS and a day."""
    wanted = chat(model, max_tokens=200, stream=True)
    headers = {"X-Task-Id": "container-stream"}
    ollama, container = stack.program("ollama"), stack.container()["Id"]
    assert ollama
    async with client.stream("POST", "/v1/chat/completions", json=wanted, headers=headers) as answer:
        lines = answer.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        # So that it is still running however long we look. One command: it must come before the answer's end.
        run("docker", "exec", container, "sh", "-c", f"kill -STOP {ollama.pid}")
        try:
            running = json.loads(stack.redis("GET", "ts:ollama:container-stream"))
            hour = int(stack.redis("TTL", "ts:ollama:container-stream"))
        finally:
            stack.signal("ollama", "CONT")
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    done = json.loads(stack.redis("GET", "ts:ollama:container-stream"))
    assert (running["state"], running["stage"]) == ("RUNNING", "streaming")
    assert (done["state"], done["stage"]) == ("SUCCESS", "done")
    assert 3600 - SLOW_SECONDS <= hour <= 3600
    assert 86400 - SLOW_SECONDS <= int(stack.redis("TTL", "ts:ollama:container-stream")) <= 86400


def test_ollama_is_out_of_reach_for_other_containers(stack: Stack) -> None:
    """From a neighbour on the same network 11535 can be connected to and 11434 cannot."""
    connect = "bash -c '</dev/tcp/gateway/{}' && echo connected"
    assert stack.sh(connect.format(11535), "redis") == "connected\n"
    assert "Connection refused" in stack.sh(connect.format(11434), "redis", check=False)


async def test_the_upstreams_own_api_is_not_reachable(client: httpx.AsyncClient) -> None:
    """/api/* is Ollama's and stays inside."""
    assert (await client.get("/api/version")).status_code == 404


def test_redis_has_its_limits_and_keeps_its_data(stack: Stack) -> None:
    """volatile-lru under a memory limit, append-only file in the volume."""
    assert stack.redis("CONFIG", "GET", "maxmemory-policy").split()[-1] == "volatile-lru"
    assert int(stack.redis("CONFIG", "GET", "maxmemory").split()[-1]) == 256 * 1024 * 1024
    assert stack.sh("ls /data/appendonlydir | wc -l", "redis").strip() != "0"


def test_each_log_line_names_its_program(stack: Stack) -> None:
    """Every line of the container's output begins with the program it comes from, and all three are heard."""
    lines = [line for line in stack.logs().splitlines() if line]
    named = [re.match(r"(ollama|gateway|supervisord|listener|launcher) \| ", line) for line in lines]
    assert [line for line, name in zip(lines, named, strict=True) if not name] == []
    assert {name[1] for name in named if name} >= {"ollama", "gateway", "supervisord"}
