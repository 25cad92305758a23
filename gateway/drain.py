"""What happens between SIGTERM and the server's own stop: nothing begins, what runs may finish, then it is cut.

uvicorn closes its listeners first of all, so that a client would see its connection refused instead of a 503, and
tells running streams nothing. So its signal handler is called only when the last request has ended. Called by app.
"""

import asyncio
import logging
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType

from gateway.errors import ShuttingDown
from gateway.tracker import Tracker

log = logging.getLogger("gateway")

_Handler = Callable[[int, FrameType | None], object]
_CUT_SECONDS = 1.0
_LEAST_SECONDS = 1


class Drain:
    """Gives the tasks of `tracker` up to `seconds` to end by themselves once a signal to stop has come."""

    def __init__(self, tracker: Tracker, seconds: float) -> None:
        self._tracker = tracker
        self._seconds = seconds
        self._stopping: asyncio.Task[None] | None = None
        self._waiting: asyncio.Task[bool] | None = None
        self._has_stopped = False

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
        loop.call_soon_threadsafe(self._begin, number, stop)

    def _begin(self, number: int, stop: _Handler) -> None:
        if self._waiting is None:
            self._tracker.drain()
            self._waiting = asyncio.create_task(self._tracker.until_idle(self._seconds))
            self._stopping = asyncio.create_task(self._run(self._waiting, number, stop))
        # A second Ctrl-C does not wait for requests, a further one not for answers.
        elif number == signal.SIGINT and not self._waiting.cancel() and self._has_stopped:
            stop(number, None)

    async def _run(self, waiting: asyncio.Task[bool], number: int, stop: _Handler) -> None:
        if self._tracker.in_flight:
            log.info("stopping: %d requests get %g seconds to finish", self._tracker.in_flight, self._seconds)
        started = time.monotonic()
        await asyncio.wait([waiting])
        seconds_left = 0.0 if waiting.cancelled() else self._seconds - (time.monotonic() - started)
        if self._tracker.in_flight:
            log.warning("stopping: %d requests are cut", self._tracker.in_flight)
            self._tracker.cut_all(ShuttingDown("the gateway was stopped"))
            await self._tracker.until_idle(_CUT_SECONDS)
        _give_answers(stop, seconds_left)
        stop(number, None)
        self._has_stopped = True


def _give_answers(stop: _Handler, seconds: float) -> None:
    """Lets uvicorn wait so long for answers that are still being written: a task ends before its last bytes are out.

    `stop` is its server's method, and there is no other way to that server from inside the application.
    """
    config = getattr(getattr(stop, "__self__", None), "config", None)
    if config is not None:
        config.timeout_graceful_shutdown = max(_LEAST_SECONDS, int(seconds))
