"""The gateway's metrics: its counters, the values of the moment, and what Ollama reports about itself.

Owns the values that are read at each scrape (gauges, CPU time), and the event loop's lag. counts.py counts events,
text.py makes the text. That module is loaded with the first scrape: its library takes 3 MiB.
"""

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from gateway.metrics import counts
from gateway.metrics.counts import FAMILIES, Counts, Family
from gateway.tasks.stages import Stage

_TICK_SECONDS = 1.0
_OF_THE_STORE = "ollama_gateway_store_"
_OF_THE_GPU = "ollama_gateway_gpu_"
_PROC = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """One model that Ollama has loaded. Sizes as in Ollama's `/api/ps`."""

    name: str
    size_bytes: int
    size_vram_bytes: int


class Tracked(Protocol):
    """What the metrics need from the tracker."""

    @property
    def is_store_up(self) -> bool: ...
    @property
    def unsaved(self) -> int:
        """How many tasks wait to be written."""
        ...

    @property
    def dropped(self) -> int:
        """How many ended tasks were forgotten before the store had their end."""
        ...

    @property
    def lost(self) -> int:
        """How many tasks of other gateways this one has made FAILED lost."""
        ...

    def stages(self) -> Counter[Stage]:
        """How many tasks are in flight, by stage."""
        ...

    def running(self) -> int:
        """How many requests are with Ollama, without those that only read."""
        ...


class Queue(Protocol):
    """What the metrics need from the queue."""

    @property
    def running(self) -> int:
        """How many requests are with Ollama."""
        ...

    @property
    def waiting(self) -> int:
        """How many wait for that."""
        ...


class KeptAnswers(Protocol):
    """What the metrics need from the keeping of answers."""

    @property
    def held_bytes(self) -> int:
        """How much of memory kept answers and respond-async requests take."""
        ...

    @property
    def detached(self) -> int:
        """How many tasks run without their client."""
        ...


class Metrics:
    """The metrics of a gateway. `run` measures the lag of the event loop as long as the gateway serves."""

    def __init__(
        self,
        counted: Counts,
        tracker: Tracked,
        queue: Queue | None,
        kept: KeptAnswers,
        *,
        has_store: bool,
        has_gpu: bool,
    ) -> None:
        self._counts = counted
        self._tracker = tracker
        self._queue = queue  # None without a bound
        self._kept = kept
        absent = ((_OF_THE_STORE, has_store), (_OF_THE_GPU, has_gpu))
        self._left_out = tuple(prefix for prefix, is_there in absent if not is_there)
        self._is_prepared = False
        counted.show(counts.STARTED, time.time())

    async def run(self) -> None:
        """Measures once a second how late the event loop runs a timer."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(_TICK_SECONDS)
            self._counts.observe(counts.LOOP_LAG, time.monotonic() - started - _TICK_SECONDS)

    def load(self) -> tuple[int, int]:
        """How many requests are with Ollama, without those that only read, and how many wait for a place there."""
        queue = self._queue
        return (self._tracker.running(), 0) if queue is None else (queue.running, queue.waiting)

    def _read_present_values(self) -> None:
        """Sets the values in the row that are not counted as events."""
        row, tracker = self._counts, self._tracker
        row.show_stages(tracker.stages())
        running, waiting = self.load()
        row.show(counts.RUNNING, running)
        row.show(counts.WAITING, waiting)
        row.show(counts.KEPT_BYTES, self._kept.held_bytes)
        row.show(counts.DETACHED, self._kept.detached)
        row.show(counts.STORE_UP, tracker.is_store_up)
        row.show(counts.STORE_UNSAVED, tracker.unsaved)
        row.show(counts.STORE_DROPPED, tracker.dropped)
        row.show_lost(tracker.lost)
        _read_process(row)

    async def prepare(self) -> None:
        """Loads what makes the text, before the first scrape: in a thread, so that relayed answers go on."""
        if not self._is_prepared:
            await asyncio.to_thread(import_module, "gateway.metrics.text")
            self._is_prepared = True

    def render(self, accept: str, *, is_upstream_up: bool, models: Sequence[ModelMemory]) -> tuple[bytes, str]:
        """(all metrics as text, its content type): OpenMetrics if `accept` names it, else Prometheus' older format."""
        self._read_present_values()
        from gateway.metrics.text import exposition

        return exposition(self._counted(), accept, is_upstream_up=is_upstream_up, models=models)

    def _counted(self) -> Iterator[tuple[Family, list[float]]]:
        """Each family, with the row in which its numbers are."""
        for family in FAMILIES:
            if not family.name.startswith(self._left_out):
                yield family, self._counts.row


def _read_process(row: Counts) -> None:
    row.show(counts.CPU, time.process_time())
    row.show(counts.MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError):  # not Linux
        row.show(counts.OPEN_FILES, len(os.listdir(_PROC / "fd")))
        row.show(counts.MEMORY, int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize())
