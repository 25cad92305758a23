"""What happens between SIGTERM and the server's own stop: notice, then nothing begins, what runs may finish or is cut.

uvicorn closes its listeners first of all, so that a client would see its connection refused instead of a 503, and
tells running streams nothing. So its signal handler is called only when the last request has ended. Called by app.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from types import FrameType

from gateway.errors import ShuttingDown
from gateway.tracking.tracker import Tracker

log = logging.getLogger("gateway")

_Handler = Callable[[int, FrameType | None], object]
_CUT_SECONDS = 1.0
_LEAST_SECONDS = 1


class _Phase(Enum):
    """They follow each other in this order; with a notice of 0 seconds there is none."""

    SERVING = auto()
    NOTICE = auto()  # the gateway is no longer ready, and serves all the same
    DRAINING = auto()  # new requests are refused, running ones may end
    STOPPING = auto()  # the server stops


class Drain:
    """What happens once a signal to stop has come.

    For `notice_seconds` new requests are still served, so that a balancer that routes by readiness has gone elsewhere.
    Then they are refused, and the tasks of `tracker` have `seconds` to end by themselves.
    """

    def __init__(self, tracker: Tracker, seconds: float, notice_seconds: float = 0.0) -> None:
        self._tracker = tracker
        self._seconds = seconds
        self._notice_seconds = notice_seconds
        self._phase = _Phase.SERVING
        self._notice_is_over = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[bool] | None = None  # from the end of the notice on

    def has_begun(self) -> bool:
        """Whether a signal to stop has come: the gateway is not ready from then on."""
        return self._phase is not _Phase.SERVING

    def install(self) -> None:
        """Goes ahead of the signal handlers that are in place; only a process's main thread has any."""
        if threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            stop = signal.getsignal(number)
            if callable(stop):
                signal.signal(number, partial(self._hear, loop, stop))

    def _hear(self, loop: asyncio.AbstractEventLoop, stop: _Handler, number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(self._take, number, stop)

    def _take(self, number: int, stop: _Handler) -> None:
        """A signal: what it means depends on how far the end is."""
        if self._phase is _Phase.SERVING:
            self._phase = _Phase.NOTICE
            if not self._notice_seconds:
                self._refuse()
            self._stopping = asyncio.create_task(self._run(number, stop))
        elif self._phase is _Phase.NOTICE:
            self._refuse()
        # A second Ctrl-C does not wait for requests, a further one not for answers.
        elif number == signal.SIGINT and not self._stop_waiting() and self._phase is _Phase.STOPPING:
            stop(number, None)

    def _refuse(self) -> None:
        """The notice is over: no request begins any more."""
        self._phase = _Phase.DRAINING
        self._notice_is_over.set()
        self._tracker.drain()
        self._waiting = asyncio.create_task(self._tracker.until_idle(self._seconds))

    def _stop_waiting(self) -> bool:
        """False where nothing is waited for any more."""
        return self._waiting is not None and self._waiting.cancel()

    async def _run(self, number: int, stop: _Handler) -> None:
        if self._phase is _Phase.NOTICE:
            await self._give_notice()
        seconds_left = await self._let_finish()
        if self._tracker.in_flight:
            log.warning("stopping: %d requests are cut", self._tracker.in_flight)
            self._tracker.cut_all(ShuttingDown("the gateway was stopped"))
            await self._tracker.until_idle(_CUT_SECONDS)
        _give_answers(stop, seconds_left)
        stop(number, None)
        self._phase = _Phase.STOPPING

    async def _give_notice(self) -> None:
        """Waits until the notice is over, by the clock or by a second signal."""
        log.info("stopping: not ready, and new requests are still served for %g seconds", self._notice_seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._notice_seconds):
                await self._notice_is_over.wait()
        if self._phase is _Phase.NOTICE:
            self._refuse()

    async def _let_finish(self) -> float:
        """Waits for what runs, as long as it may take; the seconds that are left of that."""
        if self._tracker.in_flight:
            log.info("stopping: %d requests get %g seconds to finish", self._tracker.in_flight, self._seconds)
        started = time.monotonic()
        waiting = self._waiting
        if waiting is None:
            return 0.0
        await asyncio.wait([waiting])
        return 0.0 if waiting.cancelled() else self._seconds - (time.monotonic() - started)


def _give_answers(stop: _Handler, seconds: float) -> None:
    """Lets uvicorn wait so long for answers that are still being written: a task ends before its last bytes are out.

    `stop` is its server's method, and there is no other way to that server from inside the application.
    """
    config = getattr(getattr(stop, "__self__", None), "config", None)
    if config is not None:
        config.timeout_graceful_shutdown = max(_LEAST_SECONDS, int(seconds))
