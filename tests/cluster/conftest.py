"""Owns the fixtures: clusters of machines. They need root; elsewhere the tests are skipped."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cluster.machines import why_not
from tests.cluster.nodes import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

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
