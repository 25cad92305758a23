"""Stops the gateway, from the signal to the end of the process: notice, drain, cut, save.

Owns the phases, the moves between them, and the two signals. uvicorn alone would close its listeners first: clients
would get a refused connection instead of a 503, and running streams would not be told. So `Drain` stops the server
only when the last request has ended.
"""

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Coroutine
from enum import Enum, auto
from functools import partial
from types import FrameType
from typing import Any, Protocol

from gateway.errors import ShuttingDown
from gateway.queue.places import Places
from gateway.tracking.tracker import Tracker

log = logging.getLogger("gateway")

_CUT_SECONDS = 1.0


class Phase(Enum):
    """How far the gateway is on its way from serving to the end."""

    SERVING = auto()
    NOTICE = auto()  # the gateway says that it is not ready, but still serves everything
    DRAINING = auto()  # new requests are refused, running ones may end
    CUTTING = auto()  # the requests that still run are cut
    SAVING = auto()  # the server stops: no new connections, answers written to their end, statuses saved
    STOPPED = auto()


class _Event(Enum):
    """What moves the gateway from one phase to the next."""

    SIGTERM = auto()
    SIGINT = auto()
    OVER = auto()  # what the phase waits for has happened, or its time is over
    ENDED = auto()  # the server has ended


_SIGNALS = {signal.SIGTERM: _Event.SIGTERM, signal.SIGINT: _Event.SIGINT}

# An event that has no row here changes no phase.
_MOVES = {
    (Phase.SERVING, _Event.SIGTERM): Phase.NOTICE,
    (Phase.SERVING, _Event.SIGINT): Phase.NOTICE,
    (Phase.NOTICE, _Event.SIGTERM): Phase.DRAINING,
    (Phase.NOTICE, _Event.SIGINT): Phase.DRAINING,
    (Phase.NOTICE, _Event.OVER): Phase.DRAINING,
    (Phase.DRAINING, _Event.SIGINT): Phase.CUTTING,
    (Phase.DRAINING, _Event.OVER): Phase.CUTTING,
    (Phase.CUTTING, _Event.OVER): Phase.SAVING,
    (Phase.SAVING, _Event.ENDED): Phase.STOPPED,
}


class Server(Protocol):
    """The server of the process. The process ends after it has stopped."""

    def stop(self, seconds: float) -> None:
        """Accepts no more connections. Answers that are still being written get `seconds`."""

    def hurry(self) -> None:
        """Stops waiting for answers."""


class Drain:
    """Moves the gateway from phase to phase after a signal to stop.

    For `notice_seconds` it still serves new requests, so that a load balancer can notice that it is not ready. Then it
    refuses new requests and those that wait for a place. Running tasks get `seconds` to end by themselves.

    """

    def __init__(
        self,
        tracker: Tracker,
        places: Places | None,
        seconds: float,
        notice_seconds: float = 0.0,
    ) -> None:
        self._tracker = tracker
        self._places = places
        self._seconds = seconds
        self._notice_seconds = notice_seconds
        self._on_begin: list[Callable[[], object]] = []
        self._phase = Phase.SERVING
        self._server: Server | None = None  # from `install` on
        self._waiting: asyncio.Task[object] | None = None  # for the end of the phase
        self._answers_until = 0.0  # by the monotonic clock

    def __repr__(self) -> str:
        return f"<Drain {self._phase.name}>"

    @property
    def phase(self) -> Phase:
        """The present phase."""
        return self._phase

    def has_begun(self) -> bool:
        """Whether a signal to stop has come: the gateway is not ready from then on."""
        return self._phase is not Phase.SERVING

    def on_begin(self, callback: Callable[[], object]) -> None:
        """Has `callback` called when the first signal comes."""
        self._on_begin.append(callback)

    def install(self, server: Server) -> None:
        """Handles the signals from now on, and stops `server` when it is time. In the main thread only."""
        self._server = server
        loop = asyncio.get_running_loop()
        for number, event in _SIGNALS.items():
            # Not the loop's own handlers: closing the loop would leave a moment in which a signal kills the process.
            signal.signal(number, partial(self._hear, loop, event))

    def end(self) -> None:
        """The server has ended and all statuses are saved: signals are ignored from now on."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._take(_Event.ENDED)

    def _hear(self, loop: asyncio.AbstractEventLoop, event: _Event, _: int, __: FrameType | None) -> None:
        """The signal handler. It may interrupt the event loop anywhere, so it only schedules the event."""
        loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: _Event) -> None:
        """Handles an event, as the present phase demands."""
        if self._phase is Phase.SAVING and event is _Event.SIGINT and self._server is not None:
            self._server.hurry()  # a second Ctrl-C does not wait for requests, a further one not for answers
        phase = _MOVES.get((self._phase, event))
        if phase is None:
            return
        self._phase = phase
        if self._waiting is not None:
            self._waiting.cancel()
        match phase:
            case Phase.NOTICE:
                self._give_notice()
            case Phase.DRAINING:
                self._let_finish()
            case Phase.CUTTING:
                self._cut(is_hurried=event is _Event.SIGINT)
            case Phase.SAVING:
                self._stop_server()

    def _give_notice(self) -> None:
        for callback in self._on_begin:
            callback()
        if not self._notice_seconds:
            self._take(_Event.OVER)
            return
        log.info("stopping: not ready, and new requests are still served for %g seconds", self._notice_seconds)
        self._wait_for(asyncio.sleep(self._notice_seconds))

    def _let_finish(self) -> None:
        self._tracker.drain()
        if self._places is not None:
            self._places.close(ShuttingDown("the gateway began to stop before the request's turn came"))
        if self._tracker.in_flight:
            log.info("stopping: %d requests get %g seconds to finish", self._tracker.in_flight, self._seconds)
        self._answers_until = time.monotonic() + self._seconds
        self._wait_for(self._tracker.until_idle(self._seconds))

    def _cut(self, *, is_hurried: bool) -> None:
        if is_hurried:
            self._answers_until = time.monotonic()
        if self._tracker.in_flight:
            log.warning("stopping: %d requests are cut", self._tracker.in_flight)
            self._tracker.cut_all(ShuttingDown("the gateway was stopped"))
        self._wait_for(self._tracker.until_idle(_CUT_SECONDS))

    def _stop_server(self) -> None:
        """Answers get what is left of the time: a task ends before the last bytes of its answer are sent."""
        if self._server is not None:
            self._server.stop(max(0.0, self._answers_until - time.monotonic()))

    def _wait_for(self, end_of_phase: Coroutine[Any, Any, object]) -> None:
        self._waiting = asyncio.create_task(end_of_phase)
        self._waiting.add_done_callback(self._on_waited)

    def _on_waited(self, waiting: asyncio.Task[object]) -> None:
        if not waiting.cancelled():
            self._take(_Event.OVER)
