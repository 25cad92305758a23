"""Makes the text that Prometheus reads. Loaded with the first scrape.

The only module that knows prometheus_client. It does not use that library's registry and counters: they would cost more
per request than all the rest of it.
"""

import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway import __version__
from gateway.metrics.counts import Family
from gateway.metrics.exposition import ModelMemory

MAX_MODELS = 32
_MAX_NAME = 200


def exposition(
    counted: Iterable[tuple[Family, list[float]]], accept: str, *, is_upstream_up: bool, models: Sequence[ModelMemory]
) -> tuple[bytes, str]:
    """(all metrics as text, its content type): OpenMetrics if `accept` names it, else Prometheus' older format."""
    metrics = [_metric(family, row) for family, row in counted]
    snapshot = _Snapshot([*metrics, *_about_ollama_and_build(is_upstream_up, models)])
    if "application/openmetrics-text" in accept:
        text: bytes = openmetrics.generate_latest(snapshot)  # type: ignore[no-untyped-call]
        return text, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(snapshot), CONTENT_TYPE_PLAIN_0_0_4


class _Snapshot(Collector):
    """The metrics of one scrape, as a collector, which the exposition functions need."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


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
