"""Owns the load of the tests in this directory: many small requests, some at a time, each with its time and fate.

A request that fails is an entry of the round, not an exception: the tests say what may fail.
"""

from __future__ import annotations

import asyncio
import math
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.streams import BODY, CHAT
from tests.support.wire import Client

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.gateway import Gateway

AT_ONCE = 8
LIMIT_SECONDS = 20.0  # of one request


@dataclass
class Round:
    """What became of some requests, in the order in which they ended."""

    task_ids: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        """The 99th percentile of the durations, by nearest rank."""
        return sorted(self.seconds)[math.ceil(0.99 * len(self.seconds)) - 1]


async def relay(gateway: Gateway, count: int, at_once: int = AT_ONCE) -> Round:
    """Send `count` requests over `at_once` connections; every second one names its task."""
    result, numbers = Round(), iter(range(count))
    await asyncio.gather(*(_ask_one_after_another(gateway.port, numbers, result) for _ in range(at_once)))
    return result


async def _ask_one_after_another(port: int, numbers: Iterator[int], result: Round) -> None:
    client = await Client.connect(port)
    for number in numbers:
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await _ask(client, number, result)
        except (AssertionError, OSError, EOFError, TimeoutError) as failure:
            result.failures.append(repr(failure))
            await client.close()
            client = await Client.connect(port)
    await client.close()


async def _ask(client: Client, number: int, result: Round) -> None:
    names = [(b"X-Task-Id", b"chaos-" + uuid.uuid4().hex.encode())] if number % 2 else []
    begun = time.monotonic()
    answer = await client.ask("POST", CHAT, *names, body=BODY)
    seconds = time.monotonic() - begun
    if (answer.status, answer.data, answer.body.complete) != (200, b"{}", True):
        result.failures.append(f"{answer.head.line!r} {answer.data[:200]!r}")
        return
    result.seconds.append(seconds)
    result.task_ids.append(answer.head.task_id)
