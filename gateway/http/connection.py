"""One client's HTTP/1.1 connection: bounded reads, answers in the order of the requests, limits in time.

Malformed and late requests are refused here, and the application does not see them. uvicorn makes one of these per
connection through its public `http` setting, and calls `shutdown`; it neither parses nor answers.
"""

import asyncio
import logging
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast

from gateway.errors import TooManyConnections
from gateway.http import limits
from gateway.http.closing import FLUSHING, LINGERING, Lifecycle, Reason, has_left
from gateway.http.head import Refusal
from gateway.http.parser import BODY, NOTHING, Pace, PipelinedRequests, RequestReader
from gateway.http.request import Request, closing_response
from gateway.http.stalled import StallWatch
from gateway.metrics.counts import Counts
from gateway.net.deadline import Deadline
from gateway.net.vanished import PeerWatch

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

log = logging.getLogger("gateway.server")

_READ_BYTES = 65_536
# Every connection reads into this one buffer: the parser copies what it needs before the next read begins.
_read_buffer = memoryview(bytearray(_READ_BYTES))
# What may wait in the socket's write buffer, beside one read of an answer.
_WRITE_HIGH_WATER_BYTES = 2048
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"
_SPARE_CONNECTIONS = 32  # over the cap; each gets an answer that says so
_WARN_SECONDS = 60


class Application(Protocol):
    """What answers requests."""

    counts: Counts
    peers: PeerWatch

    def open(self, request: Request) -> None:
        """Answers `request`, or tells it what will (`answered_by`)."""


