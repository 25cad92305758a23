"""The network resets every connection to the store."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import Resetting


class TestResetting(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = Resetting
