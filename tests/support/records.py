"""Owns the status records that the store's and the tracker's tests write: made from real tasks, nothing invented.

The unit tests of the store call it.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from gateway.store.interface import Incomplete, Record, StoreError, Written
from gateway.tasks.document import document_head
from gateway.tasks.stages import FINAL_RANK, Stage
from gateway.tasks.task import Task
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.store.interface import Page, Peeked, PeekedPage, Store
    from gateway.tasks.stages import State

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
    owner: str = "",
    instance: str = "i",
    grace_seconds: float = 30,
    label: str = "",
) -> Record:
    """The status of a task at `stage`, as the tracker of process `boot` writes it; attempt 0 claims the id."""
    finished_ms = created_ms if stage.rank == FINAL_RANK else None
    task = Task(
        task_id, "POST", "/v1/x", "", created_ms, owner=owner, label=label, stage=stage, message=message,
        finished_ms=finished_ms,
    )  # fmt: skip
    head = document_head(task, algorithm_id="a", instance=instance, boot=boot, now=created_ms / 1000)
    return Record(
        task_id, head, attempt, stage.rank, stage.state, created_ms, ttl_seconds, owner, grace_seconds, label=label
    )


async def put(store: Store, records: Sequence[Record]) -> list[Written]:
    """What became of `records`; raises StoreError."""
    answer: asyncio.Future[list[Written]] = asyncio.get_running_loop().create_future()

    def take(written: list[Written] | StoreError) -> None:
        if answer.done():
            return  # no one waits for it any more
        if isinstance(written, StoreError):
            answer.set_exception(written)
        else:
            answer.set_result(written)

    store.write(records, take)
    return await answer


async def text_of(store: Store, task_id: str) -> str | None:
    """The document of a task as it stands, None where there is none."""
    [text] = await store.read([task_id])
    return text


async def peeked(store: Store, task_id: str) -> Peeked:
    """What a plain read finds of a task."""
    answer: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
    store.peek(task_id, answer.set_result)
    return await answer


async def peeked_page(
    store: Store,
    limit: int = 1000,
    state: State | None = None,
    cursor: str | None = None,
    *,
    owner: str | None = None,
    label: str = "",
) -> PeekedPage:
    """What a plain read finds of a page."""
    answer: asyncio.Future[PeekedPage] = asyncio.get_running_loop().create_future()
    store.peek_page(limit, state, cursor, answer.set_result, owner=owner, label=label)
    return await answer


def undated(text: str | None) -> str | None:
    """A document without the moment from which it counts as lost: only a real store has one."""
    return None if text is None else re.sub(r'"lost_after_ms":\d+', '"lost_after_ms":null', text)


async def stored(store: Store, task_id: str) -> dict[str, Any]:
    """The document of a task; it has to be there."""
    text = await text_of(store, task_id)
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


async def begin_lists(store: Store) -> None:
    """Has the lists begun on an empty server. A busy machine may take longer than a page waits for that."""

    async def are_begun() -> bool:
        try:
            await store.page(1, None, None)
        except Incomplete:
            return False
        return True

    await until(are_begun, what="the lists are begun")


async def walk(
    store: Store, limit: int = 1000, state: State | None = None, owner: str | None = None, label: str = ""
) -> list[str]:
    """The ids of all pages, from the newest on."""
    found, cursor = [], None
    while True:
        page = await store.page(limit, state, cursor, owner=owner, label=label)
        assert len(page.documents) <= limit
        found += ids(page)
        cursor = page.next_cursor
        if cursor is None:
            return found
        assert len(page.documents) == limit, "a page before the last one is full"
