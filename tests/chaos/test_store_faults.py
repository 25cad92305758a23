"""What holds in every failure of the store: each of its faults, under the rules of rules.py."""

from __future__ import annotations

import pytest

from tests.chaos.rules import StoreFaultRules
from tests.support import faults

pytestmark = pytest.mark.timeout(600)  # up to three trials


class TestCannotSave(StoreFaultRules):
    """The store cannot save its snapshots: it refuses writes with MISCONF and answers reads."""

    fault = faults.CannotSave


class TestDownAtStart(StoreFaultRules):
    """The store is away when the gateway starts, and comes later."""

    fault = faults.Killed
    is_at_start = True


class TestFrozen(StoreFaultRules):
    """The store freezes: it takes connections and bytes, and answers nothing."""

    fault = faults.Frozen


class TestHalfOpen(StoreFaultRules):
    """The network swallows every byte to and from the store, and tells no one."""

    fault = faults.HalfOpen


class TestKilled(StoreFaultRules):
    """The store is killed, and comes back empty."""

    fault = faults.Killed


class TestOutOfMemory(StoreFaultRules):
    """The store is out of memory: it refuses writes with OOM and answers reads."""

    fault = faults.OutOfMemory


class TestPassword(StoreFaultRules):
    """The store wants a password that the gateway does not have: NOAUTH."""

    fault = faults.PasswordSet


class TestReadOnly(StoreFaultRules):
    """The store became a replica: it refuses writes with READONLY and answers reads."""

    fault = faults.ReadOnly


class TestResetting(StoreFaultRules):
    """The network resets every connection to the store."""

    fault = faults.Resetting


class TestSlow(StoreFaultRules):
    """The store takes two seconds for each answer."""

    fault = faults.Slow


class TestTooManyClients(StoreFaultRules):
    """The store has as many clients as it takes, and the gateway is none of them."""

    fault = faults.TooManyClients
