"""An event means the same however it is spelled: read as the standard says (HTML, "Server-sent events"), and as JSON.

What counts is said once more here, in a plain reader that has the whole stream and `json.loads`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.relay.stream_end import Ending
from tests.unit.relay.test_stream_end import (
    CHAT,
    CONTENTS,
    FINALS,
    MESSAGES,
    ORDINARY,
    RESPONSES,
    cut,
    ending,
    watch_of,
)

ROUTES = (CHAT, RESPONSES, MESSAGES)
NAMED = {route: {name: meaning for name, meaning in FINALS[route].items() if name[0] not in "[{"} for route in ROUTES}
NAMED[CHAT] = {"error": Ending.ERROR}
NO_ERROR = ("null", "false", '""')


class PlainReader:
    """Reads a whole stream of `route`, line by line."""

    def __init__(self, route: bytes) -> None:
        self.route = route
        self.name = ""
        self.data: list[str] = []

    def read(self, stream: bytes) -> Ending | None:
        """The first ending."""
        *lines, last = re.split("\r\n|\r|\n", stream.decode("utf-8-sig"))
        for line in lines:
            if (found := self.line(line, is_whole=True)) is not None:
                return found
        return self.line(last, is_whole=False) if last else None

    def line(self, line: str, *, is_whole: bool) -> Ending | None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            found = NAMED[self.route].get(self.name) if self.data else None
            self.name, self.data = "", []
            return found
        if field == "event":
            self.name = value
        if field == "error":
            return Ending.ERROR if isinstance(loaded(value), dict) else None
        if field == "data":
            self.data.append(value)
            return self.meaning("\n".join(self.data), is_whole=is_whole)
        return None

    def meaning(self, data: str, *, is_whole: bool) -> Ending | None:
        value = loaded(data)
        if self.route == CHAT and data.strip() == "[DONE]":
            return Ending.COMPLETE
        if not isinstance(value, dict):
            is_open = data.lstrip().startswith("{")
            value = {}
            if is_open or not is_whole:
                return None  # more of it may come
        if json.dumps(value.get("error")) not in NO_ERROR:
            return Ending.ERROR
        name = value.get("type") if self.name in ("", "message") else self.name
        return NAMED[self.route].get(name) if isinstance(name, str) else None


def loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


WORDS = st.sampled_from(
    ["error", "type", "[DONE]", '"error":1', "a\\", 'x"', "{", "}", "é", "message_stop", " error", ""]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS | CONTENTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=3,
)
ERRORS: st.SearchStrategy[object] = st.sampled_from(
    [None, False, "", "no", 0, 1, {}, [], {"message": "no"}, {"error": None}]
)


@st.composite
def objects(draw: st.DrawFn, route: bytes) -> str:
    """The JSON of an event: any keys in any order, with any white space, perhaps over several lines."""
    fields: dict[str, Any] = draw(
        st.dictionaries(WORDS.filter(lambda word: word not in ("error", "type")), VALUES, max_size=3)
    )
    names = [*NAMED[route], ORDINARY.get(route, "text"), "message"]
    if draw(st.booleans()):
        fields["type"] = draw(st.sampled_from(names) | VALUES)
    if draw(st.integers(0, 3)) == 0:
        fields["error"] = draw(ERRORS)
    items = draw(st.permutations(list(fields.items())))
    before, behind = (draw(st.sampled_from(["", " ", "\t", "  "])) for _ in range(2))
    return json.dumps(
        dict(items),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, 0, 1])),
        separators=(f"{before},{behind}", f"{behind}:{before}"),
    )


@st.composite
def field_lines(draw: st.DrawFn, route: bytes) -> list[str]:
    """The lines of one event, its fields in any order; white space outside of JSON strings may begin a line."""
    blank = draw(st.sampled_from(["", " ", "  "]))
    fields = []
    if draw(st.booleans()):
        names = [*NAMED[route], ORDINARY.get(route, "ping"), "message", "errors", "[DONE]", ""]
        fields.append([f"event:{draw(st.sampled_from(['', ' ']))}{draw(st.sampled_from(names))}"])
    if draw(st.integers(0, 3)):
        text = draw(
            objects(route) | objects(route) | WORDS | st.sampled_from(["[DONE]", " [DONE] ", "", '"[DONE]"', "null"])
        )
        fields.append([f"data:{blank}{part}" for part in text.split("\n")])
    others = [
        ": error",
        ":",
        "id: 7",
        "retry: 1",
        "error: no",
        "error",
        "data",
        "event",
        "errors: {}",
        " data: [DONE]",
        "x",
    ]
    fields += [[other] for other in draw(st.lists(st.sampled_from(others), max_size=2))]
    if draw(st.integers(0, 7)) == 0:
        fields.append([f"error:{blank}{draw(objects(route)).replace(chr(10), ' ')}"])
    return [line for field in draw(st.permutations(fields)) for line in field]


@st.composite
def spelled_streams(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A route and a stream of a few events, each line with a line end of its own; the last may be cut off."""
    route = draw(st.sampled_from(ROUTES))
    ends = draw(st.sampled_from([["\n"], ["\r\n"], ["\r"], ["\n", "\r\n"], ["\n", "\r\n", "\r"]]))
    text = draw(st.sampled_from(["", "", "\ufeff"]))
    for lines in draw(st.lists(field_lines(route), min_size=1, max_size=4)):
        for line in [*lines, ""]:
            # a line feed behind a bare carriage return would be one line end with it
            usable = [end for end in ends if not (text.endswith("\r") and not line and end == "\n")]
            text += line + draw(st.sampled_from(usable or ["\r"]))
    stream = text.encode()
    return route, stream[: draw(st.sampled_from([len(stream)] * 3 + [len(stream) - 1, len(stream) // 2]))]


def cut_in_utf8(stream: bytes) -> bytes:
    """`stream` without half a character at its end, which the plain reader could not decode."""
    return stream.decode(errors="ignore").encode()


@given(spelled_streams(), st.lists(st.integers(0, 10_000), max_size=12))
@example((CHAT, b'\xef\xbb\xbfdata: {"id":"x","error":{}}\n\n'), [1, 2])
@example((RESPONSES, b'data: {\ndata:  "type":\ndata: "response.completed"}\n\n'), [8])
@example((MESSAGES, b"data: {}\r\nevent: message_stop\r\n\r\n"), [9, 10])
@example((CHAT, b'data: {"a":"\\"error","b":[{"error":1}],"error":null}\n\nerror: {"code": 500}\n\n'), [12])
def test_the_spelling_of_events_decides_nothing(spelled: tuple[bytes, bytes], places: list[int]) -> None:
    """The watch and a plain reader of the whole agree, in one piece, in any pieces and byte by byte."""
    route, stream = spelled[0], cut_in_utf8(spelled[1])
    expected = PlainReader(route).read(stream)
    assert ending(route, [stream]) == expected
    assert ending(route, cut(stream, places)) == expected
    assert ending(route, cut(stream, range(len(stream)))) == expected


ROWS: dict[str, tuple[bytes, bytes, Ending | None]] = {
    "an error behind the id": (CHAT, b'data: {"id":"x","error":{"message":"no"}}\n\n', Ending.ERROR),
    "an error with white space": (CHAT, b'data: { "id" : "x" , "error" : {} }\n\n', Ending.ERROR),
    "an error that is null": (CHAT, b'data: {"error":null,"choices":[]}\n\n', None),
    "an error that is null, with white space": (CHAT, b'data: {"choices":[], "error" : null }\n\n', None),
    "an error that is false": (CHAT, b'data: {"error":false}\n\n', None),
    "an error that is empty": (CHAT, b'data: {"error":""}\n\n', None),
    "an error further in": (CHAT, b'data: {"choices":[{"error":{"message":"no"}}]}\n\n', None),
    "an error in a text": (CHAT, b'data: {"a":"\\",\\"error\\":{}","b":"\\\\"}\n\n', None),
    "an error behind a text with a backslash": (CHAT, b'data: {"a":"\\\\","error":1}\n\n', Ending.ERROR),
    "a field line": (CHAT, b'error: {"code":500,"message":"no"}\n\n', Ending.ERROR),
    "a field line without a space": (RESPONSES, b'error:{"code":500}\n', Ending.ERROR),
    "a field line with a text": (CHAT, b"error: it went wrong\n\n", None),
    "a field line with half an object": (CHAT, b'error: {"code":\n\n', None),
    "a name behind its data": (CHAT, b"data: {}\nevent: error\n\n", Ending.ERROR),
    "a name behind its data, not ended": (CHAT, b"data: {}\nevent: error\n", None),
    "a type with white space": (RESPONSES, b'data: {"type": "response.completed"}\n\n', Ending.COMPLETE),
    "a type that comes last": (MESSAGES, b'data: {"x":[{"type":"error"}],"type":"message_stop"}\n\n', Ending.COMPLETE),
    "a type further in": (MESSAGES, b'data: {"x":{"type":"message_stop"}}\n\n', None),
    "a type under another name": (RESPONSES, b'event: response.created\ndata: {"type":"response.completed"}\n\n', None),
    "a type under the name of all": (RESPONSES, b'event: message\ndata: {"type":"response.failed"}\n\n', Ending.ERROR),
    "a type without quotes": (MESSAGES, b'data: {"type":xmessage_stopx}\n\n', None),
    "data over lines": (MESSAGES, b'data: {"type":\ndata: "message_stop"}\n\n', Ending.COMPLETE),
    "half of data over lines": (MESSAGES, b'event: message_stop\ndata: {"type":\n', None),
    "broken data under a name": (MESSAGES, b'event: message_stop\ndata: {"type":\n\n', Ending.COMPLETE),
    "broken data without a name": (MESSAGES, b'data: {"type":"message_stop"\n\n', None),
    "two objects": (CHAT, b'data: {"error":1} {}\n\n', None),
    "an array": (CHAT, b'data: [{"error":1}]\n\n', None),
    "done without a space": (CHAT, b"data:[DONE]\n\n", Ending.COMPLETE),
    "done on the second line": (CHAT, b"data: x\ndata: [DONE]\n\n", None),
    "more than done": (CHAT, b"data: [DONE]x\n\n", None),
    "a byte order mark": (CHAT, b"\xef\xbb\xbfdata: [DONE]\n\n", Ending.COMPLETE),
    "a byte order mark later": (CHAT, b": x\n\n\xef\xbb\xbfdata: [DONE]\n\n", None),
    "a whole type without a line end": (MESSAGES, b'data: {"type":"message_stop"}', Ending.COMPLETE),
    "a key with escapes": (CHAT, b'data: {"\\u0065rror":1}\n\n', None),
    "half a key": (CHAT, b'data: {"err" "or":1}\n\n', None),
    "a key cut by a backslash": (CHAT, b'data: {"err\\or":1}\n\n', None),
    "a key with a space": (CHAT, b'data: {" error":1}\n\n', None),
    "equal keys": (CHAT, b'data: {"error":1,"error":null}\n\n', None),
    "a control between": (CHAT, b'data: {"error":null\x0c,"a":1}\n\n', Ending.ERROR),
}  # fmt: skip


@pytest.mark.parametrize(("route", "text", "expected"), ROWS.values(), ids=ROWS.keys())
@pytest.mark.parametrize("before", [b"", b": a comment\n\n", b'data: {"id":"x"}\r\n\r\n'])
def test_what_a_spelling_means(route: bytes, text: bytes, expected: Ending | None, before: bytes) -> None:
    """Each spelling means the same behind other events, whole, in two pieces cut anywhere, and byte by byte."""
    if before and text.startswith(b"\xef"):
        expected = None
    stream = before + text
    splits = [[place] for place in range(len(stream))]
    found = {ending(route, cut(stream, places)) for places in [*splits, range(len(stream))]}
    assert found == {expected}


@pytest.mark.parametrize("size", [10, 70_000, 300_000])
@pytest.mark.parametrize("is_first", [True, False])
def test_the_size_of_an_event_decides_nothing(size: int, *, is_first: bool) -> None:
    """The last event of a long answer, which holds all of it again, is seen as one of a few bytes is."""
    content = {"response": {"output": [{"text": 'error "\\" \n' * (size // 12)}]}}
    fields = {"type": "response.completed"} | content if is_first else content | {"type": "response.completed"}
    stream = b"data: " + json.dumps(fields).encode() + b"\n\n"
    assert ending(RESPONSES, [stream]) is Ending.COMPLETE
    assert ending(RESPONSES, cut(stream, range(0, len(stream), 4093))) is Ending.COMPLETE
    assert ending(RESPONSES, cut(stream[:-3], range(0, len(stream), 4093))) is None


def test_an_end_counts_in_the_piece_on_which_a_client_can_act() -> None:
    """That is the line that makes its data whole; where its name comes later, the blank line."""
    watch = watch_of(MESSAGES)
    assert watch.feed(b'event: message_stop\ndata: {"type":') is None
    assert watch.feed(b'"message_stop"}') is None
    assert watch.feed(b"\n") is Ending.COMPLETE
    late = watch_of(CHAT)
    assert late.feed(b"data: {}\nevent: error\n") is None
    assert late.feed(b"\n") is Ending.ERROR
