"""The store's clock, as this process knows it. All times of all tasks are by that clock, so gateways agree on them."""

import time

_STEP_FORWARD_MS = 2000.0  # a clock that steps forward by more makes every task look silent


class StoreClock:
    """Unix time by the store's clock: an offset from the monotonic clock here, learned from the store's replies.

    Until the first reply it is this machine's clock. After a step forward it counts as unsteady for `grace_seconds`.
    """

    def __init__(self, grace_seconds: float) -> None:
        self._grace_seconds = grace_seconds
        self._offset_ms: float | None = None
        self._steady_at = 0.0

    def seconds(self) -> float:
        """Unix seconds now."""
        return time.time() if self._offset_ms is None else time.monotonic() + self._offset_ms / 1000

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
        least, most = now_ms - replied_at * 1000, now_ms + 1 - asked_at * 1000
        if self._offset_ms is None:
            self._offset_ms = (least + most) / 2
        if least - self._offset_ms > _STEP_FORWARD_MS:
            self._steady_at = replied_at + self._grace_seconds
        self._offset_ms = min(max(self._offset_ms, least), most)
