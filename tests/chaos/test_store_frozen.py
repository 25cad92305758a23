"""The store freezes: it takes connections and bytes, and answers nothing."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import Frozen


class TestFrozen(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = Frozen
