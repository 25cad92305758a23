"""Makes the text that Prometheus reads: the gateway's counters, and what Ollama reports about itself.

Owns the exposition, the values that are read at each scrape (gauges, CPU time), and the event loop's lag. counts.py
counts events. The only module that knows prometheus_client. It does not use that library's registry and counters: they
would cost more per request than all the rest of it.
"""

import asyncio
import os
import platform
import resource
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.metrics import counts
from gateway.metrics.counts import FAMILIES, Counts, Family
from gateway.tasks.stages import Stage

MAX_MODELS = 32
_MAX_NAME = 200
_TICK_SECONDS = 1.0
_OF_THE_STORE = "ollama_gateway_store_"
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
        self, counted: Counts, tracker: Tracked, queue: Queue | None, kept: KeptAnswers, *, has_store: bool
    ) -> None:
        self._counts = counted
        self._tracker = tracker
        self._queue = queue  # None without a bound
        self._kept = kept
        self._has_store = has_store
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

    def render(self, accept: str, *, is_upstream_up: bool, models: Sequence[ModelMemory]) -> tuple[bytes, str]:
        """(all metrics as text, its content type): OpenMetrics if `accept` names it, else Prometheus' older format."""
        self._read_present_values()
        snapshot = _Snapshot([*self._counted(), *_about_ollama_and_build(is_upstream_up, models)])
        if "application/openmetrics-text" in accept:
            text: bytes = openmetrics.generate_latest(snapshot)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return generate_latest(snapshot), CONTENT_TYPE_PLAIN_0_0_4

    def _counted(self) -> Iterator[Metric]:
        for family in FAMILIES:
            if self._has_store or not family.name.startswith(_OF_THE_STORE):
                yield _metric(family, self._counts.row)


class _Snapshot(Collector):
    """The metrics of one scrape, as a collector, which the exposition functions need."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _read_process(row: Counts) -> None:
    row.show(counts.CPU, time.process_time())
    row.show(counts.MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    with suppress(OSError):  # not Linux
        row.show(counts.OPEN_FILES, len(os.listdir(_PROC / "fd")))
        row.show(counts.MEMORY, int((_PROC / "statm").read_text().split()[1]) * resource.getpagesize())


def _metric(family: Family, row: list[float]) -> Metric:
    """A family's numbers. Leaves out series by path that are still zero."""
    samples = [
        (labels, row[start : start + family.width])
        for labels, start in zip(family.series, range(family.start, family.end, family.width), strict=True)
        if "path" not in family.labels or any(row[start : start + family.width])
    ]
    if family.kind == "histogram":
        return _histogram(family, samples)
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.meaning, labels=family.labels)
    for labels, [value] in samples:
        metric.add_metric(labels, value)
    return metric


def _histogram(family: Family, samples: list[tuple[tuple[str, ...], list[float]]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.meaning, labels=family.labels)
    bounds = [*map(floatToGoString, family.buckets), "+Inf"]
    for labels, [*numbers, total] in samples:
        buckets = list(zip(bounds, accumulate(numbers), strict=True))
        metric.add_metric(labels, buckets, total)
    return metric


def _about_ollama_and_build(is_upstream_up: bool, models: Sequence[ModelMemory]) -> Iterator[Metric]:
    """The metrics that are not in the row: build, and Ollama's state."""
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("ollama_gateway_build", "What is running.", value=build)
    yield GaugeMetricFamily("ollama_gateway_upstream_up", "Whether Ollama answers /v1/models.", value=is_upstream_up)
    memory = GaugeMetricFamily("ollama_gateway_model_memory_bytes", "Memory of a loaded model.", labels=["model"])
    vram = GaugeMetricFamily("ollama_gateway_model_vram_bytes", "The part that is in GPU memory.", labels=["model"])
    largest = sorted(models, key=lambda model: model.size_bytes, reverse=True)[:MAX_MODELS]
    for name, model in {model.name[:_MAX_NAME]: model for model in largest}.items():
        memory.add_metric([name], model.size_bytes)
        vram.add_metric([name], model.size_vram_bytes)
    yield from (memory, vram)
