"""One client's request, as far as it has come, and the way on which its answer goes back.

Owns the framing of answers (RFC 9112 section 6) and nothing of their meaning. Who answers a request is told by plain
calls that there is news (`Answerer`), and pulls it. Made by server; answered by proxy, asgi and app.
"""

import logging
import time
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus
from typing import Protocol

from gateway.errors import GatewayError
from gateway.http.headers import TASK_ID, Fields, chunk, lines, own_fields
from gateway.tasks.task import named_id

log = logging.getLogger("gateway.request")

_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PAGE_FIELDS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
]
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def _status_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


class BodyMismatch(Exception):
    """The body of an answer is longer than its head says: another byte would be taken for the next answer."""


class Answerer(Protocol):
    """Who answers a request. Each call only says that there is something new; none may raise."""

    def on_request(self) -> None:
        """More of the request's body is here, or it is whole now."""

    def on_writable(self) -> None:
        """The client takes again what it could not take before."""

    def lose(self) -> None:
        """The client has left before its answer was complete."""


class Wire(Protocol):
    """What a request asks of its connection."""

    @property
    def is_writable(self) -> bool:
        """Whether less than the high-water mark waits for the client."""

    send: Callable[[bytes], None]  # as `write`, while the connection is known to be there: each piece goes this way

    def write(self, data: bytes) -> None: ...
    def put(self, size: int) -> None:
        """`size` bytes more of the body wait here."""

    def take(self, size: int) -> None:
        """`size` bytes no longer do."""

    def finish(self, request: "Request") -> None:
        """The answer is complete."""

    def look_for_client(self) -> None:
        """Tells who answers that the client has left, where it has and nothing was heard of that yet."""

    def break_off(self, *, is_reset: bool) -> None:
        """The answer will not be completed; `is_reset` where a plain end would make it look whole."""


