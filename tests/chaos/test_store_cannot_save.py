"""The store cannot save its snapshots: it refuses writes with MISCONF and answers reads."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import CannotSave


class TestCannotSave(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = CannotSave
