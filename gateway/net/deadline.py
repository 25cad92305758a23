"""One timer for a deadline that moves often. Knows nothing of what ends then.

Used by server, transport, upstream, line and writer.
"""

import asyncio
from collections.abc import Callable
from math import inf


class Deadline:
    """A timer that is moved without touching the event loop: it looks at its deadline only when it fires."""

    __slots__ = ("_at", "_fires_at", "_loop", "_on_expired", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_expired: Callable[[], None]) -> None:
        self._loop = loop
        self._on_expired = on_expired
        self._at = self._fires_at = inf
        self._timer: asyncio.TimerHandle | None = None

    def move(self, seconds: float) -> None:
        """The deadline is `seconds` from now."""
        self._at = self._loop.time() + seconds
        if self._at < self._fires_at:
            self._disarm()
            self._arm()

    def move_up(self, seconds: float) -> None:
        """The deadline is `seconds` from now, or where it was if that is sooner."""
        if self._loop.time() + seconds < self._at:
            self.move(seconds)

    def off(self) -> None:
        """There is none for the time being."""
        self._at = inf

    def cancel(self) -> None:
        """There is none any more, and no timer either: for the end of whoever has it."""
        self._at = inf
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._fires_at = None, inf

    def end(self) -> None:
        """As `cancel`; and whoever has it is held no longer."""
        self.cancel()
        self._on_expired = _nothing

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


def _nothing() -> None:
    """What an ended deadline does."""
