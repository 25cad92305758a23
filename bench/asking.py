"""Runs that ask for the status of tasks: reads, lists, waits, and reads beside streams.

Owns their kinds of scenario and the figures of each. Starts no process.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import orjson
import redis.asyncio

from bench.clients import AskingClient, Run, StreamClient, Target, chat
from bench.filled import FAILED_EVERY, task_id
from bench.load import Figures, JsonScenario, Scenario, connect, end
from bench.peers import Variant
from bench.stores import LIST_LIMIT

_KNOWN_TASKS = 200  # whose ETag is asked for before a run with If-None-Match


@dataclass(frozen=True, kw_only=True)
class StatusScenario(JsonScenario):
    """Reads status documents of ended tasks: a random one, or with a `query` the newest 50.

    `is_known`: the client has each document already, and says so by its ETag.
    """

    query: str = ""
    is_known: bool = False

    async def client(self, variant: Variant, run: Run) -> Callable[[], AskingClient]:
        target = variant.target
        if self.query:
            request = _get(target, f"?{self.query}")
            expected = min(LIST_LIMIT, variant.filled // (FAILED_EVERY if "FAILED" in self.query else 1))
            return partial(AskingClient, run, lambda: request, lambda body: _count(body) == expected)
        if self.is_known:
            numbers = random.sample(range(variant.filled), _KNOWN_TASKS)
            requests = [await _known_get(target, f"/{task_id(number)}") for number in numbers]
            return partial(AskingClient, run, partial(random.choice, requests), b"".__eq__, 304)
        requests = [_get(target, f"/{task_id(random.randrange(variant.filled))}") for _ in range(10_000)]
        return partial(AskingClient, run, partial(random.choice, requests), _is_ended)


@dataclass(frozen=True, kw_only=True)
class HeartbeatScenario(Scenario):
    """Runs streams and reads all documents again and again, to find the greatest age of a running task's status."""

    streams: int
    rate: int
    heartbeat_seconds: float
    slack_seconds: float = 1.0

    async def measure(self, variant: Variant, run: Run) -> Figures:
        assert variant.store is not None
        pieces = int((self.seconds + 1.0) * self.rate)
        request = chat(variant.target, f"pieces={pieces}&rate={self.rate}", is_stream=True)
        clients = await connect(variant.target, partial(StreamClient, run, request, pieces), self.streams)
        await asyncio.gather(*(client.has_begun for client in clients))
        ages: list[float] = []
        async with redis.asyncio.Redis(port=variant.store.port) as store:
            keys = [key async for key in store.scan_iter("ts:ollama:*", count=1_000)]
            until = time.monotonic() + self.seconds
            while time.monotonic() < until:
                await asyncio.sleep(0.25)
                ages += _ages(await store.mget(keys))
        await end(clients, run)
        late = sum(age > self.heartbeat_seconds + self.slack_seconds for age in ages)
        if late or len(keys) != self.streams:
            run.errors.append(f"{len(keys)} documents, {late} times older than a heartbeat and its slack")
        return {"documents": len(keys), "reads": len(ages), "oldest_seconds": max(ages, default=0.0), "late": late}


def _get(target: Target, what: str, fields: str = "") -> bytes:
    return f"GET /tasks/status{what} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\n{fields}\r\n".encode()


async def _known_get(target: Target, what: str) -> bytes:
    """The request of a client that has the present document. Raises OSError if the answer has no ETag."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(_get(target, what, "Connection: close\r\n"))
    head = (await reader.read()).partition(b"\r\n\r\n")[0].decode()
    writer.close()
    tag = next((line for line in head.split("\r\n") if line.lower().startswith("etag: ")), "")
    if not tag:
        raise OSError(f"no ETag in the answer: {head[:200]!r}")
    return _get(target, what, f"If-None-Match: {tag[6:]}\r\n")


def _is_ended(body: bytes) -> bool:
    return orjson.loads(body)["state"] in ("SUCCESS", "FAILED")


def _count(body: bytes) -> int:
    return len(orjson.loads(body)["items"])


def _ages(documents: Sequence[bytes | str | None]) -> Iterator[float]:
    """The age of the last status of each running task."""
    now = time.time()
    for document in documents:
        fields = orjson.loads(document) if document else {}
        if fields.get("state") == "RUNNING":
            yield now - fields["timestamp"]