class Request:
    """A request of a client. `fields` have lower-case names, `by_name` has the last value of each.

    What waits of the body is taken by `take`. The answer is `start`, any number of `write`, and `end` (or all at once:
    `answer`); its head goes out together with what follows it, or by `flush`.
    """

    __slots__ = (
        "_head", "_is_continue_due", "_is_until_close", "_pieces", "_room", "answerer", "body_bytes", "by_name",
        "credential", "fields", "is_chunked", "is_http_10", "is_keep_alive", "is_started", "is_whole", "method",
        "on_lost", "own_lines", "owner", "sees_all", "target", "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        method: str,
        target: bytes,
        fields: Fields,
        *,
        is_http_10: bool,
        is_keep_alive: bool,
    ) -> None:
        self.wire = wire
        # request
        self.method = method
        self.target = target  # as on the wire, in origin form
        self.fields = fields
        self.by_name = dict(fields)
        self.is_http_10 = is_http_10
        self.is_whole = False
        self.body_bytes = 0  # that have come so far
        self._pieces: list[bytes] = []
        expects = self.by_name.get(b"expect", b"")
        self._is_continue_due = bool(expects) and expects.lower() == b"100-continue" and not is_http_10
        # who sent it: where API keys are on, the key's name, whether it may see what is not its own, and the fields
        # that carried it
        self.owner = ""
        self.sees_all = True
        self.credential: tuple[bytes, ...] = ()
        # answer
        self.answerer: Answerer | None = None  # from its beginning to its end
        self.on_lost: Callable[[], object] | None = None  # for a route that waits
        self.is_keep_alive = is_keep_alive
        self.own_lines = b""  # field lines that every answer to it carries
        self.is_started = False
        self._head = b""
        self.is_chunked = False
        self._is_until_close = False
        self._room = 0  # bytes of the body that may still be sent, where it goes in no chunks

    def __repr__(self) -> str:
        answer = "its answer has begun" if self.is_started else "no answer yet"
        return f"<Request {self.method} {self.target!r}, {'whole' if self.is_whole else 'incomplete'}, {answer}>"

    @property
    def reader(self) -> str | None:
        """Whose tasks the client may see; None: all."""
        return None if self.sees_all else self.owner

    def values(self, name: bytes) -> list[bytes]:
        """The values of all fields of this (lower-case) name."""
        if name not in self.by_name:
            return []
        if len(self.by_name) == len(self.fields):
            return [self.by_name[name]]
        return [value for key, value in self.fields if key == name]

    # -- the body --

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        self._pieces.append(piece)
        self.body_bytes += len(piece)
        self.wire.put(len(piece))

    @property
    def has_piece(self) -> bool:
        return bool(self._pieces)

    def take(self) -> bytes:
        """What waits of the body, b"" for nothing."""
        if not self._pieces:
            return b""
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.wire.take(len(piece))
        return piece

    def send_continue(self) -> None:
        """Says once that the body is welcome, to a client that waits for that (RFC 9110 section 10.1.1)."""
        if self._is_continue_due and not self.is_started:
            self.wire.write(_CONTINUE)
        self._is_continue_due = False

    # -- the answer --

    def start(self, status: int, field_lines: bytes, *, length: int | None) -> None:
        """Makes the head ready; `length` is the Content-Length among its lines, None where there is none.

        A request that is answered before it is whole is the connection's last: where it ends is not known.
        """
        self.is_started = True
        self.is_keep_alive = self.is_keep_alive and self.is_whole
        framing = b"" if self.is_keep_alive else b"connection: close\r\n"
        if self.method == "HEAD" or status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self._room = 0
        elif length is not None:
            self._room = length
        else:
            self.is_chunked = not self.is_http_10
            self._is_until_close = self.is_http_10
            framing += b"transfer-encoding: chunked\r\n" if self.is_chunked else b""
        self._head = b"%b%b%b%b\r\n" % (_STATUS_LINES[status], field_lines, self.own_lines, framing)

    def flush(self) -> None:
        """Sends the head, if it is still here."""
        if self._head:
            head, self._head = self._head, b""
            self.wire.write(head)

    def write(self, piece: bytes) -> None:
        """Sends a piece of the body, not empty. Raises BodyMismatch where the head leaves no room for it."""
        if self.is_chunked:  # as headers.chunk does, which each piece of a stream would have to call
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        elif not self._is_until_close:
            self._room -= len(piece)
            if self._room < 0:
                raise BodyMismatch("more of the body than its head says")
        if self._head:
            piece, self._head = self._head + piece, b""
        self.wire.send(piece)

    def end(self, piece: bytes = b"") -> None:
        """Sends the last of the body; the answer is complete. What does not fit the head is broken off instead.

        Then the client would take a part of one answer for another (response splitting), whoever made the mistake.
        """
        if self.is_chunked:
            piece = chunk(piece, is_last=True)
        elif not self._is_until_close and len(piece) != self._room:
            log.error("an answer was broken off: it has %+d bytes against its head", len(piece) - self._room)
            self.break_off()
            return
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self.wire.write(piece)
        self.wire.finish(self)

    def break_off(self) -> None:
        """Ends the connection without the answer's end; a terminator is never forged (contract 3.5)."""
        self.flush()
        self.wire.break_off(is_reset=self._is_until_close)

    def answer(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """A whole answer of the gateway's own."""
        own = [*fields, (b"date", http_date())]
        if status != HTTPStatus.NO_CONTENT:
            own.append((b"content-length", b"%d" % len(body)))
        self.start(status, lines(own), length=len(body))
        self.end(b"" if self.method == "HEAD" else body)

    def refuse(self, error: GatewayError, *, task_id: str | None = None, has_detail: bool = False) -> None:
        """Answers with an error of our own, in OpenAI's shape; `has_detail` adds what errors of routes have.

        A person who opened such a route in a browser gets it in words.
        It names the task, also one that is not this request's to begin: the client is to know which it asked for.
        """
        is_page = has_detail and b"text/html" in self.by_name.get(b"accept", b"")
        fields = _PAGE_FIELDS[:] if is_page else [(b"content-type", b"application/json")]
        task_id = task_id or named_id(self.values(TASK_ID))
        if task_id is not None:
            fields.append((TASK_ID, task_id.encode()))
        if error.is_retry_useless:
            fields.append((b"x-should-retry", b"false"))  # what OpenAI's clients ask before they try again
        if error.retry_after_seconds is not None:
            fields.append((b"retry-after", b"%d" % error.retry_after_seconds))
        if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
            fields.append((b"allow", _ALLOWED))
        if error.status == HTTPStatus.UNAUTHORIZED:
            fields.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 11.6.1
        if error.is_last:
            self.is_keep_alive = False
        body = error.page() if is_page else error.body(has_detail=has_detail)
        self.answer(error.status, own_fields(fields), body)


class _DateClock:
    """The current IMF-fixdate (RFC 9110 section 5.6.7), formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


http_date = _DateClock()
