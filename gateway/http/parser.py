"""Finds the requests in the bytes of one client, and holds them until they are answered, in their order.

`RequestReader` finds them (httptools knows the grammar of HTTP/1.1), `Pace` sees to it that they come fast enough, and
`PipelinedRequests` holds them. Malformed requests are refused here, before the application sees them. Knows no socket.
"""

from enum import Enum
from typing import cast

import httptools

from gateway.http import limits
from gateway.http.head import Refusal, check_head, head_bytes, is_request_line, split_absolute
from gateway.http.request import Request
from gateway.http.wire import Wire
from gateway.net.deadline import Deadline

# The parser's message for methods that it knows from other protocols only (RTSP, ICECAST).
_NOT_OF_HTTP = "Invalid method for HTTP/x.x request"
_FRAMING = (b"content-length", b"transfer-encoding")
_MAX_PIPELINED = 16


class Part(Enum):
    """What the next byte belongs to."""

    NOTHING = "nothing"  # between requests
    HEAD = "head"
    BODY = "body"
    FRAMING = "framing"  # not the client's: a new parser is told how the body is framed, see _ignore_upgrade


# Python 3.11 takes 60 ns to find `Part.BODY`, and 5 to find a name of a module. A request uses sixty.
NOTHING, HEAD, BODY, FRAMING = Part


class RequestReader:
    """Finds the requests of one connection. Each joins `pipeline` once its head is complete."""

    __slots__ = ("_fields", "_line", "_pace", "_parser", "_pipeline", "_request", "_target", "_wire", "part")

    def __init__(self, wire: Wire, pace: "Pace", pipeline: "PipelinedRequests") -> None:
        self.part = NOTHING
        self._wire = wire
        self._pace = pace
        self._pipeline = pipeline
        self._parser = self._new_parser()
        self._line = b""  # of a request line, while its method is incomplete
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._request: Request | None = None  # the newest

    def close(self) -> None:
        """Nothing more will come. Breaks two cycles: parser and reader, reader and connection."""
        self._parser = cast("httptools.HttpRequestParser", None)
        self._wire = cast("Wire", None)
        self._forget()

    def _forget(self) -> None:
        """Drops the newest request: an idle connection keeps no memory for it."""
        self._target, self._fields, self._request = b"", [], None

    def feed(self, data: memoryview) -> None:
        """Parses some bytes of the client. Raises Refusal.

        The parser stops after a head that offers an upgrade; what follows is parsed by a new one.
        """
        self._pace.has_progressed = False
        while data:
            try:
                self._parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                data = data[upgrade.args[0] :]
                self._ignore_upgrade()
            except httptools.HttpParserError as error:
                cause = error.__context__
                raise cause if isinstance(cause, Refusal) else self._refusal_of(error, data) from error
            else:
                break
        self._line = self._line + bytes(data) if self.part is HEAD and not self._target else b""
        if self.part is NOTHING:
            self._forget()

    def waits_for_more(self, size: int, *, is_paused: bool, least: int = 0) -> bool:
        """After a read of `size` bytes that did not complete a request: whether it is still within its limits.

        `is_paused`: the connection does not read now, so the client cannot be late. A read without any progress counts
        as one of `least` bytes.
        """
        return self._pace.count(size, is_body=self.part is BODY, is_paused=is_paused, least=least)

    def give_time(self) -> None:
        """From now on the client has its full time for the next part of its request."""
        self._pace.give_time(is_body=self.part is BODY)

    def _refusal_of(self, error: httptools.HttpParserError, data: memoryview) -> Refusal:
        """What is wrong with `data`, which the parser refused: an unknown method, or it is no HTTP request."""
        is_odd_method = isinstance(error, httptools.HttpParserInvalidMethodError) and not self._target
        line = (self._line + bytes(data)).lstrip(b"\r\n")
        if str(error) == _NOT_OF_HTTP or (is_odd_method and is_request_line(line)):
            return Refusal(501, "This method is not known here.")
        return Refusal(400, "Invalid HTTP request received.")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # Bytes behind a request with `Connection: close` do not make that request malformed.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _ignore_upgrade(self) -> None:
        """Continues as if the client had not offered an upgrade (RFC 9110 section 7.8 allows that).

        The parser expects another protocol behind such a head. Java's client offers h2c with every first request, so
        a new parser reads the body. It is given a head with the same framing first.
        """
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self._fields if name in _FRAMING]
        self._parser = self._new_parser()
        if framing and self._request is not None:
            self._request.is_whole = False
            self.part = FRAMING
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            if self.part is FRAMING:  # not for a body of no bytes, which is complete already
                self.part = BODY

    # -- what the parser finds --

    def on_message_begin(self) -> None:
        if self.part is not FRAMING:
            self.part = HEAD
            self._pace.begin_part()
            self._target = b""
            self._fields = []

    def on_url(self, url: bytes) -> None:
        if self.part is not FRAMING:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser leaves white space behind values. Fields that come while a body is read are trailers."""
        if self.part is HEAD:
            if len(self._fields) >= limits.MAX_FIELDS:
                raise Refusal(431, "The request head has too many fields.")
            self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.part is FRAMING:
            return
        method, version = self._parser.get_method().decode("ascii"), self._parser.get_http_version()
        by_name = dict(self._fields)
        check_head(method, version, self._target, self._fields, by_name)
        if self._pace.is_timed and head_bytes(method, self._target, self._fields) > limits.MAX_HEAD_BYTES:
            raise Refusal(431, "The request head is too long.")
        if not self._target.startswith(b"/"):
            by_name = self._take_origin_form()
        is_http_10 = version == "1.0"
        self._request = Request(
            self._wire,
            method,
            self._target,
            self._fields,
            by_name,
            is_http_10=is_http_10,
            is_keep_alive=not is_http_10 and self._parser.should_keep_alive(),
        )
        self.part = BODY
        self._pace.begin_part()
        self._pace.has_progressed = True
        self._pipeline.add(self._request)

    def _take_origin_form(self) -> dict[bytes, bytes]:
        """An absolute-form target means its path, and its authority is the Host (RFC 9112 section 3.2.2).

        Returns the last value of each name.
        """
        authority, self._target = split_absolute(self._target)
        if authority is not None:
            self._fields = [(name, authority if name == b"host" else value) for name, value in self._fields]
        return dict(self._fields)

    def on_body(self, body: bytes) -> None:
        self._pace.has_progressed = True
        if self._request is not None:
            self._request.feed(body)

    def on_message_complete(self) -> None:
        self._pace.has_progressed = True
        self.part = NOTHING
        if self._request is not None:
            self._request.is_whole = True


class Pace:
    """Checks that a client sends its request fast enough, and no endless line. Moves the connection's deadline."""

    __slots__ = ("_deadline", "_pending_bytes", "_timed_bytes", "has_progressed", "is_timed")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.has_progressed = False  # in this read
        self.is_timed = False  # the present part, head or body, did not come in one read
        self._timed_bytes = 0
        self._pending_bytes = 0  # read since the parser last made progress

    def begin_part(self) -> None:
        """A head begins, or the body behind it."""
        self.is_timed = False
        self._pending_bytes = 0

    def give_time(self, *, is_body: bool) -> None:
        """From now on the client has its full time for the next part of its request."""
        self._deadline.move(limits.BODY_SECONDS if is_body else limits.HEAD_SECONDS)
        self.is_timed, self._timed_bytes = True, 0

    def count(self, size: int, *, is_body: bool, is_paused: bool, least: int) -> bool:
        """Counts a read of `size` bytes that did not complete a request. False: too much came without any progress.

        While reading is paused the client cannot be late.
        """
        self._pending_bytes = 0 if self.has_progressed else self._pending_bytes + max(size, least)
        if self._pending_bytes > limits.MAX_HEAD_BYTES:
            return False
        self._timed_bytes += size
        if not is_paused and (not self.is_timed or (is_body and self._timed_bytes >= limits.BODY_LEAST_BYTES)):
            self.give_time(is_body=is_body)
        return True


