"""Runs that ask for the status of tasks: reads, lists, waits, and reads beside streams.

Owns their kinds of scenario and the figures of each. Starts no process.
"""

import asyncio
import itertools
import random
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import orjson
import redis.asyncio

from bench.clients import AskingClient, PacedClient, Run, StreamClient, Target, WaitingClient, chat
from bench.filled import FAILED_EVERY, task_id
from bench.load import Figures, JsonScenario, Scenario, StreamScenario, connect, end, percentile, warm_memory
from bench.peers import Variant
from bench.procstat import Meter, Usage
from bench.stores import LIST_LIMIT
from bench.upstream import COMPLETION

_KNOWN_TASKS = 200  # before a run with If-None-Match the bench gets the ETags of so many
_OWN_DESCRIPTORS = 200  # of a gateway, beside those of its clients
_MOST_SETTLE_SECONDS = 10
_QUIET_SHARE = 0.05  # of a core
_CHANGE_SECONDS = 0.02  # between two ends of tasks


@dataclass(frozen=True, kw_only=True)
class StatusScenario(JsonScenario):
    """Reads status documents of ended tasks: a random one, or with a `query` the newest 50.

    `is_known`: the client has each document already, and sends its ETag.
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
class WaitScenario(Scenario):
    """`waiters` clients, each waiting for the change of a running task of its own; then `changes` of the tasks end.

    The gateway's CPU is read for `seconds` without a waiter, and for as long while all wait and nothing changes. There
    are fewer waiters if the file descriptors do not suffice.
    """

    waiters: int
    changes: int

    def shortened(self) -> Scenario:
        return replace(self, waiters=min(self.waiters, 500), changes=min(self.changes, 100), seconds=1.0)

    async def measure(self, variant: Variant, run: Run) -> Figures:
        waiters, meter = min(self.waiters, _fitting_waiters()), variant.meter
        await warm_memory(self, variant)
        tasks = await self._begin_tasks(variant, run, waiters)
        alone = await self._usage(meter)
        before = meter.resident_bytes()
        numbers = itertools.count()
        polls = await connect(variant.target, lambda: _waiting(variant.target, run, next(numbers)), waiters)
        waiting = await self._usage(meter)
        grown = meter.resident_bytes() - before
        if early := sum(poll.answered_ns > 0 for poll in polls):
            run.errors.append(f"{early} waiters were answered before a change")
        delays = await self._change(variant, tasks, polls)
        for client in (*tasks, *polls):
            client.finish()
        await end([*tasks, *polls], run)
        return {
            "waiters": waiters,
            "waiter_kib": grown / 1024 / waiters,
            "wait_percent": 100 * (_share(waiting.proxy, waiting) - _share(alone.proxy, alone)),
            "wait_store_percent": 100 * (_share(waiting.store, waiting) - _share(alone.store, alone)),
            "p50_us": percentile(delays, 0.50) * 1e6,
            "p99_us": percentile(delays, 0.99) * 1e6,
        }

    async def _begin_tasks(self, variant: Variant, run: Run, count: int) -> list[StreamClient]:
        holder, numbers = variant.holder or variant.target, itertools.count()
        tasks = await connect(holder, lambda: _held(holder, run, next(numbers)), count)
        await asyncio.gather(*(task.has_begun for task in tasks))
        return tasks

    async def _usage(self, meter: Meter) -> Usage:
        """What is used in a window. Waits before it until the gateway is quiet, for ten seconds at most."""
        for _ in range(_MOST_SETTLE_SECONDS):
            before = meter.read()
            await asyncio.sleep(1.0)
            used = meter.read() - before
            if used.proxy < _QUIET_SHARE * used.at_seconds:
                break
        before = meter.read()
        await asyncio.sleep(self.seconds)
        return meter.read() - before

    async def _change(
        self, variant: Variant, tasks: Sequence[StreamClient], polls: Sequence[WaitingClient]
    ) -> list[float]:
        """Ends tasks, one after another. Returns the sorted times from the upstream's end to the waiter's answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", variant.upstream.port)
        chosen = random.sample(range(len(tasks)), min(self.changes, len(tasks)))
        for number in chosen:
            writer.write(chat(Target(variant.upstream.port), f"release={number}")())
            await reader.readuntil(COMPLETION)
            await asyncio.sleep(_CHANGE_SECONDS)
        await asyncio.gather(*(client.closed for number in chosen for client in (tasks[number], polls[number])))
        writer.close()
        return sorted((polls[number].answered_ns - tasks[number].sent_ns) / 1e9 for number in chosen)


@dataclass(frozen=True, kw_only=True)
class AskedStreamScenario(StreamScenario):
    """Streams alone, then the same with `reads` status reads of ended tasks a second beside them."""

    reads: int
    readers: int = 20

    async def measure(self, variant: Variant, run: Run) -> Figures:
        alone = await super().measure(variant, run)
        if not variant.filled:
            return alone
        asking = Run()
        requests = [_get(variant.target, f"/{task_id(random.randrange(variant.filled))}") for _ in range(1_000)]
        make = partial(PacedClient, asking, partial(random.choice, requests), _is_ended, rate=self.reads / self.readers)
        clients, begun = await connect(variant.target, make, self.readers), time.perf_counter()
        beside = await super().measure(variant, run)
        seconds = time.perf_counter() - begun
        await end(clients, asking)
        run.errors += asking.errors
        return {
            **alone,
            "asked_p50_us": beside["p50_us"],
            "asked_p99_us": beside["p99_us"],
            "asked_core": beside["proxy_core"],
            "reads_per_second": asking.answers / seconds,
            "read_p50_us": percentile(sorted(asking.delays), 0.50) * 1e6,
        }


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


def _waited_id(number: int) -> str:
    return f"waited-{number}"


def _held(target: Target, run: Run, number: int) -> StreamClient:
    """The client of a task that runs until the bench tells the upstream to end it."""
    with_id = replace(target, fields=f"X-Task-Id: {_waited_id(number)}\r\n".encode())
    return StreamClient(run, chat(with_id, f"hold={number}", is_stream=True), 2)


def _waiting(target: Target, run: Run, number: int) -> WaitingClient:
    """The client that waits for the end of that task."""
    request = _get(target, f"/{_waited_id(number)}?wait=60")
    return WaitingClient(run, lambda: request, _is_ended)


def _fitting_waiters() -> int:
    """How many may wait at one gateway: half its connections. It needs two file descriptors for each connection."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (soft - _OWN_DESCRIPTORS) // 4


def _share(seconds: float, usage: Usage) -> float:
    return seconds / usage.at_seconds


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
