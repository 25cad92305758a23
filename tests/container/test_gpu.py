"""A container that loses its GPU while it runs: the device goes, or its cgroup no longer permits it.

The GPU is /dev/null under a GPU's name. In its place comes a node with NVIDIA's number, which the cgroup does
not permit: the same state as after the host's systemd has reloaded its units.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

from tests.container.conftest import GATEWAY_IMAGE
from tests.container.stack import run
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.stack import Stack

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]
CHECK = ("python", "/opt/gateway/healthcheck/check.py")
FORBIDDEN = "import os; os.mknod('/dev/nvidia0', 0o20666, os.makedev(195, 0)); os.chmod('/dev/nvidia0', 0o666)"


@pytest.fixture
def container(stack: Stack) -> Iterator[str]:
    """The image in a container of its own, with a device and REQUIRE_GPU."""
    name = f"gateway-gpu-{uuid.uuid4().hex[:8]}"
    run(
        "docker",
        "run",
        "-d",
        "--name",
        name,
        "--device",
        "/dev/null:/dev/nvidia0",
        "-e",
        "REQUIRE_GPU=true",
        GATEWAY_IMAGE,
    )
    yield name
    print(run("docker", "logs", name, check=False))
    run("docker", "rm", "-f", "-v", name)


async def test_a_container_that_loses_its_gpu_is_unhealthy(container: str) -> None:
    """The health check says that the device is gone, or not permitted by the cgroup, as the gateway's plain user."""

    def says(text: str) -> bool:
        return text in run("docker", "exec", container, *CHECK, check=False)

    def as_root(*command: str) -> None:
        run("docker", "exec", "--user", "0", container, *command)

    await until(lambda: says("healthy: ollama: up; gateway: ready"), 120, "it is healthy")
    as_root("rm", "/dev/nvidia0")
    await until(lambda: says("not_ready, upstream up, store off, GPU devices are lost: nvidia0 (gone)"), 30, "gone")
    as_root("python", "-c", FORBIDDEN)
    await until(lambda: says("GPU devices are lost: nvidia0 (not permitted)"), 30, "not permitted")
