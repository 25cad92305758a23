"""From measured runs to figures: medians over the rounds, ratios to nginx, a Markdown table, JSON.

Pure but for `environment`, which asks the machine what it is. Starts and measures nothing. Called by
`__main__`.
"""

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.load import Measured, Scenario
from bench.peers import nginx_path, store_path

Figures = dict[str, float]
# Figures by scenario, then by variant, one per round.
Results = dict[str, dict[str, list[Figures]]]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    text: str


def figures(measured: Measured) -> Figures:
    """One run as plain numbers: microseconds for times, shares of one core for what surrounds the proxy."""
    delays, usage = measured.delays, measured.usage
    count = max(len(delays), 1)
    return {
        "per_second": len(delays) / usage.at_seconds,
        "p50_us": _percentile(delays, 0.50) * 1e6,
        "p99_us": _percentile(delays, 0.99) * 1e6,
        "proxy_us": usage.proxy / count * 1e6,
        "store_us": usage.store / count * 1e6,
        "proxy_core": usage.proxy / usage.at_seconds,
        "upstream_core": usage.upstream / usage.at_seconds,
        "load_core": usage.load / usage.at_seconds,
        "others_core": (usage.machine - usage.proxy - usage.store - usage.upstream - usage.load) / usage.at_seconds,
        "errors": len(measured.errors),
    }


def table(scenario: Scenario, by_variant: dict[str, list[Figures]]) -> str:
    """One scenario as a Markdown table, medians of the rounds, ranges in brackets."""
    rows = [_row(name, rounds, by_variant) for name, rounds in by_variant.items()]
    titles = [column.title.format(unit=scenario.unit) for column in rows[0]]
    cells = [titles, *([column.text for column in row] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return f"### {scenario.title}\n\n" + "\n".join(lines) + "\n"


def busiest_others(results: Results) -> float:
    """The median share that other processes took, in the scenario and variant where it was highest."""
    runs = (rounds for by_variant in results.values() for rounds in by_variant.values())
    return max(median(run["others_core"] for run in rounds) for rounds in runs)


def environment() -> dict[str, str]:
    """The machine, the date and the versions: what a figure means nothing without."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "gateway": _commit(),
        "cpu": f"{os.cpu_count()} x {_cpu_model()}",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "nginx": _first_line([nginx_path(), "-v"]).removeprefix("nginx version: nginx/"),
        "store": _first_line([store_path(), "--version"]),
        **{name: version(name) for name in ("uvicorn", "uvloop", "httptools", "redis", "hiredis")},
    }


def _row(name: str, rounds: list[Figures], by_variant: dict[str, list[Figures]]) -> list[_Column]:
    has_proxy = any(figure["proxy_us"] for figure in rounds)
    return [
        _Column("variant", name),
        _Column("{unit}s/s", _median(rounds, "per_second")),
        _Column("p50 us", _median(rounds, "p50_us")),
        _Column("p99 us", _median(rounds, "p99_us")),
        _Column("added p50 us", _difference(rounds, by_variant.get("direct", []), "p50_us")),
        _Column("added p99 us", _difference(rounds, by_variant.get("direct", []), "p99_us")),
        _Column("proxy CPU us/{unit}", _spread(rounds, "proxy_us") if has_proxy else "-"),
        _Column("to nginx", _ratio(rounds, by_variant.get("nginx", []), "proxy_us") if has_proxy else "-"),
        _Column(
            "to nginx, tuned", _ratio(rounds, by_variant.get("nginx, tuned", []), "proxy_us") if has_proxy else "-"
        ),
        _Column("store CPU us/{unit}", _median(rounds, "store_us", ".1f")),
        _Column("cores: proxy", _median(rounds, "proxy_core", ".2f")),
        _Column("upstream", _median(rounds, "upstream_core", ".2f")),
        _Column("load", _median(rounds, "load_core", ".2f")),
        _Column("others", _median(rounds, "others_core", ".2f")),
        _Column("errors", f"{sum(figure['errors'] for figure in rounds):.0f}"),
    ]


def _median(rounds: list[Figures], key: str, spec: str = ".0f") -> str:
    return format(median(figure[key] for figure in rounds), spec)


def _spread(rounds: list[Figures], key: str) -> str:
    values = [figure[key] for figure in rounds]
    return f"{median(values):.1f} [{min(values):.1f}-{max(values):.1f}]"


def _ratio(rounds: list[Figures], base: list[Figures], key: str) -> str:
    """Each round against nginx in the same round: what disturbs both cancels out."""
    ratios = [mine[key] / other[key] for mine, other in zip(rounds, base, strict=False) if other[key]]
    return f"{median(ratios):.2f} [{min(ratios):.2f}-{max(ratios):.2f}]" if ratios else "-"


def _difference(rounds: list[Figures], base: list[Figures], key: str) -> str:
    differences = [mine[key] - other[key] for mine, other in zip(rounds, base, strict=False)]
    return f"{median(differences):.0f}" if differences else "-"


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def _commit() -> str:
    try:
        return _first_line(["git", "describe", "--always", "--dirty"])
    except (OSError, subprocess.CalledProcessError):
        return "not from a git checkout"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


def _first_line(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True)
    return (done.stdout or done.stderr).splitlines()[0]
