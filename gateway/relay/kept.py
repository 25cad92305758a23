"""An exchange whose answer is kept: it goes on without its client, from the moment at which its request is whole.

Adds to `Exchange` what `Answer` has to know, and what happens when the client leaves. A request with
`Prefer: respond-async` gets its 202 here, and goes on as one whose client has left.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.errors import BodyTooLarge, Cancelled, GatewayError, KeepUnavailable, ResponseTooLarge
from gateway.http.head import Target
from gateway.http.request import Request, http_date
from gateway.kept.head import End, Refusal, digest_of
from gateway.kept.keeping import Keeping
from gateway.kept.reading import accept
from gateway.queue.places import Place
from gateway.relay.base import Phase, Relay
from gateway.relay.exchange import Exchange
from gateway.relay.messages import first_values, is_event_stream, response_fields
from gateway.relay.outcome import ClientLeft, Outcome
from gateway.tasks.task import Kept
from gateway.tracking.tracked import TrackedTask
from gateway.upstream.connection import Connection
from gateway.upstream.response import Head

# A task that has its end, and no client: how long the exchange waits for the end of its message.
_REST_SECONDS = 5.0
_WHY_NOT_KEPT = {
    Kept.TOO_LARGE: "the client has left, and the answer is longer than MAX_RESPONSE_BYTES",
    Kept.NO_ROOM: "the client has left, and too much is kept already to keep the answer",
}


class Keep(NamedTuple):
    """How an answer is to be kept.

    `on_refused` is called if the claim of a chosen id is refused. With `seen_attempt` the claim is refused, too, if
    another attempt than this one (0: any) stands in the store by then.
    """

    keeping: Keeping
    is_async: bool
    on_refused: Callable[[], None] | None = None
    seen_attempt: int | None = None


class KeptExchange(Exchange):
    """One request whose answer is kept."""

    __slots__ = (
        "_digest", "_hashed_bytes", "_is_async", "_is_id_chosen", "_keeping", "_kept", "_most_bytes",
        "_on_refused_claim", "_unanswered",
    )  # fmt: skip

    def __init__(
        self,
        relay: Relay,
        request: Request,
        target: Target,
        task: TrackedTask,
        place: Place | None,
        keep: Keep,
    ) -> None:
        super().__init__(relay, request, target, task, place)
        self._keeping, self._is_async, self._on_refused_claim = keep.keeping, keep.is_async, keep.on_refused
        self._kept = self._keeping.begin(task, self)
        self._is_id_chosen = task.attempt == 0
        if keep.seen_attempt is not None:
            task.claim_after(keep.seen_attempt)
        if self._is_async:
            task.detach()
        self._most_bytes = min(relay.max_body_bytes, self._keeping.limits.response_bytes)  # of the body, if `is_async`
        self._digest = digest_of(task.task_id, request.method, target.wire)
        self._hashed_bytes = 0
        self._unanswered: Request | None = None  # the client's, while it waits for its 202

    # -- CLAIMING --

    def _on_claimed(self, is_granted: bool) -> None:
        if self._phase is Phase.OVER:
            return
        if is_granted:
            self._kept.granted()
            self._hash_body()
        if not (is_granted and self._is_async):
            super()._on_claimed(is_granted)
            return
        self._move(Phase.GATHERING)
        self._request.read_ahead(self._most_bytes + 1)
        if self._request.is_continue_due:
            self._request.send_continue()
        self.on_request()

    def _on_refused(self) -> None:
        self._keeping.discard(self._kept)
        if self._on_refused_claim is None:
            super()._on_refused()
        else:
            self._release()
            self._on_refused_claim()

    # -- GATHERING --

    def _gather(self) -> None:
        """More of the body of a request with respond-async has come."""
        if self._request.body_bytes > self._most_bytes:
            self._fail(BodyTooLarge(f"with Prefer: respond-async a request body has at most {self._most_bytes} bytes"))
            return
        self._task.request_bytes = self._request.body_bytes
        if self._kept.is_dropped:
            self._fail(Cancelled())  # deleted meanwhile: nothing could give out the answer
        elif not self._kept.hold_request(self._request.body_bytes):
            self._fail(KeepUnavailable("too much is kept already"))
        elif self._request.is_whole and self._unanswered is None:
            self._unanswered, self._request = self._request, self._request.parted()
            self._relay.tracker.settle(self._task, self._accept)

    def _accept(self) -> None:
        """Answers the client with 202. The request goes on without it."""
        client, self._unanswered = self._unanswered, None
        if self._phase is Phase.GATHERING and client is not None:
            if client.answerer is not None:
                accept(client, self._task.task_id, self._keeping.tasks.document(self._task))
            elif not self._is_id_chosen:  # the client has left, and does not know the id
                self._fail(ClientLeft())
                return
            super()._on_claimed(True)

    # -- the request --

    def on_request(self) -> None:
        """More of the request is here."""
        try:
            if self._phase is not Phase.OVER:
                self._hash_body()
            if self._phase is Phase.GATHERING:
                self._gather()
        except Exception:
            self._fail_inside()
        if self._phase is not Phase.GATHERING:
            super().on_request()

    def _hash_body(self) -> None:
        """Adds to the digest what has come. It is called before anything of that is taken."""
        request = self._request
        if self._kept.head.digest:
            return
        came = request.body_bytes - self._hashed_bytes
        if came:
            self._digest.update(request.newest(came))
            self._hashed_bytes += came
        if request.is_whole:
            self._kept.request_came(self._digest.hexdigest(), request.body_bytes)

    def _hand_over(self, connection: Connection) -> None:
        super()._hand_over(connection)
        self._kept.request_sent()

    # -- the answer --

    def _take_head(self, connection: Connection, head: Head) -> None:
        is_stream = is_event_stream(first_values(head.fields))
        fields = response_fields(head.fields, task_id="", date=http_date, is_stream=is_stream)
        length = next((int(value) for name, value in fields if name == b"content-length"), None)
        self._kept.begin(head.status, fields, length)
        super()._take_head(connection, head)

    def on_piece(self, piece: bytes) -> bool:
        """Takes a piece that is not the last. False if it has to wait."""
        if self._phase is not Phase.FLOWING or not self._request.wire.is_writable:
            return False
        try:
            self._kept.add(piece)
            if self._task.is_detached:
                self._kept.gather()  # one that gets too long ends the exchange
        except Exception:
            self._fail_inside()
        super().on_piece(piece)
        return True

    def _take_last(self, piece: bytes) -> None:
        if piece:
            self._kept.add(piece)
        self._kept.end(End.WHOLE)  # one that gets too long may end the exchange
        if self._phase is Phase.FLOWING:
            super()._take_last(piece)

    # -- the end --

    def on_left(self) -> None:
        """The client has left. The exchange goes on if the request is whole, and the client can know the task's id."""
        if self._phase is Phase.OVER or not self._request.has_client:
            return
        self._kept.gather()  # it may be too long, and then it is kept no longer
        is_known = self._is_id_chosen or self._request.is_started
        if self._request.is_whole and is_known and not self._kept.is_dropped:
            self._request.leave_client()
            self._keeping.tasks.detach(self._task)
            self._bound_rest()
            self.on_answer()  # nothing waits for the client any more
        else:
            super().on_left()

    def drop_answer(self) -> None:
        """The answer is to be kept no longer."""
        self._kept.drop(Kept.DELETED)

    def on_dropped(self, why: Kept) -> None:
        """The answer is kept no longer. Without a client it is of no use to go on."""
        if not self._request.has_client:
            self._fail(Cancelled() if why is Kept.DELETED else ResponseTooLarge(_WHY_NOT_KEPT[why]))

    def _fail(self, error: GatewayError | ClientLeft) -> None:
        if self._phase is Phase.OVER:
            return
        if self._kept.generation:
            self._kept.end(End.BROKEN, _refusal(error))
        else:
            self._keeping.discard(self._kept)
        super()._fail(error)
        client, self._unanswered = self._unanswered, None
        if client is not None and client.answerer is not None and isinstance(error, GatewayError):
            client.refuse(error, task_id=self._task.task_id)

    def _end_task(self, outcome: Outcome) -> None:
        super()._end_task(outcome)
        self._kept.task_ended()
        self._bound_rest()

    def _bound_rest(self) -> None:
        """After a stream's end event only a client would wait for an upstream that does not end its message."""
        if self._task.is_final and not self._request.has_client:
            rest = asyncio.get_running_loop().call_later(_REST_SECONDS, self._fail, ClientLeft())
            self._timers.append(rest)


def _refusal(error: GatewayError | ClientLeft) -> Refusal | None:
    if isinstance(error, ClientLeft):
        return None
    return Refusal(error.status, error.code, str(error), error.retry_after_seconds)
