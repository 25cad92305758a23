"""Runs work that answers one request: the request is answered once, and the work ends when its client leaves.

Knows nothing of tasks. Readers, joiners and deletes of kept answers have to wait for the store, and so do questions for
statuses whose plain answer is not clear. So each is an asyncio task.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from gateway.errors import GatewayError
from gateway.http.request import Request

log = logging.getLogger("gateway.request")

_running: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly


class Background:
    """Runs `work` for one request, which it answers, and ends it when the client leaves (`Answerer`)."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._timers: list[asyncio.TimerHandle] = []

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Begins; `work` has to answer the request, or to hand it on."""
        self._end_limits()
        self.request.answered_by(self)
        self._work = asyncio.get_running_loop().create_task(self._run(work))
        _running.add(self._work)
        self._work.add_done_callback(partial(self._on_done, work))

    def _on_done(self, work: Coroutine[Any, Any, None], task: "asyncio.Task[None]") -> None:
        work.close()  # the client may have left before it began
        _running.discard(task)
        if task is self._work:
            self._end_limits()

    def _end_limits(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except GatewayError as error:
            self._fail(error)
        except Exception:
            log.exception("answering a request failed inside the gateway")
            self._fail(GatewayError("internal error in the gateway"))

    def _fail(self, error: GatewayError) -> None:
        if self.request.is_started:
            self.request.break_off()
        else:
            self.refuse(error)

    def refuse(self, error: GatewayError) -> None:
        """Answers with an error."""
        self.request.refuse(error)

    def limit(
        self, seconds: int | None, error: Callable[[int], GatewayError], since: float, *, is_for_start: bool = False
    ) -> None:
        """Ends the work with an error so many seconds after `since` (monotonic); None: never.

        `is_for_start`: only if the task is not with Ollama by then.
        """
        if seconds is not None:
            left = max(since + seconds - time.monotonic(), 0)
            end = partial(self._end, error(seconds), is_for_start=is_for_start)
            self._timers.append(asyncio.get_running_loop().call_later(left, end))

    def _end(self, error: GatewayError, *, is_for_start: bool) -> None:
        if self._work is not None and not self._work.done() and not (is_for_start and self.has_started):
            self._work.cancel()
            self._end_limits()  # a second one may be due in the same turn of the loop
            self._fail(error)

    @property
    def has_started(self) -> bool:
        """Whether the task is known to be with Ollama."""
        return False

    async def changed(self) -> None:
        """Waits until more of the request has come, or its client takes more."""
        self._changed.clear()
        await self._changed.wait()

    # -- what the client does --

    def on_request(self) -> None:
        self._changed.set()

    on_writable = on_request

    def on_left(self) -> None:
        if self._work is not None:
            self._work.cancel()