class GatewayHttpProtocol(asyncio.BufferedProtocol):
    """One client connection. It answers the first request of its pipeline, then the next.

    uvloop gives an `asyncio.Protocol` reads of 250 KiB, so this is a `BufferedProtocol`.
    """

    __slots__ = (
        "_application", "_deadline", "_is_serving", "_lifecycle", "_loop", "_max_connections", "_pipeline", "_reader",
        "_server_state", "_stall_watch", "_transport", "is_read_paused", "is_writable", "send",
    )  # fmt: skip
    _warned_at = -inf  # of too many connections, by any of them

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
        self._application: Application = app_state["gateway"]  # the application puts itself there when it starts
        self._max_connections = max_connections
        # the connection
        self._transport = cast("asyncio.Transport", None)
        self._deadline = Deadline(self._loop, self._on_deadline)
        # the requests
        self._pipeline = PipelinedRequests()
        self._reader = RequestReader(self, Pace(self._deadline), self._pipeline)
        self.is_read_paused = False
        # the answers
        self._is_serving = False
        self.is_writable = True
        self.send: Callable[[bytes], None] = _discard
        self._stall_watch: StallWatch | None = None  # once an answer could not be written at once

    # -- the connection --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_WATER_BYTES)
        self.send = self._transport.write
        self._lifecycle = Lifecycle(self._loop, self._transport, self._deadline)
        # The watch keeps what it is given for some seconds longer: the transport, but not this object.
        self._application.peers.add(self._loop, self._transport, self._transport.abort)
        connections = cast("set[object]", self._server_state.connections)
        connections.add(self)
        self._deadline.move(limits.IDLE_SECONDS)
        excess = len(connections) - self._max_connections
        if excess > 0:
            self._turn_away(excess)

    def _turn_away(self, excess: int) -> None:
        """Tells a client that too many connections are open; only closes if even those that are told are too many."""
        self._application.counts.refused(TooManyConnections.code)
        now = self._loop.time()
        if now > GatewayHttpProtocol._warned_at + _WARN_SECONDS:
            GatewayHttpProtocol._warned_at = now
            log.warning("%d connections are open: more are refused", self._max_connections)
        if excess > _SPARE_CONNECTIONS:
            self._close(Reason.OVERCROWDED)
            return
        error = TooManyConnections(f"the gateway serves at most {self._max_connections} connections")
        fields = b"content-type: application/json\r\nretry-after: %d\r\n" % error.retry_after_seconds
        self._say_last(closing_response(error.status, fields, error.body()), Reason.TURNED_AWAY)

    def eof_received(self) -> None:
        """A half-close counts as leaving, also if the client has not read all. asyncio closes the transport itself."""
        if self._pipeline.first is not None:
            self._close(Reason.LEFT)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._server_state.connections.discard(cast("Any", self))
        self.send = _discard
        self._lifecycle.lost()
        self._deadline.end()
        self._application.peers.discard(self._transport)
        if self._stall_watch is not None:
            self._stall_watch.close()
        self._pipeline.lose()
        self._reader.close()

    def shutdown(self) -> None:
        """The server stops: requests that were read are answered, but nothing else is waited for."""
        newest = self._pipeline.last
        if self._lifecycle.phase is LINGERING or (newest is not None and self._is_closing):
            self._close(Reason.STOPPED_WAITING)
        elif newest is not None:
            newest.is_keep_alive = False
            self._lifecycle.stop()
        else:
            self._close(Reason.STOPPED)

    @property
    def _is_closing(self) -> bool:
        """Whether nothing more is answered. A transport also closes by itself, at a FIN or an error of the socket."""
        return self.send is _discard or self._transport.is_closing()

    def _close(self, reason: Reason) -> None:
        """Closes the connection in the way that `reason` asks for, see closing. The one way to do so."""
        self.send = _discard
        is_sending = self._reader.part is not NOTHING or self._pipeline.has_unbegun
        self._lifecycle.close(reason, is_sending=is_sending)

    # -- reading --

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        first = self._pipeline.first
        if first is None or first.is_whole or first.most_waiting_bytes < limits.QUEUED_BODY_BYTES:
            return _read_buffer
        return _read_buffer[: max(1, first.most_waiting_bytes - first.waiting_bytes)]

    def buffer_updated(self, nbytes: int) -> None:
        """Parses what was read, and serves the requests in it."""
        if self._lifecycle.phase is LINGERING:
            if not self._lifecycle.on_dropped(nbytes):
                self._close(Reason.LINGERED)
            return
        try:
            self._reader.feed(_read_buffer[:nbytes])
        except Refusal as refusal:
            self._refuse(refusal, Reason.REFUSED)
            return
        is_incomplete = self._reader.part is not NOTHING
        if is_incomplete and not self._waits_for_more(nbytes):
            text = "The request head, the line of a chunk or a trailer section is too long."
            self._refuse(Refusal(431, text), Reason.REFUSED)
            return
        self._serve()

    def _waits_for_more(self, size: int) -> bool:
        """Whether a request that is incomplete after a read of `size` bytes is still within its limits.

        Where a body may not grow much, each read may be of a single byte. Then the line of a chunk costs far more than
        its bytes, so such reads count as longer ones.
        """
        first = self._pipeline.first
        is_read_ahead = first is not None and first.most_waiting_bytes >= limits.QUEUED_BODY_BYTES
        least = limits.LEAST_READ_BYTES if is_read_ahead else 0
        return self._reader.waits_for_more(size, is_paused=self.is_read_paused, least=least)

    def _serve(self) -> None:
        """Tells the answerer of the first request what is new. If it has none, begins with the requests that wait.

        None is begun while the client does not read: its answer would wait in memory.
        """
        first = self._pipeline.first
        if first is not None and first.answerer is not None:
            first.answerer.on_request()
        elif not self._is_serving:
            self._is_serving = True
            while first is not None and first.answerer is None and self.is_writable and not self._is_closing:
                self._application.open(first)
                first = self._pipeline.first
            self._is_serving = False
        if self._pipeline.is_full != self.is_read_paused:
            self.hold_reading()

    def hold_reading(self) -> None:
        """Pauses or resumes reading, by what waits in memory. While it pauses, the client's leaving is looked for."""
        is_full = self._pipeline.is_full
        if is_full == self.is_read_paused or self._is_closing:
            return
        self.is_read_paused = is_full
        if is_full:
            self._transport.pause_reading()
            self._deadline.move(limits.LOOK_SECONDS)
            return
        self._transport.resume_reading()
        if self._reader.part is not NOTHING:
            self._reader.give_time()  # the client could not be late while we did not read

    def give_time(self) -> None:
        if not self.is_read_paused and self._reader.part is not NOTHING:
            self._reader.give_time()

    # -- refusing --

    def _refuse(self, refusal: Refusal, reason: Reason) -> None:
        """Answers a malformed request, but not inside or ahead of another answer: the client would take it for that."""
        log.debug("%s is refused: %d %s", self._transport.get_extra_info("peername"), refusal.status, refusal)
        self._application.counts.refused_by_server(refusal.status)
        if self._pipeline.is_refusable:
            self._say_last(closing_response(refusal.status, _PLAIN, str(refusal).encode()), reason)
        else:
            self._close(Reason.REFUSED_BEHIND)

    def _say_last(self, response: bytes, reason: Reason) -> None:
        """Sends the last response of the connection, and closes it."""
        self._pipeline.lose()
        self.send(response)
        self._close(reason)

    # -- in time --

    def _on_deadline(self) -> None:
        """The deadline of a request that has come meanwhile changes nothing."""
        phase = self._lifecycle.phase
        if phase is LINGERING:
            if not self._lifecycle.on_silence():
                self._close(Reason.LINGERED)
        elif phase is FLUSHING and self._pipeline.first is not None:
            self._close(Reason.STALLED)  # the answer was broken off, and the client does not read the rest
        elif phase is FLUSHING:
            self._end_idling()
        elif self.is_read_paused:
            self.look_for_client()
            if not self._is_closing:
                self._deadline.move(limits.LOOK_SECONDS)
        elif self._reader.part is BODY and self._pipeline.is_held_back:
            self._reader.give_time()  # the client waits for us
        elif self._reader.part is not NOTHING:
            self._refuse(Refusal(408, "The request did not come in time."), Reason.LATE)
        elif self._pipeline.first is None:
            self._end_idling()

    def _end_idling(self) -> None:
        """Closes an idle connection. A client that still reads the last answer is not idle: it is watched instead."""
        if self._transport.get_write_buffer_size():
            self._watch_reading()
            self._deadline.move(limits.IDLE_SECONDS)
        else:
            self._close(Reason.IDLE)

    def _watch_reading(self) -> None:
        if self._stall_watch is None:
            self._stall_watch = StallWatch(self._loop, self._transport, self._on_stalled)
        self._stall_watch.begin()

    def _on_stalled(self) -> None:
        self._close(Reason.STALLED)

    def look_for_client(self) -> None:
        """Asks the kernel whether the client has left (docs/behaviour.md, "Tasks").

        We do not hear of that while reading is paused, nor before the loop comes to its socket.
        """
        if not self._is_closing and has_left(self._transport.get_extra_info("socket")):
            self._close(Reason.LEFT)
            self._pipeline.lose()

    # -- what a request asks for --

    def finish(self, request: Request) -> None:
        """The next request's turn."""
        pipeline = self._pipeline
        if pipeline.first is not request:
            return  # the client has left
        pipeline.advance()
        self._server_state.total_requests += 1
        if self.is_read_paused:
            self.hold_reading()
        if not request.is_keep_alive:
            self._close(Reason.ANSWERED)
        elif pipeline.first is not None:
            # Not at once: the upstream may say more behind the last answer (a FIN), and that is to be read first.
            if not self._is_serving:
                self._loop.call_soon(self._serve)
        elif self._reader.part is NOTHING and not self._is_closing:
            self._deadline.move(limits.IDLE_SECONDS)

    def break_off(self, *, is_reset: bool) -> None:
        self._close(Reason.TRUNCATED if is_reset else Reason.BROKEN_OFF)

    def pause_writing(self) -> None:
        self.is_writable = False
        self._watch_reading()

    def resume_writing(self) -> None:
        self.is_writable = True
        first = self._pipeline.first
        if first is not None and first.answerer is not None:
            first.answerer.on_writable()
        elif first is not None:
            self._serve()


def _discard(data: bytes) -> None:
    """Where answers go when the connection is closing or lost."""
