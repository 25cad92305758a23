"""Watches an event stream for its own end, without touching a byte of it.

Pure. Ollama ends a stream whose generation broke off like one that went well: HTTP 200, clean end of the body. The
only sign is the missing end event, so SUCCESS needs that event seen (contract 4.4). Called by proxy, once per
relayed piece.

Events are read as the standard has them (HTML, "Server-sent events", "Interpreting an event stream"), the JSON in them
by its top-level keys. Two things go beyond the standard, since clients and servers do: an event counts as soon as its
data is whole, for some clients act on the line and not on the blank one behind it; and a line `error: {…}`, which
llama.cpp's server sends, is an error, though the standard ignores such a field.

Whole events without a sign of an end are not read at all: a piece of them costs one search for each of a few words,
parts of all that is looked for as it is written. So a key or a name that is spelled with JSON escapes
(`"\\u0065rror"`) counts nowhere; no server is known to write its own names so.
"""

import re
from enum import Enum

from gateway.relay.top_level import KEPT_BYTES, Shape, TopLevelLook

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_LONGEST_FIELD = len(b"event")  # of those that count
_ERROR, _TYPE = b"error", b"type"
_NO_ERROR = (b"null", b"false", b'""')  # of `"error":…` in good events; OpenAI's clients take it so
_UNNAMED = (b"", b"message")  # the standard's name for an event without one


class Ending(Enum):
    """How an event stream announced its own end."""

    COMPLETE = "complete"
    ERROR = "error"


class Finals:
    """How the streams of one route end.

    `events` maps the names of final events to what they mean, `has_done` says whether `data: [DONE]` is an end. Each of
    these, and the word `error`, contains one of the two or three `words`.
    """

    __slots__ = ("events", "has_done", "signs", "types", "words")

    def __init__(
        self, events: dict[bytes, Ending], words: tuple[bytes, bytes, bytes | None], *, has_done: bool = False
    ) -> None:
        self.events = events
        self.has_done = has_done
        self.words = words
        self.types = {b'"%b"' % name: ending for name, ending in events.items()}
        # What an event has that announces an end, as it is written, beside `"error"`; others may have it, too.
        names = [name for name in events if name != _ERROR]
        self.signs = (*names, b"event:error", b"event: error", b"error:", b"[DONE]")

    def is_announced(self, text: bytes, start: int, end: int) -> bool:
        """Whether an event of text[start:end] may announce an end: False means that none does."""
        if any(text.find(sign, start, end) >= 0 for sign in self.signs):
            return True
        errors = text.count(b'"error"', start, end)
        nulls = (text.count(null, start, end) for null in (b'"error":null,', b'"error":null}'))
        return errors > 0 and errors > sum(nulls)


