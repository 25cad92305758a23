"""uvicorn's HTTP/1.1 protocol with what ASGI does not show or do: refusals, limits, the target on the wire, who left.

Passed to uvicorn through its public `http` setting; nothing of the relay belongs here. What is no proper request, or
takes too long to be one, ends here and reaches no application. Used by __main__ alone.
"""

import asyncio
import logging
from collections.abc import Sized
from math import inf
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway import limits
from gateway.counts import Counts
from gateway.errors import TooManyConnections
from gateway.guard import Refusal, check_head, head_bytes
from gateway.link import ClientLink
from gateway.target import split_absolute
from gateway.transport import ClientTransport, Flow, ReaderWatch, Unchunked, closing_answer, has_left

log = logging.getLogger("gateway.server")

# One read holds at most this much, so that a stalled upload stays within 256 KiB (contract 3.3).
_READ_BYTES = 65_536
_PLAIN = b"content-type: text/plain; charset=utf-8\r\n"
_FRAMING = (b"content-length", b"transfer-encoding")
# One buffer for all connections: the parser has copied what it needs before the next read begins.
_read_buffer = memoryview(bytearray(_READ_BYTES))
_SPARE_CONNECTIONS = 32  # over the cap, being told so
_WARN_SECONDS = 60


class GatewayHttpProtocol(asyncio.BufferedProtocol):
    """One client connection: reads into a small buffer and leaves the rest to uvicorn.

    uvloop gives the buffer of its own choice, 250 KiB, to every class that is an `asyncio.Protocol`; hence the
    delegation. `shutdown` is what uvicorn's server calls on each connection at its end.
    """

    def __init__(self, *, max_connections: int = 8_000, **settings: Any) -> None:
        self._http = _HttpProtocol(max_connections, **settings)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        client = ClientTransport(cast("asyncio.Transport", transport), self._http)
        self._http.connection_made(cast("asyncio.Transport", client))

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return _read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._http.data_received(cast("bytes", _read_buffer[:nbytes]))

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()


