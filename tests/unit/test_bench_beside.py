"""The bench measures another checkout beside this one, fairly, and shows the ratios of both."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.__main__ import BESIDE, LATEST, _options
from bench.beside import order, ratios, with_before
from bench.peers import BEFORE, PEERS, TITLES, Setup, standing
from bench.results import Measured, Round, commit
from bench.scenarios import SCENARIOS
from bench.stores import FilledStores

if TYPE_CHECKING:
    from bench.load import Scenario

JSON_32 = next(scenario for scenario in SCENARIOS if scenario.name == "json-32")

# The least program that the bench takes for a gateway: it is ready, whatever is asked.
OLD_GATEWAY = """
import http.server
import os
from contextlib import ExitStack

class Ready(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(os.environ["GATEWAY_PORT"])), Ready).serve_forever()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout of the gateway."""
    package = tmp_path / "old" / "gateway"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(OLD_GATEWAY)
    return package.parent


def measured(*rounds: Round) -> Measured:
    return Measured("2026-01-01 00:00 UTC", "abc beside def", list(rounds))


def row_of(table: str, title: str) -> list[str]:
    """The cells behind the title of a row."""
    [row] = [row for row in table.splitlines() if row.startswith(f"| {title} ")]
    return [cell.strip() for cell in row.split("|")[2:-1]]


# -- what runs --


def test_the_other_checkout_is_what_runs_as_before(checkout: Path) -> None:
    """`python -m gateway` starts in its folder; the present gateway starts in this one."""
    with ExitStack() as stack, standing(["before"], Setup(FilledStores(stack), beside=checkout)) as stand:
        [before] = stand.variants
        assert before.proxy is not None
        assert Path(os.readlink(f"/proc/{before.proxy.pid}/cwd")) == checkout
    with ExitStack() as stack, standing(["gateway"], Setup(FilledStores(stack), beside=checkout)) as stand:
        [now] = stand.variants
        assert now.proxy is not None
        assert Path(os.readlink(f"/proc/{now.proxy.pid}/cwd")) == Path(__file__).parents[2]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_each_gateway_is_measured_next_to_the_one_before(scenario: Scenario) -> None:
    """Both run in each turn, one right after the other. No run empties a store under a gateway that knows its tasks."""
    beside = with_before(scenario)
    for now, before in BEFORE.items():
        if now in scenario.variants:
            assert beside.variants.index(before) == beside.variants.index(now) + 1
    assert set(beside.variants) - set(scenario.variants) <= set(BEFORE.values()) <= set(TITLES)
    assert beside.keeps_tasks
    assert beside.is_fresh == scenario.is_fresh
    assert beside.turns == 1 or not beside.is_fresh


def test_neither_checkout_always_runs_first() -> None:
    """Every second turn runs backwards."""
    assert [order(["direct", "gateway", "before"], number)[-1] for number in range(4)] == [
        "before",
        "direct",
        "before",
        "direct",
    ]


def test_only_the_gateways_run_unless_peers_are_named(checkout: Path) -> None:
    """Its figures go to a file of their own, because they are not for the page."""
    options = _options(["--beside", str(checkout)])
    assert (options.peers, options.json, options.beside) == ([], BESIDE, checkout)
    assert _options(["--beside", str(checkout), "--peers", "nginx"]).peers == ["nginx"]
    assert (_options([]).peers, _options([]).json) == (list(PEERS), LATEST)


def test_a_folder_without_a_gateway_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error of the command, not of each run."""
    with pytest.raises(SystemExit):
        _options(["--beside", str(tmp_path)])
    assert "has no gateway/__main__.py" in capsys.readouterr().err


def test_a_folder_without_git_is_known_by_its_name(checkout: Path) -> None:
    """An unpacked release says what was measured; no error of Git is taken for a commit."""
    assert commit(checkout) == "old"


# -- the ratios --


def test_a_ratio_of_checkouts_is_taken_inside_each_turn() -> None:
    """A moment that slows both down changes no ratio, and a turn that has only one of them gives none."""
    found = measured(
        {"gateway": {"proxy_us": 20}, "before": {"proxy_us": 10}},
        {"gateway": {"proxy_us": 100}, "before": {"proxy_us": 100}},
        {"gateway": {"proxy_us": 90}, "before": {"proxy_us": 30}},
        {"gateway": {"proxy_us": 900}},
    )
    cells = row_of(ratios([(JSON_32, found)]), "Small JSON, 32 clients: gateway: CPU us")
    assert cells == ["90.0", "30.0", "2.00 [1.00-3.00]", "3"]


def test_the_brackets_are_of_the_rounds() -> None:
    """Between rounds the processes change, and with them the layout of their memory: that is the spread that counts."""
    ratios_of_turns = [1, 2, 9, 3, 4, 9]
    found = measured(
        *({"gateway": {"proxy_us": float(ratio)}, "before": {"proxy_us": 1.0}} for ratio in ratios_of_turns)
    )
    cells = row_of(ratios([(replace(JSON_32, turns=3), found)]), "Small JSON, 32 clients: gateway: CPU us")
    assert cells[2:] == ["3.50 [2.00-4.00]", "6"]


def test_the_ratio_of_added_latency_leaves_out_the_direct_way() -> None:
    """The time that the load and the upstream take is neither checkout's."""
    found = measured({"direct": {"p50_us": 100}, "gateway-ids": {"p50_us": 200}, "before-ids": {"p50_us": 500}})
    table = ratios([(JSON_32, found)])
    cells = row_of(table, "Small JSON, 32 clients: gateway, client ids: added p50 us")
    assert cells == ["100.0", "400.0", "0.25 [0.25-0.25]", "1"]
    assert row_of(table, "Small JSON, 32 clients: gateway, client ids: p50 us")[2] == "0.40 [0.40-0.40]"
