"""Reads Ollama's answers: the head (httptools knows the grammar) and the body up to its end.

One object reads one message, so nothing of a message can touch the next. It knows bytes, no socket and no client.
"""

import re
from http import HTTPStatus
from typing import Protocol, cast

import httptools

from gateway.errors import UpstreamBroken
from gateway.http.head import Fields

# Of interim heads and the final one together.
_MAX_HEAD_BYTES = 262_144
# Limit of the lines between and behind chunks that come without a byte of the body.
_MAX_SILENT_BYTES = 65_536
_MAX_LENGTH_DIGITS = 19
_HEAD_END = b"\r\n\r\n"
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_WITHOUT_BODY = frozenset({204, 304})
# How many chunk sizes are remembered, and how long a line with such a size is at most.
_MAX_SIZES = 1024
_SHORT_LINE_BYTES = 6
_NO_PARSER = cast("httptools.HttpResponseParser", None)
_SILENT = "64 KiB in which the body did not get on"
# RFC 9112 section 7.1. A line that is not whole is compared with _BEGUN, so that garbage is refused at once.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[^\r\n\x00]*)?\r\n")
_DATA_END = re.compile(rb"\r\n")
_TRAILER_LINE = re.compile(rb"[^\r\n\x00]*\r\n")
_BEGUN = {
    _SIZE_LINE: re.compile(rb"[0-9A-Fa-f]{1,16}(?:\r|[ \t]+|[ \t]*;[^\r\n\x00]*\r?)?"),
    _DATA_END: re.compile(rb"\r"),
    _TRAILER_LINE: re.compile(rb"[^\r\n\x00]*\r?"),
}


class Head:
    """The head of the answer to a request of `method`; interim answers are skipped.

    When the final head is whole, `status` is not 0 and `body` reads what follows. `leaves_usable` says whether the
    connection can carry another request after the body.
    """

    __slots__ = ("_bytes", "_is_whole", "_method", "_parser", "_seam", "body", "fields", "leaves_usable", "status")

    def __init__(self, method: str) -> None:
        self.status = 0
        self.fields: Fields = []  # lower-case names
        self.body: Body | None = None
        self.leaves_usable = False
        self._method = method
        self._bytes = 0
        self._seam = b""  # the last bytes of a head that is not whole; its end may be cut anywhere
        self._is_whole = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def has_begun(self) -> bool:
        """Whether a byte has come."""
        return self._bytes > 0

    def feed(self, data: bytes) -> bytes:
        """Returns what follows the final head. Raises UpstreamBroken."""
        while True:
            end = (self._seam + data).find(_HEAD_END)
            if end < 0:
                self._parse(data)
                self._seam = (self._seam + data)[1 - len(_HEAD_END) :]
                return b""
            end += len(_HEAD_END) - len(self._seam)
            self._parse(data[:end])
            data = data[end:]
            if self._end():
                return data

    def close(self) -> None:
        """Breaks the cycle: the parser holds this object, and this object holds the parser."""
        self._parser = _NO_PARSER

    def _parse(self, part: bytes) -> None:
        """Shows the parser one head and no byte more, so that it never acts on a body."""
        self._bytes += len(part)
        if self._bytes > _MAX_HEAD_BYTES:
            raise UpstreamBroken("Ollama's response head is too long")
        try:
            self._parser.feed_data(part)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            raise UpstreamBroken(f"Ollama sent what is not HTTP/1.1: {type(error).__name__}") from error

    def _end(self) -> bool:
        """A head is whole. Returns whether it is the final one."""
        status = self._parser.get_status_code() if self._is_whole else 0
        if 200 <= status < 600:
            self.leaves_usable = self._parser.should_keep_alive()
            self.body = self._body(status)
            self.status = status
            self._parser = _NO_PARSER  # as `close`
            return True
        if not 100 <= status < 200 or status == HTTPStatus.SWITCHING_PROTOCOLS:
            raise UpstreamBroken("Ollama sent a protocol switch that was not asked for, or no status at all")
        if any(name in _FRAMING for name, _ in self.fields):
            raise UpstreamBroken("Ollama sent an interim response with a body")  # RFC 9110 section 15.2
        self.fields, self._seam, self._is_whole = [], b"", False
        self._parser = httptools.HttpResponseParser(self)
        return False

    def _body(self, status: int) -> "Body":
        """The body that follows (RFC 9112 section 6.3). Raises UpstreamBroken.

        An answer that cannot have a body but has the framing of one may send the body all the same, and late. That
        would be taken for the next answer, so the connection is not used again. Nor is it after any answer to HEAD.
        """
        length = codings = None
        for name, value in self.fields:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                codings = value if codings is None else codings + b"," + value
        if length is not None and len(length) > _MAX_LENGTH_DIGITS:
            raise UpstreamBroken("Ollama sent a length beyond counting")
        if codings is not None and codings.lower() != b"chunked":
            raise UpstreamBroken("Ollama sent a transfer coding that was not asked for")
        if self._method == "HEAD" or status in _WITHOUT_BODY:
            self.leaves_usable = self.leaves_usable and self._method != "HEAD" and length is codings is None
            return LengthBody(0)
        if codings is not None:
            return ChunkedBody()
        return OpenBody() if length is None else LengthBody(int(length))

    # -- called by the parser --

    def on_header(self, name: bytes, value: bytes) -> None:
        """Strips the white space that the parser leaves behind a value (RFC 9110 section 5.5)."""
        self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._is_whole = True


