"""Owns the parts of kept answers that the store's tests write, and waits for what becomes of them.

The unit tests of the store call it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.store.answers import Part, Saved
from gateway.store.interface import StoreError

if TYPE_CHECKING:
    from gateway.store.answers import AnswerStore

HEAD = '{"status":200}'
TTL_SECONDS = 600
EVENT_ID = "0b0c9d4e-0000-4000-8000-000000000000"


def part(
    piece: bytes = b"",
    offset: int = 0,
    *,
    task_id: str = "t",
    owner: str = "",
    generation: str = "1-a",
    created_ms: int = 1_000,
    head: str = "",
    is_end: bool = False,
    ttl_seconds: int = TTL_SECONDS,
) -> Part:
    """A part of an answer; without `head` the store should have it."""
    return Part(task_id, owner, generation, created_ms, head, offset, piece, is_end, ttl_seconds)


async def save(answers: AnswerStore, *parts: Part) -> list[Saved]:
    """What became of `parts`; raises StoreError."""
    found: asyncio.Future[list[Saved] | StoreError] = asyncio.get_running_loop().create_future()
    answers.save(parts, found.set_result)
    saved = await found
    if isinstance(saved, StoreError):
        raise saved
    return saved
