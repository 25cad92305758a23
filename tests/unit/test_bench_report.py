"""The benchmark's page tells what its figures say, and figures become text by known rules."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

from bench import docs, results
from bench.__main__ import _is_chosen
from bench.limits import verdicts
from bench.load import percentile
from bench.peers import BINARIES, TITLES
from bench.plots import Dot, Line, dot_plot, line_plot
from bench.report import table
from bench.results import Measured, Results
from bench.scenarios import SCENARIOS

if TYPE_CHECKING:
    from pathlib import Path

PUBLISHED = results.load(docs.PUBLISHED)
JSON_32 = next(scenario for scenario in SCENARIOS if scenario.name == "json-32")


def figures(microseconds: float, errors: int = 0) -> dict[str, float]:
    """A run of small requests whose every figure is `microseconds`, or a rate to match."""
    same = dict.fromkeys(("p50_us", "p99_us", "proxy_us", "store_us"), microseconds)
    cores = dict.fromkeys(("proxy_core", "upstream_core", "load_core", "others_core"), 0.1)
    return {**same, **cores, "per_second": 1e6 / microseconds, "errors": errors}


def measured(**by_variant: list[float]) -> Measured:
    """Rounds in which each variant took so many microseconds."""
    rounds = [
        {name: figures(values[number]) for name, values in by_variant.items() if number < len(values)}
        for number in range(max(map(len, by_variant.values())))
    ]
    return Measured("2026-01-01 00:00 UTC", "abc", rounds)


# -- the page --


def test_the_page_says_what_the_published_figures_say() -> None:
    """No one edits a figure: the part between the marks is what `--publish` makes of the JSON file."""
    page = docs.PAGE.read_text()
    assert page.partition(docs.BEGIN)[2].partition(docs.END)[0] == docs.generated(PUBLISHED)


def test_the_plots_are_of_the_published_figures() -> None:
    """Each plot is drawn from the same file, and none is left of an older one."""
    drawn = {path.name: path.read_text() for path in docs.IMAGES.glob("bench-*.svg")}
    assert drawn == docs.plots(PUBLISHED)
    assert drawn


def test_every_scenario_is_published() -> None:
    """A scenario that is not measured would be missed by no one."""
    assert set(PUBLISHED.scenarios) == {scenario.name for scenario in SCENARIOS}


def test_every_variant_is_measured_or_named_as_left_out() -> None:
    """A peer that could not be had, or failed in each round, is named with the reason, except programs by path."""
    for scenario in SCENARIOS:
        found = PUBLISHED.of(scenario.name)
        missing = set(scenario.variants) - set(BINARIES) - set(found.variants) - set(found.left_out)
        assert all(any(f", {name}: " in error for error in found.errors) for name in missing), (scenario.name, missing)


# -- from figures to text --


def test_a_ratio_is_taken_inside_each_round() -> None:
    """What slows a whole round down changes no ratio: the median of the ratios, not the ratio of the medians."""
    text = table(JSON_32, measured(nginx=[10, 100, 30], gateway=[20, 200, 90]))
    assert "2.00 [2.00-3.00]" in text


def test_a_round_without_the_base_gives_no_ratio() -> None:
    """Only rounds in which both were measured are compared."""
    text = table(JSON_32, measured(nginx=[10], gateway=[20, 1000]))
    assert "2.00 [2.00-2.00]" in text


def test_added_latency_is_the_difference_to_the_direct_way() -> None:
    """Per round, then the median."""
    [line] = [
        line
        for line in table(JSON_32, measured(direct=[50, 60], gateway=[150, 180])).splitlines()
        if "| gateway" in line
    ]
    assert [cell.strip() for cell in line.split("|")][5] == "110"


def test_a_peer_that_was_left_out_is_named_with_the_reason() -> None:
    """No one is missing silently, nor is a failed run."""
    found = measured(gateway=[1])
    found.left_out, found.errors = (
        {"haproxy": "haproxy is missing:\napt-get install haproxy"},
        ["round 1, nginx: refused"],
    )
    text = table(JSON_32, found)
    assert "Left out: HAProxy: haproxy is missing: apt-get install haproxy" in text
    assert "Error: round 1, nginx: refused" in text


def test_a_scenario_without_rounds_has_a_reason_and_no_table() -> None:
    """One reason of several variants is said once."""
    text = table(JSON_32, Measured("", "", [], {"nginx": "too new", "gateway": "too new"}))
    assert text.splitlines() == ["### Small JSON, 32 clients", "", "Left out: nginx, gateway: too new"]


@pytest.mark.parametrize(("gateway", "verdict"), [(60.0, "reached"), (60.1, "**missed**")])
def test_a_limit_is_reached_or_missed_by_the_median(gateway: float, verdict: str) -> None:
    """Six times nginx's CPU is allowed, and not a little more; what was not measured is said to be that."""
    found = Results({}, {"json-32": measured(nginx=[10, 10, 10], gateway=[1, gateway, 99])})
    [line] = [line for line in verdicts(found).splitlines() if "32 clients: CPU to nginx" in line]
    assert line.rstrip(" |").endswith(verdict)
    assert "not measured" in verdicts(found)


