"""Owns the promises of `GET /models/loaded`: what Ollama has in memory, asked for sparingly (issue 6, part 1)."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gateway.routes.models import LoadedModels, LoadedModelsProbe
from gateway.upstream.pool import Upstream as Peer
from tests.support.ports import free_port
from tests.support.scripted import JSON, answering, sending
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.scripted import Exchange, Script, Upstream

# As Ollama 0.33 answers it.
PROCESSES: dict[str, Any] = {
    "models": [
        {
            "name": "qwen3:8b",
            "model": "qwen3:8b",
            "size": 8_000_000_000,
            "digest": "500a1f067a9f782620b40bee6f7b0c89e17ae61f686b92c24933e4ca4b2b8b41",
            "details": {"parent_model": "", "format": "gguf", "family": "qwen3", "parameter_size": "8.2B"},
            "expires_at": "2026-08-28T14:38:31.83753123-07:00",
            "size_vram": 6_000_000_000,
            "context_length": 4096,
        }
    ]
}


async def probe(upstream: Upstream, script: Script) -> LoadedModels | None:
    """What the probe finds where `/api/ps` answers so; it needs no gateway's process for that."""
    upstream.loaded = script
    peer = Peer("127.0.0.1", upstream.port)
    try:
        return await LoadedModelsProbe(peer)()
    finally:
        peer.close()


async def test_what_ollama_has_loaded(launch: Launch, upstream: Upstream) -> None:
    """Name, sizes, share in GPU memory, expiry and context are Ollama's; nothing else of its answer is passed on."""
    upstream.loaded = answering(200, JSON, body=json.dumps(PROCESSES).encode())
    answer = await (await launch()).http.get("/models/loaded")
    assert answer.status_code == 200
    assert answer.json() == {
        "models": [
            {
                "name": "qwen3:8b",
                "size_bytes": 8_000_000_000,
                "size_vram_bytes": 6_000_000_000,
                "vram_share": 0.75,
                "expires_at": "2026-08-28T14:38:31.837531-07:00",
                "context_length": 4096,
            }
        ]
    }


@pytest.mark.parametrize(
    ("process", "share"),
    [
        ({"name": "cpu", "size": 100, "size_vram": 0}, 0),
        ({"name": "cpu", "size": 100}, 0),
        ({"name": "gpu", "size": 100, "size_vram": 100}, 1),
        ({"name": "odd", "size": 100, "size_vram": 130}, 1),
        ({"name": "empty", "size": 0, "size_vram": 0}, 0),
    ],
)
async def test_the_share_is_between_0_and_1(upstream: Upstream, process: dict[str, Any], share: float) -> None:
    """Whatever Ollama says, the share is a number from 0 to 1, and what it does not say is null."""
    body = json.dumps({"models": [process]}).encode()
    found = await probe(upstream, answering(200, JSON, body=body))
    assert found is not None
    (model,) = found.models
    assert (model.vram_share, model.expires_at, model.context_length) == (share, None, None)


@pytest.mark.parametrize("odd", [{"expires_at": "soon"}, {"expires_at": 5}, {"context_length": "long"}])
async def test_an_odd_time_or_context_hides_no_model(upstream: Upstream, odd: dict[str, Any]) -> None:
    """It counts as not said; the model and the others are there."""
    models = [{"name": "odd", "size": 100, "size_vram": 50, **odd}, *PROCESSES["models"]]
    found = await probe(upstream, answering(200, JSON, body=json.dumps({"models": models}).encode()))
    assert found is not None
    first, second = found.models
    assert (first.name, first.vram_share, second.name) == ("odd", 0.5, "qwen3:8b")
    assert None in (first.expires_at, first.context_length)


@pytest.mark.parametrize(
    "script",
    [
        answering(404, body=b"404 page not found"),
        answering(200, JSON, body=b'{"models":[]}'),
        answering(200, JSON, body=b'{"models":null}'),
    ],
    ids=["no such route", "none", "null"],
)
async def test_none_loaded_is_an_empty_list(upstream: Upstream, script: Script) -> None:
    """Without loaded models, or at a server that cannot tell, the list is empty."""
    assert await probe(upstream, script) == LoadedModels(models=[])


@pytest.mark.parametrize(
    "script",
    [
        answering(500, JSON, body=b"{}"),
        answering(200, JSON, body=b"<html>"),
        answering(200, JSON, body=b'{"models":[{"size":1}]}'),
        answering(200, JSON, body=b'{"models":[' + b" " * 2_000_000 + b"]}"),
        sending(b"", then="reset"),
    ],
    ids=["500", "no JSON", "no name", "too long", "reset"],
)
async def test_no_usable_answer_is_none(upstream: Upstream, script: Script) -> None:
    """An answer that tells nothing, or none at all, is never taken for an empty list."""
    assert await probe(upstream, script) is None


async def test_an_ollama_that_is_away_is_503(launch: Launch) -> None:
    """Where Ollama does not answer, ours is 503 with Retry-After."""
    answer = await (await launch(UPSTREAM_BASE=f"http://127.0.0.1:{free_port()}")).http.get("/models/loaded")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json() == {"detail": "Ollama does not answer"}


@pytest.mark.parametrize(
    "script",
    [
        answering(500),
        answering(200, JSON, body=json.dumps({"models": [*PROCESSES["models"], {"size": 1}]}).encode()),
        answering(200, JSON, body=json.dumps({"models": [*PROCESSES["models"], {"name": "m", "size": "1"}]}).encode()),
    ],
    ids=["500", "no name", "odd size"],
)
async def test_an_answer_that_cannot_be_read_is_503(launch: Launch, upstream: Upstream, script: Script) -> None:
    """The text does not say that Ollama is silent; a list without the odd model is never shown as the whole one."""
    upstream.loaded = script
    answer = await (await launch()).http.get("/models/loaded")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json() == {"detail": "Ollama's answer about its loaded models cannot be read"}


async def test_ollama_is_asked_sparingly(own_upstream: Upstream, launch: Launch) -> None:
    """However many ask within two seconds, Ollama is asked once; later, once more."""
    asked: list[float] = []

    async def script(exchange: Exchange) -> None:
        asked.append(asyncio.get_running_loop().time())
        await exchange.answer(200, JSON, body=b'{"models":[]}')

    own_upstream.loaded = script
    gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{own_upstream.port}")
    answers = await asyncio.gather(*(gateway.http.get("/models/loaded") for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    first = len(asked)  # 1, unless the machine took longer than two seconds for all fifty

    async def is_asked_again() -> bool:
        await gateway.http.get("/models/loaded")
        return len(asked) > first

    await until(is_asked_again, 30, "Ollama is asked again")
    assert min(later - earlier for earlier, later in pairwise(asked)) >= 1.9
