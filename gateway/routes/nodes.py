"""`/nodes`: the gateways that share the store. With API keys only `admin` may see them.

The models below only describe the answer for /openapi.json, and shape it.
"""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from gateway.errors import Forbidden
from gateway.http.request import Request as ClientRequest
from gateway.nodes.announcer import Announcer
from gateway.nodes.node import NodeState, Seen, StoreView

router = APIRouter(tags=["nodes"])


class NodeItem(BaseModel):
    """One gateway, as it described itself with its last heartbeat. The gateway that answers describes itself now."""

    instance: str = Field(description="its `GATEWAY_INSTANCE`")
    version: str
    started_ms: int
    running: int = Field(description="requests that are with Ollama, without GET, HEAD and OPTIONS")
    waiting: int = Field(description="requests in its queue")
    max_running: int = Field(description="its `MAX_RUNNING`; 0 without a bound")
    models: list[str] = Field(description="what its Ollama has in memory; empty while Ollama does not answer")
    store: StoreView = Field(description="the store as this gateway finds it; none: not configured")
    state: NodeState = Field(description="draining: about to stop; lost: silent for three of its heartbeats")
    age_sec: int = Field(description="whole seconds since its last word; 0 for the gateway that answers")


class NodeTable(BaseModel):
    """The gateways that share the store, by instance. Only the one that answers, while its store is away."""

    items: list[NodeItem]


class Problem(BaseModel):
    """The reason for an error."""

    detail: str


def _item(seen: Seen) -> NodeItem:
    node = seen.node
    return NodeItem(
        instance=node.instance,
        version=node.version,
        started_ms=node.started_ms,
        running=node.running,
        waiting=node.waiting,
        max_running=node.max_running,
        models=list(node.models),
        store=node.store,
        state=seen.state,
        age_sec=seen.age_ms // 1000,
    )


@router.get("/nodes", responses={403: {"model": Problem, "description": "API keys are on, and the key is not `admin`"}})
async def nodes(request: Request) -> NodeTable:
    """The gateways that share this store, with what each does. With API keys: for `admin` alone."""
    client: ClientRequest = request.scope["extensions"]["gateway"]
    if client.reader is not None:
        raise Forbidden("only the API key 'admin' may see the gateways")
    announcer: Announcer = request.app.state.announcer
    return NodeTable(items=[_item(seen) for seen in await announcer.table()])