class _HttpProtocol(HttpToolsProtocol):
    """What uvicorn's parser callbacks lack: each method that is overridden says why.

    Every request gets a ClientLink and stays in `_unanswered` until its answer is complete.
    """

    _warned_at = -inf  # of too many connections, whosever they were

    def __init__(self, max_connections: int, **settings: Any) -> None:
        super().__init__(**settings)
        self._max_connections = max_connections
        self._deadline = limits.Deadline(self.loop, self._on_deadline)
        # the request being read
        self._is_in_head = False
        self._is_in_body = False
        self._is_reading_framing = False
        self._has_progressed = False  # in this read
        self._pending_bytes = 0  # read since the parser last got on
        self._is_timed = False
        self._timed_bytes = 0
        # the answers
        self._unanswered: list[RequestResponseCycle] = []
        # after the last answer
        self._has_refused = False
        self._may_linger = True
        self._is_deaf = False
        self._deaf_until = inf
        self._dropped_bytes = 0

    # -- the connection --

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Connections over the cap are told so; where even those are too many, they are just closed."""
        super().connection_made(transport)
        self.flow = Flow(transport, self.pipeline, self._on_reading_paused, self._on_reading_resumed)
        self._reader_watch = ReaderWatch(self.loop, transport)
        self._deadline.move(limits.IDLE_SECONDS)
        excess = len(self.connections) - self._max_connections
        if excess > 0:
            self._turn_away(excess)

    @property
    def _counts(self) -> Counts:
        """Where the application counts; it says so at its start."""
        return cast("Counts", self.app_state["counts"])

    def _turn_away(self, excess: int) -> None:
        self._counts.refused(TooManyConnections.code)
        now = self.loop.time()
        if now > _HttpProtocol._warned_at + _WARN_SECONDS:
            _HttpProtocol._warned_at = now
            log.warning("%d connections are open: more are refused", self._max_connections)
        if excess > _SPARE_CONNECTIONS:
            self.transport.abort()
        else:
            error = TooManyConnections(f"the gateway serves at most {self._max_connections} connections")
            fields = b"content-type: application/json\r\nretry-after: %d\r\n" % error.retry_after_seconds
            self._say(closing_answer(error.status, fields, error.body()))

    def eof_received(self) -> None:
        """A half-close counts as leaving, also for who does not read: no waiting until all is written."""
        if self._unanswered:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """uvicorn tells the newest request only: of pipelined ones, that being answered would never know."""
        self._deadline.cancel()
        self._reader_watch.cancel()
        super().connection_lost(exc)
        self._lose_unanswered()

    def _lose_unanswered(self) -> None:
        lost, self._unanswered = self._unanswered, []
        for cycle in lost:
            cycle.disconnected = True
            cycle.message_event.set()
            cast("ClientLink", cycle.scope["extensions"]["gateway"]).lose()

    def shutdown(self) -> None:
        """At the server's end nobody lingers, nor does what was broken off wait for its reader."""
        self._may_linger = False
        if self._is_deaf or (self.transport.is_closing() and self._unanswered):
            self.transport.abort()
        else:
            super().shutdown()

    # -- reading --

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what uvicorn would give up at, an offered upgrade, is read on; refusals are ours."""
        if self._is_deaf:
            self._drop(len(data))
            return
        size = len(data)
        self._has_progressed = False
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserError as error:
                self._refuse(_refusal(error))
                return
            else:
                break
        if self._is_in_head or self._is_in_body:
            self._await_rest(size)

    def _await_rest(self, size: int) -> None:
        """After a read that did not bring all of a request: is it still within its limits?"""
        self._pending_bytes = 0 if self._has_progressed else self._pending_bytes + size
        if self._pending_bytes > limits.MAX_HEAD_BYTES:
            self._refuse(Refusal(431, "The request head, the line of a chunk or a trailer section is too long."))
            return
        if self.flow.read_paused:
            return
        self._timed_bytes += size
        if not self._is_timed or (self._is_in_body and self._timed_bytes >= limits.BODY_LEAST_BYTES):
            self._deadline.move(limits.BODY_SECONDS if self._is_in_body else limits.HEAD_SECONDS)
            self._is_timed, self._timed_bytes = True, 0

    def _on_reading_paused(self) -> None:
        self._deadline.move(limits.LOOK_SECONDS)

    def _on_reading_resumed(self) -> None:
        """While we did not read, the client could not be late."""
        if self._is_in_head or self._is_in_body:
            self._deadline.move(limits.BODY_SECONDS if self._is_in_body else limits.HEAD_SECONDS)
            self._is_timed, self._timed_bytes = True, 0
        else:
            self._deadline.off()

    def _on_deadline(self) -> None:
        if self._is_deaf:
            self._end_lingering()
        elif self.flow.read_paused:
            self._look_for_client()
        elif self._is_in_head or self._is_in_body:
            self._may_linger = False  # who is this slow is not waited for
            self._refuse(Refusal(408, "The request did not come in time."))
        elif not self._unanswered:
            self._end_idling()
        elif self.transport.is_closing():  # the answer was broken off, and its reader has stalled
            self.transport.abort()

    def _end_idling(self) -> None:
        """The last answer may still be on its way: who is slow to read it is not idle."""
        if self.transport.get_write_buffer_size():
            self._reader_watch.begin()
            self._deadline.move(limits.IDLE_SECONDS)
        else:
            self.transport.abort()

    def _look_for_client(self) -> None:
        """Who leaves while we do not read is not heard of (contract 3.4): only the socket's state tells."""
        if has_left(self.transport.get_extra_info("socket")):
            self.transport.abort()
        else:
            self._deadline.move(limits.LOOK_SECONDS)

    # -- what the parser finds --

    def on_message_begin(self) -> None:
        if not self._is_reading_framing:
            self._is_in_head = True
            self._is_timed = False
            self._pending_bytes = 0
            super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self._is_reading_framing:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser leaves white space behind values; fields behind the head are trailers, and no fields of it."""
        if self._is_in_head:
            if len(self.headers) >= limits.MAX_FIELDS:
                raise Refusal(431, "The request head has too many fields.")
            name, value = name.lower(), value.rstrip(b" \t")
            if name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """uvicorn checks nothing of the head."""
        if self._is_reading_framing:
            return
        method, version = self.parser.get_method().decode("ascii"), self.parser.get_http_version()
        check_head(method, version, self.url, self.headers)
        if self._is_timed and head_bytes(method, self.url, self.headers) > limits.MAX_HEAD_BYTES:
            raise Refusal(431, "The request head is too long.")
        if self._unanswered and self._waiting_bytes() > limits.PIPELINE_BYTES:
            raise Refusal(431, "Too many requests wait.")
        if not self.url.startswith(b"/"):
            self._take_origin_form()
        if version == "1.0":
            self.expect_100_continue = False  # RFC 9110 section 10.1.1
        self._is_in_head, self._is_in_body = False, True
        self._is_timed, self._has_progressed = False, True
        self.scope["extensions"] = {"gateway": ClientLink(self.url, self.flow)}  # type: ignore[dict-item]
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def _waiting_bytes(self) -> int:
        """About what the requests take that this client has sent and that are not answered yet."""
        fields = sum(len(cast("Sized", cycle.scope["headers"])) for cycle in self._unanswered)
        return len(self._unanswered) * limits.REQUEST_BYTES + fields * limits.FIELD_BYTES

    def _take_origin_form(self) -> None:
        """An absolute-form target means its path, and its authority is the Host (RFC 9112 section 3.2.2)."""
        authority, self.url = split_absolute(self.url)
        if authority is not None:
            self.headers[:] = [(name, authority if name == b"host" else value) for name, value in self.headers]

    def on_body(self, body: bytes) -> None:
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Reading goes on, or the client's leaving would not be noticed."""
        self._is_in_body = False
        self._has_progressed = True
        super().on_message_complete()
        self.flow.resume_reading()
        if not self.flow.read_paused:
            self._deadline.off()

    def _ignore_upgrade(self) -> None:
        """Goes on as if no upgrade had been asked for (RFC 9110 section 7.8 allows that).

        The parser takes such a head for the last of HTTP/1.1. Java's client offers h2c with every first request, so
        a new parser is told of the body that follows, and reads it.
        """
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        if framing:
            self.cycle.more_body = True
            self._is_in_body = True
            self._is_reading_framing = True
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            self._is_reading_framing = False

    # -- answering --

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader_watch.begin()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """An HTTP/1.0 client cannot read the chunks in which uvicorn would answer it."""
        if cycle.scope["http_version"] == "1.0":
            cycle.transport = cast("asyncio.Transport", Unchunked(cycle.transport))
        super()._start_asgi_task(cycle, app)

    def amended(self, head: bytes) -> bytes:
        """A request that is answered before it is whole is the connection's last: where it ends is not known."""
        if not self._is_in_body or len(self._unanswered) != 1 or not self._unanswered[0].keep_alive:
            return head
        self._unanswered[0].keep_alive = False
        return head.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"

    def on_response_complete(self) -> None:
        """uvicorn sets a timer after each answer; here the connection's one deadline is moved."""
        del self._unanswered[0]
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._is_in_head:
            self._deadline.move(limits.IDLE_SECONDS)

    # -- refusing --

    def _refuse(self, refusal: Refusal) -> None:
        """Answers what is no request; not inside an answer or ahead of one, where the client would take it for that."""
        log.debug("%s is refused: %d %s", self.client, refusal.status, refusal)
        self._counts.refused_by_server(refusal.status)
        others = [cycle for cycle in self._unanswered if cycle.response_started or not cycle.more_body]
        if others:
            self.transport.abort()
        else:
            self._say(closing_answer(refusal.status, _PLAIN, str(refusal).encode()))

    def _say(self, answer: bytes) -> None:
        """The connection's last words."""
        self._has_refused = True
        self._lose_unanswered()
        self.transport.write(answer)
        self.transport.close()

    # -- lingering --

    def begin_lingering(self) -> bool:
        """Whether the client may still be sending; from here on all that comes is dropped."""
        is_receiving = self._has_refused or self._is_in_head or self._is_in_body or self.pipeline
        if not self._may_linger or not is_receiving:
            self._deadline.move(limits.LINGER_SECONDS)
            return False
        self._is_deaf = True
        self.pipeline.clear()
        self._deaf_until = self.loop.time() + limits.LINGER_SECONDS
        self.flow.resume_reading()
        self._deadline.move(limits.LINGER_IDLE_SECONDS)
        return True

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > limits.LINGER_BYTES or self.loop.time() > self._deaf_until:
            self.transport.abort()
        else:
            self._deadline.move(limits.LINGER_IDLE_SECONDS)

    def _end_lingering(self) -> None:
        """Who is silent is done, unless our answer is still on its way."""
        if self.transport.get_write_buffer_size() and self.loop.time() < self._deaf_until:
            self._deadline.move(limits.LINGER_IDLE_SECONDS)
        else:
            self.transport.abort()


def _refusal(error: httptools.HttpParserError) -> Refusal:
    """What to answer: our own refusal where one of our callbacks raised it."""
    cause = error.__context__
    return cause if isinstance(cause, Refusal) else Refusal(400, "Invalid HTTP request received.")
