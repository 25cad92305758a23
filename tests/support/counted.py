"""The gateway, counting what it does: `python -m tests.support.counted REPORT`, started by `Counted` below.

Owns the counters: Python functions entered (a coroutine that goes on counts again), tasks created, calls of the
system that read and write, and the store's own counts. SIGUSR1 writes them into the file REPORT. Three clocks of
the gateway stand still for it, so that a count does not depend on the machine's speed: nothing lingers in the outbox or
for the list until its timer, and no one looks for what was lost meanwhile. Called by tests/integration/test_cost.py.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import signal
import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import uvloop

from tests.support.gateway import Gateway
from tests.support.process import spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from tests.support.store import Store

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


def least(costs: list[Cost]) -> Cost:
    """The lowest of each count."""
    return Cost(*(min(getattr(cost, f.name) for cost in costs) for f in fields(Cost)))


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

    async def _read(self) -> Cost:
        self.report.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        await until(self.report.exists, 30, "the counts")
        own = json.loads(self.report.read_text())
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
        calls = sum(entry.callcount for entry in profiler.getstats())
        new = report.with_suffix(".new")
        new.write_text(json.dumps({"calls": calls, "tasks": counts["tasks"]}))
        new.rename(report)
        profiler.enable()

    signal.signal(signal.SIGUSR1, tell)
    profiler.enable()
    from gateway.__main__ import main as serve

    return serve()


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
