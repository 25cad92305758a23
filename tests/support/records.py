"""Owns the status records that the store's and the tracker's tests write: made from real tasks, nothing invented.

The unit tests of the store call it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from gateway.store import Record
from gateway.task import Stage, Task

if TYPE_CHECKING:
    from gateway.store import Page, Store
    from gateway.task import State

BOOT = "boot-1"


def record(
    task_id: str,
    stage: Stage = Stage.QUEUED,
    *,
    attempt: int = 1,
    created_ms: int = 1_000,
    ttl_seconds: int = 60,
    boot: str = BOOT,
    message: str = "",
) -> Record:
    """The status of a task at `stage`, as the tracker of process `boot` writes it; attempt 0 claims the id."""
    task = Task(task_id, "POST", "/v1/x", "", created_ms, stage=stage, message=message)
    head = task.document_head(algorithm_id="a", instance="i", boot=boot, now=created_ms / 1000)
    return Record(task_id, head, attempt, stage.rank, stage.state, created_ms, ttl_seconds)


async def stored(store: Store, task_id: str) -> dict[str, Any]:
    """The document of a task; it has to be there."""
    text = await store.read(task_id)
    assert text is not None, f"no document for {task_id}"
    document: dict[str, Any] = json.loads(text)
    return document


async def stage_and_attempt(store: Store, task_id: str) -> tuple[str, int]:
    """What a poller acts on, in short."""
    document = await stored(store, task_id)
    return document["stage"], document["extensions"]["attempt"]


def ids(page: Page) -> list[str]:
    """The ids of a page's tasks, in its order."""
    return [json.loads(document)["task_id"] for document in page.documents]


async def walk(store: Store, limit: int = 1000, state: State | None = None) -> list[str]:
    """The ids of all pages, from the newest on."""
    found, cursor = [], None
    while True:
        page = await store.page(limit, state, cursor)
        assert len(page.documents) <= limit
        found += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.documents) == limit, "a page before the last one is full"
