"""The gateway, counting what it does: `python -m tests.support.counted REPORT`, started by `Counted` below.

Owns the counters: Python functions entered (a coroutine that goes on counts again), calls between files of the
gateway, tasks created, calls of the system that read and write, and the store's own counts. SIGUSR1 writes them into
the file REPORT. Three clocks of the gateway stand still for it, so that a count does not depend on the machine's speed:
nothing lingers in the outbox or for the list until its timer, and no one looks for what was lost meanwhile. Called by
tests/integration/test_cost.py.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import signal
import sys
from collections import Counter
from dataclasses import dataclass, fields
from functools import reduce
from operator import and_
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import uvloop

from tests.support.gateway import Gateway
from tests.support.process import ROOT, spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import CodeType

    from tests.support.store import Store

_GATEWAY = f"{ROOT / 'gateway'}/"
FOREVER_SECONDS = 3600.0
ROUNDS = 3  # the cheapest counts: now and then something of the background falls into one


@dataclass(frozen=True)
class Cost:
    """What was done; per request or piece after `per`."""

    calls: float
    tasks: float
    writes: float
    reads: float
    scripts: float  # EVALSHA and EVAL, one per step
    commands: float  # what the store ran, inside the scripts, too
    store_bytes: float  # to the store

    def __sub__(self, other: Cost) -> Cost:
        return Cost(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(Cost)))

    def per(self, count: int) -> Cost:
        """The share of each of `count`."""
        return Cost(*(getattr(self, f.name) / count for f in fields(Cost)))


@dataclass(frozen=True)
class Walk:
    """How often each file of the gateway calls each other one; "" calls for all that is not the gateway's."""

    calls: Counter[tuple[str, str]]

    def per(self, count: int) -> Walk:
        """The share of each of `count`, whole: what belongs to fewer than half of them is not theirs."""
        return Walk(Counter({pair: share for pair, calls in self.calls.items() if (share := round(calls / count))}))

    @property
    def files(self) -> set[str]:
        """The files that are entered."""
        return {callee for _, callee in self.calls}

    @property
    def crossings(self) -> int:
        """How many calls lead from one file of the gateway into another."""
        return sum(calls for (caller, callee), calls in self.calls.items() if caller and caller != callee)

    def __str__(self) -> str:
        between = sorted((pair, calls) for pair, calls in self.calls.items() if pair[0] != pair[1])
        lines = [f"{calls:4} {caller or '-'} > {callee}" for (caller, callee), calls in between]
        return "\n".join([f"{len(self.files)} files, {self.crossings} calls between them", *lines])


def least(costs: list[Cost]) -> Cost:
    """The lowest of each count."""
    return Cost(*(min(getattr(cost, f.name) for cost in costs) for f in fields(Cost)))


def shortest(walks: list[Walk]) -> Walk:
    """The lowest of each count: an event that comes in two reads costs a few calls more, and not in each walk."""
    return Walk(reduce(and_, (walk.calls for walk in walks)))


