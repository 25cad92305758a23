"""Owns malformed records of every kind, as another writer may leave them in the store.

Each field of a document in every wrong shape, entries of the list, keys of another type. Unit, integration and browser
tests forge with it.
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from gateway.tasks.document import complete_document
from gateway.tasks.stages import Stage
from tests.support.records import record
from tests.support.store import DOCUMENTS, OURS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis.asyncio import Redis

LISTS = OURS + "2:"
MISSING = object()
# None of them is right for all fields; each is wrong for most.
SHAPES: dict[str, Any] = {
    "missing": MISSING, "null": None, "true": True, "nan": math.nan, "infinity": math.inf, "-3": -3, "1.5": 1.5,
    "1e300": 1e300, "2^53": 2**53 + 1, "empty": "", "word": "x", "escape": "\x1b]0;owned\x07\r\nX: y", "list": [],
    "table": {}, "nested": [[{"a": [1]}]],
}  # fmt: skip
FIELDS = [
    "version", "event_type", "event_id", "algorithm_id", "task_id", "state", "stage", "message", "timestamp",
    "extensions",
]  # fmt: skip
EXTENSIONS = [
    "method", "path", "query", "stream", "status_code", "reason", "created_ms", "started_ms", "first_byte_ms",
    "finished_ms", "request_bytes", "response_bytes", "is_detached", "response", "attempt", "instance", "boot", "owner",
    "lost_after_ms", "error_text", "trace_id",
]  # fmt: skip
ENTRIES = [
    "x", ":", "::::", "0000000001000", "0000000001000:DONE::t", "1000:SUCCESS:t", "0000000001000:SUCCESS:alice",
    "~~~", b"\xff\x00\xfe", "0000000001000:\x1b[31m::t",
]  # fmt: skip
PLACES = [
    "x", ":", "1000:t", "0000000001000", "0000000001000:", "000000000100x:t", "0000000001000:a b",
    "99999999999999:t", "~~~", b"\xff\xfe", b"\xee", "0000000001000:" + "t" * 200, "0000000001000:\x1b[31m",
]  # fmt: skip
KINDS = ["string", "list", "set", "hash", "zset"]


def document(task_id: str, stage: Stage = Stage.STREAMING, **more: Any) -> dict[str, Any]:
    """A document as a gateway writes it."""
    found: dict[str, Any] = json.loads(complete_document(record(task_id, stage, **more).head, 1))
    return found


def with_shape(task_id: str, field: str, shape: Any, stage: Stage = Stage.STREAMING, **more: Any) -> str:
    """A document in which one field, or extension, has another shape."""
    forged = document(task_id, stage, **more)
    holder = forged["extensions"] if field in EXTENSIONS else forged
    holder[field] = shape
    if shape is MISSING:
        del holder[field]
    return json.dumps(forged, separators=(",", ":"))


def all_documents(created_ms: int, stage: Stage = Stage.STREAMING) -> Iterator[tuple[str, str]]:
    """Every field in every shape: an id that says which, and the document."""
    for field in FIELDS + EXTENSIONS:
        for n, shape in enumerate(SHAPES.values()):
            task_id = f"{field}-{n}"
            yield task_id, with_shape(task_id, field, shape, stage, created_ms=created_ms)


async def forge_key(client: Redis, key: str, kind: str) -> None:
    """Another type of value under a key."""
    await client.delete(key)
    match kind:
        case "string":
            await client.set(key, "x")
        case "list":
            await client.rpush(key, "x")
        case "set":
            await client.sadd(key, "x")
        case "hash":
            await client.hset(key, "x", "y")
        case "zset":
            await client.zadd(key, {"x": 1})


def lost_document(task_id: str, *, is_presumed: bool | None, **more: Any) -> dict[str, Any]:
    """A lost task that another gateway ran, as the gateway that noticed wrote it just now.

    `is_presumed` None: an earlier gateway, which does not tell.
    """
    now = int(time.time())
    found = document(task_id, Stage.LOST, **more) | {"timestamp": now}
    found["extensions"] |= {"reason": "lost", "instance": "gateway-2:11535", "finished_ms": now * 1000}
    found["extensions"] |= {"lost_after_ms": None, "is_presumed": is_presumed}
    if is_presumed is None:
        del found["extensions"]["is_presumed"]
    return found


async def forge_document(client: Redis, task_id: str, text: str, created_ms: int = 1000) -> None:
    """A document that has its place in a list, too."""
    await client.set(DOCUMENTS + task_id, text, ex=60)
    await client.zadd(LISTS + "RUNNING", {f"{created_ms:013d}:{task_id}": 0})
