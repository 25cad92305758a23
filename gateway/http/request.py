"""One client's request, its body as far as it has come, and the framing of its answer (RFC 9112 section 6).

Knows nothing of what requests and answers mean. The answerer of a request is told by plain calls that something is new
(`Answerer`), and then pulls it.
"""

import logging
import time
from email.utils import formatdate
from http import HTTPStatus

from gateway.errors import GatewayError
from gateway.http import limits
from gateway.http.head import TASK_ID, Fields, RequestHead
from gateway.http.wire import NOWHERE, Answerer, Wire
from gateway.tasks.task import named_id

log = logging.getLogger("gateway.request")

_PAGE_FIELDS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
]
# Each piece of a body takes some 50 bytes beside its own. A chunk may have a single byte.
_MOST_PIECES = 512
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_WITHOUT_BODY = frozenset({204, 304})
# Each answer of our own has these fields, unless it has its own value: browsers do not guess its type, pages of other
# sites cannot load it as an image or a script, caches do not keep it.
_OWN = {
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}


def _status_line(status: int) -> bytes:
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    return b"HTTP/1.1 %d %b\r\n" % (status, phrase.encode())


_STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


class BodyMismatch(Exception):
    """The body of an answer is longer than its head says. The client would read the rest as the next answer."""


class Request(RequestHead):
    """A request of a client, and its answer.

    `take` gives the part of the body that has come. The answer is `start`, any number of `write`, and `end`, or all of
    it at once by `answer`. Its head is sent together with the first piece, or by `flush`.
    """

    __slots__ = (
        "_head", "_pieces", "_room_bytes", "answerer", "body_bytes", "is_chunked", "is_keep_alive", "is_started",
        "is_whole", "most_waiting_bytes", "own_lines", "waiting_bytes", "wire",
    )  # fmt: skip

    def __init__(
        self,
        wire: Wire,
        method: str,
        target: bytes,
        fields: Fields,
        by_name: dict[bytes, bytes] | None = None,
        *,
        is_http_10: bool,
        is_keep_alive: bool,
    ) -> None:
        super().__init__(method, target, fields, by_name, is_http_10=is_http_10)
        self.wire = wire
        # the body
        self.is_whole = False
        self.body_bytes = 0  # that have come so far
        self.waiting_bytes = 0  # of them, not taken yet
        self.most_waiting_bytes = limits.BODY_HIGH_WATER_BYTES  # at which reading pauses
        self._pieces: list[bytes] = []
        # the answer
        self.answerer: Answerer | None = None  # while it is being answered: they hold each other
        self.is_keep_alive = is_keep_alive
        self.own_lines = b""  # field lines that every answer to it carries
        self.is_started = False
        self._head = b""  # until it is sent
        self.is_chunked = False
        self._room_bytes: int | None = 0  # of the body that may still be sent; None if it has no length

    def __repr__(self) -> str:
        answer = "its answer has begun" if self.is_started else "no answer yet"
        return f"<Request {self.method} {self.target!r}, {'whole' if self.is_whole else 'incomplete'}, {answer}>"

    # -- what answers it --

    def answered_by(self, answerer: Answerer) -> None:
        """From now on `answerer` is told what is new, until the answer is complete or the client has left."""
        self.answerer = answerer

    def lose(self) -> None:
        """The client has left."""
        answerer, self.answerer = self.answerer, None
        if answerer is not None:
            answerer.on_left()

    # -- the body --

    def feed(self, piece: bytes) -> None:
        """A piece of the body has come."""
        if len(self._pieces) == _MOST_PIECES:
            self._pieces = [b"".join(self._pieces)]
        self._pieces.append(piece)
        self.body_bytes += len(piece)
        self.waiting_bytes += len(piece)

    def read_ahead(self, most_bytes: int = limits.QUEUED_BODY_BYTES) -> None:
        """The request waits: reads more of its body meanwhile than while `take` is called, at least the default."""
        self.most_waiting_bytes = max(most_bytes, limits.QUEUED_BODY_BYTES)
        self.wire.hold_reading()

    def newest(self, count: int) -> bytes:
        """The last `count` bytes of the body that have come. None of them was taken yet."""
        pieces: list[bytes] = []
        for piece in reversed(self._pieces):
            if count <= 0:
                break
            pieces.append(piece[-count:])
            count -= len(piece)
        return b"".join(reversed(pieces))

    @property
    def is_read(self) -> bool:
        """After `read_ahead`: whether all of the body is here that is read before the request has its place."""
        if self.is_whole or self.is_continue_due or self.waiting_bytes >= limits.QUEUED_BODY_BYTES:
            return True
        return int(self.by_name.get(b"content-length", b"0")) > limits.QUEUED_BODY_BYTES

    def take_framed(self, *, is_last: bool) -> bytes:
        """As `take`, framed as the client framed it. `is_last` says that nothing follows."""
        piece = self.take()
        return chunk(piece, is_last=is_last) if b"transfer-encoding" in self.by_name else piece

    def take(self) -> bytes:
        """The part of the body that has come and was not taken yet, or b""."""
        piece = b"".join(self._pieces)
        self._pieces.clear()
        self.waiting_bytes = 0
        self.most_waiting_bytes = limits.BODY_HIGH_WATER_BYTES
        if self.wire.is_read_paused:
            self.wire.hold_reading()
        return piece

    def send_continue(self) -> None:
        """Sends 100 Continue, once, if the client waits for it."""
        if self.is_continue_due and not self.is_started:
            self.wire.send(_CONTINUE)
            self.wire.give_time()
        self.is_continue_due = False

    @property
    def is_held_back(self) -> bool:
        """Whether the client sends no body because it waits for 100 Continue. One that sends anyway waits no more."""
        return self.is_continue_due and not self.body_bytes

    # -- a request without its client --

    def leave_client(self) -> None:
        """Goes on without its client: what is sent from now on is dropped, and nothing waits for it."""
        self.wire = NOWHERE

    @property
    def has_client(self) -> bool:
        """Whether a client is there as far as is known."""
        return self.wire is not NOWHERE

    def parted(self) -> "Request":
        """The same request, whole, without its client and without an answer yet. Takes over the body."""
        twin = Request(NOWHERE, self.method, self.target, self.fields, is_http_10=self.is_http_10, is_keep_alive=False)
        twin.owner, twin.sees_all, twin.withheld = self.owner, self.sees_all, self.withheld
        twin.is_whole, twin.body_bytes, twin.waiting_bytes = self.is_whole, self.body_bytes, self.waiting_bytes
        twin._pieces, self._pieces, self.waiting_bytes = self._pieces, [], 0
        twin.is_continue_due = False
        return twin

    # -- the answer --

    def start(self, status: int, field_lines: bytes, *, length: int | None) -> None:
        """Prepares the head. `length` is the Content-Length among `field_lines`, None if they have none.

        If the request is not complete yet, it is the connection's last: the gateway does not read to its end.
        """
        self.is_started = True
        self.is_keep_alive = self.is_keep_alive and self.is_whole
        framing = b"" if self.is_keep_alive else b"connection: close\r\n"
        if self.method == "HEAD" or status in _WITHOUT_BODY:
            self._room_bytes = 0
        elif length is not None:
            self._room_bytes = length
        else:  # HTTP/1.0 has no chunks: there the body ends with the connection
            self._room_bytes = None
            self.is_chunked = not self.is_http_10
            framing += b"transfer-encoding: chunked\r\n" if self.is_chunked else b""
        self._head = b"%b%b%b%b\r\n" % (_STATUS_LINES[status], field_lines, self.own_lines, framing)

    def flush(self) -> None:
        """Sends the head, if it was not sent yet."""
        if self._head:
            head, self._head = self._head, b""
            self.wire.send(head)

    def write(self, piece: bytes) -> None:
        """Sends a piece of the body, which must not be empty. Raises BodyMismatch if it is longer than the head says.

        The chunk is made here and not by `chunk`: a piece of a stream costs five Python calls
        (tests/integration/test_cost.py), and would cost six.
        """
        if self.is_chunked:
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        elif self._room_bytes is not None:
            self._room_bytes -= len(piece)
            if self._room_bytes < 0:
                raise BodyMismatch("more of the body than its head says")
        if self._head:
            piece, self._head = self._head + piece, b""
        self.wire.send(piece)

    def end(self, piece: bytes = b"") -> None:
        """Sends the last piece of the body, which may be empty. The answer is complete.

        If the body is not as long as the head says, the answer is broken off: else the client would read a part of
        one answer as another (response splitting).
        """
        if self.is_chunked:
            piece = chunk(piece, is_last=True)
        elif self._room_bytes is not None and len(piece) != self._room_bytes:
            log.error("an answer was broken off: it has %+d bytes against its head", len(piece) - self._room_bytes)
            self.break_off()
            return
        if self._head:
            piece, self._head = self._head + piece, b""
        if piece:
            self.wire.send(piece)
        self.answerer = None
        self._pieces, self.waiting_bytes = [], 0  # what was not taken is dropped
        self.wire.finish(self)

    def break_off(self) -> None:
        """Closes the connection without completing the answer. The last chunk is never forged."""
        self.flush()
        self.wire.break_off(is_reset=self._room_bytes is None and not self.is_chunked)

    def answer(self, status: int, fields: Fields, body: bytes = b"") -> None:
        """Sends a complete answer of the gateway's own."""
        own = [*fields, (b"date", http_date())]
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            own.append((b"content-length", b"%d" % len(body)))
        self.start(status, lines(own), length=len(body))
        self.end(b"" if self.method == "HEAD" else body)

    def refuse(self, error: GatewayError, *, task_id: str | None = None, has_detail: bool = False) -> None:
        """Answers with an error of our own, in OpenAI's shape. `has_detail` adds `detail`, as the routes' errors have.

        With `has_detail` a browser gets a page. The answer names the task that the client asked for, also if this
        request may not begin it.
        """
        is_page = has_detail and b"text/html" in self.by_name.get(b"accept", b"")
        fields = _PAGE_FIELDS[:] if is_page else [(b"content-type", b"application/json")]
        task_id = task_id or named_id(self.values(TASK_ID))
        if task_id is not None:
            fields.append((TASK_ID, task_id.encode()))
        if error.is_retry_useless:
            fields.append((b"x-should-retry", b"false"))  # OpenAI's clients obey it
        if error.retry_after_seconds is not None:
            fields.append((b"retry-after", b"%d" % error.retry_after_seconds))
        if error.length is not None:
            fields.append((b"content-range", b"bytes */%d" % error.length))
        if error.allowed:
            fields.append((b"allow", error.allowed.encode()))
        if error.status == HTTPStatus.UNAUTHORIZED:
            fields.append((b"www-authenticate", b"Bearer"))  # RFC 9110 section 11.6.1
        if error.is_last:
            self.is_keep_alive = False
        body = error.page() if is_page else error.body(has_detail=has_detail)
        self.answer(error.status, own_fields(fields), body)