class Counted(Gateway):
    """A gateway that counts, on a store of its own."""

    def __init__(self, log: Path, store: Store, **settings: str) -> None:
        # Heartbeats stay out of it; so does coverage, which would run in the same process.
        quiet = {"HEARTBEAT_SEC": "600", "LOG_LEVEL": "warning", "COVERAGE_PROCESS_START": ""}
        super().__init__(log, REDIS_URL=store.url, COVERAGE_PROCESS_CONFIG="", **quiet, **settings)
        self.store = store
        self.report = log.with_suffix(".json")

    async def start(self) -> Self:
        """As the gateway starts, by way of this file."""
        command = [sys.executable, "-m", "tests.support.counted", str(self.report)]
        self.process = spawn(command, self.log_path, self.settings)
        await until(self.is_serving, 30, "the gateway answers /livez")
        return self

    async def cost_of(self, work: Callable[[], Awaitable[Any]]) -> Cost:
        """What `work` costs, reading the counters aside."""
        idle_from = await self._read()
        begun = await self._read()
        await work()
        return await self._read() - begun - (begun - idle_from)

    async def walk_of(self, work: Callable[[], Awaitable[Any]]) -> Walk:
        """The files that `work` enters."""
        begun = await self._calls_between_files()
        await work()
        return Walk(await self._calls_between_files() - begun)

    async def _calls_between_files(self) -> Counter[tuple[str, str]]:
        return Counter({(caller, callee): calls for caller, callee, calls in (await self._report())["between"]})

    async def _report(self) -> dict[str, Any]:
        self.report.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await until(self.report.exists, 30, "the counts")
        found: dict[str, Any] = json.loads(self.report.read_text())
        return found

    async def _read(self) -> Cost:
        own = await self._report()
        system = self._system_calls()
        ran = {name: found["calls"] for name, found in (await self.store.client.info("commandstats")).items()}
        scripts = ran.get("cmdstat_evalsha", 0) + ran.get("cmdstat_eval", 0)
        received = (await self.store.client.info("stats"))["total_net_input_bytes"]
        return Cost(own["calls"], own["tasks"], system["syscw"], system["syscr"], scripts, sum(ran.values()), received)

    def _system_calls(self) -> dict[str, int]:
        """What the process read and wrote so far; `syscr` and `syscw` count the calls (proc(5))."""
        lines = Path(f"/proc/{self.process.pid}/io").read_text().splitlines()
        return {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}


def main() -> int:
    """The child: counters on, then the gateway as ever."""
    report = Path(sys.argv[1])
    sys.argv[1:] = []
    profiler, counts = cProfile.Profile(builtins=False), Counter[str]()
    _count_tasks(counts)
    _stop_clocks()

    def tell(*_: object) -> None:
        profiler.disable()
        stats = profiler.getstats()
        calls = sum(entry.callcount for entry in stats)
        new = report.with_suffix(".new")
        new.write_text(json.dumps({"calls": calls, "tasks": counts["tasks"], "between": _between_files(stats)}))
        new.rename(report)
        profiler.enable()

    signal.signal(signal.SIGUSR1, tell)
    profiler.enable()
    from gateway.__main__ import main as serve

    return serve()


def _between_files(stats: list[Any]) -> list[tuple[str, str, int]]:
    """Caller, callee and number of calls, for each two files of which the second is the gateway's."""
    entered, between = Counter[str](), Counter[tuple[str, str]]()
    for entry in stats:
        caller = _file_of(entry.code)
        entered[caller] += entry.callcount
        for call in entry.calls or ():
            between[caller, _file_of(call.code)] += call.callcount
    for file in entered.keys() - {""}:
        called = sum(calls for (caller, callee), calls in between.items() if caller and callee == file)
        between["", file] = entered[file] - called
    return [(caller, callee, calls) for (caller, callee), calls in between.items() if callee]


def _file_of(code: CodeType | str) -> str:
    """The path of a function's file below `gateway/`; "" if it is not there."""
    path = "" if isinstance(code, str) else code.co_filename
    return path.removeprefix(_GATEWAY) if path.startswith(_GATEWAY) else ""


def _count_tasks(counts: Counter[str]) -> None:
    """Every loop that is made from now on counts its tasks."""
    new_event_loop = uvloop.new_event_loop

    def create(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any) -> asyncio.Task[Any]:
        counts["tasks"] += 1
        return asyncio.Task(coroutine, loop=loop, **more)

    def counting() -> uvloop.Loop:
        loop = new_event_loop()
        loop.set_task_factory(create)  # type: ignore[arg-type]  # uvloop says that tasks are made of generators
        return loop

    uvloop.new_event_loop = counting


def _stop_clocks() -> None:
    from gateway.tracking import lookout, outbox

    outbox.LINGER_SECONDS = FOREVER_SECONDS
    lookout.WATCH_SECONDS = FOREVER_SECONDS


if __name__ == "__main__":
    sys.exit(main())
