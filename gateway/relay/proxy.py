"""Admits requests to the relay: each becomes a task and an exchange, or is refused."""

import asyncio
import logging
import time
from typing import NamedTuple

from gateway.errors import BodyTooLarge, GatewayError, MethodNotAllowed, TaskIdInUse
from gateway.http.head import TASK_ID, Target
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.queue.places import Places
from gateway.relay.exchange import Exchange
from gateway.tasks.options import TaskOptions, options_of
from gateway.tasks.task import READING_METHODS, chosen_id, stored_target
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream

log = logging.getLogger("gateway.proxy")


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`."""

    def __init__(
        self, upstream: Upstream, tracker: Tracker, counts: Counts, places: Places | None, *, max_body_bytes: int
    ) -> None:
        self.upstream = upstream
        self.tracker = tracker
        self.max_body_bytes = max_body_bytes
        self._counts = counts
        self._places = places  # with Ollama; None: without a bound

    def open(self, request: Request, target: Target) -> None:
        """Begins to relay a request, or refuses it."""
        try:
            self._check(request)
            asked = Asked(target, chosen_id(request.values(TASK_ID)), options_of(request.by_name, request.values))
            places = self._places_for(request)
            if asked.task_id is not None and places is not None and places.is_full:
                self.tracker.check(asked.task_id, request.owner)
                _Inquiry(self, request, asked).begin()
            else:
                self._begin(request, asked)
        except GatewayError as error:
            self.refuse(request, error)

    def begin(self, request: Request, asked: "Asked", waited_seconds: float) -> None:
        """Begins a task for a request that was checked, or refuses it. It has waited so long for the store."""
        try:
            self._begin(request, asked, waited_seconds)
        except GatewayError as error:
            self.refuse(request, error)

    def _check(self, request: Request) -> None:
        """Raises GatewayError if the request must not reach the upstream, whatever its task."""
        if request.method == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        length = request.by_name.get(b"content-length", b"").lstrip(b"0")
        if len(length) > len(str(self.max_body_bytes)) or int(length or b"0") > self.max_body_bytes:
            raise self.body_too_large()

    def _begin(self, request: Request, asked: "Asked", waited_seconds: float = 0.0) -> None:
        """Reserves a place in the queue, if the request needs one, and begins. Raises GatewayError: QueueFull last."""
        target, task_id, options = asked
        path, query = stored_target(target.path, target.query)
        places, place = self._places_for(request), None
        if places is not None:
            if task_id is not None:
                self.tracker.check(task_id, request.owner)
            is_ready = task_id is None and request.is_whole
            place = places.reserve(request.owner, is_low=options.is_low, is_ready=is_ready)
        task = self.tracker.begin(task_id, request.method, path, query, request.owner, options.label, place)
        task.wait_left -= waited_seconds
        Exchange(self, request, target, task, place).begin(options)

    def _places_for(self, request: Request) -> Places | None:
        """The places that `request` needs one of; None if it needs none."""
        return None if request.method in READING_METHODS else self._places

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers a request that does not become a task."""
        self._counts.refused(error.code)
        request.refuse(error)

    def body_too_large(self) -> BodyTooLarge:
        """The error for a request body of more than `max_body_bytes`."""
        return BodyTooLarge(f"the request body is longer than {self.max_body_bytes} bytes")


class Asked(NamedTuple):
    """What a checked request asks for."""

    target: Target
    task_id: str | None
    options: TaskOptions


class _Inquiry:
    """Asks the store whether another gateway has an id, before the full queue refuses its request.

    The client would try again after a 429; the 409 says that this is useless. Answers the request meanwhile, so that a
    client that leaves is noticed.
    """

    def __init__(self, proxy: Proxy, request: Request, asked: Asked) -> None:
        self._proxy = proxy
        self._request = request
        self._asked = asked
        self._asking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Asks; then the request begins, or is refused."""
        self._request.answered_by(self)
        self._asking = asyncio.get_running_loop().create_task(self._ask())

    async def _ask(self) -> None:
        task_id, began = self._asked.task_id or "", time.monotonic()
        try:
            if await self._proxy.tracker.is_taken(task_id, self._request.owner):
                self._proxy.refuse(self._request, TaskIdInUse.in_store(task_id))
            else:
                self._proxy.begin(self._request, self._asked, time.monotonic() - began)
        except Exception:  # the client must have an answer
            log.exception("task %s failed inside the gateway", task_id, extra={"task_id": task_id})
            if not self._request.is_started:
                self._proxy.refuse(self._request, GatewayError("internal error in the gateway"))

    def on_request(self) -> None:
        """The body waits."""

    def on_writable(self) -> None:
        """Nothing is written yet."""

    def on_left(self) -> None:
        """The request is no task, so there is nothing to end."""
        if self._asking is not None:
            self._asking.cancel()
