"""Owns an upstream's side of a queue: requests that are served one by one, when a test says so, and how many at once.

`Served` is a script for all requests of a test. It answers the oldest request that is still here when `finish` is
called; a request whose connection the gateway closes is here no more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.scripted import CHUNKED, EVENTS, JSON, head
from tests.support.waiting import until
from tests.support.wire import LAST_CHUNK, chunk

if TYPE_CHECKING:
    import random

    from tests.support.scripted import Exchange

ANSWER = b'{"choices":[]}'


class Served:
    """Counts the requests that are here, and names the most that ever were."""

    def __init__(self) -> None:
        self.most = 0
        self.seen = 0
        self._asked: list[Exchange] = []
        self._ends: dict[Exchange, asyncio.Event] = {}

    @property
    def here(self) -> list[Exchange]:
        """The requests that are neither finished nor given up by the gateway, oldest first."""
        return [one for one in self._asked if not one.connection.is_ended_by_peer()]

    async def __call__(self, exchange: Exchange) -> None:
        """The script: waits for `finish`, or for the gateway to close the connection."""
        self._asked.append(exchange)
        self.most = max(self.most, len(self.here))
        self._ends[exchange] = asyncio.Event()
        waits = [asyncio.ensure_future(event.wait()) for event in (self._ends[exchange], exchange.closed)]
        try:
            await exchange.read()
            self.seen += 1
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.closed.is_set():
                await self.end(exchange)
        finally:
            for wait in waits:
                wait.cancel()
            if exchange in self._asked:
                self._asked.remove(exchange)

    async def end(self, exchange: Exchange) -> None:
        """What a request gets when it is finished."""
        await exchange.send(head(200, JSON, (b"Content-Length", b"%d" % len(ANSWER))) + ANSWER)

    def finish(self, exchange: Exchange | None = None) -> Exchange:
        """Answers a request; without one the oldest. It is here no more: its last byte brings the next request."""
        done = exchange or self.here[0]
        self._asked.remove(done)
        self._ends[done].set()
        return done

    async def finish_by_chance(self, chance: random.Random, until_set: asyncio.Event) -> None:
        """Answers requests in any order, and breaks some off, for as long as the event is not set."""
        while not until_set.is_set():
            if here := self.here:
                one, number = chance.choice(here), chance.random()
                if number < 0.7:
                    self.finish(one)
                else:
                    one.connection.end(reset=number < 0.85)
            await asyncio.sleep(0)

    async def has_seen(self, count: int) -> None:
        """Waits until so many requests have come, with their bodies."""
        await until(lambda: self.seen >= count, what=f"{count} seen")

    async def holds(self, count: int) -> None:
        """Waits until so many requests are here, with their bodies, and no more."""
        await until(lambda: len(self.here) == count, what=f"{count} here")


class ServedStreams(Served):
    """Answers with a short event stream instead."""

    async def end(self, exchange: Exchange) -> None:
        await exchange.send(head(200, EVENTS, CHUNKED) + chunk(b"data: {}\n\n"))
        await exchange.send(chunk(b"data: [DONE]\n\n") + LAST_CHUNK)
