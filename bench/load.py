"""A measured run: warm up, open a window, close it, check every answer.

Owns what is relayed: the kinds of scenario and the figures of each; `asking` has those of status reads. Starts no
process. `scenarios` lists them.
"""

import asyncio
import gc
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import uvloop

from bench import tools
from bench.clients import AskingClient, BulkClient, Client, Run, StreamClient, Target, chat, is_completion
from bench.peers import Variant
from bench.procstat import Usage
from bench.stores import store_command

Figures = dict[str, float]
_SETTLE_SECONDS = 0.2
_WARM_SECONDS = 0.2  # of small requests, before the memory of a fresh process is read
_SAMPLE_SECONDS = 0.02
_MIB = 1024 * 1024
_C = TypeVar("_C", bound=Client)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a variant: its figures and its errors."""

    figures: Figures
    errors: list[str]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One way to measure variants. `is_fresh`: each run gets new processes, because it measures their memory.

    Others of one `group` that follow each other share theirs. `most_rounds`: more would tell nothing. `gateway_env`:
    settings of the gateways in it. `turns`: so many runs of each variant make a round. `keeps_tasks`: a run leaves the
    tasks of the runs before it in the store. `limit_seconds`: what a run may take beyond its planned time.
    """

    name: str
    title: str
    variants: tuple[str, ...]
    warm_seconds: float = 0.4
    seconds: float = 1.0
    is_fresh: bool = False
    group: str = ""
    most_rounds: int = 99
    gateway_env: Mapping[str, str] = field(default_factory=dict)
    turns: int = 1
    keeps_tasks: bool = False
    limit_seconds: float = 30.0

    def shortened(self) -> "Scenario":
        """The same with windows of at most a second, to see whether it runs at all."""
        return replace(self, seconds=min(self.seconds, 1.0))

    def run(self, variant: Variant) -> Outcome:
        """One run. Raises OSError (TimeoutError is one) if it fails."""
        if variant.store is not None and variant.counts_tasks and not self.keeps_tasks:
            store_command(variant.store, "FLUSHALL")  # ours alone, started for this bench
        kept = _keys(variant)
        time.sleep(_SETTLE_SECONDS)
        run = Run()
        figures = uvloop.run(self._bounded(variant, run))
        # A terminal state is stored before the last byte goes out, so all of them are there by now.
        if variant.counts_tasks and (tracked := _keys(variant) - kept) < run.answers:
            run.errors.append(f"{run.answers} answers, only {tracked} keys in the store")
        return Outcome({**figures, "errors": len(run.errors)}, run.errors[:3])

    async def _bounded(self, variant: Variant, run: Run) -> Figures:
        async with asyncio.timeout(self.warm_seconds + self.seconds + self.limit_seconds):
            with _without_collector():
                return await self.measure(variant, run)

    async def measure(self, variant: Variant, run: Run) -> Figures:
        """The figures of one run. The caller judges the other results in `run`."""
        raise NotImplementedError

    async def window(self, variant: Variant, run: Run, *, clears_first_bytes: bool = True) -> tuple[Usage, list[float]]:
        """Warms up and measures: the resources that each party used, and the sorted delays of what ended in the window.

        Raises TimeoutError where nothing did.
        """
        meter = variant.meter
        await asyncio.sleep(self.warm_seconds)
        before = meter.read()
        run.delays.clear()
        if clears_first_bytes:
            run.first_bytes.clear()
        await asyncio.sleep(self.seconds * variant.patience)
        usage = meter.read() - before
        if not run.delays:
            raise TimeoutError("nothing ended in the window")
        return usage, sorted(run.delays)


@dataclass(frozen=True, kw_only=True)
class JsonScenario(Scenario):
    """`clients` connections, each sending its next small request when it has the last answer."""

    clients: int

    async def measure(self, variant: Variant, run: Run) -> Figures:
        clients = await connect(variant.target, await self.client(variant, run), self.clients)
        usage, delays = await self.window(variant, run)
        await end(clients, run)
        return load_figures(usage, delays)

    async def client(self, variant: Variant, run: Run) -> Callable[[], AskingClient]:
        """Makes a client with its requests and what answer is right."""
        return partial(AskingClient, run, chat(variant.target), is_completion(variant.target))


@dataclass(frozen=True, kw_only=True)
class StreamScenario(Scenario):
    """`streams` event streams at once, each of `rate` pieces a second.

    `pieces`: short ones, one after another on each connection; 0: as long as the window needs.
    """

    streams: int
    rate: int
    pieces: int = 0

    async def measure(self, variant: Variant, run: Run) -> Figures:
        # Half a second more than the window needs, so that no stream ends inside it.
        pieces = self.pieces or int((self.warm_seconds + self.seconds + 0.5) * self.rate)
        request = chat(variant.target, f"pieces={pieces}&rate={self.rate}", is_stream=True)
        make = partial(StreamClient, run, request, pieces, repeats=bool(self.pieces))
        meter, before = variant.meter, await warm_memory(self, variant)
        clients = await connect(variant.target, make, self.streams)
        usage, delays = await self.window(variant, run, clears_first_bytes=bool(self.pieces))
        grown = meter.resident_bytes() - before
        first = sorted(run.first_bytes)
        await end(clients, run)
        return {
            **load_figures(usage, delays),
            "first_p50_us": percentile(first, 0.50) * 1e6,
            "first_p99_us": percentile(first, 0.99) * 1e6,
            **({"stream_kib": grown / 1024 / self.streams} if self.is_fresh else {}),
        }


