"""Describes the routes of health, models, nodes and metrics for /openapi.json. No request calls these functions.

`PlainRoutes` answers the requests. The dataclasses are those that it answers with.
"""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Response

from gateway.routes.health import Liveness, Readiness
from gateway.routes.models import LoadedModels
from gateway.routes.nodes import NodeTable

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Problem:
    """The reason for an error."""

    detail: str


@router.get("/livez", tags=["health"])
async def livez() -> Liveness:
    """The process is alive."""
    raise NotImplementedError


@router.get(
    "/readyz",
    tags=["health"],
    responses={503: {"model": Readiness, "description": "Ollama does not answer, models lack, or the gateway stops"}},
)
async def readyz() -> Readiness:
    """Ollama answers `/v1/models`, has the models that readiness waits for, and the gateway is not about to stop."""
    raise NotImplementedError


@router.get(
    "/models/loaded",
    tags=["models"],
    responses={503: {"model": Problem, "description": "Ollama does not answer, or its answer cannot be read"}},
)
async def models_loaded() -> LoadedModels:
    """The models that Ollama has in memory: on which device, and until when."""
    raise NotImplementedError


@router.get(
    "/nodes",
    tags=["nodes"],
    responses={403: {"model": Problem, "description": "API keys are on, and the key is not `admin`"}},
)
async def nodes() -> NodeTable:
    """The gateways that share this store, with what each does. With API keys: for `admin` alone."""
    raise NotImplementedError


@router.get("/metrics", tags=["metrics"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def scrape(accept: Annotated[str, Header()] = "") -> Response:
    """The metrics for Prometheus, as OpenMetrics if `Accept` asks for it."""
    raise NotImplementedError
