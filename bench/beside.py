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
from bench.results import Figures, Measured

VARIANTS = ("direct", *BEFORE, *BEFORE.values())
_FIGURES = {
    "proxy_us": "CPU us",
    "store_us": "store CPU us",
    "p50_us": "p50 us",
    "added_p50_us": "added p50 us",
    "first_p50_us": "first byte p50 us",
    "stream_kib": "KiB/stream",
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

    Each run has new processes. One process keeps its layout of memory for life, so a ratio of two processes that live
    for all rounds would be partly luck.
    """
    names = [name for now in scenario.variants for name in (now, BEFORE.get(now)) if name]
    return replace(scenario, variants=tuple(names), is_fresh=True)


def order(names: list[str], number: int) -> list[str]:
    """The order of a round. Every second round runs backwards, so that neither checkout always runs first."""
    return names[::-1] if number % 2 else names


def ratios(measured: Iterable[tuple[Scenario, Measured]]) -> str:
    """Both checkouts as a Markdown table. A ratio is taken inside a round; lowest and highest are in brackets."""
    lines = [["", "now", "before", "now / before", "rounds"]]
    for scenario, found in measured:
        for now, before in BEFORE.items():
            lines += [
                [f"{scenario.title}: {TITLES[now]}: {title}", *cells]
                for key, title in _FIGURES.items()
                if (cells := _cells(_pairs(found, now, before, key)))
            ]
    return markdown(lines)


def _pairs(found: Measured, now: str, before: str, key: str) -> list[tuple[float, float]]:
    """The figure of both in each round that has it."""
    rounds = [(_with_added(round_, now), _with_added(round_, before)) for round_ in found.rounds]
    return [(mine[key], other[key]) for mine, other in rounds if key in mine and other.get(key)]


def _with_added(round_: dict[str, Figures], name: str) -> Figures:
    """A variant's figures, and how much longer it took than *direct* in the same round."""
    figures, direct = round_.get(name, {}), round_.get("direct", {})
    if "p50_us" not in figures or "p50_us" not in direct:
        return figures
    return {**figures, "added_p50_us": figures["p50_us"] - direct["p50_us"]}


def _cells(pairs: list[tuple[float, float]]) -> list[str]:
    if not pairs:
        return []
    found = [mine / other for mine, other in pairs]
    middles = [f"{median(values):,.1f}" for values in zip(*pairs, strict=True)]
    return [*middles, f"{median(found):.2f} [{min(found):.2f}-{max(found):.2f}]", str(len(pairs))]
