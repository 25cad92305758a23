"""HOT PATH: relays one request to Ollama and tells the tracker what becomes of it.

Each request is one `Exchange`, to be read from top to bottom: a chain of plain calls without a task of its own, as a
task's turn costs more than all else. Both ends say when they have news, and what they have is pulled from there.
Bodies pass piece by piece and are never parsed or gathered; between the upstream's first byte and the client's last
there is no wait for the store but the two bounded ones of contract 4.5. The task ends in two places and no third:
`_conclude` where the message came whole, `_fail` where it did not. Called by app for every target under `/v1/`.
"""

import logging
from http import HTTPStatus

from gateway.errors import (
    BodyTooLarge,
    GatewayError,
    MethodNotAllowed,
    ShuttingDown,
    TaskIdInUse,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamUnavailable,
)
from gateway.http import headers
from gateway.http.request import Request, http_date
from gateway.http.target import Target
from gateway.metrics.counts import Counts
from gateway.relay.outcome import ClientLeft, outcome_of_failure, outcome_of_message
from gateway.relay.stream_end import Ending, EndWatch, end_watch
from gateway.tasks.task import Reason, chosen_id, stored_target
from gateway.tracking.outbox import TrackedTask
from gateway.tracking.tracker import Tracker
from gateway.upstream.connection import Connection
from gateway.upstream.pool import Upstream

