"""HOT PATH: what an exchange holds, and how it ends in whatever phase it is.

`exchange` relays; this module has the phases and their moves, the timeouts, and the one end: of the task, towards the
client, and towards Ollama. `outcome` decides how the task ends.
"""

import asyncio
import logging
from enum import StrEnum
from typing import Protocol

from gateway.errors import GatewayError, StartTimeout, TaskTimeout
from gateway.http.request import Request
from gateway.queue.fair import Standing
from gateway.queue.places import Place
from gateway.relay.outcome import ClientLeft, Notice, Outcome, outcome_of_failure
from gateway.tasks.options import TaskOptions
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.tracker import Tracker
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Upstream

log = logging.getLogger("gateway.proxy")


class Phase(StrEnum):
    """Where a relayed request stands."""

    CLAIMING = "claiming"  # the store is asked whether the task may have its id
    GATHERING = "gathering"  # a request with `Prefer: respond-async` is not whole yet, or not answered with 202
    QUEUED = "queued"  # no place with Ollama is free, or too little of its body has come
    BODY = "body"  # the first piece of the request's body is still to come
    CONNECTING = "connecting"  # a new connection to Ollama is being opened
    HEAD = "head"  # the request goes up; the head of the answer is still to come
    HEAD_HELD = "head held"  # the head waits until the store has the task's stage
    FLOWING = "flowing"  # the answer goes to the client
    END_HELD = "end held"  # a piece with the stream's end event waits until the store has the task's end
    LAST_HELD = "last held"  # the last piece waits for the same
    OVER = "over"  # the exchange has no connection, and the task has its end


# Python 3.11 takes 60 ns to find `Phase.BODY`, and 5 to find a name of a module. A request uses sixty.
CLAIMING, GATHERING, QUEUED, BODY, CONNECTING, HEAD, HEAD_HELD, FLOWING, END_HELD, LAST_HELD, OVER = Phase

MOVES: dict[Phase, frozenset[Phase]] = {
    CLAIMING: frozenset({GATHERING, QUEUED, BODY, OVER}),
    GATHERING: frozenset({QUEUED, BODY, OVER}),
    QUEUED: frozenset({BODY, OVER}),
    BODY: frozenset({CONNECTING, HEAD, OVER}),
    # QUEUED again: Ollama refused the connection.
    CONNECTING: frozenset({HEAD, QUEUED, OVER}),
    # CONNECTING again: a kept-alive connection was dead. FLOWING at once: the answer is whole, so only its end waits.
    HEAD: frozenset({CONNECTING, HEAD_HELD, FLOWING, OVER}),
    HEAD_HELD: frozenset({FLOWING, OVER}),
    FLOWING: frozenset({END_HELD, LAST_HELD, OVER}),
    END_HELD: frozenset({FLOWING, OVER}),
    LAST_HELD: frozenset({OVER}),
    OVER: frozenset(),
}


class Relay(Protocol):
    """What an exchange needs of the proxy that began it."""

    upstream: Upstream
    tracker: Tracker
    max_body_bytes: int
    error_text_bytes: int  # how much of an error answer the status gets; 0: nothing

    def body_too_large(self) -> GatewayError: ...
    def refuse(self, request: Request, error: GatewayError) -> None: ...


class BaseExchange:
    """One request, its task, and what it holds of Ollama. No call raises."""

    __slots__ = ("_connection", "_phase", "_place", "_relay", "_request", "_task", "_timers")

    def __init__(self, relay: Relay, request: Request, task: TrackedTask, place: Place | None) -> None:
        self._phase = CLAIMING
        self._relay = relay
        self._request = request
        self._task = task
        self._timers: list[asyncio.TimerHandle] = []  # of its timeouts
        # of Ollama
        self._place = place  # or a place in the queue for one; None if the request needs none
        self._connection: Connection | None = None  # from HEAD to OVER

    def _move(self, phase: Phase) -> None:
        if phase not in MOVES[self._phase]:
            raise RuntimeError(f"an exchange that is {self._phase} cannot become {phase}")
        self._phase = phase

    # -- something breaks off --

    def on_left(self) -> None:
        """The client has left."""
        self._fail(ClientLeft())

    def on_cut(self, error: GatewayError) -> None:
        """The task was ended from outside, or its time is over."""
        self._fail(error)

    def look_for_client(self) -> None:
        """Ends the task if its client has left unnoticed: another request asks for the task's id."""
        self._request.wire.look_for_client()

    def drop_answer(self) -> None:
        """The answer is to be kept no longer: it is not kept."""

    # -- its time is over --

    def _begin_timeouts(self, options: TaskOptions) -> None:
        """Both run from the request's head: one to the hand-over to Ollama, one to the task's end."""
        later = asyncio.get_running_loop().call_later
        if options.start_timeout is not None:
            self._timers.append(later(options.start_timeout, self._on_start_timeout, options.start_timeout))
        if options.timeout is not None:
            self._timers.append(later(options.timeout, self._on_timeout, options.timeout))

    def _on_start_timeout(self, seconds: int) -> None:
        if self._task.started_ms is None:
            self._fail(StartTimeout(f"the request was not with Ollama within X-Task-Start-Timeout, {seconds} seconds"))

    def _on_timeout(self, seconds: int) -> None:
        if not self._task.is_final:  # then only a slow client reads its rest
            self._fail(TaskTimeout(f"the task did not end within X-Task-Timeout, {seconds} seconds"))

    # -- the end --

    def _fail_inside(self) -> None:
        log.exception("task %s failed inside the gateway", self._task.task_id, extra={"task_id": self._task.task_id})
        self._fail(GatewayError("internal error in the gateway"))

    def _fail(self, error: GatewayError | ClientLeft) -> None:
        """Ends the task if it has no end yet, and tells the client."""
        if self._phase is OVER:
            return
        outcome = outcome_of_failure(error, is_started=self._request.is_started)
        if not self._task.is_final:
            self._end_task(outcome)
        self._release()
        self._tell_client(outcome.notice, error)

    def _tell_client(self, notice: Notice, error: GatewayError | ClientLeft) -> None:
        """Breaks the answer off, or sends an error in its place."""
        request, task_id = self._request, self._task.task_id
        if notice is Notice.BREAK:
            request.break_off()
        elif isinstance(error, GatewayError):
            if notice is Notice.ERROR:
                self._relay.tracker.settle(self._task, lambda: request.refuse(error, task_id=task_id))
            else:
                request.refuse(error, task_id=task_id)

    def _end_task(self, outcome: Outcome) -> None:
        """Tells the tracker how the task ends, before the client learns of it."""
        task = self._task
        if outcome.status_code is not None:
            task.status_code = outcome.status_code
        if outcome.reason is not None:
            log.info("task %s failed: %s", task.task_id, outcome.reason, extra={"task_id": task.task_id})
        self._relay.tracker.finish(task, outcome.reason, outcome.message)

    def _release(self) -> None:
        """Gives the connection back: it is kept if its exchange ended well, else it is closed and Ollama stops.

        The place goes to the next request once Ollama has no more to do for this one.
        """
        self._move(OVER)
        for timer in self._timers:
            timer.cancel()
        connection, self._connection = self._connection, None
        is_free = connection is None or self._relay.upstream.release(connection)
        if self._place is not None and self._place.standing is not Standing.GONE:
            if is_free:
                self._place.leave()
            else:
                asyncio.get_running_loop().call_soon(self._place.leave)
