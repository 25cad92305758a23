"""Watches an event stream for its own end, without changing a byte of it.

Pure. Ollama ends a stream whose generation broke off like one that went well: HTTP 200 and a clean end of the body.
Only the end event is missing, so SUCCESS needs that event (docs/behaviour.md, "Tasks"). ENDS lists these events.

Events are read as the standard says (HTML, "Server-sent events", "Interpreting an event stream"), their JSON by its
top-level keys. Two rules go beyond the standard, because clients and servers do. An event counts as soon as its data is
whole, because some clients act on that line and not on the blank line behind it. A line `error: {…}`, which llama.cpp's
server sends, is an error, although the standard ignores such a field.

A piece of whole events that cannot hold an end is not read at all. It costs one search for each of a few words. So a
key or a name that is written with JSON escapes (`"\\u0065rror"`) does not count; no known server writes one.
"""

import re
from enum import Enum
from typing import NamedTuple

from gateway.relay.top_level import KEPT_BYTES, Shape, TopLevelKeys

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_LONGEST_FIELD = len(b"event")  # of the fields that are read
_ERROR, _TYPE, _DONE = b"error", b"type", b"[DONE]"
_NO_ERROR = (b"null", b"false", b'""')  # values of `"error"` in good events; OpenAI's clients read them so
_UNNAMED = (b"", b"message")  # names of an event that the standard takes for none


class Ending(Enum):
    """How an event stream announced its own end."""

    COMPLETE = "complete"
    ERROR = "error"


class EndEvent(NamedTuple):
    """An event that ends a stream.

    `name` stands in its `event` line, or as `type` in its JSON; `[DONE]` is the whole data. `word` is the part of the
    name that is searched for.
    """

    name: bytes
    ending: Ending
    word: bytes


_ERROR_EVENT = EndEvent(_ERROR, Ending.ERROR, _ERROR)
_CHAT_ENDS = (EndEvent(_DONE, Ending.COMPLETE, _DONE), _ERROR_EVENT)
# The events that end a stream, by the path that it answers. At most three different words for each.
ENDS: dict[bytes, tuple[EndEvent, ...]] = {
    b"/v1/chat/completions": _CHAT_ENDS,
    b"/v1/completions": _CHAT_ENDS,
    b"/v1/responses": (
        EndEvent(b"response.completed", Ending.COMPLETE, b"complete"),
        EndEvent(b"response.incomplete", Ending.COMPLETE, b"complete"),
        EndEvent(b"response.failed", Ending.ERROR, b"failed"),
        _ERROR_EVENT,
    ),
    b"/v1/messages": (EndEvent(b"message_stop", Ending.COMPLETE, b"message_stop"), _ERROR_EVENT),
}


class EndSearch:
    """The end events of one path, prepared for the search."""

    __slots__ = ("events", "has_done", "signs", "types", "words")

    def __init__(self, ends: tuple[EndEvent, ...]) -> None:
        self.has_done = any(end.name == _DONE for end in ends)
        self.events = {end.name: end.ending for end in ends if end.name != _DONE}
        self.types = {b'"%b"' % name: ending for name, ending in self.events.items()}
        first, second, *more = dict.fromkeys(end.word for end in ends)
        if len(more) > 1:
            raise ValueError(f"{len(more) + 2} different words of end events; allowed: two or three")
        self.words = first, second, more[0] if more else None
        # Besides `"error"`, one of these stands in every end event, and perhaps in other events.
        names = [end.name for end in ends if end.name != _ERROR]
        self.signs = (*names, b"event:error", b"event: error", b"error:")

    def may_end(self, text: bytes, start: int, end: int) -> bool:
        """Whether there may be an end event in text[start:end]. False is certain."""
        if any(text.find(sign, start, end) >= 0 for sign in self.signs):
            return True
        errors = text.count(b'"error"', start, end)
        nulls = (text.count(null, start, end) for null in (b'"error":null,', b'"error":null}'))
        return errors > 0 and errors > sum(nulls)


_SEARCHES = {path: EndSearch(ends) for path, ends in ENDS.items()}


def end_watch(path: bytes) -> "EndWatch | None":
    """The watch for a stream that answers `path` (as on the wire). None: a clean end of the body is enough."""
    search = _SEARCHES.get(path.rstrip(b"/"))
    return None if search is None else EndWatch(search)


