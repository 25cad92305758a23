"""The store became a replica: it refuses writes with READONLY and answers reads."""

from __future__ import annotations

from tests.chaos.rules import StoreFaultRules
from tests.support.faults import ReadOnly


class TestReadOnly(StoreFaultRules):
    """What holds in every failure of the store."""

    fault = ReadOnly
