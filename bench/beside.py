"""This checkout beside another one, usually the last release: what runs then, and the ratios between the two.

Starts and measures nothing. `peers` starts the other checkout as the variants of `BEFORE`.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.load import Scenario
from bench.peers import BEFORE, TITLES
from bench.report import markdown
from bench.results import Figures, Measured, Round

_TURNS = 5
VARIANTS = ("direct", *BEFORE, *BEFORE.values())
_FIGURES = {
    "proxy_us": "CPU us",
    "store_us": "store CPU us",
    "p50_us": "p50 us",
    "added_p50_us": "added p50 us",
    "first_p50_us": "first byte p50 us",
    "stream_kib": "KiB/stream",
    "waiter_kib": "KiB/waiter",
    "wait_percent": "CPU % while all wait",
    "cpu_us_per_mib": "CPU us/MiB",
    "mib_per_second": "MiB/s",
    "ready_ms": "ready ms",
    "idle_mib": "idle MiB",
}


def is_checkout(folder: Path) -> bool:
    """Whether `python -m gateway` can start in `folder`."""
    return (folder / "gateway" / "__main__.py").is_file()


def with_before(scenario: Scenario) -> Scenario:
    """The scenario with the other checkout's variants, each next to the present one.

    The windows are short and many, because the speed of a shared machine changes within seconds. A flush would make a
    gateway rebuild what its store has lost.
    """
    names = tuple(name for now in scenario.variants for name in (now, BEFORE.get(now)) if name)
    if scenario.is_fresh:
        return replace(scenario, variants=names, keeps_tasks=True)
    return replace(scenario, variants=names, keeps_tasks=True, turns=_TURNS, seconds=scenario.seconds / 2)


def order(names: list[str], number: int) -> list[str]:
    """The order of a turn. Every second one runs backwards, so that neither checkout always runs first."""
    return names[::-1] if number % 2 else names


def ratios(measured: Iterable[tuple[Scenario, Measured]]) -> str:
    """Both checkouts as a Markdown table: medians of the turns.

    A ratio is taken inside a turn. In brackets are the lowest and the highest median of a round.
    """
    lines = [["", "now", "before", "now / before", "turns"]]
    for scenario, found in measured:
        for now, before in BEFORE.items():
            lines += [
                [f"{scenario.title}: {TITLES[now]}: {title}", *cells]
                for key, title in _FIGURES.items()
                if (cells := _cells(_pairs(found, now, before, key), scenario.turns))
            ]
    return markdown(lines)


def _pairs(found: Measured, now: str, before: str, key: str) -> list[tuple[float, float] | None]:
    """The figure of both in each turn; None if one of them lacks it."""
    turns = [(_with_added(turn, now), _with_added(turn, before)) for turn in found.rounds]
    return [(mine[key], other[key]) if key in mine and other.get(key) else None for mine, other in turns]


def _with_added(turn: Round, name: str) -> Figures:
    """A variant's figures, and how much longer it took than *direct* in the same turn."""
    figures, direct = turn.get(name, {}), turn.get("direct", {})
    if "p50_us" not in figures or "p50_us" not in direct:
        return figures
    return {**figures, "added_p50_us": figures["p50_us"] - direct["p50_us"]}


def _cells(pairs: list[tuple[float, float] | None], turns: int) -> list[str]:
    present = list(filter(None, pairs))
    if not present:
        return []
    rounds = [list(filter(None, pairs[first : first + turns])) for first in range(0, len(pairs), turns)]
    found = [_median_ratio(round_) for round_ in rounds if round_]
    middles = [f"{median(values):,.1f}" for values in zip(*present, strict=True)]
    return [*middles, f"{_median_ratio(present):.2f} [{min(found):.2f}-{max(found):.2f}]", str(len(present))]


def _median_ratio(pairs: list[tuple[float, float]]) -> float:
    return median(mine / other for mine, other in pairs)
