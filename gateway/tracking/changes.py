"""Pollers that wait for a status to change, and how they learn of it.

A change of this process's own task wakes them at once, and so does a notice from another gateway (notices.py). Notices
may be lost, so the awaited statuses of other gateways are also read in turn: at most 200 a second, none without a
waiter. There may be thousands of waiters. They share one timer, and few are called at a time, so that streams go on.
"""

import asyncio
import logging
import sys
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count, islice
from typing import Protocol, TypeAlias

from gateway.net.deadline import Deadline
from gateway.store.interface import Peeked, Unclear
from gateway.tasks.document import Found

log = logging.getLogger("gateway.tracker")

_LOOK_SECONDS = 0.25
_LOOKS_AT_ONCE = 50  # so 200 a second
_CHECKED_AT_ONCE = 500  # of the tasks that are waited for, whether they need a look
_CLOSED_SECONDS = 0.05  # the longest wait while the gateway stops
_CALLED_AT_ONCE = 16  # waiters in one turn of the loop: each reads a status or sends an answer
_SPARE_ENDS = 1000  # so many ends of removed waiters may stay in the heap

_Peek: TypeAlias = Callable[[str, Callable[[Peeked], None]], None]


class Waiter(Protocol):
    """Waits until the event of the task `task_id` is no longer `seen`. One of the two is called, once."""

    task_id: str
    seen: str

    def on_change(self, found: Found | None) -> None:
        """The task has another event, or has ended, or does not exist any more (None)."""

    def on_time(self) -> None:
        """The time is over, or the gateway is about to stop."""


