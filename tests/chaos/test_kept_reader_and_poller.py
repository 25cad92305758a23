"""Pollers and readers of kept answers: no end is told before the answer is there, and readers cost no memory."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import ASYNC, DONE_EVENT, KEEP, new_id, read, route
from tests.support.scripted import CHUNKED, EVENTS, head
from tests.support.streams import BODY, CHAT
from tests.support.waiting import next_turn, until, within
from tests.support.wire import LAST_CHUNK, Client, chunk, request

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream

pytestmark = pytest.mark.timeout(600)

TASKS = 2000
AT_ONCE = 8
MEBIBYTE = 1024 * 1024
SIZE = 10 * MEBIBYTE


def answer_of(number: int) -> list[bytes]:
    """One stream: up to 40 KB, so that some are written at once and others after the linger."""
    chance = random.Random(number)
    sizes = [chance.choice([1, 100, 9000]) for _ in range(chance.randrange(8))]
    return [b"data: %b\n\n" % (b"x" * size) for size in sizes] + [DONE_EVENT]


async def answer(exchange: Exchange) -> None:
    """The script: the number in the body says which."""
    number = int(await exchange.read())
    await exchange.send(head(200, EVENTS, CHUNKED))
    for event in answer_of(number):
        await next_turn()
        await exchange.send(chunk(event))
    await exchange.send(LAST_CHUNK)


async def is_readable_at_its_end(first: Gateway, other: Gateway, number: int) -> str:
    """What a reader finds at the moment that a poller sees the end, at a gateway that has not run the task."""
    whole = b"".join(answer_of(number))
    task_id = new_id()
    poller, caller = await Client.connect(other.port), await Client.connect(first.port)
    fields = [KEEP] if number % 2 else [ASYNC]
    await caller.send(request("POST", CHAT, (b"X-Task-Id", task_id.encode()), *fields, body=b"%d" % number))
    wait = "?wait=30" if number % 4 < 2 else ""
    tag = b'""'
    while True:
        status = await poller.ask("GET", f"/tasks/status/{task_id}{wait}", (b"If-None-Match", tag))
        tag = status.head.get("etag") or tag
        if status.status == 200 and status.json()["state"] in ("SUCCESS", "FAILED"):
            break
    there = await poller.ask("GET", route(task_id, f"from={len(whole)}&wait=0"))
    read_all = await poller.ask("GET", route(task_id))
    await poller.close()
    await caller.close()
    if there.status != 200:
        return f"{there.status} at the end of {len(whole)} bytes"
    return "whole" if (read_all.data, read_all.body.complete) == (whole, True) else "another answer"


async def test_no_end_is_seen_before_the_answer_is_there(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """2,000 of 2,000: a reader at another gateway has the whole answer as soon as a poller there sees the end."""
    store = await new_store()
    first, other = [await launch(REDIS_URL=store.url) for _ in range(2)]
    upstream.default = answer
    found: Counter[str] = Counter()
    numbers = iter(range(TASKS))

    async def one_after_another() -> None:
        for number in numbers:
            found[await is_readable_at_its_end(first, other, number)] += 1

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    assert found == {"whole": TASKS}


@pytest.mark.parametrize("is_live", [True, False])
async def test_readers_cost_the_gateway_no_memory(
    launch: Launch, new_store: NewStore, upstream: Upstream, is_live: bool
) -> None:
    """Three readers of 10 MiB, one of them stalled: two finish, and it grows by the answer and 2 MiB at most."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    for _ in range(3):  # what the first calls allocate for good
        await answered(gateway, upstream, MEBIBYTE // 4, is_live=is_live)
    before = gateway.resident_bytes
    most = await answered(gateway, upstream, SIZE, is_live=is_live)
    assert most - before <= SIZE + 2 * MEBIBYTE


async def answered(gateway: Gateway, upstream: Upstream, size: int, *, is_live: bool) -> int:
    """Has three readers read an answer, one of which takes nothing; the most memory that the gateway had."""
    stream = upstream.gated()
    task_id = (await gateway.ask("POST", CHAT, ASYNC, body=BODY)).head.task_id
    piece = random.Random(size).randbytes(16 * 1024)
    hash_ = hashlib.sha256(piece * (size // len(piece))).hexdigest()
    most = gateway.resident_bytes
    stream.head()
    if not is_live:
        for _ in range(size // len(piece)):
            stream.piece(piece)
        stream.end()
        await gateway.ended(task_id)
    stalled = await gateway.connect(receive_buffer=4096)
    stalled.stop_reading()
    await stalled.send(request("GET", route(task_id)))
    readers = [asyncio.ensure_future(read(gateway, task_id)) for _ in range(2)]
    if is_live:
        for _ in range(size // len(piece)):
            stream.piece(piece)
        stream.end()

    def is_read() -> bool:
        nonlocal most
        most = max(most, gateway.resident_bytes)
        return all(reader.done() for reader in readers)

    await until(is_read, 60, "two readers have read all")
    assert [(await reader).body.sha256 for reader in readers] == [hash_] * 2
    await gateway.ended(task_id)
    stalled.go_on_reading()
    assert (await within(60, stalled.answer())).body.sha256 == hash_
    return most
