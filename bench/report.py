"""Turns rounds into Markdown: medians, differences to *direct*, ratios to nginx.

Pure: text from figures. `limits` has what was asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from bench.asking import AskedStreamScenario, HeartbeatScenario, StatusScenario, WaitScenario
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
from bench.results import Measured

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


def _more(key: str, base: str) -> _Cell:
    """How much greater one figure of a run is than another of it."""
    return lambda found, name: _text([f[key] - f[base] for f in found.of(name) if key in f], ",.0f")


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
    AskedStreamScenario: [
        _Column("pieces/s", _median("per_second")),
        *_DELAYS,
        *_ADDED,
        _Column("with reads: p50 us", _median("asked_p50_us")),
        _Column("p99 us", _median("asked_p99_us")),
        _Column("p99 us more", _more("asked_p99_us", "p99_us")),
        _Column("reads/s", _median("reads_per_second")),
        _Column("p50 us of a read", _median("read_p50_us")),
        *_CORES,
        _Column("cores: proxy with reads", _median("asked_core", ".2f")),
    ],
    WaitScenario: [
        _Column("waiters", _median("waiters")),
        _Column("KiB/waiter", _spread("waiter_kib")),
        _Column("CPU % while all wait", _spread("wait_percent", ".2f")),
        _Column("store CPU %", _median("wait_store_percent", ".2f")),
        _Column("change to answer: p50 us", _median("p50_us")),
        _Column("p99 us", _spread("p99_us", ",.0f")),
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
    """One scenario as a Markdown table: medians of the rounds, ranges in brackets. Without rounds: only the reason."""
    columns = _COLUMNS.get(type(scenario), _JSON_COLUMNS)
    lines = [["", *(column.title for column in columns), "errors"]]
    lines += [
        [TITLES[name], *(column.cell(found, name) for column in columns), _errors(found, name)]
        for name in found.variants
    ]
    reasons = dict.fromkeys(found.left_out.values())
    notes = [f"Left out: {_left_out(found, why)}: {_one_line(why)}" for why in reasons]
    notes += [f"Error: {_one_line(error)}" for error in found.errors[:3]]
    parts = [f"### {scenario.title}", *([markdown(lines)] if found.rounds else []), *notes]
    return "\n\n".join(parts) + "\n"


def _left_out(found: Measured, why: str) -> str:
    return ", ".join(TITLES[name] for name, reason in found.left_out.items() if reason == why)


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
             "asked_p99_us", "waiters", "waiter_kib", "wait_percent", "p99_us",
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
