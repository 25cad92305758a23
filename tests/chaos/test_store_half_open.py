"""The network swallows every byte to and from the store, and tells no one."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import HalfOpen


class TestHalfOpen(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = HalfOpen
