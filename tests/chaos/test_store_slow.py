"""The store takes two seconds for each answer."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import Slow


class TestSlow(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = Slow
