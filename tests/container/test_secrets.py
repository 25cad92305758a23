"""Promises about secrets: given to a stack, they work, and no one finds them where they have no business."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.conftest import GATEWAY_IMAGE, OLLAMA_IMAGE, REDIS_IMAGE
from tests.container.stack import Stack, run

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.container, pytest.mark.timeout(600)]
PASSWORD = "pw-5f1c9e7a2b4d"
KEY = "key-8d20b6c3f7e1"
SECRETS = (PASSWORD, KEY)
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def locked(running: Stack) -> Iterator[Stack]:
    """A second stack of the same images, with a password for Redis and an API key."""
    images = {"OLLAMA_IMAGE": OLLAMA_IMAGE, "REDIS_IMAGE": REDIS_IMAGE, "GATEWAY_IMAGE": GATEWAY_IMAGE}
    settings = {"REDIS_PASSWORD": PASSWORD, "GATEWAY_API_KEYS": f"poller:{KEY}", "LOG_LEVEL": "debug"}
    stack = Stack(f"gateway-locked-{os.getpid()}", images | settings)
    try:
        stack.up()
        yield stack
    finally:
        stack.down()


def ask(stack: Stack, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{stack.port}{path}", headers=headers, timeout=30, trust_env=False)


def test_the_secrets_are_in_force(locked: Stack) -> None:
    """With the key the gateway answers and its state is in Redis, without it is 401; Redis wants its password."""
    assert ask(locked, "/v1/models").status_code == 401
    assert ask(locked, "/v1/models", AUTHORIZED | {"X-Task-Id": "locked"}).status_code == 200
    assert "NOAUTH" in locked.redis("GET", "ts:ollama:locked")
    assert '"SUCCESS"' in locked.redis("--no-auth-warning", "-a", PASSWORD, "GET", "ts:ollama:locked")


def test_no_secret_in_an_answer_a_document_or_a_log(locked: Stack) -> None:
    """Not in the gateway's answers, not in what it stores, not in the output of either container."""
    offered = AUTHORIZED | {"X-Task-Id": "quiet"}
    answers = [ask(locked, path, offered) for path in ("/v1/models?api_key=" + KEY, "/tasks/status/quiet", "/nowhere")]
    answers.append(ask(locked, "/v1/models", {"Authorization": f"Bearer {KEY}x", "X-Task-Id": "quiet-2"}))
    seen = [answer.text + str(answer.headers) for answer in answers]
    seen.append(locked.redis("--no-auth-warning", "-a", PASSWORD, "GET", "ts:ollama:quiet"))
    seen += [locked.compose("logs", "--no-color"), locked.logs()]
    assert "/v1/models" in seen[-3]
    assert "gateway | " in seen[-1]
    assert [text for text in seen if any(secret in text for secret in SECRETS)] == []


def test_no_secret_in_the_image(locked: Stack) -> None:
    """What is given at the start is in no layer's command and in no default of the image."""
    history = run("docker", "history", "--no-trunc", GATEWAY_IMAGE)
    image = run("docker", "image", "inspect", GATEWAY_IMAGE)
    assert "launcher.py" in history
    assert "OLLAMA_HOST" in image
    assert not [secret for secret in SECRETS if secret in history + image]
    assert not re.search(r"(?i)\b\w*(PASSWORD|API_KEYS?|SECRET|TOKEN)=[^\"\s]", image)


def test_ollama_does_not_get_the_gateways_secrets(locked: Stack) -> None:
    """They are no part of the environment in which Ollama runs, and are of that of the gateway."""
    ollama, gateway = locked.program("ollama"), locked.program("gateway")
    assert ollama
    assert gateway
    variables = [locked.sh(f"tr '\\0' '\\n' </proc/{process.pid}/environ") for process in (ollama, gateway)]
    assert "OLLAMA_HOST=127.0.0.1:11434" in variables[0]
    assert not [secret for secret in SECRETS if secret in variables[0]]
    assert all(secret in variables[1] for secret in SECRETS)


def test_redis_is_out_of_reach_from_the_gateways_other_network(locked: Stack) -> None:
    """A container on the network that leads outside finds no Redis, neither by its name nor by its address."""
    [address] = [network["IPAddress"] for network in locked.container("redis")["NetworkSettings"]["Networks"].values()]
    neighbour = ("docker", "run", "--rm", "--network", f"{locked.project}_outside", "--entrypoint", "bash", REDIS_IMAGE)
    for target in ("gateway/11535", "redis/6379", f"{address}/6379"):
        seen = run(*neighbour, "-c", f"timeout 3 bash -c '</dev/tcp/{target}' 2>/dev/null && echo connected || true")
        assert ("connected" in seen) == target.startswith("gateway"), target
