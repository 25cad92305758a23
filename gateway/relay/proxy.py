"""Admits requests to the relay: each becomes a task and an exchange, or is refused."""

from gateway.errors import BodyTooLarge, GatewayError, MethodNotAllowed
from gateway.http.head import TASK_ID, Target
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.queue.places import Place, Places
from gateway.relay.exchange import Exchange
from gateway.tasks.options import TaskOptions, options_of
from gateway.tasks.task import READING_METHODS, chosen_id, stored_target
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream


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
            options = options_of(request.by_name, request.values)
            task_id = chosen_id(request.values(TASK_ID))
            place = self._reserve(request, task_id, options)
            task = self.tracker.begin(
                task_id, request.method, *stored_target(target.path, target.query), request.owner, options.label, place
            )
        except GatewayError as error:
            self.refuse(request, error)
            return
        Exchange(self, request, target, task, place).begin(options)

    def _check(self, request: Request) -> None:
        """Raises GatewayError if the request must not reach the upstream, whatever its task."""
        if request.method == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        # At most one field, of digits and perhaps leading zeros: the parser refuses all others.
        length = request.by_name.get(b"content-length", b"").lstrip(b"0")
        if len(length) > len(str(self.max_body_bytes)) or int(length or b"0") > self.max_body_bytes:
            raise self.body_too_large()

    def _reserve(self, request: Request, task_id: str | None, options: TaskOptions) -> Place | None:
        """A place in the queue, if the request needs one. Raises GatewayError if it may not begin: QueueFull last."""
        if self._places is None or request.method in READING_METHODS:
            return None
        self.tracker.check(task_id, request.owner)
        return self._places.reserve(request.owner, is_low=options.is_low)

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers a request that does not become a task."""
        self._counts.refused(error.code)
        request.refuse(error)

    def body_too_large(self) -> BodyTooLarge:
        """The error for a request body of more than `max_body_bytes`."""
        return BodyTooLarge(f"the request body is longer than {self.max_body_bytes} bytes")
