"""`/livez` and `/readyz`: the process is alive; Ollama answers `/v1/models` and the gateway is not about to stop."""

import asyncio
import time
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway import __version__
from gateway.errors import UpstreamFailure
from gateway.tracker import Tracker
from gateway.upstream import Upstream

router = APIRouter(tags=["health"])

_PROBE_TIMEOUT_SECONDS = 2.0
_PROBE_AGE_SECONDS = 1.0

Status = Literal["ready", "degraded", "draining", "not_ready"]


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether requests will be served. The store's condition is only reported: without it, requests go on."""

    status: Status = Field(description="degraded: ready, but the store is away; draining: about to stop")
    upstream: Literal["up", "down"]
    store: Literal["up", "down", "off"] = Field(description="off: none is configured")
    unsaved: int = Field(description="statuses that wait to be written to the store")
    dropped: int = Field(description="ended tasks whose status was forgotten because the store was away for too long")
    version: str


class ReadinessProbe:
    """Asks Ollama at most once a second, however often it is asked itself. The store's condition is the writer's."""

    def __init__(self, upstream: Upstream, tracker: Tracker, *, has_store: bool) -> None:
        self._upstream = upstream
        self._tracker = tracker
        self._has_store = has_store
        self._is_upstream_up = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self) -> Readiness:
        if time.monotonic() - self._asked_at >= _PROBE_AGE_SECONDS:
            self._asking = self._asking or asyncio.create_task(self._ask())
            await asyncio.shield(self._asking)
        tracker = self._tracker
        status: Status = "ready" if tracker.is_store_up else "degraded"
        if tracker.is_draining or not self._is_upstream_up:
            status = "draining" if tracker.is_draining else "not_ready"
        store: Literal["up", "down"] = "up" if tracker.is_store_up else "down"
        return Readiness(
            status=status,
            upstream="up" if self._is_upstream_up else "down",
            store=store if self._has_store else "off",
            unsaved=tracker.unsaved,
            dropped=tracker.dropped,
            version=__version__,
        )

    async def _ask(self) -> None:
        """One question for all who want to know now."""
        self._is_upstream_up = await self._is_answering()
        self._asked_at = time.monotonic()
        self._asking = None

    async def _is_answering(self) -> bool:
        try:
            return await self._upstream.get_status("/v1/models", timeout_seconds=_PROBE_TIMEOUT_SECONDS) == 200
        except UpstreamFailure:
            return False


@router.get("/livez")
async def livez() -> Liveness:
    """The process is alive."""
    return Liveness()


@router.get(
    "/readyz", responses={503: {"model": Readiness, "description": "Ollama does not answer, or the gateway stops"}}
)
async def readyz(request: Request, response: Response) -> Readiness:
    """Ollama answers `/v1/models`, and the gateway is not about to stop."""
    readiness: Readiness = await request.app.state.readiness()
    response.status_code = 200 if readiness.status in ("ready", "degraded") else 503
    return readiness
