"""What is found of an object's top-level keys without holding it, beside `json.loads`."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.relay.top_level import KEPT_BYTES, Shape, TopLevelKeys

WANTED = frozenset((b"error", b"type"))
KEYS = st.sampled_from(["error", "type", "a", 'err"or', "type\\", "{", "", "é" * 40])
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.sampled_from(["", "x", '"', "\\", '{"error":1}', "]}", "é" * 40])
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2), max_leaves=4
)


def look(text: bytes, size: int) -> TopLevelKeys:
    """What is found of `text` in pieces of `size` bytes."""
    found = TopLevelKeys(WANTED)
    for start in range(0, len(text), size):
        found.feed(text[start : start + size])
    return found


def as_written(value: object) -> bytes:
    """What is kept of a value."""
    if isinstance(value, dict | list):
        return b"{" if isinstance(value, dict) else b"["
    return json.dumps(value, ensure_ascii=False).encode()[:KEPT_BYTES]


@given(
    st.dictionaries(KEYS, VALUES, max_size=4),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n ")]),
    st.integers(1, 30),
)
def test_it_finds_what_json_finds(fields: dict[str, object], marks: tuple[str, str], size: int) -> None:
    """The wanted keys of the object itself are found with their values, in any pieces and with any white space."""
    text = json.dumps(fields, ensure_ascii=False, separators=marks).encode()
    found = look(text, size)
    assert found.shape is Shape.WHOLE
    assert found.values == {key.encode(): as_written(fields[key]) for key in ("error", "type") if key in fields}
    assert look(text[:-1], size).shape is Shape.OPEN
    assert look(text + b" \n", size).shape is Shape.WHOLE
    assert look(text + b" x", size).shape is Shape.BROKEN


@pytest.mark.parametrize("text", [b"", b" \n", b"[1]", b'"x"', b"null", b"[DONE]", b"x{}"])
def test_what_is_no_object_has_no_values(text: bytes) -> None:
    """Of another text the start is kept, no value."""
    found = look(text, 1)
    assert (found.shape, found.head) == (Shape.OTHER if text.strip() else Shape.EMPTY, text.strip())
    assert found.values == {}


@pytest.mark.parametrize("text", [b'{"a":"%b', b'{"%b":1', b'{"a":[%b', b'{"error":%b', b"x%b"])
def test_it_holds_nothing_of_what_it_reads(text: bytes) -> None:
    """A megabyte inside a text, a key, an array, a number or no object leaves a few bytes behind."""
    found, piece = TopLevelKeys(WANTED), b"7" * 65_536
    found.feed(text % b"7")
    tracemalloc.start()
    try:
        for _ in range(16):
            found.feed(piece)
        kept_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 4096
