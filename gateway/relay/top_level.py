"""Finds a few top-level keys of a JSON object that comes in pieces, without holding the object.

Pure. `stream_end` uses it for the few events that may end a stream. It reads every byte once and holds some hundred
bytes, whatever the size of the object. It does not validate JSON: it only tells a whole object from one that is not.
"""

import re
from enum import Enum

# How much of a key or a value is kept. All wanted ones are shorter, so a longer one is not wanted.
KEPT_BYTES = 64

# Everything up to the next bracket. It stops before a string that is not whole.
_UP_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
# A member whose value is no object and no array, with the comma behind it. Most members of an event match.
_MEMBER = re.compile(
    rb'[ \t\r\n]*+"((?:[^"\\]++|\\.)*+)"[ \t\r\n]*+:'
    rb'[ \t\r\n]*+("(?:[^"\\]++|\\.)*+"|[^"{}\[\],: \t\r\n]++)[ \t\r\n]*+,',
    re.DOTALL,
)
_UP_TO_MARK = re.compile(rb'[^"{}\[\],:]*+')
_UP_TO_QUOTE = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_SPACE = b" \t\r\n"
_OPENING, _CLOSING = b"{[", b"}]"


class Shape(Enum):
    """What the text is so far."""

    EMPTY = "only white space"
    OPEN = "an object that is not whole yet"
    WHOLE = "one object"
    OTHER = "not an object"
    BROKEN = "an object with other text behind it"


class TopLevelKeys:
    """The values of the `wanted` top-level keys of one JSON text, in any order, with any white space, in any pieces.

    `values` has them as they are written, without white space around them and cut at KEPT_BYTES: `"text"`, `null`, `{`
    for an object, `[` for an array. The last of equal keys counts, as in `json.loads`. Keys are compared as they are
    written, so a key with escapes is not found. `head` is the start of a text that is not an object.
    """

    __slots__ = (
        "_depth", "_is_escaped", "_is_in_string", "_is_value", "_key", "_value", "_wanted", "head", "shape", "values",
    )  # fmt: skip

    def __init__(self, wanted: frozenset[bytes]) -> None:
        self.shape = Shape.EMPTY
        self.values: dict[bytes, bytes] = {}
        self.head = b""
        self._wanted = wanted
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False  # the last piece ended with a backslash
        self._is_value = False  # the colon of a top-level member has come
        self._key = b""
        self._value = b""

    def feed(self, piece: bytes) -> None:
        """Reads the next bytes of the text."""
        at = 0
        if self.shape is Shape.EMPTY:
            piece = piece.lstrip(_SPACE)
            if not piece:
                return
            self.shape = Shape.OTHER
            if piece.startswith(b"{"):
                self.shape, self._depth, at = Shape.OPEN, 1, 1
        if self.shape is Shape.OPEN:
            at = self._read_object(piece, at)
        if self.shape is Shape.WHOLE and piece[at:].strip(_SPACE):
            self.shape = Shape.BROKEN
        elif self.shape is Shape.OTHER:
            self.head = _with(self.head, piece, 0, len(piece))

    def _read_object(self, piece: bytes, at: int) -> int:
        """Reads to the end of the piece or of the object. Returns that place."""
        while at < len(piece) and self._depth:
            if self._is_in_string:
                at = self._read_string(piece, at)
            elif self._depth == 1:
                at = self._read_member(piece, at)
            else:
                at = self._skip(piece, at)
        return at

    def _read_string(self, piece: bytes, at: int) -> int:
        """Reads past the closing quote. A top-level string is kept."""
        start, at = at, at + self._is_escaped
        match = _UP_TO_QUOTE.match(piece, at)
        end = match.end() if match else at
        self._is_escaped = piece[end:] == b"\\"  # a single backslash as the last byte
        self._is_in_string = end + self._is_escaped == len(piece)
        self._keep(piece, start, end + (self._is_escaped or self._is_value))
        return end + 1

    def _read_member(self, piece: bytes, at: int) -> int:
        """Reads past the next mark at the top level."""
        if not (self._is_value or self._key):
            while member := _MEMBER.match(piece, at):
                if member[1] in self._wanted:
                    self.values[member[1]] = member[2][:KEPT_BYTES]
                at = member.end()
        match = _UP_TO_MARK.match(piece, at)
        end = match.end() if match else at
        mark = piece[end : end + 1]
        if self._is_value:
            self._keep(piece, at, end + (mark != b"" and mark in b'"{['))
        if mark == b'"':
            self._is_in_string = True
            self._key = self._key if self._is_value else b""
        elif mark == b":":
            self._is_value = True
        elif mark and mark in _OPENING:
            self._depth += 1
        elif mark:
            self._end_member(is_last=mark in _CLOSING)
        return end + 1

    def _end_member(self, *, is_last: bool) -> None:
        if self._key in self._wanted and self._is_value:
            self.values[self._key] = self._value.strip(_SPACE)
        self._key, self._value, self._is_value = b"", b"", False
        if is_last:
            self._depth, self.shape = 0, Shape.WHOLE

    def _skip(self, piece: bytes, at: int) -> int:
        """Reads past the next bracket inside a value. Nothing there is wanted."""
        match = _UP_TO_BRACKET.match(piece, at)
        end = match.end() if match else at
        mark = piece[end : end + 1]
        if mark == b'"':
            self._is_in_string = True
        elif mark:
            self._depth += 1 if mark in _OPENING else -1
        return end + 1

    def _keep(self, piece: bytes, start: int, end: int) -> None:
        if self._depth > 1:
            return
        if not self._is_value:
            self._key = _with(self._key, piece, start, end)
        elif self._value:
            self._value = _with(self._value, piece, start, end)
        else:
            self._value = piece[start:end].lstrip(_SPACE)[:KEPT_BYTES]


def _with(kept: bytes, piece: bytes, start: int, end: int) -> bytes:
    """`kept` with piece[start:end] added, up to KEPT_BYTES."""
    return (kept + piece[start : min(end, start + KEPT_BYTES)])[:KEPT_BYTES]
