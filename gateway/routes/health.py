"""`/livez` and `/readyz`: the process is alive; Ollama answers `/v1/models`."""

import time
from typing import Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway.errors import UpstreamFailure
from gateway.tracker import Tracker
from gateway.upstream import Upstream

router = APIRouter(tags=["health"])

_PROBE_TIMEOUT_SECONDS = 2.0
_PROBE_AGE_SECONDS = 1.0


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether requests will be served. The store's condition is only reported: without it, requests go on."""

    status: Literal["ready", "not_ready"]
    upstream: Literal["up", "down"]
    store: Literal["up", "down", "off"] = Field(description="off: none is configured")


class ReadinessProbe:
    """Asks Ollama and the store at most once a second, however often it is asked itself."""

    def __init__(self, upstream: Upstream, tracker: Tracker, *, has_store: bool) -> None:
        self._upstream = upstream
        self._tracker = tracker
        self._has_store = has_store
        self._is_upstream_up = False
        self._asked_at = float("-inf")

    async def __call__(self) -> Readiness:
        if time.monotonic() - self._asked_at >= _PROBE_AGE_SECONDS:
            self._is_upstream_up = await self._ask_upstream()
            await self._tracker.probe()
            self._asked_at = time.monotonic()
        store: Literal["up", "down", "off"] = "up" if self._tracker.is_store_up else "down"
        return Readiness(
            status="ready" if self._is_upstream_up else "not_ready",
            upstream="up" if self._is_upstream_up else "down",
            store=store if self._has_store else "off",
        )

    async def _ask_upstream(self) -> bool:
        try:
            return await self._upstream.get_status("/v1/models", timeout_seconds=_PROBE_TIMEOUT_SECONDS) == 200
        except UpstreamFailure:
            return False


@router.get("/livez")
async def livez() -> Liveness:
    """The process is alive."""
    return Liveness()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Ollama does not answer"}})
async def readyz(request: Request, response: Response) -> Readiness:
    """Ollama answers `/v1/models`."""
    readiness: Readiness = await request.app.state.readiness()
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness
