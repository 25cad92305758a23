"""Turns rounds into Markdown: medians, differences to *direct*, ratios to nginx, and the limits beside the results.

Pure: text from figures.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.asking import HeartbeatScenario, StatusScenario
from bench.load import (
    BulkScenario,
    IdleScenario,
    Outcome,
    Scenario,
    StartScenario,
    StreamScenario,
    WrkScenario,
)
from bench.peers import TITLES
from bench.results import Figures, Measured, Results

QUIET_CORES = 0.3  # others taking more disturb the figures

_Cell = Callable[[Measured, str], str]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: _Cell


def _median(key: str, spec: str = ",.0f") -> _Cell:
    return lambda found, name: _text([figures.get(key) for figures in found.of(name)], spec)


def _spread(key: str, spec: str = ".1f") -> _Cell:
    """The median, and the lowest and the highest in brackets."""
    return lambda found, name: _text_spread([f[key] for f in found.of(name) if f.get(key)], spec)


def _added(key: str, spec: str = ",.0f") -> _Cell:
    """How much longer a variant takes than *direct* in the same round."""
    return lambda found, name: _text([a[key] - b[key] for a, b in found.beside(name, "direct")], spec)


def _ratio(key: str, base: str = "nginx") -> _Cell:
    """Each round against `base` in the same round, so that a disturbance of both cancels out."""
    return lambda found, name: _text_spread([a[key] / b[key] for a, b in found.beside(name, base) if b.get(key)], ".2f")


def _text(values: Sequence[float | None], spec: str) -> str:
    present = [value for value in values if value is not None]
    return format(median(present), spec) if present else "-"


def _text_spread(values: Sequence[float], spec: str) -> str:
    return f"{median(values):{spec}} [{min(values):{spec}}-{max(values):{spec}}]" if any(values) else "-"


_CORES = [
    _Column("cores: proxy", _median("proxy_core", ".2f")),
    _Column("upstream", _median("upstream_core", ".2f")),
    _Column("load", _median("load_core", ".2f")),
    _Column("others", _median("others_core", ".2f")),
]
_DELAYS = [
    _Column("p50 us", _median("p50_us")),
    _Column("p99 us", _median("p99_us")),
]
_ADDED = [
    _Column("added p50 us", _added("p50_us")),
    _Column("added p99 us", _added("p99_us")),
]


def _cpu(unit: str, base: str = "nginx") -> list[_Column]:
    return [
        _Column(f"CPU us/{unit}", _spread("proxy_us")),
        _Column("to nginx", _ratio("proxy_us", base)),
        _Column(f"store us/{unit}", _median("store_us", ".1f")),
    ]


_COLUMNS: dict[type[Scenario], list[_Column]] = {
    WrkScenario: [_Column("requests/s", _median("per_second"))],
    StatusScenario: [
        _Column("requests/s", _median("per_second")),
        *_DELAYS,
        *_cpu("request", "nginx-static"),
        *_CORES,
    ],
    StreamScenario: [
        _Column("pieces/s", _median("per_second")),
        *_DELAYS,
        *_ADDED,
        _Column("first byte p50 us", _median("first_p50_us")),
        _Column("added", _added("first_p50_us")),
        *_cpu("piece"),
        _Column("KiB/stream", _spread("stream_kib")),
        *_CORES,
    ],
    IdleScenario: [_Column("KiB/stream", _spread("stream_kib"))],
    BulkScenario: [
        _Column("MiB/s", _spread("mib_per_second", ",.0f")),
        _Column("to nginx", _ratio("mib_per_second")),
        _Column("CPU us/MiB", _median("cpu_us_per_mib")),
        _Column("memory grown MiB", _spread("grown_mib")),
        *_CORES,
    ],
    HeartbeatScenario: [
        _Column("documents", _median("documents")),
        _Column("times read", _median("reads")),
        _Column("oldest s", _spread("oldest_seconds", ".2f")),
        _Column("late", _median("late")),
    ],
    StartScenario: [_Column("ready ms", _spread("ready_ms", ".0f")), _Column("idle MiB", _spread("idle_mib"))],
}
_JSON_COLUMNS = [_Column("requests/s", _median("per_second")), *_DELAYS, *_ADDED, *_cpu("request"), *_CORES]


def table(scenario: Scenario, found: Measured) -> str:
    """One scenario as a Markdown table: medians of the rounds, ranges in brackets."""
    columns = _COLUMNS.get(type(scenario), _JSON_COLUMNS)
    lines = [["", *(column.title for column in columns), "errors"]]
    lines += [
        [TITLES[name], *(column.cell(found, name) for column in columns), _errors(found, name)]
        for name in found.variants
    ]
    notes = [f"Left out: {TITLES[name]}: {_one_line(why)}" for name, why in found.left_out.items()]
    notes += [f"Error: {_one_line(error)}" for error in found.errors[:3]]
    return "\n".join([f"### {scenario.title}", "", markdown(lines), *(f"\n{note}" for note in notes)]) + "\n"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first line is its head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([rows[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *rows[1:]])


def summary(scenario: Scenario, outcome: Outcome) -> str:
    """One run in one line."""
    shown = ("per_second", "p50_us", "first_p50_us", "proxy_us", "stream_kib", "mib_per_second", "grown_mib",
             "oldest_seconds", "ready_ms", "idle_mib")  # fmt: skip
    del scenario
    return " ".join([*(f"{k}={outcome.figures[k]:.1f}" for k in shown if k in outcome.figures), *outcome.errors])


def busiest_others(measured: Iterable[Measured]) -> float:
    """The median share that other processes took, in the scenario and variant where it was highest."""
    shares = [
        median(figures.get("others_core", 0.0) for figures in found.of(name))
        for found in measured
        for name in found.variants
    ]
    return max(shares, default=0.0)


def _errors(found: Measured, name: str) -> str:
    failed = len(found.rounds) - len(found.of(name))
    counted = f"{sum(figures.get('errors', 0) for figures in found.of(name)):.0f}"
    return f"{counted}, {failed} rounds failed" if failed else counted


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]


# -- what was asked for (issue 5) --


@dataclass(frozen=True, slots=True)
class _Asked:
    """One line of the acceptance: `found` computes the figure from the rounds; it must be within `limit`."""

    what: str
    limit: float
    is_most: bool
    found: Callable[[Results], list[float]]
    spec: str = ".2f"


def _figures(scenario: str, key: str, name: str = "gateway") -> Callable[[Results], list[float]]:
    return lambda results: [figures[key] for figures in results.of(scenario).of(name) if key in figures]


def _pairs(
    scenario: str, key: str, base: str, of: Callable[[float, float], float], name: str = "gateway"
) -> Callable[[Results], list[float]]:
    def compute(results: Results) -> list[float]:
        beside: list[tuple[Figures, Figures]] = results.of(scenario).beside(name, base)
        return [of(mine[key], other[key]) for mine, other in beside if other.get(key)]

    return compute


def _over(mine: float, other: float) -> float:
    return mine / other


def _minus(mine: float, other: float) -> float:
    return mine - other


def _growth(scenario: str) -> Callable[[Results], list[float]]:
    return _pairs(scenario, "p50_us", "gateway-1k", _over, "gateway-1m")


_ASKED = (
    _Asked("Small JSON, 32 clients: CPU to nginx's", 3, True, _pairs("json-32", "proxy_us", "nginx", _over)),
    _Asked("the same with clients' ids", 3, True, _pairs("json-32", "proxy_us", "nginx", _over, "gateway-ids")),
    _Asked("the same with 1 client", 3, True, _pairs("json-1", "proxy_us", "nginx", _over)),
    _Asked("Small JSON, 1 client: added p50, us", 300, True, _pairs("json-1", "p50_us", "direct", _minus), ",.0f"),
    _Asked("Small JSON: throughput to FastAPI + httpx + Redis", 15, False,
           _pairs("json-32", "per_second", "fastapi", _over), ".1f"),
    _Asked("Small JSON: throughput to LiteLLM", 50, False, _pairs("json-32", "per_second", "litellm", _over), ".1f"),
    _Asked("100 streams: CPU per piece to nginx's", 1.5, True, _pairs("sse-100", "proxy_us", "nginx", _over)),
    _Asked("100 streams: added p50 per piece, us", 500, True, _pairs("sse-100", "p50_us", "direct", _minus), ",.0f"),
    _Asked("100 streams: added p99 per piece, us", 5000, True, _pairs("sse-100", "p99_us", "direct", _minus), ",.0f"),
    _Asked("100 streams, answers kept: CPU per piece to the same without", 1.25, True,
           _pairs("sse-100", "proxy_us", "gateway", _over, "gateway-kept")),
    _Asked("100 streams, answers kept: p50 per piece, us more", 50, True,
           _pairs("sse-100", "p50_us", "gateway", _minus, "gateway-kept"), ",.0f"),
    _Asked("1,000 streams: errors", 0, True, _figures("sse-1000", "errors"), ".0f"),
    _Asked("1,000 streams: statuses older than heartbeat + 1 s", 0, True, _figures("heartbeats", "late"), ".0f"),
    _Asked("1,000 streams: KiB of memory each", 48, True, _figures("sse-1000", "stream_kib"), ".1f"),
    _Asked("50 MiB up: throughput to nginx's", 0.5, False, _pairs("up-50", "mib_per_second", "nginx", _over)),
    _Asked("50 MiB up: memory growth, MiB", 4, True, _figures("up-50", "grown_mib")),
    _Asked("50 MiB down: throughput to nginx's", 0.5, False, _pairs("down-50", "mib_per_second", "nginx", _over)),
    _Asked("50 MiB down: memory growth, MiB", 4, True, _figures("down-50", "grown_mib")),
    _Asked("Status read at 1,000,000 tasks: p50, us", 1000, True, _figures("status", "p50_us", "gateway-1m"), ",.0f"),
    _Asked("List of 50 at 1,000,000 tasks: p99, us", 20_000, True, _figures("list", "p99_us", "gateway-1m"), ",.0f"),
    _Asked("Status read: 1,000,000 to 1,000 tasks", 1.5, True, _growth("status")),
    _Asked("List of 50: 1,000,000 to 1,000 tasks", 1.5, True, _growth("list")),
    _Asked("Start to ready, ms", 1000, True, _figures("start", "ready_ms"), ",.0f"),
    _Asked("Idle memory, MiB", 60, True, _figures("start", "idle_mib"), ".1f"),
)  # fmt: skip


def verdicts(results: Results) -> str:
    """The limits beside the results, as a Markdown table."""
    lines = [["Asked", "Limit", "Found", ""]]
    for asked in _ASKED:
        values = asked.found(results)
        limit = f"at {'most' if asked.is_most else 'least'} {asked.limit:,g}"
        found = (
            f"{median(values):{asked.spec}} [{min(values):{asked.spec}}-{max(values):{asked.spec}}]" if values else "-"
        )
        lines.append([asked.what, limit, found, _verdict(asked, values)])
    return markdown(lines)


def _verdict(asked: _Asked, values: list[float]) -> str:
    if not values:
        return "not measured"
    middle = median(values)
    return "reached" if (middle <= asked.limit if asked.is_most else middle >= asked.limit) else "**missed**"
