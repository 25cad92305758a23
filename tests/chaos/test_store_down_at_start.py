"""The store is away when the gateway starts, and comes later."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import Killed


class TestDownAtStart(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = Killed
    is_at_start = True
