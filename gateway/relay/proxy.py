"""Admits requests to the relay: each becomes a task and an exchange, or is refused."""

from gateway.errors import BodyTooLarge, GatewayError, MethodNotAllowed
from gateway.http.head import TASK_ID, Target
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.relay.exchange import Exchange
from gateway.tasks.task import chosen_id, stored_target
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`."""

    def __init__(self, upstream: Upstream, tracker: Tracker, counts: Counts, *, max_body_bytes: int) -> None:
        self.upstream = upstream
        self.tracker = tracker
        self.max_body_bytes = max_body_bytes
        self._counts = counts

    def open(self, request: Request, target: Target) -> None:
        """Begins to relay a request, or refuses it."""
        try:
            task = self._admit(request, target)
        except GatewayError as error:
            self.refuse(request, error)
            return
        Exchange(self, request, target, task).begin()

    def _admit(self, request: Request, target: Target) -> TrackedTask:
        """The task of a request, PENDING. Raises GatewayError if the request must not reach the upstream."""
        if request.method == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        # At most one field, of digits and perhaps leading zeros: the parser refuses all others.
        length = request.by_name.get(b"content-length", b"").lstrip(b"0")
        if len(length) > len(str(self.max_body_bytes)) or int(length or b"0") > self.max_body_bytes:
            raise self.body_too_large()
        return self.tracker.begin(
            chosen_id(request.values(TASK_ID)),
            request.method,
            *stored_target(target.path, target.query),
            request.owner,
        )

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers a request that does not become a task."""
        self._counts.refused(error.code)
        request.refuse(error)

    def body_too_large(self) -> BodyTooLarge:
        """The error for a request body of more than `max_body_bytes`."""
        return BodyTooLarge(f"the request body is longer than {self.max_body_bytes} bytes")