class Changes:
    """`peek` reads a status. `is_own` says whether this process runs a task and tells of its changes by `changed`.

    `on_wait` is called with the status of a task of another gateway when a poller begins to wait for it.
    `waiters` has the ids that are waited for. While it is empty, `changed` need not be called.
    """

    def __init__(self, peek: _Peek, is_own: Callable[[str], bool], on_wait: Callable[[Found], object]) -> None:
        self._peek = peek
        self._is_own = is_own
        self._on_wait = on_wait
        self.waiters: dict[str, dict[Waiter, None]] = {}
        self.waiting = 0  # how many waiters there are
        self.most_waiting = sys.maxsize  # pollers that the routes let wait
        self._ends = _Ends(self._waits, lambda waiter: self._call(waiter, waiter.on_time))
        self._calls = _Calls()
        self._changed: dict[str, None] = {}  # ids to look at in the next turn of the loop
        self._unclear: set[str] = set()  # ids whose look said nothing: they are looked at again, own ones too
        self._to_look: deque[str] = deque()
        self._is_looking = False  # a look is due
        self._is_closed = False

    # -- waiting --

    @property
    def is_full(self) -> bool:
        """Whether pollers have to be answered at once: if more of them waited, requests might get no connection."""
        return self.waiting >= self.most_waiting

    def add(self, waiter: Waiter, found: Found, seconds: float) -> None:
        """Calls `waiter` once: when its task changes, or after `seconds`. `found` is the present status."""
        self.waiters.setdefault(waiter.task_id, {})[waiter] = None
        self.waiting += 1
        self._ends.add(waiter, min(seconds, _CLOSED_SECONDS) if self._is_closed else max(seconds, 0))
        self._look_later()
        if not self._is_own(waiter.task_id):
            self._on_wait(found)

    def remove(self, waiter: Waiter) -> None:
        """Forgets a waiter, which is not called any more."""
        if not self._waits(waiter):
            return
        waiters = self.waiters[waiter.task_id]
        del waiters[waiter]
        self.waiting -= 1
        if not waiters:
            del self.waiters[waiter.task_id]
            self._unclear.discard(waiter.task_id)
        self._ends.compact(self.waiting)

    def _waits(self, waiter: Waiter) -> bool:
        return waiter in self.waiters.get(waiter.task_id, ())

    async def wait(self, task_id: str, found: Found, seconds: float) -> bool:
        """Waits until the task has another event than `found`, as far as is known. False after `seconds`."""
        waiter = _Sleeper(task_id, found[1].event_id)
        self.add(waiter, found, seconds)
        try:
            return await waiter.is_changed
        finally:
            self.remove(waiter)

    # -- changes --

    def changed(self, task_id: str) -> None:
        """A task has changed: its waiters are told in the next turn of the loop."""
        if task_id not in self.waiters:
            return
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._look_at_changed)
        self._changed[task_id] = None

    def _look_at_changed(self) -> None:
        """Looks at some of the changed tasks. Thousands may change at once, and streams have turns between."""
        changed = list(islice(self._changed, _CALLED_AT_ONCE))
        for task_id in changed:
            del self._changed[task_id]
        if self._changed:
            asyncio.get_running_loop().call_soon(self._look_at_changed)
        for task_id in changed:
            self._peek(task_id, partial(self._tell, task_id))

    def _tell(self, task_id: str, found: Peeked) -> None:
        """Calls the waiters of a task if it is no longer what they have seen. All of them share this one look."""
        if isinstance(found, Unclear):
            if task_id in self.waiters:
                self._unclear.add(task_id)
            return
        for waiter in list(self.waiters.get(task_id, ())):
            if found is None or found[1].has_ended or found[1].event_id != waiter.seen:
                self._call(waiter, partial(waiter.on_change, found))

    def close(self) -> None:
        """Ends all waits: the gateway is about to stop."""
        self._is_closed = True
        for waiters in list(self.waiters.values()):
            for waiter in list(waiters):
                self._call(waiter, waiter.on_time)

    def _call(self, waiter: Waiter, call: Callable[[], None]) -> None:
        self.remove(waiter)
        self._calls.add(call)

    # -- tasks of other gateways --

    def _look_later(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        """Looks at some of the tasks of other gateways, and of those that were unclear, at each in its turn."""
        self._is_looking = False
        if not self._to_look:
            self._to_look.extend(self.waiters)
        looks = 0
        for _ in range(min(len(self._to_look), _CHECKED_AT_ONCE)):
            task_id = self._to_look.popleft()
            if task_id in self.waiters and (task_id in self._unclear or not self._is_own(task_id)):
                self._unclear.discard(task_id)
                self._peek(task_id, partial(self._tell, task_id))
                looks += 1
                if looks == _LOOKS_AT_ONCE:
                    break
        if self.waiters:
            self._look_later()


class _Ends:
    """When the time of each waiter is over: one timer for all. `waits` says whether a waiter still waits."""

    def __init__(self, waits: Callable[[Waiter], bool], on_time: Callable[[Waiter], None]) -> None:
        self._waits = waits
        self._on_time = on_time
        self._heap: list[tuple[float, int, Waiter]] = []  # those of removed waiters stay a while
        self._numbers = count()  # two that end at once are not compared
        self._deadline: Deadline | None = None

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, waiter: Waiter, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        heappush(self._heap, (loop.time() + seconds, next(self._numbers), waiter))
        self._deadline = self._deadline or Deadline(loop, self._end_due)
        self._deadline.move_up(seconds)

    def compact(self, waiting: int) -> None:
        """Drops the ends of removed waiters if there are many, and more than those of the `waiting` that still wait."""
        if len(self._heap) > 2 * waiting + _SPARE_ENDS:
            self._heap = [end for end in self._heap if self._waits(end[2])]
            heapify(self._heap)

    def _end_due(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            waiter = heappop(self._heap)[2]
            if self._waits(waiter):
                self._on_time(waiter)
        if self._heap and self._deadline is not None:
            self._deadline.move(self._heap[0][0] - now)


class _Calls:
    """Makes calls, some in each turn of the loop, so that other work has its turn. A failed call stops no other."""

    def __init__(self) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._is_due = False

    def add(self, call: Callable[[], None]) -> None:
        self._calls.append(call)
        self._make_soon()

    def _make_soon(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._make_some)

    def _make_some(self) -> None:
        self._is_due = False
        for _ in range(min(len(self._calls), _CALLED_AT_ONCE)):
            try:
                self._calls.popleft()()
            except Exception:
                log.exception("answering a poller that waited failed inside the gateway")
        if self._calls:
            self._make_soon()


class _Sleeper:
    """A waiter that a coroutine awaits."""

    def __init__(self, task_id: str, seen: str) -> None:
        self.task_id = task_id
        self.seen = seen
        self.is_changed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def on_change(self, found: Found | None) -> None:  # noqa: ARG002
        self._end(is_changed=True)

    def on_time(self) -> None:
        self._end(is_changed=False)

    def _end(self, *, is_changed: bool) -> None:
        if not self.is_changed.done():
            self.is_changed.set_result(is_changed)
