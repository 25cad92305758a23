"""The store's condition, as its writer finds it, and what the log says of it.

Decides what a failure, a probe and a written batch mean for the condition, and when a log line is due. Sends the store
nothing.
"""

import logging
import time
from enum import Enum, auto

from gateway.store.interface import StoreError
from gateway.tracking.outbox import BATCH_TASKS, KEPT_TASKS, Outbox
from gateway.tracking.tracked import MAX_WAIT_SECONDS, SILENT_BEATS

log = logging.getLogger("gateway.tracker")

# A store that was away is back once it answers this fast: with a slower one requests would only wait again.
QUICK_SECONDS = MAX_WAIT_SECONDS / 2
LINE_SECONDS = 5.0  # between two lines about the condition, at least
SAME_SECONDS = 60.0  # until the same failure is told again


class _State(Enum):
    """Moves: UP to AWAY with any failure; AWAY to TAKING with a good probe; TAKING to UP, or back to AWAY."""

    UP = auto()
    AWAY = auto()  # requests do not wait for it
    TAKING = auto()  # requests still do not wait, but a probe has succeeded: what was kept is being written


class Condition:
    """Whether requests may wait for the store.

    Two things have to succeed before a store is back: a probe, which runs every command that the gateway needs, and a
    batch, if there is one. One of the two is not enough for a store that refuses one command in three.
    """

    def __init__(self, outbox: Outbox, grace_seconds: float) -> None:
        self._outbox = outbox
        self._grace_seconds = grace_seconds
        self._state = _State.UP
        # Whether a request may wait for the store, and read from it what it has written. Every request asks for it.
        self.is_up = True
        self._kind: str | None = None  # of the last failure; None while it is up
        self._why = ""
        self._away_at = self._back_at = float("-inf")
        self._lines = _Lines()
        self._reported_dropped = 0

    @property
    def is_away(self) -> bool:
        """Whether it has failed, and no probe has succeeded since."""
        return self._state is _State.AWAY

    @property
    def is_grace_over(self) -> bool:
        """Whether it has been up for so long that missing heartbeats mean a silent gateway again."""
        return self.is_up and time.monotonic() - self._back_at >= self._grace_seconds

    def fail(self, error: StoreError) -> bool:
        """The store has failed. True if it was not away until now."""
        was_away = self.is_away
        if self.is_up:
            self._away_at = time.monotonic()
        self._move(_State.AWAY)
        self._kind, self._why = error.kind, str(error)
        self.tell()
        return not was_away

    def pass_probe(self, seconds: float) -> None:
        """A probe succeeded, after `seconds`."""
        if self.is_away and seconds <= QUICK_SECONDS:
            self._move(_State.TAKING)
            if self._outbox.is_empty:
                self._return()

    def batch_written(self, seconds: float) -> None:
        """A batch was written, after `seconds`. That matters only while kept statuses are being written.

        The store is back once at most one more batch is due, so that a new wait does not have to stand behind many.
        """
        if self._state is _State.TAKING and seconds <= QUICK_SECONDS and self._outbox.due <= BATCH_TASKS:
            self._return()

    def _return(self) -> None:
        self._move(_State.UP)
        self._kind, now = None, time.monotonic()
        if now - self._away_at >= self._grace_seconds / SILENT_BEATS:  # else no heartbeat was missed for that
            self._back_at = now
        self.tell()

    def _move(self, state: _State) -> None:
        self._state, self.is_up = state, state is _State.UP

    def tell(self) -> None:
        """Logs the line that is due, if any. Has to be called regularly, because a line may have to wait."""
        told = self._lines.told
        if not self._lines.take(None if self.is_up else self._kind):
            return
        if self.is_up:
            dropped = self._outbox.dropped - self._reported_dropped
            self._reported_dropped = self._outbox.dropped
            log.info(
                "the store is back; %d statuses are still to be written, %d were dropped", self._outbox.unsaved, dropped
            )
        elif told is None:
            log.warning("the store is away (%s); requests go on, up to %d statuses are kept", self._why, KEPT_TASKS)
        else:
            log.warning("the store still takes no statuses, now for another reason: %s", self._why)


class _Lines:
    """Decides which lines are due: one for each change, five seconds apart, the same failure once a minute."""

    def __init__(self) -> None:
        self.told: str | None = None  # the kind of failure that the last line told of; None: all is well
        self._told_at = float("-inf")
        self._failures: dict[str, float] = {}  # when each kind was told last

    def take(self, kind: str | None) -> bool:
        """Whether a line about the condition `kind` is due. If it is, it counts as logged from then on."""
        now = time.monotonic()
        if kind == self.told or now - self._told_at < LINE_SECONDS:
            return False
        if kind is not None:
            if now - self._failures.get(kind, float("-inf")) < SAME_SECONDS:
                return False
            self._failures = {k: at for k, at in self._failures.items() if now - at < SAME_SECONDS} | {kind: now}
        self.told, self._told_at = kind, now
        return True