class PipelinedRequests:
    """The requests that have no complete answer yet. `first` is being answered, or is the next; the others wait.

    A client may send requests before the answers to earlier ones (pipelining, RFC 9112 section 9.3.2). They are
    answered one after another, in their order.
    """

    __slots__ = ("_head_bytes", "_own_bytes", "_waiting", "first")

    def __init__(self) -> None:
        self.first: Request | None = None
        self._waiting: list[Request] = []  # at most a few; an empty deque takes 600 bytes of each connection
        self._head_bytes = 0  # of the waiting requests' heads
        self._own_bytes = 0  # that the waiting requests take in memory beside that

    @property
    def last(self) -> Request | None:
        """The newest request."""
        return self._waiting[-1] if self._waiting else self.first

    @property
    def is_full(self) -> bool:
        """Whether so much waits that reading has to pause."""
        if not self._waiting:
            return self.first is not None and self.first.waiting_bytes >= self.first.most_waiting_bytes
        return (
            sum(request.waiting_bytes for request in self._all()) >= limits.BODY_HIGH_WATER_BYTES
            or self._head_bytes > limits.PIPELINED_HEAD_BYTES
            or len(self._waiting) > _MAX_PIPELINED
        )

    @property
    def has_unbegun(self) -> bool:
        """Whether a request is here that is not being answered."""
        return bool(self._waiting) or (self.first is not None and self.first.answerer is None)

    @property
    def is_refusable(self) -> bool:
        """Whether a refusal can be sent: the client would not read it as the answer to one of these requests."""
        return not any(request.is_started or request.is_whole for request in self._all())

    @property
    def is_held_back(self) -> bool:
        """Whether the client sends no more of its newest request before it may."""
        return self.last is not None and self.last.is_held_back

    def add(self, request: Request) -> None:
        """Takes a request whose head is complete. Raises Refusal if too much waits."""
        if self.first is None:
            self.first = request
            return
        self._count(request, 1)
        if self._head_bytes + self._own_bytes > limits.PIPELINE_BYTES:
            raise Refusal(431, "Too many requests wait.")
        self._waiting.append(request)

    def advance(self) -> None:
        """The first request is answered: the next one is the first now."""
        self.first = None
        if self._waiting:
            self.first = self._waiting.pop(0)
            self._count(self.first, -1)

    def lose(self) -> None:
        """The client has left: tells the answerers, and forgets the requests."""
        lost = self._all()
        self.first = None
        self._waiting.clear()
        for request in lost:
            request.lose()

    def _all(self) -> list[Request]:
        return [] if self.first is None else [self.first, *self._waiting]

    def _count(self, request: Request, sign: int) -> None:
        """Counts a request that begins to wait behind another; with a `sign` of -1, one that no longer does."""
        self._head_bytes += sign * head_bytes(request.method, request.target, request.fields)
        self._own_bytes += sign * (limits.REQUEST_BYTES + len(request.fields) * limits.FIELD_BYTES)
