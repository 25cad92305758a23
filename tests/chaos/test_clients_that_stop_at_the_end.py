"""Clients that leave with what ends their answer: the end event of a stream, or the last byte of a plain body.

The test that holds that asks the store itself, on a connection of the test's own, without waiting for anything.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.chaos.load import AT_ONCE
from tests.support import patient
from tests.support.outcome import DONE, outcome
from tests.support.scripted import JSON, answering, streaming
from tests.support.streams import BODY, CHAT, stored_states
from tests.support.wire import Client, request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.conftest import Launch
    from tests.support.scripted import Upstream
    from tests.support.store import Store

    Ended = tuple[str, tuple[str, str, str | None]]  # a task, and what the store had when its client had its end


pytestmark = pytest.mark.timeout(600)

REQUESTS = 1_000
LAST_EVENT = b"data: [DONE]\n\n"


async def many(one: Callable[[], Awaitable[Ended]]) -> list[Ended]:
    """What became of 1,000 requests, 8 at a time."""
    ended: list[Ended] = []
    numbers = iter(range(REQUESTS))

    async def one_after_another() -> None:
        ended.extend([await one() for _ in numbers])

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    return ended


async def check(ended: list[Ended], store: Store) -> None:
    """Each was SUCCESS at once, and still is."""
    assert [outcome for _, outcome in ended] == [DONE] * REQUESTS
    states = await stored_states(store, [task_id for task_id, _ in ended])
    assert list(states.values()) == ["SUCCESS"] * REQUESTS


async def test_a_stream_has_ended_with_its_end_event(launch: Launch, upstream: Upstream, store: Store) -> None:
    """1,000 of 1,000 streams are SUCCESS in the store when their clients have [DONE], and stay so when these leave."""
    gateway = await launch(patient.COMMAND, REDIS_URL=store.url)
    upstream.default = streaming(b'data: {"n":1}\n\n', LAST_EVENT)

    async def one() -> Ended:
        client = await Client.connect(gateway.port)
        await client.send(request("POST", CHAT, body=BODY))
        head = await client.head()
        await client.up_to(LAST_EVENT)
        document = await store.document(head.task_id)
        await client.close()
        return head.task_id, outcome(document)

    await check(await many(one), store)


async def test_a_plain_answer_has_ended_with_its_last_byte(launch: Launch, upstream: Upstream, store: Store) -> None:
    """1,000 of 1,000 plain answers are SUCCESS in the store when their clients have the last byte."""
    gateway = await launch(patient.COMMAND, REDIS_URL=store.url)
    upstream.default = answering(200, JSON, body=b"{}")

    async def one() -> Ended:
        client = await Client.connect(gateway.port)
        answer = await client.ask("POST", CHAT, body=BODY)
        document = await store.document(answer.head.task_id)
        await client.close()
        return answer.head.task_id, outcome(document)

    await check(await many(one), store)
