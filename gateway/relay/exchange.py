"""HOT PATH: relays one request to Ollama and tells the tracker what becomes of it.

Each request is one `Exchange`: plain calls, and no asyncio task of its own, which would cost more than all the rest.
Both ends only say that they have something new, and the exchange pulls it. Bodies pass piece by piece; they are never
parsed or gathered. Between the first byte from the upstream and the last byte to the client there are two waits for the
store, both bounded (docs/behaviour.md, "When the store fails"). `outcome` decides how the task ends.
"""

import asyncio

from gateway.errors import TaskIdInUse, UpstreamBroken, UpstreamFailure, UpstreamUnavailable
from gateway.http.head import Target
from gateway.http.request import Request
from gateway.queue.fair import Standing
from gateway.queue.places import Place
from gateway.relay.base import (
    BODY,
    CLAIMING,
    CONNECTING,
    END_HELD,
    FLOWING,
    HEAD,
    HEAD_HELD,
    LAST_HELD,
    OVER,
    QUEUED,
    BaseExchange,
    Phase,
    Relay,
)
from gateway.relay.error_text import ErrorText
from gateway.relay.messages import AnswerHead, answer_head, request_head
from gateway.relay.outcome import outcome_of_message
from gateway.relay.stream_end import Ending, EndWatch, end_watch
from gateway.tasks.options import TaskOptions
from gateway.tracking.tracked import TrackedTask
from gateway.upstream.connection import COMPLETE, Connection
from gateway.upstream.response import Head