class _DateClock:
    """The current IMF-fixdate (RFC 9110 section 5.6.7), formatted once a second: 0.3 us per answer instead of 3.8."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


http_date = _DateClock()


def closing_response(status: int, fields: bytes, body: bytes) -> bytes:
    """A complete response that is the connection's last. `fields` are field lines with their CRLF."""
    ours = b"date: %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (http_date(), len(body))
    return _STATUS_LINES[status] + fields + ours + body


def own_fields(fields: Fields) -> Fields:
    """The fields (lower-case names) of an answer of our own, and those that each has. An Allow with GET gets HEAD."""
    names = {name for name, _ in fields}
    if b"allow" in names:
        fields = [(name, _with_head(value) if name == b"allow" else value) for name, value in fields]
    return [*fields, *(field for field in _OWN.items() if field[0] not in names)]


def _with_head(allowed: bytes) -> bytes:
    methods = [method.strip() for method in allowed.split(b",")]
    if b"GET" in methods and b"HEAD" not in methods:
        methods.insert(methods.index(b"GET") + 1, b"HEAD")
    return b", ".join(methods)


def lines(fields: Fields) -> bytes:
    """The field lines of a message head."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def chunk(piece: bytes, *, is_last: bool) -> bytes:
    """`piece` as a chunk, and the last chunk behind it if `is_last`; that one may be empty (RFC 9112 section 7.1)."""
    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    return framed + b"0\r\n\r\n" if is_last else framed
