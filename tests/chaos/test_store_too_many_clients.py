"""The store has as many clients as it takes, and the gateway is none of them."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import TooManyClients


class TestTooManyClients(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = TooManyClients
