"""Watches an event stream for its own end, without touching a byte of it.

Pure. Ollama ends a stream whose generation died like one that went well: HTTP 200, clean end of the body. The
only sign is the missing end event, so SUCCESS needs that event seen (contract 4.4). Called by proxy, once per
relayed piece; the cost for a piece without an end is one search for a marker.
"""

from enum import Enum

# As much of a line as any marker below needs, so a line that grows over many pieces costs no memory.
_LINE_HEAD_BYTES = 64


class Ending(Enum):
    """How an event stream announced its own end."""

    COMPLETE = "complete"
    ERROR = "error"


class EndWatch:
    """Finds the end event of one stream in the pieces it is shown, however they are cut.

    `events` maps the names of final events (HTML, "Server-sent events") to what they mean; the JSON of a data line may
    name one instead (`{"type":"…"`). `has_done` says whether `data: [DONE]` ends the stream, `ordinary` how most of its
    lines begin, none of which announces an end. An event counts once its data line is whole: clients act on that.
    """

    __slots__ = (
        "_after_cr", "_data", "_event", "_events", "_has_done", "_is_at_break", "_line", "_markers", "_ordinary",
    )  # fmt: skip

    def __init__(self, events: dict[bytes, Ending], *, has_done: bool = False, ordinary: bytes = b"\n") -> None:
        self._events = events
        self._has_done = has_done
        self._data = {b'{"type":"' + name + b'"': ending for name, ending in events.items()}
        self._data[b'{"error":'] = Ending.ERROR
        if has_done:
            self._data[b"[DONE]"] = Ending.COMPLETE
        markers = {b"[DONE]", b"error"} if has_done else set(events)
        self._markers = tuple(sorted(markers))
        self._ordinary = ordinary
        self._after_cr = False  # a line feed that comes now belongs to the line break before it
        self._line = b""  # the head of the line that the last piece left unfinished
        self._event: Ending | None = None  # a final event was named, its data line is still to come
        self._is_at_break = True  # none of these three has anything

    def feed(self, piece: bytes) -> Ending | None:
        """The ending that a line completed by `piece` announces, if any."""
        if self._is_at_break and piece.endswith(b"\n"):
            # Nearly every piece is one such line; looking for its break takes a third of looking for the markers.
            if piece.startswith(self._ordinary) and piece.find(b"\n") == len(piece) - 2 and piece.find(b"\r") < 0:
                return None
            for marker in self._markers:
                if piece.find(marker) >= 0:  # half of what `in` costs
                    break
            else:
                return None
        ending = self._read(piece)
        self._is_at_break = not (self._line or self._after_cr or self._event)
        return ending

    def _read(self, piece: bytes) -> Ending | None:
        last_break = max(piece.rfind(b"\n"), piece.rfind(b"\r"))
        if last_break < 0:
            self._line = (self._line + piece)[:_LINE_HEAD_BYTES]
            self._after_cr = self._after_cr and not self._line
            return None
        text = self._line + piece[: last_break + 1]
        if self._after_cr and text.startswith(b"\n"):
            text = text[1:]
        self._after_cr = piece.endswith(b"\r")
        self._line = piece[last_break + 1 : last_break + 1 + _LINE_HEAD_BYTES]
        if self._event is None and not any(marker in text for marker in self._markers):
            return None
        return next((e for e in map(self._take_line, text.splitlines()) if e is not None), None)

    def at_end(self) -> Ending | None:
        """The ending announced by a last `data: [DONE]` without a line break, once the body is complete."""
        is_done = self._has_done and self._line.startswith(b"data:") and self._line[5:].strip() == b"[DONE]"
        return Ending.COMPLETE if is_done else None

    def _take_line(self, line: bytes) -> Ending | None:
        if line.startswith(b"event:"):
            self._event = self._events.get(line[6:].strip())
        elif line.startswith(b"data:"):
            return self._event or self._ending_of_data(line)
        elif not line:
            self._event = None  # an event without data is none
        return None

    def _ending_of_data(self, line: bytes) -> Ending | None:
        data = line[5:].lstrip(b" ")
        return next((ending for head, ending in self._data.items() if data.startswith(head)), None)


_RESPONSES = {
    b"response.completed": Ending.COMPLETE,
    b"response.incomplete": Ending.COMPLETE,
    b"response.failed": Ending.ERROR,
    b"error": Ending.ERROR,
}
_MESSAGES = {b"message_stop": Ending.COMPLETE, b"error": Ending.ERROR}


def end_watch(path: bytes) -> EndWatch | None:
    """The watch for a stream answered on `path` (as on the wire); None where a clean end is all there is."""
    route = path.rstrip(b"/")
    if route in (b"/v1/chat/completions", b"/v1/completions"):
        return EndWatch({b"error": Ending.ERROR}, has_done=True, ordinary=b'data: {"id"')
    if route == b"/v1/responses":
        return EndWatch(_RESPONSES)
    if route == b"/v1/messages":
        return EndWatch(_MESSAGES)
    return None