def test_what_is_asked_is_compared_with_what_is_relayed_in_the_same_round() -> None:
    """A status read may cost 1.2 times a relayed small request: the median of the ratios of the rounds."""
    asked: dict[str, list[float]] = {"gateway-1k": [120, 400, 300]}
    scenarios = {"json-32": measured(gateway=[100, 200, 300]), "status-32": measured(**asked)}
    [line] = [line for line in verdicts(Results({}, scenarios)).splitlines() if "Status read, 32 clients" in line]
    assert "1.20 [1.00-2.00]" in line
    assert line.rstrip(" |").endswith("reached")


def test_go_is_in_the_limits_only_where_it_ran() -> None:
    """Its program is given by path, so that it is missing says nothing."""
    assert "Go's" not in verdicts(Results({}, {"json-32": measured(gateway=[1])}))
    assert "2.00 [2.00-2.00]" in next(
        line
        for line in verdicts(Results({}, {"json-32": measured(gateway=[2], go=[1])})).splitlines()
        if "Go's" in line
    )


def test_reads_beside_streams_are_compared_inside_a_run() -> None:
    """A millisecond more at p99 is allowed."""
    rounds: list[results.Round] = [{"gateway-1k": {"p99_us": 900.0, "asked_p99_us": 1_950.0}}]
    scenarios = {"sse-100-asked": Measured("", "", rounds)}
    [line] = [line for line in verdicts(Results({}, scenarios)).splitlines() if "beside 100 streams" in line]
    assert "1,050 [1,050-1,050]" in line
    assert "missed" in line


def test_percentiles_are_of_the_ordered_values() -> None:
    """The value below which that share lies; 0 of none."""
    values = [float(number) for number in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1), percentile([], 0.5)) == (
        50,
        99,
        99,
        0,
    )


# -- the file --


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """A run can be resumed from its file; five digits are kept."""
    path = tmp_path / "new" / "figures.json"
    before = Results({"cpu": "one"}, {"json-32": measured(nginx=[10, 12.345678], gateway=[20, 30])})
    results.save(before, path)
    after = results.load(path)
    assert after.environment == {"cpu": "one"}
    assert [f["p50_us"] for f in after.of("json-32").of("nginx")] == [10, 12.346]
    assert results.load(tmp_path / "none.json") == Results({}, {})


# -- plots and options --


def test_programs_by_path_are_left_out_of_what_is_published() -> None:
    """Not a figure, a reason or an error of them stays."""
    found = measured(nginx=[1], go=[2])
    found.left_out, found.errors = {"olla": "did not start"}, ["round 1, go: refused", "round 1, nginx: refused"]
    published = Results({}, {"json-32": found}).without(BINARIES).of("json-32")
    assert (published.variants, published.left_out, published.errors) == (["nginx"], {}, ["round 1, nginx: refused"])
    assert found.variants == ["nginx", "go"]


def test_a_plot_is_a_picture_with_a_dot_per_variant() -> None:
    """Well-formed SVG, the texts escaped, dots in the order of their values from left to right."""
    plot = dot_plot("a < b", "microseconds", [Dot("one & two", 10, 9, 11, False), Dot("three", 250, 200, 300, True)])
    root = ElementTree.fromstring(plot)
    circles = [float(node.get("cx", "")) for node in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(circles) == 2
    assert circles[0] < circles[1]
    assert "a < b" in [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_line_plot_is_a_picture_with_a_line_per_series() -> None:
    """Well-formed SVG; a point per value from left to right, and a greater value is higher."""
    plot = line_plot("a < b", "seconds", [Line("one & two", [0, 1, 3]), Line("three", [0.0, 0.5, 0.5])])
    root = ElementTree.fromstring(plot)
    lines = [node.get("points", "").split() for node in root.iter("{http://www.w3.org/2000/svg}polyline")]
    points = [[tuple(map(float, point.split(","))) for point in line] for line in lines]
    assert [len(line) for line in points] == [3, 3]
    assert points[0] == sorted(points[0])
    assert points[0][0][1] > points[0][1][1] > points[0][2][1]
    assert points[1][1][1] == points[1][2][1] > points[0][1][1]
    assert {"a < b", "one & two", "three"} <= {node.text for node in root.iter("{http://www.w3.org/2000/svg}text")}


def test_a_scenario_is_chosen_by_its_name_or_kind() -> None:
    """`sse-1` is not `sse-100`, `sse` is both, nothing is all."""
    assert _is_chosen("sse-1", ["sse-1"])
    assert not _is_chosen("sse-100", ["sse-1"])
    assert _is_chosen("sse-100", ["json", "sse"])
    assert _is_chosen("sse-100", [])


def test_every_variant_of_a_scenario_has_a_title() -> None:
    """And no scenario is named twice."""
    assert {name for scenario in SCENARIOS for name in scenario.variants} <= set(TITLES)
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
