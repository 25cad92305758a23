"""The time in milliseconds, as tasks are stamped with it. A clock of the machine may be set back at any time."""

import time
from collections.abc import Callable

_STEP_MS = 1000  # a clock that steps back by more is believed


class Clock:
    """`seconds` gives Unix seconds."""

    def __init__(self, seconds: Callable[[], float] = time.time) -> None:
        self.seconds = seconds
        self._last_claim_ms = 0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return int(self.seconds() * 1000)

    def claim_ms(self) -> int:
        """As `now_ms`, but no two the same: with `boot` it tells the claims of one id from each other."""
        now_ms, last_ms = self.now_ms(), self._last_claim_ms
        self._last_claim_ms = now_ms if now_ms < last_ms - _STEP_MS else max(now_ms, last_ms + 1)
        return self._last_claim_ms
