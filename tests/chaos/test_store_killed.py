"""The store is killed, and comes back empty."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import Killed


class TestKilled(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = Killed
