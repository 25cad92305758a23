"""Owns the fixtures: clusters of machines. They need root; elsewhere the tests are skipped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cluster.balancers import all_reached, in_front
from tests.cluster.machines import why_not
from tests.cluster.nodes import Cluster, Node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.cluster.balancers import Balancer

    NewCluster = Callable[..., Cluster]


@pytest.fixture(scope="session")
def machines() -> None:
    """Network namespaces can be made here."""
    reason = why_not()
    if reason is not None:
        assert not (os.environ.get("CI") and os.geteuid() == 0), reason
        pytest.skip(reason)


@pytest.fixture
def new_cluster(machines: None, tmp_path: Path) -> NewCluster:
    """Makes clusters with settings of their own: `async with new_cluster(count=2, HEARTBEAT_SEC="2") as cluster`."""

    def make(count: int = 3, clock_shifts_seconds: tuple[float, ...] = (), **settings: str) -> Cluster:
        return Cluster(tmp_path, count, clock_shifts_seconds, **settings)

    return make


@pytest.fixture
async def cluster(new_cluster: NewCluster) -> AsyncIterator[Cluster]:
    """Three nodes, a store and a client, with short heartbeats and drains."""
    async with new_cluster() as cluster:
        yield cluster


KINDS = ["haproxy", "envoy"]
PLACES = 4  # at each gateway behind them


class Balanced(NamedTuple):
    """A cluster with both balancers in front of it."""

    cluster: Cluster
    fronts: dict[str, Balancer]


@pytest.fixture(scope="module")
async def shared_balanced(machines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Balanced]:
    """One cluster for the tests of a file; tests take `nodes` and `front`."""
    async with Cluster(tmp_path_factory.mktemp("cluster"), MAX_RUNNING=str(PLACES)) as cluster:
        yield Balanced(cluster, {kind: await in_front(kind, cluster) for kind in KINDS})


@pytest.fixture
async def balanced(shared_balanced: Balanced) -> AsyncIterator[Balanced]:
    """The same, whole: every gateway is ready, every upstream has forgotten the test before."""
    await shared_balanced.cluster.repair()
    for front in shared_balanced.fronts.values():
        await all_reached(front, shared_balanced.cluster)
    yield shared_balanced
    for front in shared_balanced.fronts.values():
        await front.close_clients()


@pytest.fixture(params=KINDS)
def front(request: pytest.FixtureRequest, balanced: Balanced) -> Balancer:
    """Each of the balancers."""
    return balanced.fronts[request.param]


@pytest.fixture
def nodes(balanced: Balanced) -> list[Node]:
    """The three nodes behind the balancers, with four places each."""
    return balanced.cluster.nodes
