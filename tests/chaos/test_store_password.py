"""The store wants a password that the gateway does not have: NOAUTH."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import PasswordSet


class TestPassword(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = PasswordSet
