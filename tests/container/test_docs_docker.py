"""Owns the promise that the Docker commands of docs/operating.md and docs/troubleshooting.md do what the pages say.

They are cut out of the pages and run as they stand, on the stack of the tests: the project and the images are told to
Compose by its variables.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.container.stack import ROOT, Stack, run
from tests.integration.test_docs_messages import DOCKERS, HEALTH
from tests.support.pages import blocks, page, the_block

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]

OPERATING, TROUBLESHOOTING = page("docs/operating.md"), page("docs/troubleshooting.md")
LATEST, PREVIOUS = "ollama-gateway:latest", "ollama-gateway:previous"


def do(stack: Stack, example: str, directory: Path, check: bool = True, **settings: str) -> str:
    """Run an example of a page on this stack; what it writes (both streams)."""
    image = stack.images["GATEWAY_IMAGE"]
    example = example.replace(LATEST, image).replace(PREVIOUS, image + "-previous")
    here = {
        "COMPOSE_PROJECT_NAME": stack.project, "COMPOSE_FILE": str(ROOT / "compose.yaml"),
        "COMPOSE_ENV_FILES": os.devnull, "GATEWAY_PUBLISH_PORT": str(stack.port),
    }  # fmt: skip
    script = f"cd '{directory}' && exec 2>&1\n{example}"
    return run("bash", "-ec", script, seconds=400, check=check, environment=stack.images | here | settings)


def gateway(stack: Stack) -> dict[str, Any]:
    """The engine's view of the gateway's container."""
    return stack.container()


async def test_models_are_saved_and_brought_back(stack: Stack, tmp_path: Path) -> None:
    """What lies in the volume is in the archive, and is there again after it was lost."""
    save, restore = blocks(OPERATING, "sh", "models.tar")
    stack.sh("echo mine >/var/lib/ollama/models/mark")
    do(stack, save, tmp_path)
    stack.sh("rm /var/lib/ollama/models/mark")
    do(stack, restore, tmp_path)
    assert stack.sh("cat /var/lib/ollama/models/mark && rm /var/lib/ollama/models/mark") == "mine\n"


async def test_an_upgrade_replaces_the_gateway_alone(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """A new container of the gateway, the same Redis, statuses as they were; and back to the image of before."""
    await client.get("/v1/models", headers={"X-Task-Id": "before-the-upgrade"})
    before, redis = gateway(stack)["Id"], stack.container("redis")["Id"]
    # The image is the same, so a new version's other configuration is what makes Compose replace the container.
    do(stack, the_block(OPERATING, "sh", "docker tag"), tmp_path, ALGORITHM_ID="newer")
    after = gateway(stack)["Id"]
    assert after != before
    do(stack, the_block(OPERATING, "sh", "--no-build"), tmp_path)
    assert gateway(stack)["Id"] != after
    assert gateway(stack)["Config"]["Image"] == stack.images["GATEWAY_IMAGE"] + "-previous"
    assert stack.container("redis")["Id"] == redis
    status = await client.get("/tasks/status/before-the-upgrade")
    assert status.json()["state"] == "SUCCESS"


async def test_the_first_look_shows_what_the_page_says(stack: Stack, tmp_path: Path) -> None:
    """The commands for a first look work, and the health check prints the line that the page explains."""
    shown = do(stack, the_block(TROUBLESHOOTING, "sh", "docker compose ps"), tmp_path)
    assert shown.splitlines()[-1] == HEALTH[0]
    assert "gateway  | " in shown or "gateway-1  | " in shown


async def test_stopping_is_clean(stack: Stack, tmp_path: Path) -> None:
    """All ends with exit code 0."""
    do(stack, the_block(OPERATING, "sh", "compose stop"), tmp_path)
    assert gateway(stack)["State"]["ExitCode"] == 0


async def test_docker_says_that_it_has_no_gpus(running: Stack) -> None:
    """On a machine without the NVIDIA toolkit, compose.gpu.yaml fails with the words that the page quotes."""
    if "nvidia" in run("docker", "info", "--format", "{{json .Runtimes}}"):
        pytest.skip("this machine has the toolkit")
    stack = Stack(f"gateway-gpu-{os.getpid()}", running.images)
    try:
        with pytest.raises(AssertionError, match=re.escape(DOCKERS)):
            stack.compose("-f", "compose.gpu.yaml", "up", "--no-build", "--no-deps", "gateway")
    finally:
        stack.down()
