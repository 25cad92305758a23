"""Finds the requests in the bytes of one client: head, body, end. httptools knows the grammar of HTTP/1.1.

Malformed requests are refused here, before the application sees them. Knows no socket.
"""

from collections.abc import Callable
from enum import Enum
from typing import cast

import httptools

from gateway.http import limits
from gateway.http.head import Refusal, check_head, head_bytes, is_request_line, split_absolute
from gateway.http.request import Request, Wire

# The parser's message for methods that it knows from other protocols only (RTSP, ICECAST).
_NOT_OF_HTTP = "Invalid method for HTTP/x.x request"
_FRAMING = (b"content-length", b"transfer-encoding")


class Part(Enum):
    """What the next byte belongs to."""

    NOTHING = "nothing"  # between requests
    HEAD = "head"
    BODY = "body"
    FRAMING = "framing"  # not the client's: a new parser is told how the body is framed, see _ignore_upgrade


class RequestReader:
    """The requests of one connection, in order. `on_request` is called with each request once its head is complete.

    `on_request` may raise Refusal, as `feed` does.
    """

    def __init__(self, wire: Wire, pace: limits.Pace, on_request: Callable[[Request], None]) -> None:
        self.part = Part.NOTHING
        self._wire = wire
        self._pace = pace
        self._on_request = on_request
        self._parser = self._new_parser()
        self._line = b""  # of a request line, while its method is incomplete
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._request: Request | None = None  # the newest

    def forget(self) -> None:
        """Drops the last request, which is answered: an idle connection keeps no memory for it."""
        self._target, self._fields, self._request = b"", [], None

    def close(self) -> None:
        """Nothing more will come. Breaks two cycles: parser and reader, reader and connection."""
        self._parser = cast("httptools.HttpRequestParser", None)
        self._wire = cast("Wire", None)
        self._on_request = _ignore
        self.forget()

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
        self._line = self._line + bytes(data) if self.part is Part.HEAD and not self._target else b""

    def waits_for_more(self, size: int, *, is_paused: bool) -> bool:
        """After a read of `size` bytes that did not complete a request: whether it is still within its limits.

        `is_paused`: the connection does not read now, so the client cannot be late.
        """
        return self._pace.count(size, is_body=self.part is Part.BODY, is_paused=is_paused)

    def give_time(self) -> None:
        """From now on the client has its full time for the next part of its request."""
        self._pace.give_time(is_body=self.part is Part.BODY)

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
            self.part = Part.FRAMING
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            if self.part is Part.FRAMING:  # not for a body of no bytes, which is complete already
                self.part = Part.BODY

    # -- what the parser finds --

    def on_message_begin(self) -> None:
        if self.part is not Part.FRAMING:
            self.part = Part.HEAD
            self._pace.begin_part()
            self._target = b""
            self._fields = []

    def on_url(self, url: bytes) -> None:
        if self.part is not Part.FRAMING:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser leaves white space behind values. Fields that come while a body is read are trailers."""
        if self.part is Part.HEAD:
            if len(self._fields) >= limits.MAX_FIELDS:
                raise Refusal(431, "The request head has too many fields.")
            self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.part is Part.FRAMING:
            return
        method, version = self._parser.get_method().decode("ascii"), self._parser.get_http_version()
        check_head(method, version, self._target, self._fields)
        if self._pace.is_timed and head_bytes(method, self._target, self._fields) > limits.MAX_HEAD_BYTES:
            raise Refusal(431, "The request head is too long.")
        if not self._target.startswith(b"/"):
            self._take_origin_form()
        is_http_10 = version == "1.0"
        self._request = Request(
            self._wire,
            method,
            self._target,
            self._fields,
            is_http_10=is_http_10,
            is_keep_alive=not is_http_10 and self._parser.should_keep_alive(),
        )
        self.part = Part.BODY
        self._pace.begin_part()
        self._pace.has_progressed = True
        self._on_request(self._request)

    def _take_origin_form(self) -> None:
        """An absolute-form target means its path, and its authority is the Host (RFC 9112 section 3.2.2)."""
        authority, self._target = split_absolute(self._target)
        if authority is not None:
            self._fields = [(name, authority if name == b"host" else value) for name, value in self._fields]

    def on_body(self, body: bytes) -> None:
        self._pace.has_progressed = True
        if self._request is not None:
            self._request.feed(body)

    def on_message_complete(self) -> None:
        self._pace.has_progressed = True
        self.part = Part.NOTHING
        if self._request is not None:
            self._request.is_whole = True


def _ignore(request: Request) -> None:
    """What a closed reader calls."""