log = logging.getLogger("gateway.proxy")

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`."""

    def __init__(self, upstream: Upstream, tracker: Tracker, counts: Counts, *, max_body_bytes: int) -> None:
        self.upstream = upstream
        self.tracker = tracker
        self.max_body_bytes = max_body_bytes
        self._counts = counts

    def open(self, request: Request, target: Target) -> None:
        """Begins with a request, or refuses it."""
        try:
            task = self._admit(request, target)
        except GatewayError as error:
            self.refuse(request, error)
            return
        Exchange(self, request, target, task).begin()

    def _admit(self, request: Request, target: Target) -> TrackedTask:
        """Refuses what must not reach the upstream; else the task of this request, PENDING."""
        if request.method == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        if any(headers.is_longer(length, self.max_body_bytes) for length in request.values(b"content-length")):
            raise self.body_too_large()
        return self.tracker.begin(
            chosen_id(request.values(headers.TASK_ID)),
            request.method,
            *stored_target(target.path, target.query),
            request.owner,
        )

    def refuse(self, request: Request, error: GatewayError) -> None:
        """Answers what is not to become a task."""
        self._counts.refused(error.code)
        request.refuse(error)

    def body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request body is longer than {self.max_body_bytes} bytes")


class Exchange:
    """One request and its answer. `on_request`, `on_writable` and `lose` are the client's news, `on_answer` and
    `on_taken` the upstream's; none of them raises.

    Its phases: claiming the id (not `_is_admitted`), waiting for a first piece of body, opening a connection
    (`_is_opening`), then with a `_connection`: no head yet (no `_fields`), relaying, or held until the store knows
    (`_is_held`, which may come at any point of the answer); and over. The store may answer before `_hold` returns,
    so nothing follows that in any of these methods.
    """

    __slots__ = (
        "_connection", "_end_watch", "_fields", "_held", "_is_admitted", "_is_chunked", "_is_held", "_is_last_held",
        "_is_opening", "_is_over", "_length", "_lines", "_proxy", "_repeatable", "_request", "_target", "_task",
        "_tracker", "_upstream",
    )  # fmt: skip

    def __init__(self, proxy: Proxy, request: Request, target: Target, task: TrackedTask) -> None:
        # gateway
        self._proxy = proxy
        self._upstream = proxy.upstream
        self._tracker = proxy.tracker
        self._task = task
        self._is_over = False
        # request
        self._request = request
        self._target = target
        self._is_chunked = b"transfer-encoding" in request.by_name
        self._is_admitted = False  # its id is granted
        self._is_opening = False
        self._connection: Connection | None = None
        self._repeatable: bytes | None = None  # the whole request, where it may be sent twice
        # answer
        self._fields: headers.Fields | None = None  # the upstream's
        self._lines = b""  # ours
        self._length: int | None = None
        self._end_watch: EndWatch | None = None
        self._is_held = False  # until the store knows
        self._held = b""
        self._is_last_held = False

    def begin(self) -> None:
        """Claims the id where the client chose it; a generated one is nobody else's."""
        self._request.answerer = self
        self._task.on_cut, self._task.on_look = self._cut, self._request.wire.look_for_client
        if self._task.attempt == 0:
            self._tracker.claim(self._task, self._on_claimed)
        else:
            self._on_claimed(True)

    def _on_claimed(self, is_granted: bool) -> None:
        if self._is_over:
            return
        if not is_granted:
            self._is_over = True
            error = TaskIdInUse(f"the task id {self._task.task_id!r} is in flight at another gateway, or another key's")
            self._proxy.refuse(self._request, error)
            return
        self._is_admitted = True
        self._request.send_continue()
        self.on_request()

    # -- the way in --

    def on_request(self) -> None:
        """More of the request is here."""
        request = self._request
        if not self._is_admitted or self._is_over:
            return
        try:
            self._task.request_bytes = request.body_bytes
            if request.body_bytes > self._proxy.max_body_bytes:
                self._fail(self._proxy.body_too_large())
            elif self._connection is not None:
                self._pass_up(self._connection)
            elif not self._is_opening and (request.has_piece or request.is_whole):
                self._connect()
        except Exception:
            self._fail_inside()

    def _connect(self, *, is_fresh: bool = False) -> None:
        connection = None if is_fresh else self._upstream.take()
        if connection is not None:
            self._hand_over(connection)
        else:
            self._is_opening = True
            self._upstream.open_soon(self._on_opened)

    def _on_opened(self, found: Connection | UpstreamUnavailable) -> None:
        try:
            if self._is_over:
                if isinstance(found, Connection):
                    self._upstream.release(found)
            elif isinstance(found, UpstreamUnavailable):
                self._fail(found)
            else:
                self._is_opening = False
                self._hand_over(found)
        except Exception:
            self._fail_inside()

    def _hand_over(self, connection: Connection) -> None:
        """Sends the request's head with what has come of its body; what follows goes up as it comes."""
        request = self._request
        connection.begin(request.method, self)
        self._connection = connection
        if self._repeatable is not None:
            connection.send(self._repeatable, is_last=True)
            return
        is_whole = request.is_whole
        head = headers.request_head(
            request.method.encode("ascii"),
            self._target.wire,
            self._upstream.host_field,
            request.fields,
            connection=request.values(b"connection"),
            is_chunked=self._is_chunked,
            dropped=request.credential,
        )
        data = head + self._framed(request.take(), is_last=is_whole)
        connection.send(data, is_last=is_whole)
        self._tracker.forward(self._task)
        if is_whole and connection.is_reused and request.method in _IDEMPOTENT:
            self._repeatable = data

    def _pass_up(self, connection: Connection) -> None:
        """The rest of the body, as the client sends it and the upstream takes it."""
        request = self._request
        if connection.is_request_sent or connection.is_write_paused:
            return
        is_last = request.is_whole
        if request.has_piece or is_last:
            connection.send(self._framed(request.take(), is_last=is_last), is_last=is_last)

    on_taken = on_request

    def _framed(self, piece: bytes, *, is_last: bool) -> bytes:
        return headers.chunk(piece, is_last=is_last) if self._is_chunked else piece

    # -- the way out --

    def on_answer(self) -> None:
        """More of the answer is here, or the client takes more: it goes on, up to where the store is to know first.

        That is the piece that ends the message, or holds its end event.
        """
        connection = self._connection
        if connection is None or self._is_held:
            return
        try:
            if self._fields is None and not self._has_head(connection):
                return
            while (connection.waiting_bytes or connection.is_complete) and self._request.wire.is_writable:
                if connection.is_complete:
                    self._take_last(connection.take())
                    return
                self.on_piece(connection.take())
                if self._is_held or self._is_over:
                    return
            if connection.failure is not None and not connection.waiting_bytes:
                self._fail(connection.failure)
        except Exception:
            self._fail_inside()

    on_writable = on_answer

    def on_piece(self, piece: bytes) -> bool:
        """A piece that is not the last; False where it has to wait. While a stream flows the parser calls this."""
        request, task, watch = self._request, self._task, self._end_watch
        if self._is_held or not request.wire.is_writable:
            return False
        try:
            task.response_bytes += len(piece)
            if watch is not None and (ending := watch.feed(piece)) is not None and not task.is_final:
                self._conclude(ending)
                self._hold(piece, is_last=False)
            else:
                request.write(piece)
        except Exception:
            self._fail_inside()
        return True

    def _take_last(self, piece: bytes) -> None:
        task, watch = self._task, self._end_watch
        task.response_bytes += len(piece)
        ending = None if watch is None else watch.feed(piece)
        if task.is_final:
            self._end(piece)
        else:
            self._conclude(ending)
            self._hold(piece, is_last=True)

    def _has_head(self, connection: Connection) -> bool:
        """Takes the head once it is here. It waits for the store, but where the message is whole: then the end does."""
        if not connection.status:
            if connection.failure is not None:
                self._retry(connection, connection.failure)
            return False
        self._take_head(connection)
        if connection.is_complete:
            return True
        self._hold(b"", is_last=False)
        return False

    def _take_head(self, connection: Connection) -> None:
        status, fields = connection.status, connection.fields
        is_stream = headers.is_event_stream(fields)
        has_body = self._request.method != "HEAD" and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if is_stream and has_body and not headers.is_encoded(fields):
            self._end_watch = end_watch(self._target.path)
        self._fields = fields
        self._tracker.answer(self._task, status, is_stream=is_stream)

    def _retry(self, connection: Connection, failure: UpstreamFailure) -> None:
        """A kept-alive connection that was dead already is replaced once, where that is safe (contract 3.7)."""
        is_dead = connection.is_reused and not connection.has_received and isinstance(failure, UpstreamBroken)
        if not is_dead or self._repeatable is None:
            self._fail(failure)
            return
        self._upstream.release(connection)
        self._connection = None
        self._connect(is_fresh=True)

    def _hold(self, piece: bytes, *, is_last: bool) -> None:
        """What is to come next waits until the store has the task's stage, or for its bounded time."""
        self._is_held, self._held, self._is_last_held = True, piece, is_last
        if not self._lines:
            self._make_lines()
        self._tracker.settle(self._task, self._let_go)

    def _make_lines(self) -> None:
        """The head as the client gets it; of a short answer it is made while the store writes."""
        task, fields = self._task, self._fields or []
        if task.status_code == HTTPStatus.NO_CONTENT:
            fields = [field for field in fields if field[0] != b"content-length"]  # RFC 9110 section 8.6
        fields = headers.response_fields(fields, task_id=task.task_id, date=http_date(), is_stream=task.is_stream)
        self._length = headers.length_of(fields)
        self._lines = headers.lines(fields)

    def _let_go(self) -> None:
        if self._is_over:
            return
        try:
            piece, self._held, self._is_held = self._held, b"", False
            if not self._request.is_started:
                self._request.start(self._task.status_code or 0, self._lines, length=self._length)
            if self._is_last_held:
                self._end(piece)
                return
            if piece:
                self._request.write(piece)
            else:
                self._request.flush()
                self._flow()
        except Exception:
            self._fail_inside()
        else:
            self.on_answer()

    def _flow(self) -> None:
        """The head is out. What ends a chunked message is no piece of it: so none has to be held for its place."""
        if self._request.is_chunked and self._connection is not None:
            self._connection.relay = self.on_piece

    def _end(self, piece: bytes) -> None:
        """The last of the answer; Ollama's connection is free for the client's next request by then."""
        self._close()
        self._request.end(piece)

    # -- the end --

    def _conclude(self, ending: Ending | None) -> None:
        """The task's end where the message came whole, or its end event did."""
        watch = self._end_watch
        if ending is None and watch is not None:
            ending = watch.at_end()
        self._finish(*outcome_of_message(self._task.status_code or 0, ending, needs_ending=watch is not None))

    def lose(self) -> None:
        """The client has left."""
        self._fail(ClientLeft())

    def _cut(self) -> None:
        """The task was ended from outside."""
        if self._task.cut_by is not None:
            self._fail(self._task.cut_by)

    def _fail_inside(self) -> None:
        log.exception("task %s failed inside the gateway", self._task.task_id, extra={"task_id": self._task.task_id})
        self._fail(GatewayError("internal error in the gateway"))

    def _fail(self, error: GatewayError | ClientLeft) -> None:
        """The task's end where the exchange broke off; tells the client as well as it still can be told."""
        if self._is_over:
            return
        request, task = self._request, self._task
        if isinstance(error, GatewayError) and not (request.is_started or task.is_final):
            task.status_code = error.status
        self._finish(*outcome_of_failure(error, is_started=request.is_started))
        self._close()
        if isinstance(error, ClientLeft):
            return  # nobody is left to be told
        if request.is_started:
            request.break_off()
        elif isinstance(error, ShuttingDown):
            request.refuse(error, task_id=task.task_id)
        else:
            self._tracker.settle(task, lambda: request.refuse(error, task_id=task.task_id))

    def _finish(self, reason: Reason | None, message: str) -> None:
        if reason is not None and not self._task.is_final:
            log.info("task %s failed: %s", self._task.task_id, reason, extra={"task_id": self._task.task_id})
        self._tracker.finish(self._task, reason, message)

    def _close(self) -> None:
        """The connection is kept for others where its exchange ended well, else closed, so that Ollama stops."""
        self._is_over = True
        self._task.on_cut = self._task.on_look = None
        connection, self._connection = self._connection, None
        if connection is not None:
            self._upstream.release(connection)
