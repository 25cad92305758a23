"""Owns records of gateways for the tests: one as a gateway writes it, and how the store's table is read and forged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gateway.nodes.node import Node
from tests.support.store import OURS

if TYPE_CHECKING:
    from redis.asyncio import Redis

TABLE = OURS + "2:nodes"

NODE = Node(
    instance="gw-1",
    version="1.2.3",
    started_ms=1_700_000_000_000,
    running=2,
    waiting=3,
    max_running=4,
    models=("smollm2:135m", "modèle:1b"),
    store="up",
    is_draining=False,
    silent_ms=30_000,
)


def node(**more: Any) -> Node:
    """A gateway as it describes itself."""
    return replace(NODE, **more)


async def forge(client: Redis, records: dict[str, str]) -> None:
    """Records in the table, as any other client may write them: all at once, so that no heartbeat comes between."""
    await client.hset(TABLE, items=[text for pair in records.items() for text in pair])
