"""Places with Ollama: limits how many requests are there at once. The others wait in a bounded queue.

A `Place` is what one request has here, from its head to the end of its answer. The request says when it could use a
place, when it is with Ollama, and when it leaves. `FairQueue` decides who is next. Knows no message and no task.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

from gateway.errors import GatewayError, QueueFull, UpstreamUnavailable
from gateway.queue.fair import FairQueue, Standing

# While Ollama refuses connections, it is probably starting again. Requests wait this long for it, and try this often.
REFUSAL_SECONDS = 15.0
_TRY_SECONDS = 0.25
# Retry-After: its bounds, its value without any history, and how many places the history has.
_LEAST_RETRY_SECONDS, _MOST_RETRY_SECONDS, _UNKNOWN_RETRY_SECONDS = 1, 120, 5
_HISTORY = 32


class Waiter(Protocol):
    """A request in the queue. No call may raise."""

    def on_place(self) -> None:
        """It has a place, and may connect to Ollama. Comes again after each `Place.refused`."""

    def on_cut(self, error: GatewayError, /) -> None:
        """It has to end at once and leave the queue, because of `error`."""


class _Condition(Enum):
    """Whether Ollama takes connections, as far as is known."""

    OPEN = auto()
    REFUSING = auto()  # for less than REFUSAL_SECONDS: requests wait for it
    DOWN = auto()  # for longer: each request tries once, and fails at once


class Place:
    """What one request has in the queue. All verbs may be called at any time; those that no longer apply do nothing."""

    __slots__ = (
        "_places", "_waiter", "is_low", "is_ready", "number", "owner", "placed_at", "standing", "waiting_since",
    )  # fmt: skip

    def __init__(self, places: "Places", owner: str, now: float, *, is_low: bool) -> None:
        self._places = places
        self._waiter: Waiter | None = None  # until it leaves: the two hold each other
        self.waiting_since = self.placed_at = now  # monotonic seconds
        # as a Ticket
        self.owner = owner
        self.is_low = is_low
        self.is_ready = False
        self.number = 0
        self.standing = Standing.GONE  # until it is in the queue

    def __repr__(self) -> str:
        priority = "low" if self.is_low else "normal"
        return f"<Place {self.number} of {self.owner!r}, {priority}, {self.standing.name}>"

    @property
    def position(self) -> int | None:
        """Its number in the order of turns, 1 is next; None once the request is with Ollama, or has left."""
        return self._places.queue.position(self)

    @property
    def queue_length(self) -> int:
        """How many requests are not with Ollama yet."""
        return self._places.queue.length

    def used_by(self, waiter: Waiter) -> None:
        """From now on `waiter` is told of its turn, until it leaves."""
        self._waiter = waiter

    def ready(self) -> None:
        """The request could use a place: what has to be here of its body is here."""
        if not self.is_ready:
            self.is_ready = True
            self._places.give()

    def run(self) -> float:
        """The request goes to Ollama, on an open connection. Returns how many seconds it waited for its place."""
        if self.standing is Standing.PLACED:
            self._places.ran(self)
        return self.placed_at - self.waiting_since

    def refused(self, error: UpstreamUnavailable) -> bool:
        """Ollama refused the connection. Whether the request keeps its place and is told when to try again.

        It is not if it was with Ollama before: what it sent there may have had an effect.
        """
        return self.standing is Standing.PLACED and self._places.refused(self, error)

    def leave(self) -> None:
        """The request needs no place any more, or waits no longer."""
        self._waiter = None
        if self.standing is not Standing.GONE:
            self._places.left(self)

    def tell(self, now: float) -> None:
        """Tells the request that it has its place."""
        self.placed_at = now
        if self._waiter is not None:
            self._waiter.on_place()

    def dismiss(self, error: GatewayError) -> None:
        """Tells the request that it has to leave."""
        if self._waiter is not None:
            self._waiter.on_cut(error)


class Places:
    """`max_running` requests are with Ollama at once; `max_queued` more may wait. `clock` gives monotonic seconds."""

    def __init__(self, max_running: int, max_queued: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_running = max_running
        self.queue: FairQueue[Place] = FairQueue()
        self._most = max_running + max_queued
        self._clock = clock
        self._is_giving = False
        self._closed_by: GatewayError | None = None
        self._running: dict[Place, float] = {}  # since when
        self._took: deque[float] = deque(maxlen=_HISTORY)  # seconds from `ran` to `left`
        # Ollama refuses connections
        self._condition = _Condition.OPEN
        self._refusing_since = 0.0
        self._refused_at = -math.inf  # the last time
        self._refused: dict[Place, None] = {}  # those that are to try again
        self._next_try: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Places {self.running} of {self.max_running} taken, {self.waiting} waiting, {self._condition.name}>"

    @property
    def running(self) -> int:
        """How many requests are with Ollama."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many are not yet."""
        return self.queue.length

    @property
    def is_full(self) -> bool:
        """Whether one more request is refused, or takes the place of another in the queue."""
        return self.queue.places + self.queue.waiting >= self._most

    def reserve(self, owner: str, *, is_low: bool, is_ready: bool = False) -> Place:
        """A place in the queue for a request of the key `owner`. Raises QueueFull, and after `close` its error.

        In a full queue the youngest request of another key may have to leave for it. A request that is ready gets its
        place at once if one is free and no other waits: a fast path, without which an idle queue takes twice as
        many steps (tests/integration/test_cost.py).
        """
        is_idle = not self.queue.waiting and self.queue.places < self.max_running
        if is_ready and is_idle and self._condition is _Condition.OPEN:
            place = Place(self, owner, self._clock(), is_low=is_low)
            self.queue.place(place)
            return place
        if self._closed_by is not None:
            raise self._closed_by
        if self.is_full:
            error = QueueFull(self._retry_after_seconds())
            displaced = self.queue.displaced_by(owner)
            if displaced is None:
                raise error
            displaced.dismiss(error)
        place = Place(self, owner, self._clock(), is_low=is_low)
        self.queue.join(place)
        return place

    def give(self) -> None:
        """Gives free places to the requests that are next. Gives none while Ollama refuses connections."""
        if self._is_giving:  # called again by a request that was just told; the loop below goes on
            return
        self._is_giving = True
        try:
            while self.queue.waiting and self.queue.places < self.max_running:
                if self._condition is _Condition.REFUSING or (place := self.queue.place_next()) is None:
                    break
                place.tell(self._clock())
        finally:
            self._is_giving = False

    def close(self, error: GatewayError) -> None:
        """Dismisses all that wait. From now on no place is given, and `reserve` raises `error`."""
        self._closed_by = error
        self.max_running = 0
        self._dismiss_all(error)

    # -- what a place reports --

    def ran(self, place: Place) -> None:
        """A request is with Ollama now."""
        self.queue.run(place)
        self._running[place] = self._clock()
        if self._condition is not _Condition.OPEN:
            self._condition = _Condition.OPEN
            asyncio.get_running_loop().call_soon(self._go_on)

    def left(self, place: Place) -> None:
        """A request has left. The next one gets its place in this turn of the loop."""
        self._refused.pop(place, None)
        if (running_since := self._running.pop(place, None)) is not None:
            self._took.append(self._clock() - running_since)
        self.queue.leave(place)
        if self.queue.waiting:
            self.give()

    def refused(self, place: Place, error: UpstreamUnavailable) -> bool:
        """Ollama refused the connection of `place`. Whether the request is to wait for another try."""
        now = self._clock()
        is_new = self._condition is _Condition.OPEN or now - self._refused_at > REFUSAL_SECONDS
        self._refused_at = now
        if is_new:
            self._refusing_since = now
            self._condition = _Condition.REFUSING
            if self._next_try is None:
                self._try_later(error)
        if self._condition is _Condition.DOWN:
            return False
        self._refused[place] = None
        return True

    def _go_on(self) -> None:
        """Ollama takes connections again. Those that were refused before have their places still."""
        if self._condition is _Condition.OPEN:
            self._tell_refused()
            self.give()

    def _tell_refused(self) -> None:
        trying, self._refused = self._refused, {}
        for place in trying:
            place.tell(self._clock())

    def _try_later(self, error: UpstreamUnavailable) -> None:
        self._next_try = asyncio.get_running_loop().call_later(_TRY_SECONDS, self._try_again, error)

    def _try_again(self, error: UpstreamUnavailable) -> None:
        """Those that were refused try again. If there is none, the next request gets a place to try with.

        Those that have a place may still wait for their body, so they do not count as tries. Nor is a request dismissed
        for refusals before it came.
        """
        self._next_try = None
        if self._condition is not _Condition.REFUSING:
            return
        is_over = self._clock() - self._refusing_since >= REFUSAL_SECONDS
        if is_over and (self._refused or not self.queue.length):
            self._condition = _Condition.DOWN
            self._dismiss_all(error)
            return
        can_place = not self._refused and self.queue.places < self.max_running
        if can_place and (place := self.queue.place_next()) is not None:
            self._refused[place] = None
        self._tell_refused()
        self._try_later(error)

    def _dismiss_all(self, error: GatewayError) -> None:
        """Dismisses all that are not with Ollama. None of them gets a place that another gives back meanwhile."""
        self._is_giving = True
        try:
            for place in self.queue.not_running():
                place.dismiss(error)
        finally:
            self._is_giving = False

    def _retry_after_seconds(self) -> int:
        """When the queue will have room: when the next place is given back, by what places took lately.

        A place that is already held for longer than usual gives no estimate of its end. If all are, the next end is
        expected after the usual time divided by their number.
        """
        if not self._took:
            return _UNKNOWN_RETRY_SECONDS
        usual, now = sum(self._took) / len(self._took), self._clock()
        left = (usual - (now - since) for since in self._running.values())
        soonest = min((one for one in left if one > 0), default=usual / max(1, len(self._running)))
        return min(max(math.ceil(soonest), _LEAST_RETRY_SECONDS), _MOST_RETRY_SECONDS)