class Body(Protocol):
    """The body of one answer. It is over when it is whole, or when `broken` says why it cannot become whole."""

    is_over: bool
    broken: str
    has_excess: bool  # bytes follow its end

    def feed(self, data: bytes) -> bytes:
        """Returns the bytes of the body in `data`, without their framing."""

    def is_whole_at_end(self) -> bool:
        """Whether a clean end of the connection makes the body whole."""


class LengthBody:
    """A body of `length` bytes; 0 if the message cannot have a body."""

    __slots__ = ("_left", "broken", "has_excess", "is_over")

    def __init__(self, length: int) -> None:
        self.is_over = not length
        self.broken = ""
        self.has_excess = False
        self._left = length

    def feed(self, data: bytes) -> bytes:
        left = self._left
        if len(data) > left:
            self.has_excess = True
            data = data[:left]
        self._left = left - len(data)
        self.is_over = not self._left
        return data

    def is_whole_at_end(self) -> bool:
        return False


class OpenBody:
    """A body that ends with the connection."""

    __slots__ = ("broken", "has_excess", "is_over")

    def __init__(self) -> None:
        self.is_over = self.has_excess = False
        self.broken = ""

    def feed(self, data: bytes) -> bytes:
        return data

    def is_whole_at_end(self) -> bool:
        return True


# Chunk sizes by their text on the wire. Reading a size strictly takes longer than all other steps of a chunk.
_sizes: dict[bytes, int] = {}


def _remember(line: bytes, size: int) -> None:
    if len(line) <= _SHORT_LINE_BYTES - len(b"\r\n"):
        if len(_sizes) >= _MAX_SIZES:
            _sizes.clear()
        _sizes[line] = size


class ChunkedBody:
    """A body in chunks (RFC 9112 section 7.1). Extensions and trailers are skipped; only their length is limited."""

    __slots__ = ("_expected", "_held", "_left", "_silent_bytes", "broken", "has_excess", "is_over")

    def __init__(self) -> None:
        self.is_over = self.has_excess = False
        self.broken = ""
        self._expected = _SIZE_LINE  # the line that comes next, if no data does
        self._left = 0  # bytes of this chunk that are still to come
        self._held = b""  # a line that is not whole
        self._silent_bytes = 0  # of trailers

    def feed(self, data: bytes) -> bytes:
        """Returns all chunks of one read as one piece.

        Nearly every read is one whole chunk of a known size. The first lines find it in a fourth of the time.
        """
        if self._expected is _SIZE_LINE and not self._held and data.endswith(b"\r\n"):
            line_end = data.find(b"\r\n", 0, _SHORT_LINE_BYTES)
            if line_end > 0 and _sizes.get(data[:line_end]) == len(data) - line_end - 4:
                return data[line_end + 2 : -2]
        if self._held:
            data, self._held = self._held + data, b""
        pieces: list[bytes] = []
        at = self._take_whole_chunks(data, pieces)
        if at < len(data):
            self._read(data, at, pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_whole_chunks(self, data: bytes, pieces: list[bytes]) -> int:
        """Takes the chunks of known sizes at the start of the read. Returns where the rest begins."""
        at = 0
        if self._expected is _SIZE_LINE:
            while (line_end := data.find(b"\r\n", at, at + _SHORT_LINE_BYTES)) > 0:
                start = line_end + 2
                end = start + _sizes.get(data[at:line_end], 0)
                if end == start or not data.startswith(b"\r\n", end):
                    break
                pieces.append(data[start:end])
                at = end + 2
        return at

    def _read(self, data: bytes, at: int, pieces: list[bytes]) -> None:
        end = len(data)
        while at < end and not self.is_over:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            line = self._expected.match(data, at)
            if line is None:
                self._hold(data[at:])
                break
            self._take_line(line)
            at = line.end()
        self.has_excess = at < end and self.is_over and not self.broken

    def _take_line(self, line: "re.Match[bytes]") -> None:
        size = line.end() - line.start()
        if self._expected is _DATA_END:
            self._expected = _SIZE_LINE
        elif size > _MAX_SILENT_BYTES:
            self._break(_SILENT)
        elif self._expected is _SIZE_LINE and (left := int(line[1], 16)):
            self._left = left
            self._expected = _DATA_END
            _remember(line[1], left)
        else:
            self._take_trailer_line(size)

    def _take_trailer_line(self, size: int) -> None:
        """Takes the size of the last chunk, a trailer, or the empty line that ends the message."""
        self._silent_bytes += size
        if self._silent_bytes > _MAX_SILENT_BYTES:
            self._break(_SILENT)
        elif self._expected is _TRAILER_LINE and size == len(b"\r\n"):
            self.is_over = True
        self._expected = _TRAILER_LINE

    def _hold(self, begun: bytes) -> None:
        """Keeps the start of a line, unless it cannot become one."""
        if _BEGUN[self._expected].fullmatch(begun) is None:
            self._break("what is no chunk")
        elif self._silent_bytes + len(begun) > _MAX_SILENT_BYTES:
            self._break(_SILENT)
        else:
            self._held = begun

    def _break(self, what: str) -> None:
        self.is_over = True
        self.broken = f"Ollama sent {what}"

    def is_whole_at_end(self) -> bool:
        return False
