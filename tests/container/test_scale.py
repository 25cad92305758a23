"""The promise that Compose runs several gateways beside one store, each on a port of its own."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.stack import Stack, run
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]


@pytest.fixture
def two(running: Stack) -> Iterator[list[str]]:
    """The addresses of two gateways of one project; the images are those of the running stack."""
    first = free_port()
    stack = Stack(f"gateway-scale-{os.getpid()}", running.images, ports=f"{first}-{first + 9}")
    try:
        stack.up("--scale", "gateway=2", seconds=300)
        containers = json.loads(run("docker", "inspect", *stack.compose("ps", "--quiet", "gateway").split()))
        bindings = [each["NetworkSettings"]["Ports"]["11535/tcp"][0] for each in containers]
        yield [f"http://{each['HostIp']}:{each['HostPort']}" for each in bindings]
    finally:
        stack.down()


def test_two_gateways_share_a_store_and_differ_in_name(two: list[str]) -> None:
    """With a range of ports `--scale gateway=2` works: two instances, and each knows the other's tasks."""
    assert len(set(two)) == 2
    with httpx.Client(timeout=60, trust_env=False) as client:
        for number, base in enumerate(two):
            assert client.get(f"{base}/v1/models", headers={"X-Task-Id": f"scale-{number}"}).status_code == 200
        seen = [client.get(f"{base}/tasks/status/scale-{number}").json() for base in two for number in range(2)]
    assert [document["state"] for document in seen] == ["SUCCESS"] * 4
    assert len({document["extensions"]["instance"] for document in seen}) == 2
