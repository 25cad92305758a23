"""Owns the fixtures: an engine, stand-ins for the images that cannot be pulled here, the running stack."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.stack import Stack, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

OLLAMA_IMAGE = "ollama-standin:test"
REDIS_IMAGE = "redis-standin:test"
HAPROXY_IMAGE = "haproxy-standin:test"
GATEWAY_IMAGE = "ollama-gateway:test"


@pytest.fixture(scope="session")
def engine() -> None:
    """A Docker engine with compose and the local base image; without, skip at home and fail in CI."""
    try:
        run("docker", "compose", "version")
        run("docker", "image", "inspect", "local/base:trixie")
    except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no engine, or no local/base:trixie in it: {error}")


def build(name: str, tag: str) -> None:
    file = f"tests/container/images/{name}.Containerfile"
    run("docker", "build", "-f", file, "-t", tag, ".", seconds=400, environment={"DOCKER_BUILDKIT": "1"})


@pytest.fixture(scope="session")
def running(engine: None) -> Iterator[Stack]:
    """The stack, built from the real files on the stand-ins and healthy; gone at the end, volumes too."""
    build("ollama", OLLAMA_IMAGE)
    build("redis", REDIS_IMAGE)
    images = {"OLLAMA_IMAGE": OLLAMA_IMAGE, "REDIS_IMAGE": REDIS_IMAGE, "GATEWAY_IMAGE": GATEWAY_IMAGE}
    stack = Stack(f"gateway-test-{os.getpid()}", images)
    try:
        try:
            stack.up("--build", seconds=400)
        except (AssertionError, subprocess.TimeoutExpired):
            print(stack.compose("logs", "--no-color"))
            raise
        yield stack
    finally:
        stack.down()


@pytest.fixture(scope="session")
def cluster(running: Stack) -> Iterator[Stack]:
    """compose.cluster.yaml with the image of `running`, healthy; gone at the end, volumes too."""
    build("haproxy", HAPROXY_IMAGE)
    settings = {"HAPROXY_IMAGE": HAPROXY_IMAGE, "STORE_PREFIX": f"10.253.{os.getpid() % 253}"}
    stack = Stack(f"gateway-cluster-test-{os.getpid()}", running.images | settings, file="compose.cluster.yaml")
    try:
        try:
            stack.up(seconds=400)
        except (AssertionError, subprocess.TimeoutExpired):
            print(stack.compose("logs", "--no-color"))
            raise
        yield stack
    finally:
        stack.down()


@pytest.fixture
def stack(running: Stack) -> Iterator[Stack]:
    """The stack, healthy; what a failed test left broken is brought up again. A failed test shows the logs."""
    if not running.all_healthy():
        running.up("--force-recreate")
    yield running
    print(running.compose("logs", "--no-color", "--tail", "40"))


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the published port."""
    async with stack.client() as client:
        yield client


@pytest.fixture(scope="session")
def model(running: Stack) -> str:
    """The name of the model that the image serves."""
    found = httpx.get(f"http://127.0.0.1:{running.port}/v1/models", timeout=30, trust_env=False).json()
    return str(found["data"][0]["id"])
