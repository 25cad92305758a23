"""Admits requests to the relay: each becomes a task and an exchange, or is refused."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidHeader,
    InvalidTaskId,
    KeepUnavailable,
    MethodNotAllowed,
    TaskIdInUse,
)
from gateway.http.head import TASK_ID, Target
from gateway.http.request import Request
from gateway.kept.keeping import Keeping
from gateway.kept.looking import Looking
from gateway.metrics.counts import Counts
from gateway.queue.places import Places
from gateway.relay.exchange import Exchange
from gateway.relay.joining import Joining
from gateway.relay.kept import Keep, KeptExchange
from gateway.tasks.options import PREFER, TaskOptions, options_of
from gateway.tasks.task import READING_METHODS, Kept, Trace, chosen_id, stored_target
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream

# The trace of a request, from its fields by name and all values of a name.
TraceOf = Callable[[Mapping[bytes, bytes], Callable[[bytes], list[bytes]]], Trace]

_NEVER_ASYNC = frozenset({"GET", "HEAD"})
_MOST_DIGITS = 18  # a longer length is beyond every limit, and takes long to parse
_UNKEEPABLE = "status"  # `/tasks/status/response` is another route

log = logging.getLogger("gateway.proxy")


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`."""

    def __init__(
        self,
        upstream: Upstream,
        tracker: Tracker,
        counts: Counts,
        places: Places | None,
        keeping: Keeping,
        *,
        max_body_bytes: int,
        error_text_bytes: int = 0,
        trace_of: TraceOf | None = None,
    ) -> None:
        self.upstream = upstream
        self.tracker = tracker
        self.max_body_bytes = max_body_bytes
        self.error_text_bytes = error_text_bytes
        self._counts = counts
        self._places = places  # with Ollama; None: without a bound
        self._keeping = keeping
        self._looking = Looking(keeping)
        self._trace_of = trace_of  # None: traces are off

    def open(self, request: Request, target: Target) -> None:
        """Begins to relay a request, or refuses it."""
        try:
            self._check(request)
            task_id = chosen_id(request.values(TASK_ID)) if TASK_ID in request.by_name else None
            asked = Asked(target, task_id, options_of(request.by_name, request.values))
            if (asked.options.is_kept or asked.options.is_async) and self._open_kept(request, asked):
                return
            if task_id is not None and (places := self._places_for(request)) is not None and places.is_full:
                self.tracker.check(task_id, request.owner)
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

    def _open_kept(self, request: Request, asked: "Asked") -> bool:
        """Begins a request whose answer is to be kept. False if it is not, because no answer can be."""
        options = asked.options
        is_async = options.is_async and self._keeping.is_on and request.method not in _NEVER_ASYNC
        if options.is_kept and not self._keeping.is_on:
            raise InvalidHeader("X-Task-Keep is not valid; allowed: false, because MAX_RESPONSE_BYTES is 0")
        if not (options.is_kept or is_async):
            return False
        self.tracker.check(None, request.owner)
        if asked.task_id == _UNKEEPABLE:
            raise InvalidTaskId(f"X-Task-Id is not valid for an answer that is kept; allowed: all but {_UNKEEPABLE}")
        if is_async:
            request.withheld += (PREFER,)
        if asked.task_id is None:
            self.begin_kept(request, asked, is_async=is_async)
        else:
            admission = _Admission(self, asked, is_async=is_async)
            Joining(
                admission, self._looking, self._counts, request, asked.target, asked.task_id, options, is_async=is_async
            ).open()
        return True

    def begin_kept(
        self,
        request: Request,
        asked: "Asked",
        waited_seconds: float = 0.0,
        *,
        is_async: bool,
        on_refused: Callable[[], None] | None = None,
        seen_attempt: int | None = None,
    ) -> None:
        """Begins a request whose answer is to be kept, if there is room for it. Raises GatewayError."""
        if self._keeping.has_room:
            self._begin(request, asked, waited_seconds, Keep(self._keeping, is_async, on_refused, seen_attempt))
        elif is_async:
            raise KeepUnavailable("too much is kept already")
        else:
            self._counts.kept(Kept.NO_ROOM)
            self._begin(request, asked, waited_seconds).keep(Kept.NO_ROOM)

    def _check(self, request: Request) -> None:
        """Raises GatewayError if the request must not reach the upstream, whatever its task."""
        if request.method == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        length = request.by_name.get(b"content-length", b"0")
        if len(length) > _MOST_DIGITS:
            length = length.lstrip(b"0")
        if len(length) > _MOST_DIGITS or int(length or b"0") > self.max_body_bytes:
            raise self.body_too_large()

    def _begin(
        self, request: Request, asked: "Asked", waited_seconds: float = 0.0, keep: Keep | None = None
    ) -> TrackedTask:
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
        if self._trace_of is not None:
            task.trace = self._trace_of(request.by_name, request.values)
        if keep is None:
            Exchange(self, request, target, task, place).begin(options)
        else:
            KeptExchange(self, request, target, task, place, keep).begin(options)
        return task

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


class _Admission:
    """Begins a request that could have joined another one, but does not."""

    def __init__(self, proxy: Proxy, asked: Asked, *, is_async: bool) -> None:
        self._proxy = proxy
        self._asked = asked
        self._is_async = is_async

    def begin_kept(
        self, request: Request, on_refused: Callable[[], None], waited_seconds: float, seen_attempt: int | None
    ) -> None:
        """Begins it. Raises GatewayError."""
        self._proxy.begin_kept(
            request,
            self._asked,
            waited_seconds,
            is_async=self._is_async,
            on_refused=on_refused,
            seen_attempt=seen_attempt,
        )

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers a request that does not become a task."""
        self._proxy.refuse(request, error)


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
