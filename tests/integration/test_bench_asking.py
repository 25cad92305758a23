"""The bench measures status reads and waits with real gateways: each answer is checked, and a wrong one is an error."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bench.asking import AskedStreamScenario, StatusScenario, WaitScenario
from bench.peers import Setup, Variant, standing
from bench.scenarios import SCENARIOS
from bench.stores import FilledStores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.load import Figures, Scenario

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


@pytest.fixture(scope="module")
def filled(started: None) -> Iterator[FilledStores]:
    """The stores with ended tasks of this module."""
    with ExitStack() as stack:
        yield FilledStores(stack)


@pytest.fixture(scope="module")
def started() -> Iterator[None]:
    """The bench uses the same store's program as the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        if program := os.environ.get("STORE_SERVER"):
            patch.setenv("BENCH_STORE", program)
        yield


def run(scenario: Scenario, name: str, filled: FilledStores) -> tuple[Variant, Figures]:
    """One run without an error. A missing program skips at home and fails in CI."""
    with standing([name], Setup(filled, scenario.gateway_env)) as stand:
        if stand.left_out and not os.environ.get("CI"):
            pytest.skip(stand.left_out[name])
        [variant] = stand.variants
        outcome = scenario.run(variant)
    assert outcome.errors == []
    return variant, outcome.figures


@pytest.mark.parametrize("scenario", ["status-32", "list-50-32"])
@pytest.mark.parametrize("name", ["nginx-static", "gateway-1k", "fastapi-reads"])
def test_the_same_documents_are_read_from_each_peer(scenario: str, name: str, filled: FilledStores) -> None:
    """The gateway, files and FastAPI answer with ended tasks of the same store, one or fifty of them."""
    found = BY_NAME[scenario]
    assert isinstance(found, StatusScenario)
    _, figures = run(replace(found, warm_seconds=0.1, seconds=1.0), name, filled)
    assert figures["per_second"] > 0


@pytest.mark.parametrize("name", ["nginx-static", "gateway-1k"])
def test_a_known_document_is_304(name: str, filled: FilledStores) -> None:
    """The client gives back the ETag that it got, and each answer is 304 without a body."""
    _, figures = run(replace(BY_NAME["status-304-32"], warm_seconds=0.1, seconds=1.0), name, filled)
    assert figures["per_second"] > 0


@pytest.mark.parametrize("name", ["gateway", "gateway-other"])
def test_each_waiter_learns_of_the_end_of_its_task(name: str, filled: FilledStores) -> None:
    """None is answered before, and those are counted whose task the upstream ends."""
    scenario = BY_NAME["wait-5000"]
    assert isinstance(scenario, WaitScenario)
    variant, figures = run(replace(scenario, waiters=20, changes=10, seconds=0.2), name, filled)
    assert (variant.holder is not None) == (name == "gateway-other")
    assert figures["waiters"] == 20
    assert 0 < figures["p50_us"] <= figures["p99_us"]


def test_streams_are_measured_with_and_without_reads_beside_them(filled: FilledStores) -> None:
    """Both in one run, and the reads come at their rate as far as the machine allows."""
    scenario = BY_NAME["sse-100-asked"]
    assert isinstance(scenario, AskedStreamScenario)
    small = replace(scenario, streams=5, reads=50, readers=5, warm_seconds=0.2, seconds=1.0)
    _, figures = run(small, "gateway-1k", filled)
    assert figures["p99_us"] > 0
    assert figures["asked_p99_us"] > 0
    # Those that were due while the readers connected come at once; without a rate there would be thousands.
    assert 0 < figures["reads_per_second"] <= 10 * small.reads
