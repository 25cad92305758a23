"""What was asked for, beside what was found.

Pure: text from figures. A ratio or a difference is taken inside each round, also between two scenarios.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from bench.report import markdown
from bench.results import Results

_Found = Callable[[Results], list[float]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One line of the table: `found` computes the figure of each round; their median must be within `limit`.

    Without `is_always_shown` the line is left out if nothing was measured for it.
    """

    what: str
    limit: float
    found: _Found
    spec: str = ".2f"
    is_most: bool = True
    is_always_shown: bool = True


def _figures(scenario: str, key: str, name: str = "gateway") -> _Found:
    return lambda results: [figures[key] for figures in results.of(scenario).of(name) if key in figures]


def _over(scenario: str, key: str, base: str, name: str = "gateway") -> _Found:
    """The ratio of two variants."""
    return lambda results: [
        mine[key] / other[key] for mine, other in results.of(scenario).beside(name, base) if other.get(key)
    ]


def _minus(scenario: str, key: str, base: str, name: str = "gateway") -> _Found:
    """The difference of two variants."""
    return lambda results: [
        mine[key] - other[key] for mine, other in results.of(scenario).beside(name, base) if other.get(key)
    ]


def _more(scenario: str, key: str, base: str, name: str) -> _Found:
    """The difference of two figures of one run."""
    return lambda results: [f[key] - f[base] for f in results.of(scenario).of(name) if key in f]


def _to_relayed(scenario: str, key: str = "proxy_us") -> _Found:
    """The ratio of a status read's figure to that of a small JSON request relayed in the same round."""

    def found(results: Results) -> list[float]:
        rounds = zip(results.of(scenario).rounds, results.of("json-32").rounds, strict=False)
        return [
            asked["gateway-1k"][key] / relayed["gateway"][key]
            for asked, relayed in rounds
            if "gateway-1k" in asked and "gateway" in relayed
        ]

    return found


def _growth(scenario: str) -> _Found:
    return _over(scenario, "p50_us", "gateway-1k", "gateway-1m")


_KEPT = "to nginx with kept connections"

_ASKED = (
    # Relaying.
    _Asked(f"Small JSON, 32 clients: CPU {_KEPT}", 6, _over("json-32", "proxy_us", "nginx")),
    _Asked("Small JSON, 32 clients: CPU to Go's ReverseProxy", 1, _over("json-32", "proxy_us", "go"),
           is_always_shown=False),
    _Asked("Small JSON, 32 clients: CPU with clients' ids to that without", 1.15,
           _over("json-32", "proxy_us", "gateway", "gateway-ids")),
    _Asked("Small JSON, 1 client: added p50, us", 200, _minus("json-1", "p50_us", "direct"), ",.0f"),
    _Asked("the same with clients' ids", 260, _minus("json-1", "p50_us", "direct", "gateway-ids"), ",.0f"),
    _Asked("Small JSON: throughput to FastAPI + httpx + Redis", 15, _over("json-32", "per_second", "fastapi"), ".1f",
           is_most=False),
    _Asked("Small JSON: throughput to LiteLLM", 50, _over("json-32", "per_second", "litellm"), ".1f", is_most=False),
    _Asked(f"100 streams: CPU per piece {_KEPT}", 1.35, _over("sse-100", "proxy_us", "nginx")),
    _Asked(f"100 streams: first byte p50 {_KEPT}", 2, _over("sse-100", "first_p50_us", "nginx")),
    _Asked("100 streams: added p50 per piece, us", 500, _minus("sse-100", "p50_us", "direct"), ",.0f"),
    _Asked("100 streams: added p99 per piece, us", 5000, _minus("sse-100", "p99_us", "direct"), ",.0f"),
    _Asked("100 streams, answers kept: CPU per piece to the same without", 1.25,
           _over("sse-100", "proxy_us", "gateway", "gateway-kept")),
    _Asked("100 streams, answers kept: p50 per piece, us more", 50,
           _minus("sse-100", "p50_us", "gateway", "gateway-kept"), ",.0f"),
    _Asked("1,000 streams: errors", 0, _figures("sse-1000", "errors"), ".0f"),
    _Asked("1,000 streams: statuses older than heartbeat + 1 s", 0, _figures("heartbeats", "late"), ".0f"),
    _Asked("1,000 streams: KiB of memory each", 48, _figures("sse-1000", "stream_kib"), ".1f"),
    _Asked(f"50 MiB up: throughput {_KEPT}", 0.5, _over("up-50", "mib_per_second", "nginx"), is_most=False),
    _Asked("50 MiB up: memory growth, MiB", 4, _figures("up-50", "grown_mib")),
    _Asked(f"50 MiB down: throughput {_KEPT}", 0.5, _over("down-50", "mib_per_second", "nginx"), is_most=False),
    _Asked("50 MiB down: memory growth, MiB", 4, _figures("down-50", "grown_mib")),
    # Asking.
    _Asked("Status read, 32 clients: CPU to a relayed small JSON", 1.2, _to_relayed("status-32")),
    _Asked("Status read with If-None-Match, 32 clients: CPU to the same", 0.8, _to_relayed("status-304-32")),
    _Asked("List of 50, 32 clients: CPU to the same", 3, _to_relayed("list-50-32")),
    _Asked("Status read, 1 client: p50, us", 250, _figures("status-1", "p50_us", "gateway-1k"), ",.0f"),
    _Asked("Status read at 1,000,000 tasks: p50, us", 1000, _figures("status", "p50_us", "gateway-1m"), ",.0f"),
    _Asked("List of 50 at 1,000,000 tasks: p99, us", 20_000, _figures("list", "p99_us", "gateway-1m"), ",.0f"),
    _Asked("Status read: 1,000,000 to 1,000 tasks", 1.5, _growth("status")),
    _Asked("List of 50: 1,000,000 to 1,000 tasks", 1.5, _growth("list")),
    _Asked("1,000 status reads a second beside 100 streams: added p99 per piece, us more", 1000,
           _more("sse-100-asked", "asked_p99_us", "p99_us", "gateway-1k"), ",.0f"),
    _Asked("5,000 pollers wait: KiB of memory each", 8, _figures("wait-5000", "waiter_kib"), ".1f"),
    _Asked("the same, tasks at another gateway", 8, _figures("wait-5000", "waiter_kib", "gateway-other"), ".1f"),
    _Asked("5,000 pollers wait: CPU while nothing changes, % of a core", 2, _figures("wait-5000", "wait_percent")),
    _Asked("the same, tasks at another gateway", 2, _figures("wait-5000", "wait_percent", "gateway-other")),
    _Asked("5,000 pollers wait: change to answer p99, us", 5000, _figures("wait-5000", "p99_us"), ",.0f"),
    _Asked("the same, tasks at another gateway", 50_000, _figures("wait-5000", "p99_us", "gateway-other"), ",.0f"),
    # The process.
    _Asked("Start to ready, ms", 1000, _figures("start", "ready_ms"), ",.0f"),
    _Asked("Idle memory, MiB", 50, _figures("start", "idle_mib"), ".1f"),
)  # fmt: skip


def verdicts(results: Results) -> str:
    """The limits beside the results, as a Markdown table."""
    lines = [["Asked", "Limit", "Found", ""]]
    for asked in _ASKED:
        values = asked.found(results)
        if not values and not asked.is_always_shown:
            continue
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
