"""The store is out of memory: it refuses writes with OOM and answers reads."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import OutOfMemory


class TestOutOfMemory(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = OutOfMemory
