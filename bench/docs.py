"""Publishes a bench: the generated part of docs/benchmarks.md, its plots, and the figures behind both.

`publish` writes the files. `generated` returns what they must contain, so that a test can compare.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench import results, tools
from bench.limits import verdicts
from bench.peers import BINARIES, TITLES
from bench.plots import Dot, dot_plot
from bench.report import QUIET_CORES, busiest_others, table
from bench.results import Results
from bench.scenarios import SCENARIOS

PUBLISHED = Path(__file__).parent / "results" / "published.json"
PAGE = tools.ROOT / "docs" / "benchmarks.md"
IMAGES = tools.ROOT / "docs" / "images"
BEGIN, END = "<!-- figures -->\n", "<!-- end of figures -->\n"


@dataclass(frozen=True, slots=True)
class _Plot:
    name: str
    title: str
    unit: str
    scenario: str
    key: str
    base: str = ""  # a variant that is subtracted, round by round


_PLOTS = (
    _Plot("json-cpu", "CPU per small request, 32 clients", "microseconds of the proxy", "json-32", "proxy_us"),
    _Plot("json-rate", "Small requests, 32 clients", "requests a second", "json-32", "per_second"),
    _Plot("json-added", "Added latency, small requests, 1 client", "microseconds, p50 of a round", "json-1", "p50_us",
          "direct"),
    _Plot("sse-cpu", "CPU per relayed piece, 100 streams", "microseconds of the proxy", "sse-100", "proxy_us"),
    _Plot("sse-added", "Added delay of a piece, 100 streams", "microseconds, p50 of a round", "sse-100", "p50_us",
          "direct"),
    _Plot("idle-memory", "Memory of an idle stream, 1,000 at once", "KiB", "idle-1000", "stream_kib"),
    _Plot("bulk-up", "50 MiB up", "MiB a second", "up-50", "mib_per_second"),
)  # fmt: skip


def publish(found: Results, *, with_binaries: bool = False) -> None:
    """Writes everything that is generated from `found`; without the peers in `BINARIES`, which no registry has."""
    if not with_binaries:
        found = found.without(BINARIES)
    results.save(found, PUBLISHED)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + generated(found) + END + rest.partition(END)[2])
    IMAGES.mkdir(exist_ok=True)
    for name, svg in plots(found).items():
        (IMAGES / name).write_text(svg)


def generated(found: Results) -> str:
    """The part of the page between the two marks."""
    measured = [
        (scenario, found.scenarios[scenario.name]) for scenario in SCENARIOS if scenario.name in found.scenarios
    ]
    images = [f"![{plot.title}](images/bench-{plot.name}.svg)" for plot in _PLOTS if _dots(plot, found)]
    parts = [_provenance(found), *images, "### Asked and found", verdicts(found)]
    return "\n" + "\n\n".join([*parts, *(table(scenario, rounds).rstrip() for scenario, rounds in measured)]) + "\n\n"


def plots(found: Results) -> dict[str, str]:
    """Each plot as SVG, by the name of its file."""
    drawn = {plot: _dots(plot, found) for plot in _PLOTS}
    return {f"bench-{plot.name}.svg": dot_plot(plot.title, plot.unit, dots) for plot, dots in drawn.items() if dots}


def _provenance(found: Results) -> str:
    """Machine, dates, commits and versions, and how quiet the machine was."""
    measured = [scenario for scenario in found.scenarios.values() if scenario.rounds]
    commits = sorted({scenario.commit for scenario in measured})
    dates = sorted(scenario.measured for scenario in measured)
    rounds = [len(scenario.rounds) for scenario in measured]
    others = busiest_others(found.scenarios.values())
    quiet = "nothing else ran" if others <= QUIET_CORES else f"**other programs took up to {others:.1f} cores: noisy**"
    versions = ", ".join(f"{name} {version}" for name, version in found.environment.items())
    return (
        f"Measured from {dates[0]} to {dates[-1]}; commit {', '.join(commits)}; {min(rounds)} to {max(rounds)} rounds; "
        f"{quiet}.\n\n{versions}."
    )


def _dots(plot: _Plot, found: Results) -> list[Dot]:
    """A dot for each variant whose figures are all above 0, as a logarithmic scale needs it."""
    rounds = found.of(plot.scenario)
    dots = []
    for name in rounds.variants:
        if plot.base:
            values = [mine[plot.key] - base[plot.key] for mine, base in rounds.beside(name, plot.base)]
        else:
            values = [figures[plot.key] for figures in rounds.of(name)]
        if values and min(values) > 0:
            dots.append(Dot(TITLES[name], median(values), min(values), max(values), name.startswith("gateway")))
    return dots
