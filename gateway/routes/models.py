"""`/models/loaded`: the models that Ollama has in memory, from its `/api/ps`, which clients cannot reach.

Asks Ollama at most once in two seconds, however often clients ask. Never loads or unloads a model.
"""

import asyncio
import time
from datetime import datetime

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field, ValidationError

from gateway.errors import UpstreamFailure
from gateway.upstream.pool import Upstream

router = APIRouter(tags=["models"])

_ASK_TIMEOUT_SECONDS = 2.0
_ANSWER_AGE_SECONDS = 2.0
_MAX_ANSWER_BYTES = 1_048_576


class LoadedModel(BaseModel):
    """One model in memory."""

    name: str
    size_bytes: int = Field(description="memory that it takes, wherever that is")
    size_vram_bytes: int = Field(description="the part that is in GPU memory")
    vram_share: float = Field(description="0 to 1; between the two, a part of the model is on the CPU, which is slow")
    expires_at: datetime | None = Field(description="when Ollama unloads it, unless it is used again")
    context_length: int | None


class LoadedModels(BaseModel):
    """The models that Ollama has loaded; an empty list if the server has no route to ask."""

    models: list[LoadedModel]


class Problem(BaseModel):
    """The reason for an error."""

    detail: str


class _Process(BaseModel):
    """A model in the answer of Ollama's `/api/ps` (its api.ProcessModelResponse)."""

    name: str
    size: int = 0
    size_vram: int = 0
    expires_at: datetime | None = None
    context_length: int | None = None

    def loaded(self) -> LoadedModel:
        share = self.size_vram / self.size if self.size > 0 else 0.0
        return LoadedModel(
            name=self.name,
            size_bytes=self.size,
            size_vram_bytes=self.size_vram,
            vram_share=round(min(max(share, 0.0), 1.0), 4),
            expires_at=self.expires_at,
            context_length=self.context_length,
        )


class _Processes(BaseModel):
    models: list[_Process] | None = None


class LoadedModelsProbe:
    """The models that Ollama has loaded; None while Ollama does not answer. One request at a time, for all clients."""

    def __init__(self, upstream: Upstream) -> None:
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
            return None
        finally:
            self._asked_at = time.monotonic()
        return _loaded(status, body)


def _loaded(status: int, body: bytes) -> LoadedModels | None:
    """The models in an answer of `/api/ps`; None if it is malformed. 404: a server with Ollama's OpenAI API alone."""
    if status == 404:
        return LoadedModels(models=[])
    try:
        found = _Processes.model_validate_json(body)
    except ValidationError:
        return None
    return LoadedModels(models=[model.loaded() for model in found.models or ()]) if status == 200 else None


@router.get("/models/loaded", responses={503: {"model": Problem, "description": "Ollama does not answer"}})
async def models_loaded(request: Request) -> LoadedModels:
    """The models that Ollama has in memory: on which device, and until when."""
    models: LoadedModels | None = await request.app.state.loaded_models()
    if models is None:
        raise HTTPException(503, "Ollama does not answer", headers={"Retry-After": "2"})
    return models