_LEAST_ERROR = 400
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class Exchange(BaseExchange):
    """One request and its answer.

    The client's connection calls `on_request`, `on_writable` and `on_left` (`Answerer`); the upstream's connection
    calls `on_answer`, `on_piece` and `on_taken` (`Listener`); the task calls `on_cut` and `look_for_client` (`Runner`);
    the queue calls `on_place` and `on_cut` (`Waiter`). None of them raises. The store may answer before `_hold`
    returns, and a place may be given before `ready` does, so any phase may follow these calls.
    """

    __slots__ = ("_answer", "_body_watch", "_held", "_is_opening", "_repeatable", "_target")

    def __init__(
        self, relay: Relay, request: Request, target: Target, task: TrackedTask, place: Place | None = None
    ) -> None:
        super().__init__(relay, request, task, place)
        # request
        self._target = target
        self._repeatable: bytes | None = None  # the whole request, if it may be sent twice
        self._is_opening = False  # a connection to Ollama is being opened for it
        # answer
        self._answer: AnswerHead | None = None
        self._body_watch: EndWatch | ErrorText | None = None  # until the stream's end has come
        self._held = b""  # the piece that waits for the store

    # -- CLAIMING --

    def begin(self, options: TaskOptions) -> None:
        """Claims the task's id if the client chose it, and opens a connection meanwhile. Others need no claim."""
        self._request.answered_by(self)
        self._task.run_by(self)
        if self._place is not None:
            self._place.used_by(self)
        if options.timeout or options.start_timeout:
            self._begin_timeouts(options)
        if self._task.attempt == 0:
            if not self._relay.upstream.has_idle and not self._is_waiting:
                self._open()
            self._relay.tracker.claim(self._task, self._on_claimed)
        else:
            self._on_claimed(True)

    def _on_claimed(self, is_granted: bool) -> None:
        if self._phase is OVER:
            return
        if is_granted and self._place is not None and self._is_waiting:
            self._move(QUEUED)
            if self._request.is_whole:
                self._place.ready()
            else:
                self._request.read_ahead()
                self.on_request()
        elif is_granted:
            self.on_place()
        else:
            self._on_refused()

    @property
    def _is_waiting(self) -> bool:
        """Whether others have the places with Ollama."""
        return self._place is not None and self._place.standing is Standing.WAITING

    def _on_refused(self) -> None:
        self._release()
        self._relay.refuse(self._request, TaskIdInUse.in_store(self._task.task_id))

    # -- QUEUED: others have the places with Ollama --

    def on_place(self) -> None:
        """There is a place. Comes again after Ollama refused the connection."""
        self._move(BODY)
        if self._request.is_continue_due:
            self._request.send_continue()
        self.on_request()

    # -- BODY: the request goes up --

    def on_request(self) -> None:
        """More of the request is here, or the upstream takes more of it."""
        request = self._request
        if self._phase is CLAIMING or self._phase is OVER:
            return
        try:
            self._task.request_bytes = request.body_bytes
            if request.body_bytes > self._relay.max_body_bytes:
                self._fail(self._relay.body_too_large())
            elif self._connection is not None:
                self._pass_up(self._connection)
            elif self._phase is BODY and (request.waiting_bytes or request.is_whole):
                self._connect(self._relay.upstream.take())
            elif self._phase is QUEUED and self._place is not None and request.is_read:
                self._place.ready()
        except Exception:
            self._fail_inside()

    on_taken = on_request

    def _connect(self, kept: Connection | None) -> None:
        """Uses a kept-alive connection, or opens one."""
        if kept is not None:
            self._hand_over(kept)
        else:
            self._move(CONNECTING)
            if not self._is_opening:
                self._open()

    def _open(self) -> None:
        self._is_opening = True
        self._relay.upstream.open_soon(self._on_opened)

    # -- CONNECTING --

    def _on_opened(self, found: Connection | UpstreamUnavailable) -> None:
        """In another phase the connection is not needed, or not yet: it waits in the pool."""
        self._is_opening = False
        try:
            if self._phase is not CONNECTING:
                if isinstance(found, Connection):
                    self._relay.upstream.keep(found)
            elif isinstance(found, Connection):
                self._hand_over(found)
            elif self._place is not None and self._place.refused(found):
                self._move(QUEUED)
            else:
                self._fail(found)
        except Exception:
            self._fail_inside()

    def _hand_over(self, connection: Connection) -> None:
        """Sends the request's head, with what has come of its body."""
        request = self._request
        self._move(HEAD)
        self._connection = connection
        if self._place is not None:
            self._task.queued_ms = int(self._place.run() * 1000)
        connection.begin(request.method, self)
        if self._repeatable is not None:
            connection.send(self._repeatable, is_last=True)
            return
        is_whole = request.is_whole
        data = request_head(request, self._relay.upstream.host_field) + request.take_framed(is_last=is_whole)
        connection.send(data, is_last=is_whole)
        self._relay.tracker.forward(self._task)
        if is_whole and connection.is_reused and request.method in _IDEMPOTENT:
            self._repeatable = data

    # -- HEAD: the rest of the request goes up, the head of the answer comes down --

    def _pass_up(self, connection: Connection) -> None:
        """Sends more of the body, unless the upstream takes no more for now."""
        request = self._request
        if connection.is_request_sent or connection.is_write_paused:
            return
        is_last = request.is_whole
        if request.waiting_bytes or is_last:
            connection.send(request.take_framed(is_last=is_last), is_last=is_last)

    def on_answer(self) -> None:
        """More of the answer is here, or the client takes more of it."""
        connection = self._connection
        if connection is None:
            return
        try:
            if self._place is not None and connection.state is COMPLETE:
                self._place.leave()
            if self._phase is HEAD:
                if connection.head is not None and connection.head.status:
                    self._take_head(connection, connection.head)
                elif connection.failure is not None:
                    self._retry(connection, connection.failure)
            elif self._phase is FLOWING:
                self._pass_down(connection)
        except Exception:
            self._fail_inside()

    on_writable = on_answer

    def _retry(self, connection: Connection, failure: UpstreamFailure) -> None:
        """Replaces a kept-alive connection that was dead already, once, if that is safe."""
        was_dead = connection.is_reused and not connection.has_received and isinstance(failure, UpstreamBroken)
        if was_dead and self._repeatable is not None:
            self._relay.upstream.release(connection)
            self._connection = None
            self._connect(None)
        else:
            self._fail(failure)

    def _take_head(self, connection: Connection, head: Head) -> None:
        """The head waits for the store, unless the answer is whole: then only its end waits."""
        answer = answer_head(head, method=self._request.method, task_id=self._task.task_id)
        if head.status >= _LEAST_ERROR and self._relay.error_text_bytes:
            if answer.is_readable:
                self._body_watch = ErrorText(self._task, self._relay.error_text_bytes)
        elif answer.is_stream and answer.is_readable:
            self._body_watch = end_watch(self._target.path)
        self._relay.tracker.answer(self._task, head.status, is_stream=answer.is_stream)
        self._answer = answer
        if connection.state is COMPLETE:
            self._move(FLOWING)
            self._pass_down(connection)
        else:
            self._hold(HEAD_HELD)

    # -- FLOWING: the answer goes down, up to the piece that ends the message or holds its end event --

    def _pass_down(self, connection: Connection) -> None:
        """Writes what waits, as far as the client takes it."""
        wire = self._request.wire
        while wire.is_writable:
            if connection.state is COMPLETE:
                self._take_last(connection.take())
                return
            if not connection.waiting:
                break
            self.on_piece(connection.take())
            if self._phase is not FLOWING:
                return
        if connection.failure is not None and not connection.waiting:
            self._fail(connection.failure)
        elif connection.failure is not None and self._place is not None:
            asyncio.get_running_loop().call_soon(self._place.leave)  # the client has yet to read the rest

    def on_piece(self, piece: bytes) -> bool:
        """Takes a piece that is not the last. False if it has to wait."""
        request, watch = self._request, self._body_watch
        if self._phase is not FLOWING or not request.wire.is_writable:
            return False
        try:
            self._task.response_bytes += len(piece)
            if watch is not None and (ending := watch.feed(piece)) is not None:
                self._end_by_message(ending)
                self._hold(END_HELD, piece)
            else:
                request.write(piece)
        except Exception:
            self._fail_inside()
        return True

    def _take_last(self, piece: bytes) -> None:
        watch = self._body_watch
        self._task.response_bytes += len(piece)
        if self._task.is_final:
            self._complete(piece)
        else:
            self._end_by_message(None if watch is None else watch.feed(piece) or watch.at_end())
            self._hold(LAST_HELD, piece)

    # -- HELD: the store learns of the task's stage first --

    def _hold(self, phase: Phase, piece: bytes = b"") -> None:
        """Holds `piece` until the store has the task's stage, or until the bounded wait is over."""
        self._move(phase)
        self._held = piece
        self._relay.tracker.settle(self._task, self._on_settled)

    def _on_settled(self) -> None:
        phase, piece, self._held = self._phase, self._held, b""
        if phase is OVER:
            return
        request, answer = self._request, self._answer
        try:
            if not request.is_started and answer is not None:
                request.start(self._task.status_code or 0, answer.lines, length=answer.length)
            if phase is LAST_HELD:
                self._complete(piece)
                return
            self._move(FLOWING)
            if phase is HEAD_HELD:
                request.flush()
                if request.is_chunked and self._connection is not None:
                    self._connection.flow()  # an answer in chunks ends behind its last piece: none has to be held
            else:
                request.write(piece)
        except Exception:
            self._fail_inside()
        else:
            self.on_answer()

    # -- OVER: the answer is complete --

    def _end_by_message(self, ending: Ending | None) -> None:
        """Ends the task: the message came whole, or its end event did."""
        needs_ending, self._body_watch = self._body_watch is not None, None
        status, is_text_kept = self._task.status_code or 0, self._relay.error_text_bytes > 0
        self._end_task(outcome_of_message(status, ending, needs_ending=needs_ending, is_text_kept=is_text_kept))

    def _complete(self, piece: bytes) -> None:
        """Sends the last piece. The connection is free by then for the client's next request."""
        self._release()
        self._request.end(piece)
