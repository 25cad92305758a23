"""Looks for a few keys of a JSON object that comes in pieces, without holding it.

Pure. Called by tail, for the few events whose bytes hold a word that could announce an end. It holds some hundred bytes
whatever the object's size, and reads every byte once. It trusts that what lies between the brackets is JSON: it tells
an object that is whole from one that is not, no more.
"""

import re
from enum import Enum

# As much of a key or a value as is kept. All that are looked for are shorter, so a longer one is none of them.
KEPT_BYTES = 64

# All up to the next bracket; it stops before a string that is not whole.
_UP_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
# A member whose value is no object and no array, with the comma behind it; most of an event are such.
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
    """What the text is, as far as it has come."""

    EMPTY = "nothing but white space"
    OPEN = "an object that is not whole yet"
    WHOLE = "one object"
    OTHER = "no object"
    BROKEN = "an object with something behind it"


class TopLevelLook:
    """The values of some top-level keys of one JSON text, whatever their order, their white space and the pieces.

    `values` has them as they are written, without white space around them and cut at KEPT_BYTES: `"text"`, `null`, `{`
    for an object, `[` for an array. The last of equal keys counts, as in `json.loads`. Keys are compared as written:
    one that is spelled with escapes is not found. `head` is the start of a text that is no object.
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
        self._is_escaped = False  # the last piece ended behind a backslash
        self._is_value = False  # behind the colon of a member of the object itself
        self._key = b""
        self._value = b""

    def feed(self, piece: bytes) -> None:
        """The next bytes of the text."""
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
        """Reads to the end of the piece, or of the object; where that is."""
        while at < len(piece) and self._depth:
            if self._is_in_string:
                at = self._read_string(piece, at)
            elif self._depth == 1:
                at = self._read_member(piece, at)
            else:
                at = self._skip(piece, at)
        return at

    def _read_string(self, piece: bytes, at: int) -> int:
        """To behind the closing quote; what stands in the object itself is kept."""
        start, at = at, at + self._is_escaped
        match = _UP_TO_QUOTE.match(piece, at)
        end = match.end() if match else at
        self._is_escaped = piece[end:] == b"\\"  # the last byte, and alone
        self._is_in_string = end + self._is_escaped == len(piece)
        self._keep(piece, start, end + (self._is_escaped or self._is_value))
        return end + 1

    def _read_member(self, piece: bytes, at: int) -> int:
        """To behind the next mark of the object itself."""
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
        """To behind the next bracket inside a value; what stands there is nothing that is looked for."""
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
    """`kept` and what is added to it, up to KEPT_BYTES."""
    return (kept + piece[start : min(end, start + KEPT_BYTES)])[:KEPT_BYTES]