class EndWatch:
    """Finds the end event of one stream, however the pieces are cut.

    An event without an `event` line is named by the `type` of its JSON. An `error` in the JSON is an error whatever the
    name. A name may come behind the data: then the event counts at its blank line. Such a name takes back no end that
    was found before it, because a client may have acted on that.
    """

    __slots__ = (
        "_data", "_event", "_field", "_head", "_is_after_cr", "_is_between", "_is_started", "_search", "_value",
        "_word", "_word_2", "_word_3",
    )  # fmt: skip

    def __init__(self, search: EndSearch) -> None:
        self._search = search
        self._word, self._word_2, self._word_3 = search.words
        # stream
        self._is_started = False  # the place of a byte order mark has passed
        self._is_after_cr = False  # a line feed that comes now belongs to the line break before it
        self._is_between = False  # the next byte begins an event
        # event
        self._event = b""  # its name so far
        self._data: TopLevelKeys | None = None  # its data, with the lines joined
        # line
        self._head = b""  # the start of the line, or of the stream, while its meaning is open
        self._field = b""  # the field whose value goes on in the next piece
        self._value: bytes | TopLevelKeys = b""  # the value of that field, if it is not `data`

    def feed(self, piece: bytes) -> Ending | None:
        """The first ending that `piece` announces, or None."""
        # Nearly every piece is one event without any of the words. `find` takes half the time of `in`, and a loop takes
        # a third more than these three lines.
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
        """The ending in a last line without a line break. The body is complete, so the value of that line is whole."""
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
        """Returns the end of the events that begin at `start`, or `start` if one of them may be an end event."""
        last = max(piece.rfind(b"\n\n", start), piece.rfind(b"\n\r\n", start))
        if last < 0 or not self._is_between:
            return start
        end = piece.index(b"\n", last + 1) + 1
        return start if self._search.may_end(piece, start, end) else end

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
        """Reads the part of a line that a piece has. Returns the ending that the whole line announces."""
        if not self._field:
            part = self._head + part
            name, _, value = part.partition(b":")
            if not is_whole and not value and len(name) <= _LONGEST_FIELD:
                self._head = part  # a space that comes now is not a part of the value
                return None
            self._head = b""
            if is_whole and not part:
                return self._end_event()
            self._begin_field(name)
            part = value.removeprefix(b" ")
        if self._field == b"data" and self._data is not None:
            self._data.feed(part)
        elif isinstance(self._value, TopLevelKeys):
            self._value.feed(part)
        elif self._field == b"event":
            self._value = (self._value + part[:KEPT_BYTES])[:KEPT_BYTES]
        return self._end_line() if is_whole else None

    def _begin_field(self, name: bytes) -> None:
        self._field, self._value = name[: _LONGEST_FIELD + 1] or b":", b""
        if name == _ERROR:
            self._value = TopLevelKeys(frozenset())
        elif name == b"data":
            if self._data is None:
                self._data = TopLevelKeys(frozenset((_ERROR, _TYPE)))
            else:
                self._data.feed(b"\n")

    def _end_line(self) -> Ending | None:
        field, value, self._field, self._value = self._field, self._value, b"", b""
        if field == b"data" and self._data is not None:
            return None if self._data.shape is Shape.OPEN else self._ending_of(self._data)
        if isinstance(value, TopLevelKeys):
            return Ending.ERROR if value.shape is Shape.WHOLE else None
        if field == b"event":
            self._event = value
        return None

    def _end_event(self) -> Ending | None:
        """Takes the blank line. An event without data does not count, whatever its name."""
        ending = None if self._data is None else self._search.events.get(self._event)
        self._event, self._data = b"", None
        return ending

    def _ending_of(self, data: TopLevelKeys) -> Ending | None:
        if self._is_done(data):
            return Ending.COMPLETE
        # The values of an object are final once it is whole.
        values = data.values if data.shape is Shape.WHOLE else {}
        if values.get(_ERROR, b"null") not in _NO_ERROR:
            return Ending.ERROR
        if self._event in _UNNAMED:
            return self._search.types.get(values.get(_TYPE, b""))
        return self._search.events.get(self._event)

    def _is_done(self, data: TopLevelKeys) -> bool:
        return self._search.has_done and data.head.strip() == _DONE
