"""Owns the parts of kept answers that the store's tests write, and looks at what Redis has of them.

The unit tests of the store call it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gateway.store.answers import Part, Saved
from gateway.store.interface import StoreError
from gateway.store.redis_answers import RedisAnswers

if TYPE_CHECKING:
    from gateway.store.answers import AnswerStore
    from tests.support.store import Store as Server

HEAD = '{"status":200}'
TTL_SECONDS = 600
EVENT_ID = "0b0c9d4e-0000-4000-8000-000000000000"
PREFIX = "tsx:ollama:2:"
ANSWERS, ANSWER_BYTES = PREFIX + "answers", PREFIX + "answer-bytes"
MOST = 10_000


def client_of(server: Server, most: int = MOST) -> RedisAnswers:
    """The kept answers of one gateway process."""
    return RedisAnswers(server.url, max_stored_bytes=most)


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


async def sizes(server: Server) -> dict[str, int]:
    """The bytes of each answer that is stored, by its name in the counts, as its keys are; none of what was dropped."""
    found = {}
    for key in await server.keys():
        if key.startswith(PREFIX + "answer:"):
            task_id = key.removeprefix(PREFIX + "answer:")
            text = str(await server.client.get(key))
            generation, _, head = text.split(" ", 2)
            body = f"{PREFIX}body:{task_id} {generation}"
            if head:
                found[f"{task_id} {generation}"] = len(text) + await server.client.strlen(body)
            else:
                assert not await server.client.exists(body)
    return found


async def counted(server: Server) -> dict[str, str]:
    """The counts, as the server has them."""
    found = await server.client.hgetall(ANSWER_BYTES)
    return {str(name): str(value) for name, value in found.items()}


async def total(server: Server) -> int:
    """How many bytes are counted in all."""
    return int((await counted(server)).get("@", 0))
