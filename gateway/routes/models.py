"""`/models/loaded`: the models that Ollama has in memory, from its `/api/ps`, which clients cannot reach.

Asks Ollama at most once in two seconds, however often clients ask. Never loads or unloads a model.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson

from gateway.errors import UpstreamFailure
from gateway.http.request import Request
from gateway.routes.plain import Answer, as_json, described
from gateway.upstream.pool import Upstream

_ASK_TIMEOUT_SECONDS = 2.0
_ANSWER_AGE_SECONDS = 2.0
_MAX_ANSWER_BYTES = 1_048_576
_NO_ANSWER = "Ollama does not answer"
_UNREADABLE = "Ollama's answer about its loaded models cannot be read"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """One model in memory."""

    name: str
    size_bytes: int = field(metadata=described("memory that it takes, wherever that is"))
    size_vram_bytes: int = field(metadata=described("the part that is in GPU memory"))
    vram_share: float = field(
        metadata=described("0 to 1; between the two, a part of the model is on the CPU, which is slow")
    )
    expires_at: datetime | None = field(metadata=described("when Ollama unloads it, unless it is used again"))
    context_length: int | None


@dataclass(frozen=True, slots=True)
class LoadedModels:
    """The models that Ollama has loaded; an empty list if the server has no route to ask."""

    models: list[LoadedModel]


class LoadedModelsProbe:
    """The models that Ollama has loaded; None if Ollama does not say so, and `problem` is why.

    One request at a time, for all clients.
    """

    def __init__(self, upstream: Upstream) -> None:
        self.problem = ""
        self._upstream = upstream
        self._asking: asyncio.Task[LoadedModels | None] | None = None
        self._asked_at = float("-inf")

    async def __call__(self) -> LoadedModels | None:
        is_old = time.monotonic() - self._asked_at >= _ANSWER_AGE_SECONDS
        if self._asking is None or (self._asking.done() and is_old):
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> LoadedModels | None:
        try:
            status, body = await self._upstream.get(
                "/api/ps", timeout_seconds=_ASK_TIMEOUT_SECONDS, keep_bytes=_MAX_ANSWER_BYTES
            )
        except UpstreamFailure:
            self.problem = _NO_ANSWER
            return None
        finally:
            self._asked_at = time.monotonic()
        found = _loaded(status, body)
        self.problem = _UNREADABLE if found is None else ""
        return found


def _loaded(status: int, body: bytes) -> LoadedModels | None:
    """The models in an answer of `/api/ps`; None if it is malformed. 404: a server with Ollama's OpenAI API alone."""
    if status == 404:
        return LoadedModels(models=[])
    try:
        processes = orjson.loads(body).get("models") or ()
        models = [_model(process) for process in processes]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return LoadedModels(models) if status == 200 else None


def _model(process: dict[str, Any]) -> LoadedModel:
    """A model in the answer of Ollama's `/api/ps` (its api.ProcessModelResponse).

    An odd time or context counts as not said. Raises AttributeError, KeyError or TypeError if the rest is malformed: a
    list without this model could say that no model uses the GPU.
    """
    name, size, vram = process["name"], process.get("size", 0), process.get("size_vram", 0)
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(vram, int)):
        raise TypeError("a name or a size of another type")
    context = process.get("context_length")
    return LoadedModel(
        name=name,
        size_bytes=size,
        size_vram_bytes=vram,
        vram_share=round(min(max(vram / size if size > 0 else 0.0, 0.0), 1.0), 4),
        expires_at=_time(process.get("expires_at")),
        context_length=context if isinstance(context, int) else None,
    )


def _time(said: object) -> datetime | None:
    try:
        return datetime.fromisoformat(said) if isinstance(said, str) else None
    except ValueError:
        return None


async def models_loaded(probe: LoadedModelsProbe, _: Request) -> Answer:
    """The models that Ollama has in memory; 503 if it does not answer, or its answer cannot be read."""
    models = await probe()
    if models is None:
        return as_json({"detail": probe.problem}, 503, (b"retry-after", b"2"))
    return as_json(models)
