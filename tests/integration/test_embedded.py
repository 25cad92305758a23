"""The stand-in `ollama`: what it says of itself, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.model import EmbeddedModel
from tests.support.process import ROOT, environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch
    from tests.support.gateway import Gateway

OLLAMA = str(ROOT / "embedded" / "ollama")


def ollama(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command with this environment's Python and wait for its end."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [OLLAMA, *arguments],
        env=environment({"PATH": path, **settings}),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_it_says_what_it_is() -> None:
    """`--version` tells it from the real Ollama."""
    done = ollama("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not Ollama itself" in done.stdout


@pytest.mark.parametrize("arguments", [("pull", "llama3"), ("list",), ()])
def test_commands_it_lacks_are_named(arguments: tuple[str, ...]) -> None:
    """A command it does not have fails and says which ones it has."""
    done = ollama(*arguments)
    assert done.returncode == 2
    assert "ollama serve" in done.stderr


@pytest.mark.model
async def test_a_taken_port_is_one_line(model: EmbeddedModel) -> None:
    """A port in use ends it at once, with one line that names the address and the variable to change."""
    done = ollama("serve", OLLAMA_HOST=f"127.0.0.1:{model.port}")
    assert done.returncode == 1
    assert f"127.0.0.1:{model.port}" in done.stderr
    assert "OLLAMA_HOST" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_wrong_address_is_one_line() -> None:
    """An OLLAMA_HOST that has no usable port is refused in one line that names it."""
    done = ollama("serve", OLLAMA_HOST="127.0.0.1:http")
    assert done.returncode == 1
    assert "OLLAMA_HOST='127.0.0.1:http'" in done.stderr
    assert done.stderr.count("\n") == 1


HELLO = [{"role": "user", "content": "hi"}]
NOT_FOUND = {"message": "model 'llama3' not found", "type": "not_found_error", "param": None, "code": None}


async def ask(model: EmbeddedModel, method: str, path: str, content: bytes | None = None) -> httpx.Response:
    """One request to the stand-in itself."""
    async with httpx.AsyncClient(base_url=model.base, trust_env=False, timeout=60) as http:
        return await http.request(method, path, content=content)


@pytest.mark.model
@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses", "embeddings"])
async def test_an_unknown_model_is_ollamas_404(model: EmbeddedModel, path: str) -> None:
    """A model that it does not have is refused with the words and the shape of Ollama's OpenAI routes."""
    answer = await ask(model, "POST", f"/v1/{path}", b'{"stream": true, "model": "llama3"}')
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, "application/json")
    assert answer.json() == {"error": NOT_FOUND}


@pytest.mark.model
async def test_an_unknown_model_is_404_in_each_apis_shape(model: EmbeddedModel) -> None:
    """Anthropic's route has Anthropic's error; the route of one model has its row or the 404."""
    messages = await ask(model, "POST", "/v1/messages", b'{"model": "llama3"}')
    kind = {key: NOT_FOUND[key] for key in ("type", "message")}
    assert (messages.status_code, messages.json()) == (404, {"type": "error", "error": kind})
    unknown, known = await ask(model, "GET", "/v1/models/llama3"), await ask(model, "GET", f"/v1/models/{model.name}")
    assert (unknown.status_code, unknown.json()) == (404, {"error": NOT_FOUND})
    assert (known.status_code, known.json()["id"]) == (200, model.name)


@pytest.mark.model
async def test_its_model_is_loaded(model: EmbeddedModel, gateways: Launch) -> None:
    """`/api/ps` lists its model in Ollama's shape, and the gateway's `/models/loaded` tells of it."""
    (row,) = (await ask(model, "GET", "/api/ps")).json()["models"]
    assert row.keys() == {
        "name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length",
    }  # fmt: skip
    assert (row["name"], row["model"], row["size_vram"]) == (model.name, model.name, 0)
    gateway: Gateway = await gateways(UPSTREAM_BASE=model.base)
    (loaded,) = (await gateway.http.get("/models/loaded")).json()["models"]
    assert (loaded["name"], loaded["size_bytes"]) == (model.name, row["size"])


@pytest.mark.model
async def test_a_client_that_leaves_stops_it(model: EmbeddedModel) -> None:
    """A stream comes piece by piece, and when its client leaves the model computes no more for it."""

    async def is_busy() -> bool:
        return any(slot["is_processing"] for slot in (await ask(model, "GET", "/slots")).json())

    body = json.dumps({"model": model.name, "messages": HELLO, "stream": True, "ignore_eos": True, "n_predict": -1})
    async with (
        httpx.AsyncClient(base_url=model.base, trust_env=False, timeout=60) as http,
        http.stream("POST", "/v1/chat/completions", content=body) as answer,
    ):
        pieces = answer.aiter_raw()  # an iterator that nobody holds closes the connection
        piece = await anext(pieces)
        assert (answer.status_code, piece[:6]) == (200, b"data: "), piece
        await until(is_busy, 20, "the model is busy")

    async def is_idle() -> bool:
        return not await is_busy()

    await until(is_idle, 20, "the model is idle")


@pytest.mark.model
@pytest.mark.parametrize("chunked", [True, False])
async def test_bodies_of_each_framing_pass(model: EmbeddedModel, *, chunked: bool) -> None:
    """A body in chunks and one with a length are relayed, and the model in it is looked at."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in (body[:20], body[20:]):
            yield piece

    body = json.dumps({"model": model.name, "messages": HELLO, "max_tokens": 1}).encode()
    async with httpx.AsyncClient(base_url=model.base, trust_env=False, timeout=60) as http:
        answer = await http.post("/v1/chat/completions", content=pieces() if chunked else body)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 1)


@pytest.mark.model
async def test_nothing_is_answered_while_it_loads(tmp_path: Path) -> None:
    """From its start on a connection is refused, until the first answer: that comes from a model that is loaded."""
    starting = EmbeddedModel(tmp_path / "ollama.log")
    seen: list[int] = []

    async def is_answered() -> bool:
        try:
            seen.append((await ask(starting, "GET", "/v1/models")).status_code)
        except httpx.ConnectError:
            return False
        return True

    try:
        await asyncio.gather(until(is_answered, 50, "the first answer"), starting.start())
    finally:
        await starting.stop()
    assert seen == [200]