class EndWatch:
    """Finds the end event of one stream in the pieces it is shown, however they are cut.

    Where no `event` line names an event, the `type` of its JSON does. An `error` in the JSON is an error whatever the
    name. A name that comes behind its data makes an event final at the blank line, but takes no end back: a client may
    have acted on it.
    """

    __slots__ = (
        "_data", "_event", "_field", "_finals", "_head", "_is_after_cr", "_is_between", "_is_started", "_value",
        "_word", "_word_2", "_word_3",
    )  # fmt: skip

    def __init__(self, finals: Finals) -> None:
        self._finals = finals
        self._word, self._word_2, self._word_3 = finals.words
        # stream
        self._is_started = False  # no byte order mark can come any more
        self._is_after_cr = False  # a line feed that comes now belongs to the line break before it
        self._is_between = False  # the next byte begins an event
        # event
        self._event = b""  # its name so far
        self._data: TopLevelLook | None = None  # its data, the lines joined
        # line
        self._head = b""  # of the line, or of the stream, until it is known what it begins
        self._field = b""  # the field whose value goes on in the next piece
        self._value: bytes | TopLevelLook = b""  # of that field, where it is no data

    def feed(self, piece: bytes) -> Ending | None:
        """The ending that `piece` announces, if any: the first."""
        # Nearly every piece is one event without any of the words. `find` takes half of what `in` does, a loop a third
        # more than this.
        line_end = piece[-2:]
        if (
            self._is_between
            and (line_end == b"\n\n" or (line_end == b"\r\n" and piece[-4:] == b"\r\n\r\n"))
            and piece.find(self._word) < 0
            and piece.find(self._word_2) < 0
            and (self._word_3 is None or piece.find(self._word_3) < 0)
        ):
            return None
        return self._read(piece)

    def at_end(self) -> Ending | None:
        """The ending that a last line without a line break announces once the body is complete: its value is whole."""
        if self._field == b"data" and self._data is not None:
            is_whole = self._data.shape is Shape.WHOLE or self._is_done(self._data)
            return self._ending_of(self._data) if is_whole else None
        return self._end_line() if self._field == _ERROR else None

    def _read(self, piece: bytes) -> Ending | None:
        if not self._is_started:
            piece = self._head + piece
            if len(piece) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(piece):
                self._head = piece
                return None
            self._head, self._is_started, self._is_between = b"", True, True
            piece = piece.removeprefix(_BYTE_ORDER_MARK)
        start = 0
        if not self._is_between:
            first = _BLANK_LINE.search(piece)
            start = first.end() if first else len(piece)
            if (ending := self._read_lines(piece[:start])) is not None:
                return ending
        start = self._skip_events(piece, start)
        return self._read_lines(piece[start:])

    def _skip_events(self, piece: bytes, start: int) -> int:
        """Where the events end that begin at `start` and announce nothing for certain."""
        last = max(piece.rfind(b"\n\n", start), piece.rfind(b"\n\r\n", start))
        if last < 0 or not self._is_between:
            return start
        end = piece.index(b"\n", last + 1) + 1
        return start if self._finals.is_announced(piece, start, end) else end

    def _read_lines(self, text: bytes) -> Ending | None:
        if self._is_after_cr and text:
            text = text.removeprefix(b"\n")
            self._is_after_cr = False
        for line in text.splitlines(keepends=True):
            content = line.rstrip(b"\r\n")
            ending = self._read_line(content, is_whole=len(content) < len(line))
            if ending is not None:
                return ending
        self._is_after_cr = self._is_after_cr or text.endswith(b"\r")
        is_inside = self._is_after_cr or self._head or self._field or self._event or self._data is not None
        self._is_between = not is_inside
        return None

    def _read_line(self, part: bytes, *, is_whole: bool) -> Ending | None:
        """Reads what a piece has of one line; the ending that the line announces, once it is whole."""
        if not self._field:
            part = self._head + part
            name, _, value = part.partition(b":")
            if not is_whole and not value and len(name) <= _LONGEST_FIELD:
                self._head = part  # a space that comes now is not yet of the value
                return None
            self._head = b""
            if is_whole and not part:
                return self._end_event()
            self._begin_field(name)
            part = value.removeprefix(b" ")
        if self._field == b"data" and self._data is not None:
            self._data.feed(part)
        elif isinstance(self._value, TopLevelLook):
            self._value.feed(part)
        elif self._field == b"event":
            self._value = (self._value + part[:KEPT_BYTES])[:KEPT_BYTES]
        return self._end_line() if is_whole else None

    def _begin_field(self, name: bytes) -> None:
        self._field, self._value = name[: _LONGEST_FIELD + 1] or b":", b""
        if name == _ERROR:
            self._value = TopLevelLook(frozenset())
        elif name == b"data":
            if self._data is None:
                self._data = TopLevelLook(frozenset((_ERROR, _TYPE)))
            else:
                self._data.feed(b"\n")

    def _end_line(self) -> Ending | None:
        field, value, self._field, self._value = self._field, self._value, b"", b""
        if field == b"data" and self._data is not None:
            return None if self._data.shape is Shape.OPEN else self._ending_of(self._data)
        if isinstance(value, TopLevelLook):
            return Ending.ERROR if value.shape is Shape.WHOLE else None
        if field == b"event":
            self._event = value
        return None

    def _end_event(self) -> Ending | None:
        """The blank line. An event without data is none, whatever its name."""
        ending = None if self._data is None else self._finals.events.get(self._event)
        self._event, self._data = b"", None
        return ending

    def _ending_of(self, data: TopLevelLook) -> Ending | None:
        if self._is_done(data):
            return Ending.COMPLETE
        # Only of a whole object are there values for certain.
        values = data.values if data.shape is Shape.WHOLE else {}
        if values.get(_ERROR, b"null") not in _NO_ERROR:
            return Ending.ERROR
        if self._event in _UNNAMED:
            return self._finals.types.get(values.get(_TYPE, b""))
        return self._finals.events.get(self._event)

    def _is_done(self, data: TopLevelLook) -> bool:
        return self._finals.has_done and data.head.strip() == b"[DONE]"


_CHAT = Finals({b"error": Ending.ERROR}, (b"error", b"[DONE]", None), has_done=True)
_RESPONSES = Finals(
    {
        b"response.completed": Ending.COMPLETE,
        b"response.incomplete": Ending.COMPLETE,
        b"response.failed": Ending.ERROR,
        b"error": Ending.ERROR,
    },
    (b"error", b"complete", b"failed"),
)
_MESSAGES = Finals({b"message_stop": Ending.COMPLETE, b"error": Ending.ERROR}, (b"error", b"message_stop", None))
_FINALS = {
    b"/v1/chat/completions": _CHAT,
    b"/v1/completions": _CHAT,
    b"/v1/responses": _RESPONSES,
    b"/v1/messages": _MESSAGES,
}


def end_watch(path: bytes) -> EndWatch | None:
    """The watch for a stream answered on `path` (as on the wire); None where a clean end is all there is."""
    finals = _FINALS.get(path.rstrip(b"/"))
    return None if finals is None else EndWatch(finals)
