"""The clock by which all times of tasks are: the store's, as this process knows it. So gateways agree on them."""

import time
from collections.abc import Callable
from typing import Protocol

_STEP_SECONDS = 2.0  # a clock that steps forward by more makes every task look silent


class Clock(Protocol):
    """Unix time as an offset from `time.monotonic()`. Each status asks for it, so it is a plain number."""

    @property
    def offset_seconds(self) -> float:
        """To be added to the monotonic time."""
        ...


class MachineClock:
    """The clock of this machine, or another one: `seconds` returns Unix seconds. It may be set at any time."""

    def __init__(self, seconds: Callable[[], float] | None = None) -> None:
        self._seconds = seconds

    @property
    def offset_seconds(self) -> float:
        """The offset as of now."""
        return (time.time() if self._seconds is None else self._seconds()) - time.monotonic()


class StoreClock:
    """The store's clock, learned from its replies. Until the first one it is that of this machine.

    After a step forward it counts as unsteady for `grace_seconds`.
    """

    def __init__(self, grace_seconds: float) -> None:
        self.offset_seconds = MachineClock().offset_seconds
        self._is_heard = False
        self._grace_seconds = grace_seconds
        self._steady_at = 0.0

    def seconds(self) -> float:
        """Unix seconds now."""
        return time.monotonic() + self.offset_seconds

    @property
    def is_steady(self) -> bool:
        """Whether the last step forward is long ago: a task that looks silent is silent."""
        return time.monotonic() >= self._steady_at

    def heard(self, now_ms: int, asked_at: float) -> None:
        """The store said `now_ms` in a reply that came now, to a question sent at `asked_at` (monotonic seconds).

        The true offset lies between two bounds. The present one stays if it does, else moves to the nearer bound: so
        slow replies change nothing, and fast ones make it exact.
        """
        replied_at = time.monotonic()
        least, most = now_ms / 1000 - replied_at, (now_ms + 1) / 1000 - asked_at
        if self._is_heard and least - self.offset_seconds > _STEP_SECONDS:
            self._steady_at = replied_at + self._grace_seconds
        self._is_heard = True
        self.offset_seconds = min(max(self.offset_seconds, least), most)
