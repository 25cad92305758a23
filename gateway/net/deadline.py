"""One timer for a deadline that moves often. Does not know what the deadline is for."""

import asyncio
from collections.abc import Callable
from math import inf


class Deadline:
    """Calls `on_expired` at the deadline. Moving the deadline later does not touch the event loop's timer: when that
    fires too early, it is set again.
    """

    __slots__ = ("_at", "_fires_at", "_loop", "_on_expired", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._at = self._fires_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def move(self, seconds: float) -> None:
        """Sets the deadline to `seconds` from now."""
        self._at = self._loop.time() + seconds
        if self._at < self._fires_at:
            self._disarm()
            self._arm()

    def move_up(self, seconds: float) -> None:
        """Sets the deadline to `seconds` from now, unless it is earlier already."""
        if self._loop.time() + seconds < self._at:
            self.move(seconds)

    def off(self) -> None:
        """Removes the deadline. The timer may stay, which is cheap; `move` sets a deadline again."""
        self._at = inf

    def cancel(self) -> None:
        """Removes the deadline and the timer. To be called when the owner ends."""
        self._at = inf
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, inf

    def end(self) -> None:
        """As `cancel`, and drops the callback, so that it keeps no reference to the owner."""
        self.cancel()
        self._on_expired = _do_nothing

    def _arm(self) -> None:
        self._fires_at = self._at
        self._timer = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._timer, self._fires_at = None, inf
        if self._at <= self._loop.time():
            self._at = inf
            self._on_expired()
        elif self._at < inf:
            self._arm()


def _do_nothing() -> None:
    """The callback of an ended deadline."""