@dataclass(frozen=True, kw_only=True)
class IdleScenario(Scenario):
    """`streams` silent event streams, to measure the memory of each."""

    streams: int

    async def measure(self, variant: Variant, run: Run) -> Figures:
        request = chat(variant.target, "hold", is_stream=True)
        before = await warm_memory(self, variant)
        clients = await connect(variant.target, partial(StreamClient, run, request, 2), self.streams)
        await asyncio.gather(*(client.has_begun for client in clients))
        await asyncio.sleep(self.seconds)
        grown = variant.meter.resident_bytes() - before
        for client in clients:
            client.finish()
        await end(clients, run)
        return {"stream_kib": grown / 1024 / self.streams}


@dataclass(frozen=True, kw_only=True)
class BulkScenario(Scenario):
    """One connection that carries large bodies one after another, up or down."""

    megabytes: int
    is_upload: bool

    async def measure(self, variant: Variant, run: Run) -> Figures:
        size = self.megabytes * _MIB
        request = chat(variant.target, padding=size) if self.is_upload else chat(variant.target, f"bytes={size}")
        meter, before = variant.meter, await warm_memory(self, variant)
        begun = meter.read()
        make = partial(BulkClient, run, request, None if self.is_upload else size)
        [client] = await connect(variant.target, make, 1)
        highest = before
        while not client.closed.done():
            highest = max(highest, meter.resident_bytes())
            run.is_over = time.perf_counter() - begun.at_seconds > self.seconds
            await asyncio.wait([client.closed], timeout=_SAMPLE_SECONDS)
        usage = meter.read() - begun
        sent = self.megabytes * run.answers
        return {
            **_shares(usage),
            "mib_per_second": sent / usage.at_seconds,
            "cpu_us_per_mib": usage.proxy / max(sent, 1) * 1e6,
            "grown_mib": (highest - before) / _MIB,
        }


@dataclass(frozen=True, kw_only=True)
class StartScenario(Scenario):
    """How long a process takes until it is ready, and its memory then."""

    async def measure(self, variant: Variant, run: Run) -> Figures:  # noqa: ARG002
        assert variant.proxy is not None
        await asyncio.sleep(self.seconds)
        resident = variant.meter.resident_bytes()
        return {"ready_ms": variant.proxy.start_seconds * 1e3, "idle_mib": resident / _MIB}


@dataclass(frozen=True, kw_only=True)
class WrkScenario(Scenario):
    """The same small requests from wrk, a load generator in C: does our own load limit a variant?"""

    clients: int

    async def measure(self, variant: Variant, run: Run) -> Figures:
        head, _, body = chat(variant.target)().decode().partition("\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if not line.startswith("Content-Length"))
        script = f"wrk.method = 'POST'\nwrk.body = [[{body}]]\n"
        script += "".join(f"wrk.headers['{name}'] = '{value}'\n" for name, value in fields.items())
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            url = f"http://127.0.0.1:{variant.target.port}{variant.target.prefix}/v1/chat/completions"
            argv = ["-t1", f"-c{self.clients}", f"-d{max(1, round(self.seconds))}s", "--latency", "-s", file.name, url]
            text = await _output(tools.system("wrk"), *argv)
        if "Non-2xx" in text or "Socket errors" in text:
            run.errors.append(text)
        found = re.search(r"Requests/sec:\s+([\d.]+)", text)
        return {"per_second": float(found[1]) if found else 0.0}


def _keys(variant: Variant) -> int:
    return int(store_command(variant.store, "DBSIZE").removeprefix(":")) if variant.store is not None else 0


async def _output(*argv: str) -> str:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE, stderr=sys.stderr)
    output, _ = await process.communicate()
    return output.decode()


async def connect(target: Target, make: Callable[[], _C], count: int) -> list[_C]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, "127.0.0.1", target.port))[1] for _ in range(count)]


async def end(clients: Sequence[Client], run: Run) -> None:
    """Lets every client finish its present request."""
    run.is_over = True
    await asyncio.gather(*(client.closed for client in clients))


async def warm_memory(scenario: Scenario, variant: Variant) -> int:
    """The proxy's memory before the load. A fresh proxy serves some requests first."""
    if scenario.is_fresh:
        run = Run()
        request, is_right = chat(variant.target), is_completion(variant.target)
        [client] = await connect(variant.target, partial(AskingClient, run, request, is_right), 1)
        await asyncio.sleep(_WARM_SECONDS)
        await end([client], run)
    return variant.meter.resident_bytes()


def load_figures(usage: Usage, delays: list[float]) -> Figures:
    """Microseconds for times and CPU per request or piece, shares of one core for each party."""
    count = len(delays)
    return {
        **_shares(usage),
        "per_second": len(delays) / usage.at_seconds,
        "p50_us": percentile(delays, 0.50) * 1e6,
        "p99_us": percentile(delays, 0.99) * 1e6,
        "proxy_us": usage.proxy / count * 1e6,
        "store_us": usage.store / count * 1e6,
    }


def _shares(usage: Usage) -> Figures:
    others = usage.machine - usage.proxy - usage.store - usage.upstream - usage.load
    return {
        "proxy_core": usage.proxy / usage.at_seconds,
        "upstream_core": usage.upstream / usage.at_seconds,
        "load_core": usage.load / usage.at_seconds,
        "others_core": others / usage.at_seconds,
    }


def percentile(ordered: list[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0 if there are no values."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


@contextmanager
def _without_collector() -> Iterator[None]:
    """Turns garbage collection off inside a window: its pauses would count as the proxy's."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
