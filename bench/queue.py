"""How long requests wait in the gateway's queue: `python -m bench.queue`. Writes docs/images/queue-waits.svg.

The upstream takes the same time for each request, however many are there. So what a client waits beyond that time is
the queue, and nothing else. No store and no model takes part. It prints the two tables of docs/queue.md.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import cast

import httptools
import httpx

from bench import tools
from bench.plots import Line, line_plot
from bench.process import answers, free_port, running

SERVICE_SECONDS = 0.5
REQUESTS = 40
BOUNDS = (1, 2, 4, 8)
LIGHT_REQUESTS = 20
KEYS = {"heavy": "bench-key-of-heavy", "light": "bench-key-of-light"}
PICTURE = tools.ROOT / "docs" / "images" / "queue-waits.svg"
_READY = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
_BODY = b'{"choices":[]}'
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)


class _Upstream(asyncio.Protocol):
    """One connection: each POST takes the service time, all else is answered at once."""

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by httptools."""
        seconds = SERVICE_SECONDS if self._parser.get_method() == b"POST" else 0
        asyncio.get_running_loop().call_later(seconds, self._transport.write, _ANSWER)


@asynccontextmanager
async def _gateway(folder: Path, settings: Mapping[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway with these settings, in front of the upstream."""
    server = await asyncio.get_running_loop().create_server(_Upstream, "127.0.0.1", 0)
    upstream, port = server.sockets[0].getsockname()[1], free_port()
    env = {"GATEWAY_PORT": str(port), "UPSTREAM_BASE": f"http://127.0.0.1:{upstream}", "LOG_LEVEL": "warning"}
    python = [sys.executable, "-m", "gateway"]
    limits, timeout = httpx.Limits(max_connections=None), httpx.Timeout(120)
    with running(folder, "gateway", python, port, {**env, **settings}, is_ready=answers(_READY)):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=timeout) as client:
            yield client
    server.close()


async def _wait_of_one(client: httpx.AsyncClient, key: str = "") -> float:
    """How many seconds a request takes beyond its service time."""
    fields = {"Authorization": f"Bearer {key}"} if key else {}
    begun = time.perf_counter()
    answer = await client.post("/v1/chat/completions", json={}, headers=fields)
    answer.raise_for_status()
    return time.perf_counter() - begun - SERVICE_SECONDS


async def _waits_in_order(client: httpx.AsyncClient, key: str = "") -> list["asyncio.Task[float]"]:
    """Requests that arrive one after another, faster than any is served."""
    begun = []
    for _ in range(REQUESTS):
        begun.append(asyncio.create_task(_wait_of_one(client, key)))
        await asyncio.sleep(0.005)
    return begun


async def by_bound(folder: Path, bound: int) -> list[float]:
    """The wait of each request, in the order of arrival."""
    async with _gateway(folder, {"MAX_RUNNING": str(bound)}) as client:
        return await asyncio.gather(*await _waits_in_order(client))


async def by_key(folder: Path) -> dict[str, list[float]]:
    """The waits of a key that sends all its requests at once, and of one that sends them one after another."""
    keys = ",".join(f"{name}:{key}" for name, key in KEYS.items())
    async with _gateway(folder, {"MAX_RUNNING": "1", "GATEWAY_API_KEYS": keys}) as client:
        heavy = await _waits_in_order(client, KEYS["heavy"])
        light = [await _wait_of_one(client, KEYS["light"]) for _ in range(LIGHT_REQUESTS)]
        return {"heavy": await asyncio.gather(*heavy), "light": light}


def _row(name: str, waits: Sequence[float]) -> str:
    cuts = quantiles(waits, n=100, method="inclusive")
    return f"| {name} | {len(waits)} | {cuts[49]:.1f} s | {cuts[94]:.1f} s | {max(waits):.1f} s |"


async def _measure() -> None:
    with tempfile.TemporaryDirectory() as folder:
        waits = {bound: await by_bound(Path(folder), bound) for bound in BOUNDS}
        keys = await by_key(Path(folder))
    lines = [Line(f"MAX_RUNNING={bound}", found) for bound, found in waits.items()]
    unit = f"seconds, by order of arrival; each request takes Ollama {SERVICE_SECONDS} s"
    PICTURE.write_text(line_plot(f"Waits of {REQUESTS} requests that arrive at once", unit, lines))
    print("| `MAX_RUNNING` | Requests | p50 | p95 | Longest |", "|---|---|---|---|---|", sep="\n")
    print(*(_row(str(bound), found) for bound, found in waits.items()), sep="\n")
    print("\n| Key | Requests | p50 | p95 | Longest |", "|---|---|---|---|---|", sep="\n")
    print(*(_row(name, found) for name, found in keys.items()), sep="\n")
    print(json.dumps({"cores": os.cpu_count(), "commit": tools.first_line(["git", "rev-parse", "--short", "HEAD"])}))


if __name__ == "__main__":
    asyncio.run(_measure())
