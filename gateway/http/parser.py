"""Finds the requests in what a client sends: head, body, end. Knows HTTP/1.1's grammar (by httptools), no socket.

What is no proper request is refused here, before anybody hears of it. Called by server, once per read.
"""

from collections.abc import Callable
from enum import Enum
from typing import cast

import httptools

from gateway.http import limits
from gateway.http.guard import Refusal, check_head, head_bytes, is_request_line
from gateway.http.request import Request, Wire
from gateway.http.target import split_absolute

# What the parser says of methods that it knows from other protocols alone.
_NOT_OF_HTTP = "Invalid method for HTTP/x.x request"
_FRAMING = (b"content-length", b"transfer-encoding")


class Part(Enum):
    """What the next byte belongs to."""

    NOTHING = "nothing"  # between requests
    HEAD = "head"
    BODY = "body"


class RequestReader:
    """The requests of one connection, in order. `on_request` is called with each when its head is complete.

    It may raise Refusal, as `feed` does.
    """

    def __init__(self, wire: Wire, pace: limits.Pace, on_request: Callable[[Request], None]) -> None:
        self.part = Part.NOTHING
        self._wire = wire
        self._pace = pace
        self._on_request = on_request
        self._parser = self._new_parser()
        self._is_reading_framing = False
        self._begun = b""  # a request line whose method is not all here
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []
        self._request: Request | None = None  # the newest

    def forget(self) -> None:
        """The last request is answered: an idle connection holds nothing of it."""
        self._target, self._fields, self._request = b"", [], None

    def close(self) -> None:
        """Nothing more will come. The parser holds this object, this one the connection, and that this one."""
        self._parser = cast("httptools.HttpRequestParser", None)
        self._wire = cast("Wire", None)
        self._on_request = _nobody
        self.forget()

    def feed(self, data: memoryview) -> None:
        """Some bytes of the client's. Raises Refusal. An offered upgrade, at which the parser stops, is read on."""
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
        self._begun = self._begun + bytes(data) if self.part is Part.HEAD and not self._target else b""

    def _refusal_of(self, error: httptools.HttpParserError, data: memoryview) -> Refusal:
        """What the parser refused while it read `data`: a request of an unknown method, or no request at all."""
        is_odd_method = isinstance(error, httptools.HttpParserInvalidMethodError) and not self._target
        line = (self._begun + bytes(data)).lstrip(b"\r\n")
        if str(error) == _NOT_OF_HTTP or (is_odd_method and is_request_line(line)):
            return Refusal(501, "This method is not known here.")
        return Refusal(400, "Invalid HTTP request received.")

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What comes behind a request with `Connection: close` is no error of that request.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def _ignore_upgrade(self) -> None:
        """Goes on as if no upgrade had been asked for (RFC 9110 section 7.8 allows that).

        The parser takes such a head for the last of HTTP/1.1. Java's client offers h2c with every first request, so
        a new parser is told of the body that follows, and reads it.
        """
        framing = [b"%b: %b\r\n" % (name, value) for name, value in self._fields if name in _FRAMING]
        self._parser = self._new_parser()
        if framing and self._request is not None:
            self._request.is_whole = False
            self.part = Part.BODY
            self._is_reading_framing = True
            self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
            self._is_reading_framing = False

    # -- what the parser finds --

    def on_message_begin(self) -> None:
        if not self._is_reading_framing:
            self.part = Part.HEAD
            self._pace.begin_part()
            self._target = b""
            self._fields = []

    def on_url(self, url: bytes) -> None:
        if not self._is_reading_framing:
            self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """The parser leaves white space behind values; fields behind the head are trailers, and no fields of it."""
        if self.part is Part.HEAD:
            if len(self._fields) >= limits.MAX_FIELDS:
                raise Refusal(431, "The request head has too many fields.")
            self._fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._is_reading_framing:
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


def _nobody(request: Request) -> None:
    """Who is told of requests on a connection that is gone."""
