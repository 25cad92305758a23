"""`/nodes`: the gateways that share the store. With API keys only `admin` may see them.

The dataclasses below shape the answer, and describe it for /openapi.json.
"""

from dataclasses import dataclass, field

from gateway.errors import Forbidden
from gateway.http.request import Request
from gateway.nodes.announcer import Announcer
from gateway.nodes.node import NodeState, Seen, StoreView
from gateway.routes.plain import Answer, as_json, described


@dataclass(frozen=True, slots=True)
class NodeItem:
    """One gateway, as it described itself with its last heartbeat. The gateway that answers describes itself now."""

    instance: str = field(metadata=described("its `GATEWAY_INSTANCE`"))
    version: str
    started_ms: int
    running: int = field(metadata=described("requests that are with Ollama, without GET, HEAD and OPTIONS"))
    waiting: int = field(metadata=described("requests in its queue"))
    max_running: int = field(metadata=described("its `MAX_RUNNING`; 0 without a bound"))
    models: list[str] = field(metadata=described("what its Ollama has in memory; empty while Ollama does not answer"))
    store: StoreView = field(metadata=described("the store as this gateway finds it; none: not configured"))
    state: NodeState = field(metadata=described("draining: about to stop; lost: silent for three of its heartbeats"))
    age_sec: int = field(metadata=described("whole seconds since its last word; 0 for the gateway that answers"))


@dataclass(frozen=True, slots=True)
class NodeTable:
    """The gateways that share the store, by instance. Only the one that answers, while its store is away."""

    items: list[NodeItem]


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


async def nodes(announcer: Announcer, request: Request) -> Answer:
    """The gateways that share this store, with what each does. With API keys: for `admin` alone."""
    if request.reader is not None:
        raise Forbidden("only the API key 'admin' may see the gateways")
    return as_json(NodeTable([_item(seen) for seen in await announcer.table()]))
