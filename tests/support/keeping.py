"""Owns the keeping of answers for tests of what stands beside it: in this process alone, without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.kept.keeping import Keeping, KeptLimits

if TYPE_CHECKING:
    from gateway.tracking.tracker import Tracker


def keeping_of(tracker: Tracker, response_bytes: int = 1000, held_bytes: int = 10_000) -> Keeping:
    """Keeps answers of up to `response_bytes`, and `held_bytes` of all of them, for a minute."""
    return Keeping(tracker, None, KeptLimits(response_bytes, held_bytes, 60, 60, 10))
