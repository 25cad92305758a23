"""Promises for bad days: programs that die or freeze, a store that is not there, the end of the container."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import LIST_PROCESSES, PROGRAMS, every, run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.container.stack import Stack

    Start = Callable[..., str]

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
QUESTION = [{"role": "user", "content": "Write a long story about a lighthouse."}]
START_SECONDS = 120  # a guard: a busy machine takes less for what a container has to start
END_SECONDS = 60  # a program that cannot stay up ends the container within this


async def is_ready(client: httpx.AsyncClient) -> bool:
    """The gateway is back and says that Ollama is, too."""
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("program", ["ollama", "gateway"])
async def test_a_killed_program_comes_back_in_the_same_container(
    stack: Stack, client: httpx.AsyncClient, program: str
) -> None:
    """SIGKILL to one program: a younger process takes its place, and the container is not started again."""
    before = stack.container()
    killed = stack.signal(program, "KILL")
    await until(every(0.5, lambda: stack.program(program, killed.started)), START_SECONDS, f"a younger {program}")
    await until(lambda: is_ready(client), START_SECONDS, "ready again")
    after = stack.container()
    assert (after["Id"], after["State"]["StartedAt"]) == (before["Id"], before["State"]["StartedAt"])
    assert after["RestartCount"] == 0


@pytest.fixture
def start(stack: Stack) -> Iterator[Start]:
    """Starts single containers of the image; they are removed after the test."""
    started: list[str] = []

    def begin(*options: str) -> str:
        started.append(run("docker", "run", "--detach", *options, GATEWAY_IMAGE).strip())
        return started[-1]

    yield begin
    for container in started:
        run("docker", "rm", "--force", "--volumes", container)


async def test_a_frozen_ollama_makes_the_container_unhealthy_until_it_goes_on(start: Start) -> None:
    """The image's own check, asked every second, sees an Ollama that no longer answers, and that it answers again."""
    container = start("--health-interval", "1s", "--health-start-period", "60s")

    def is_now(health: str) -> bool:
        return run("docker", "inspect", "--format", "{{.State.Health.Status}}", container).strip() == health

    await until(every(0.5, lambda: is_now("healthy")), START_SECONDS, "healthy")
    signal_ollama(container, "STOP")
    await until(every(0.5, lambda: is_now("unhealthy")), START_SECONDS, "unhealthy")
    signal_ollama(container, "CONT")
    await until(every(0.5, lambda: is_now("healthy")), START_SECONDS, "healthy again")


def signal_ollama(container: str, name: str) -> None:
    """Send a signal to the `ollama serve` of a container, and to nothing else in it."""
    found = json.loads(run("docker", "exec", container, "python", "-c", LIST_PROCESSES))
    [pid] = [process["pid"] for process in found if process["command"].endswith(PROGRAMS["ollama"])]
    run("docker", "exec", container, "sh", "-c", f"kill -{name} {pid}")


def exit_code(container: str, seconds: float) -> int:
    """The exit code of a container that has to end by itself in time."""
    try:
        return int(run("docker", "wait", container, seconds=seconds))
    except subprocess.TimeoutExpired:
        raise AssertionError(f"still up after {seconds} s:\n{run('docker', 'logs', container)}") from None


def test_wrong_settings_end_the_container_at_once(start: Start) -> None:
    """All that is wrong is the container's only output, its exit code is 2, and no program was started."""
    container = start("--env", "TTL_DONE=soon", "--env", "OLLAMA_HOST=127.0.0.1:http")
    assert exit_code(container, END_SECONDS) == 2
    said = run("docker", "logs", container).splitlines()
    assert [line.partition("=")[0] for line in said] == ["gateway | gateway: TTL_DONE", "launcher | OLLAMA_HOST"]


async def test_a_volume_that_cannot_be_written_is_one_line(start: Start) -> None:
    """Where the models' place belongs to another user, the first line of all names it and the owner it needs."""
    container = start("--tmpfs", "/var/lib/ollama:mode=0755,uid=0")
    await until(every(0.3, lambda: run("docker", "logs", container)), START_SECONDS, "the first line")
    first, *_ = run("docker", "logs", container).splitlines()
    assert first.startswith("launcher | /var/lib/ollama cannot be written: it must belong to uid 10001")


async def test_an_upstream_elsewhere_does_not_replace_ollama(start: Start) -> None:
    """In the image Ollama is started also where UPSTREAM_BASE is set: it decides only whom the gateway asks."""
    container = start("--env", "UPSTREAM_BASE=http://127.0.0.1:9")
    await until(
        every(0.3, lambda: "spawned: 'ollama'" in run("docker", "logs", container)), START_SECONDS, "Ollama starts"
    )


def test_an_ollama_that_cannot_start_ends_the_container(start: Start, tmp_path: Path) -> None:
    """An `ollama` that ends at once: the container ends in time, and not with 0."""
    broken = tmp_path / "ollama"
    broken.write_text("#!/bin/sh\necho no such luck >&2\nexit 3\n")
    broken.chmod(0o755)
    container = start("--volume", f"{broken}:/usr/bin/ollama:ro")
    assert exit_code(container, END_SECONDS) != 0
    assert "no such luck" in run("docker", "logs", container)


async def test_the_gateway_does_not_wait_for_redis(stack: Stack, client: httpx.AsyncClient, model: str) -> None:
    """Without Redis the gateway becomes healthy and answers; once Redis comes, it is told what happened."""
    stack.compose("rm", "--stop", "--force", "gateway", "redis")
    stack.up("--no-deps", "gateway")
    question = {"model": model, "messages": QUESTION, "max_tokens": 8}
    headers = {"X-Task-Id": "before-redis"}
    answer = await client.post("/v1/chat/completions", json=question, headers=headers)
    assert answer.status_code == 200
    stack.up("redis")
    await until(every(0.3, lambda: stack.redis("GET", "ts:ollama:before-redis")), 30, "the task in Redis")
    assert '"SUCCESS"' in stack.redis("GET", "ts:ollama:before-redis")


async def test_stop_lets_a_running_answer_finish(stack: Stack, client: httpx.AsyncClient, model: str) -> None:
    """`docker stop` in the middle of a stream: the stream ends whole, the container with 0 and in time."""
    wanted = {"model": model, "messages": QUESTION, "max_tokens": 200, "stream": True}
    grace_seconds = stack.container()["Config"]["StopTimeout"]
    headers = {"X-Task-Id": "stopped"}
    async with client.stream("POST", "/v1/chat/completions", json=wanted, headers=headers) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        begun = time.monotonic()
        stop = asyncio.create_task(asyncio.to_thread(stack.compose, "stop", "gateway"))
        rest = [line async for line in lines if line]
    await stop
    assert rest[-1] == "data: [DONE]"
    assert time.monotonic() - begun < grace_seconds
    assert stack.container()["State"]["ExitCode"] == 0
    assert '"SUCCESS"' in stack.redis("GET", "ts:ollama:stopped")
    stack.up()
