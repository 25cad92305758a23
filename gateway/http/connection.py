"""One client's HTTP/1.1 connection: the requests in it, its limits, answers in their order, and who has left.

What is no proper request, or takes too long to be one, ends here and reaches nobody. uvicorn makes one of these per
connection through its public `http` setting and calls `shutdown`; it neither parses nor answers.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast

from gateway.errors import TooManyConnections
from gateway.http import limits
from gateway.http.client_socket import ReaderWatch, closing_answer, has_left, reset
from gateway.http.guard import Refusal, head_bytes
from gateway.http.parser import Part, RequestReader
from gateway.http.request import Request
from gateway.metrics.counts import Counts
from gateway.net.deadline import Deadline
from gateway.net.vanished import PeerWatch

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

log = logging.getLogger("gateway.server")

# One read holds at most this much, and reading pauses where more than that waits: twice 96 KiB, here and in the write
# buffer of the connection to Ollama, beside the 16 KiB at which that is filled again (contract 3.3).
_READ_BYTES = 65_536
_HIGH_WATER_BYTES = 32_768
# What may wait in the socket's write buffer, beside one read of an answer (see upstream).
_WRITE_HIGH_WATER_BYTES = 2048
_MAX_PIPELINED = 16
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"
# One buffer for all connections: the parser has copied what it needs before the next read begins.
_read_buffer = memoryview(bytearray(_READ_BYTES))
_SPARE_CONNECTIONS = 32  # over the cap, being told so
_WARN_SECONDS = 60


class Application(Protocol):
    """Whoever answers requests."""

    counts: Counts
    peers: PeerWatch

    def open(self, request: Request) -> None:
        """Answers `request`, or sets its `answerer`."""


class GatewayHttpProtocol(asyncio.BufferedProtocol):
    """One client connection. Requests are in `_unanswered` until their answer is complete; the first is being answered.

    It is no `asyncio.Protocol`, to which uvloop gives reads of 250 KiB.
    """

    _warned_at = -inf  # of too many connections, whosever they were

    def __init__(
        self,
        config: "Config",  # noqa: ARG002
        server_state: "ServerState",
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        max_connections: int = 8_000,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._server_state = server_state
        self._application: Application = app_state["gateway"]  # the application says so at its start
        self._max_connections = max_connections
        self._transport = cast("asyncio.Transport", None)
        self.send: Callable[[bytes], None] = _say_nothing
        self._deadline = Deadline(self._loop, self._on_deadline)
        # the request being read
        self._pace = limits.Pace(self._deadline)
        self._reader = RequestReader(self, self._pace, self._on_request)
        # the answers
        self._unanswered: deque[Request] = deque()
        self._waiting_bytes = 0  # of bodies, not taken yet
        self._pipelined_head_bytes = 0  # of the requests behind the first, and what else those take in memory
        self._pipelined_own_bytes = 0
        self._is_read_paused = False
        self._is_serving = False
        self.is_writable = True
        # after the last answer
        self._has_refused = False
        self._may_linger = True
        self._linger: limits.Linger | None = None

    # -- the connection --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connections over the cap are told so; where even those are too many, they are just closed."""
        self._transport = cast("asyncio.Transport", transport)
        self.send = self._transport.write
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        self._reader_watch = ReaderWatch(self._loop, self._transport)
        self._application.peers.add(self._loop, self._transport, self._transport.abort)
        connections = cast("set[object]", self._server_state.connections)
        connections.add(self)
        self._deadline.move(limits.IDLE_SECONDS)
        excess = len(connections) - self._max_connections
        if excess > 0:
            self._turn_away(excess)

    def _turn_away(self, excess: int) -> None:
        self._application.counts.refused(TooManyConnections.code)
        now = self._loop.time()
        if now > GatewayHttpProtocol._warned_at + _WARN_SECONDS:
            GatewayHttpProtocol._warned_at = now
            log.warning("%d connections are open: more are refused", self._max_connections)
        if excess > _SPARE_CONNECTIONS:
            self._transport.abort()
        else:
            error = TooManyConnections(f"the gateway serves at most {self._max_connections} connections")
            fields = b"content-type: application/json\r\nretry-after: %d\r\n" % error.retry_after_seconds
            self._say(closing_answer(error.status, fields, error.body()))

    @property
    def _is_closing(self) -> bool:
        return self._linger is not None or self._transport.is_closing()

    def eof_received(self) -> None:
        """A half-close counts as leaving, also for who does not read: no waiting until all is written."""
        if self._unanswered:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server_state.connections.discard(cast("Any", self))
        self.send = _say_nothing
        self._deadline.end()
        self._application.peers.discard(self._transport)
        self._reader_watch.cancel()
        self._lose_unanswered()
        self._reader.close()

    def _lose_unanswered(self) -> None:
        lost = list(self._unanswered)
        self._unanswered.clear()
        for request in lost:
            answerer, request.answerer = request.answerer, None  # they hold each other
            if answerer is not None:
                answerer.lose()

    def shutdown(self) -> None:
        """At the server's end nobody lingers, nor does what was broken off wait for its reader."""
        self._may_linger = False
        if self._linger is not None or (self._transport.is_closing() and self._unanswered):
            self._transport.abort()
        elif self._unanswered:
            self._unanswered[-1].is_keep_alive = False
        else:
            self._transport.close()

    # -- reading --

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Serves what a read has brought."""
        if self._linger is not None:
            self._drop(self._linger, nbytes)
            return
        try:
            self._reader.feed(_read_buffer[:nbytes])
        except Refusal as refusal:
            self._refuse(refusal)
            return
        if self._reader.part is Part.NOTHING:
            if self._unanswered and not self._is_read_paused:
                self._deadline.off()
        elif not self._awaits_rest(nbytes):
            return
        self._serve()

    def _awaits_rest(self, size: int) -> bool:
        """After a read that did not bring all of a request: is it still within its limits?"""
        is_body = self._reader.part is Part.BODY
        if self._pace.count(size, is_body=is_body, is_paused=self._is_read_paused):
            return True
        self._refuse(Refusal(431, "The request head, the line of a chunk or a trailer section is too long."))
        return False

    def _on_request(self, request: Request) -> None:
        """The head of one more request is here. Raises Refusal where too many wait."""
        if self._unanswered:
            self._count_pipelined(request, 1)
            if self._pipelined_head_bytes + self._pipelined_own_bytes > limits.PIPELINE_BYTES:
                raise Refusal(431, "Too many requests wait.")
        self._unanswered.append(request)

    def _count_pipelined(self, request: Request, sign: int) -> None:
        """Counts a request that waits behind another, or with a `sign` of -1 no longer does."""
        self._pipelined_head_bytes += sign * head_bytes(request.method, request.target, request.fields)
        self._pipelined_own_bytes += sign * (limits.REQUEST_BYTES + len(request.fields) * limits.FIELD_BYTES)

    def _serve(self) -> None:
        """Tells who answers the first request what is new; begins with the next as soon as one is answered.

        But not while the client does not take what it has been answered: answers wait in memory.
        """
        if self._unanswered and (answerer := self._unanswered[0].answerer) is not None:
            answerer.on_request()
        elif not self._is_serving:
            self._is_serving = True
            while self._has_next() and self.is_writable and not self._is_closing:
                self._application.open(self._unanswered[0])
            self._is_serving = False
        self._hold_reading()

    def _has_next(self) -> bool:
        """Whether the first request is still to be begun with."""
        return bool(self._unanswered) and self._unanswered[0].answerer is None

    def _hold_reading(self) -> None:
        """Reads on or not: what waits is held in memory, but who is not read from is not heard leaving."""
        is_too_much = (
            self._waiting_bytes > _HIGH_WATER_BYTES
            or self._pipelined_head_bytes > limits.PIPELINED_HEAD_BYTES
            or len(self._unanswered) > _MAX_PIPELINED + 1
        )
        if is_too_much == self._is_read_paused or self._is_closing:
            return
        self._is_read_paused = is_too_much
        if is_too_much:
            self._transport.pause_reading()
            self._deadline.move(limits.LOOK_SECONDS)
            return
        self._transport.resume_reading()
        if self._reader.part is Part.NOTHING:
            self._deadline.off()
        else:  # while we did not read, the client could not be late
            self._pace.give_time(is_body=self._reader.part is Part.BODY)

    # -- in time --

    def _on_deadline(self) -> None:
        if self._linger is not None:
            self._end_lingering(self._linger)
        elif self._is_read_paused:
            self.look_for_client()
            if not self._transport.is_closing():
                self._deadline.move(limits.LOOK_SECONDS)
        elif self._reader.part is not Part.NOTHING:
            self._may_linger = False  # who is this slow is not waited for
            self._refuse(Refusal(408, "The request did not come in time."))
        elif not self._unanswered:
            self._end_idling()
        elif self._transport.is_closing():  # the answer was broken off, and its reader has stalled
            self._transport.abort()

    def _end_idling(self) -> None:
        """The last answer may still be on its way: who is slow to read it is not idle."""
        if self._transport.get_write_buffer_size():
            self._reader_watch.begin()
            self._deadline.move(limits.IDLE_SECONDS)
        else:
            self._transport.abort()

    def look_for_client(self) -> None:
        """A client that leaves is not heard of while we do not read, nor before the loop has come to its socket.

        The socket's state tells at once (contract 3.4 and 4.7).
        """
        if not self._transport.is_closing() and has_left(self._transport.get_extra_info("socket")):
            self._transport.abort()
            self._lose_unanswered()

    # -- what a request asks for --

    def write(self, data: bytes) -> None:
        if self._linger is None and not self._transport.is_closing():
            self._transport.write(data)

    def put(self, size: int) -> None:
        self._waiting_bytes += size

    def take(self, size: int) -> None:
        self._waiting_bytes -= size
        if self._is_read_paused:
            self._hold_reading()

    def finish(self, request: Request) -> None:
        """The next request's turn; what has not been taken of this one's body will not be."""
        if not self._unanswered or self._unanswered[0] is not request:
            return  # its client is gone
        self._unanswered.popleft()
        if self._unanswered:
            self._count_pipelined(self._unanswered[0], -1)
        self._server_state.total_requests += 1
        request.answerer = None  # they hold each other
        request.take()
        if not request.is_keep_alive:
            self._close()
        elif self._unanswered:
            # Not at once: what the last answer's upstream says behind it (a FIN) is to be heard first.
            if not self._is_serving:
                self._loop.call_soon(self._serve)
        elif self._reader.part is Part.NOTHING and not self._is_closing:
            self._reader.forget()
            self._deadline.move(limits.IDLE_SECONDS)

    def break_off(self, *, is_reset: bool) -> None:
        if is_reset:
            reset(self._transport)
        else:
            self._close()

    def pause_writing(self) -> None:
        self.is_writable = False
        self._reader_watch.begin()

    def resume_writing(self) -> None:
        self.is_writable = True
        if self._unanswered and (answerer := self._unanswered[0].answerer) is not None:
            answerer.on_writable()
        elif self._has_next():
            self._serve()

    # -- refusing --

    def _refuse(self, refusal: Refusal) -> None:
        """Answers what is no request; not inside an answer or ahead of one, where the client would take it for that."""
        log.debug("%s is refused: %d %s", self._transport.get_extra_info("peername"), refusal.status, refusal)
        self._application.counts.refused_by_server(refusal.status)
        if any(request.is_started or request.is_whole for request in self._unanswered):
            self._transport.abort()
        else:
            self._say(closing_answer(refusal.status, _PLAIN, str(refusal).encode()))

    def _say(self, answer: bytes) -> None:
        """The connection's last words."""
        self._has_refused = True
        self._lose_unanswered()
        self.write(answer)
        self._close()

    # -- closing --
    #
    # `_close`: what was written arrives, then a FIN, and what the client still sends is dropped for a while.
    # `break_off`: the same in the middle of an answer; a reset where its end would look like the answer's.
    # `_say`: an answer of ours that nobody asked for in proper form, then `_close`. `transport.abort`: a reset.

    def _close(self) -> None:
        """Closes gently: a socket that is closed while its client still sends resets, and takes our answer with it.

        So only our direction is closed then (RFC 9112 section 9.6), and what still comes is dropped for a while.
        """
        if self._is_closing:
            return
        is_receiving = self._has_refused or self._reader.part is not Part.NOTHING or self._has_successor()
        if not (self._may_linger and is_receiving):
            self._is_read_paused = False
            self._deadline.move(limits.LINGER_SECONDS)
            self._transport.close()
            return
        self._transport.write_eof()
        self._linger = limits.Linger(self._loop.time())
        self.send = _say_nothing
        if self._is_read_paused:
            self._is_read_paused = False
            self._transport.resume_reading()
        self._deadline.move(limits.LINGER_IDLE_SECONDS)

    def _has_successor(self) -> bool:
        """Whether another request waits behind the one that was answered or broken off."""
        return any(request.answerer is None for request in self._unanswered)

    def _drop(self, linger: limits.Linger, size: int) -> None:
        if linger.takes(size, self._loop.time()):
            self._deadline.move(limits.LINGER_IDLE_SECONDS)
        else:
            self._transport.abort()

    def _end_lingering(self, linger: limits.Linger) -> None:
        """Who is silent is done, unless our answer is still on its way."""
        if self._transport.get_write_buffer_size() and not linger.is_over(self._loop.time()):
            self._deadline.move(limits.LINGER_IDLE_SECONDS)
        else:
            self._transport.abort()


def _say_nothing(data: bytes) -> None:
    """What is sent to a client that is gone, or has been told the last."""
