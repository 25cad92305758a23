"""When a stream counts as ended: by its own end event, whatever pieces it comes in."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.relay.stream_end import EndEvent, Ending, EndSearch, end_watch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.relay.stream_end import EndWatch

CHAT, COMPLETIONS, RESPONSES, MESSAGES = (
    b"/v1/" + route for route in (b"chat/completions", b"completions", b"responses", b"messages")
)

# What a stream of each route may end with, and what that means.
FINALS: dict[bytes, dict[str, Ending]] = {
    CHAT: {"[DONE]": Ending.COMPLETE, '{"error":{"message":"out of memory"}}': Ending.ERROR},
    RESPONSES: {
        "response.completed": Ending.COMPLETE,
        "response.incomplete": Ending.COMPLETE,
        "response.failed": Ending.ERROR,
        "error": Ending.ERROR,
    },
    MESSAGES: {"message_stop": Ending.COMPLETE, "error": Ending.ERROR},
}
FINALS[COMPLETIONS] = FINALS[CHAT]
ORDINARY = {RESPONSES: "response.output_text.delta", MESSAGES: "content_block_delta"}


def watch_of(route: bytes) -> EndWatch:
    """The watch of a route that has one."""
    watch = end_watch(route)
    assert watch is not None
    return watch


def ending(route: bytes, pieces: Iterable[bytes]) -> Ending | None:
    """What the pieces announced first, the end of the body included."""
    watch = watch_of(route)
    for piece in pieces:
        if (found := watch.feed(piece)) is not None:
            return found
    return watch.at_end()


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """`stream` in pieces, cut at these places."""
    marks = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[start:end] for start, end in pairwise(marks) if start < end]


# Contents that try to be taken for an end.
CONTENTS = st.sampled_from(
    ["hi", "[DONE]", "data: [DONE]", "\n\ndata: [DONE]\n\n", "event: message_stop", '{"type":"response.completed"',
     "error", '{"error":', "\r\ndata: [DONE]", "é" * 40, "x" * 300]
)  # fmt: skip


@st.composite
def ordinary_events(draw: st.DrawFn, route: bytes) -> tuple[str, str]:
    """Name ("" where the route has none) and data of an event that ends nothing."""
    content = draw(CONTENTS)
    if route in (CHAT, COMPLETIONS):
        data: dict[str, object] = {"id": "c"} if draw(st.booleans()) else {}
        data |= {"choices": [{"delta": {"content": content}}]}
        return "", json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return ORDINARY[route], json.dumps({"type": ORDINARY[route], "delta": content}, separators=(",", ":"))


@st.composite
def final_events(draw: st.DrawFn, route: bytes) -> tuple[str, str, Ending]:
    """Name, data and meaning of an event that ends a stream."""
    key, meaning = draw(st.sampled_from(sorted(FINALS[route].items())))
    if route in (CHAT, COMPLETIONS):
        return "", key, meaning
    name = draw(st.sampled_from([key, ""]))  # the name may stand in the data alone
    return name, json.dumps({"type": key, "more": draw(CONTENTS)}, separators=(",", ":")), meaning


class Stream(NamedTuple):
    """A stream answered on `route`; `meaning` is what its final event says, whose data line ends at `final_to`."""

    route: bytes
    text: bytes
    meaning: Ending | None
    final_to: int


@st.composite
def streams(draw: st.DrawFn, *, has_end: bool | None = None) -> Stream:
    """Any number of ordinary events and, unless `has_end` says so, perhaps a final one."""
    route = draw(st.sampled_from([CHAT, COMPLETIONS, RESPONSES, MESSAGES]))
    line_end, blank = draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.sampled_from([" ", ""]))
    lines: list[str] = []
    for name, data in draw(st.lists(ordinary_events(route), max_size=5)):
        lines += [f"event:{blank}{name}"] * bool(name) + [f"data:{blank}{data}", ""]
        lines += draw(st.sampled_from([[], [": comment"], ["id: 7", ""]]))
    meaning = None
    if draw(st.booleans()) if has_end is None else has_end:
        name, data, meaning = draw(final_events(route))
        lines += [f"event:{blank}{name}"] * bool(name) + [f"data:{blank}{data}"]
    text = line_end.join(lines).encode()
    return Stream(route, text + draw(st.sampled_from([line_end, line_end * 2])).encode(), meaning, len(text))


@given(streams(), st.lists(st.integers(0, 10_000), max_size=12))
def test_the_cutting_of_a_stream_decides_nothing(stream: Stream, places: list[int]) -> None:
    """A stream means the same in one piece and in any pieces: its final event, or None without one."""
    assert ending(stream.route, [stream.text]) == stream.meaning
    assert ending(stream.route, cut(stream.text, places)) == stream.meaning


@settings(deadline=None)  # a busy machine is no failure
@given(streams())
def test_a_stream_byte_by_byte_means_the_same(stream: Stream) -> None:
    """Pieces of one byte are pieces too."""
    assert ending(stream.route, cut(stream.text, range(len(stream.text)))) == stream.meaning


@given(streams(has_end=True), st.integers(0, 10_000))
@example(Stream(CHAT, b"data: {}\n\ndata: [DONE]\n\n", Ending.COMPLETE, 22), 0)
def test_an_end_never_counts_before_its_data_line_is_whole(stream: Stream, missing: int) -> None:
    """A piece that ends before the line break behind the final event's data announces nothing."""
    whole, last = stream.final_to - missing % (stream.final_to + 1), watch_of(stream.route)
    assert last.feed(stream.text[:whole]) is None
    assert ending(stream.route, cut(stream.text, [whole])) == stream.meaning


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_done_counts_with_its_line(route: bytes, line_end: bytes) -> None:
    """`data: [DONE]` ends a stream in the very piece that completes its line, not before."""
    watch = watch_of(route)
    assert watch.feed(b'data: {"choices":[]}' + line_end * 2) is None
    assert watch.feed(b"data: [DO") is None
    assert watch.feed(b"NE]") is None
    assert watch.feed(line_end) is Ending.COMPLETE


ORDINARY_LINE = b'data: {"id":"c","choices":[]}'


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("before", [b"", b": comment", b"data: x"])
@pytest.mark.parametrize("behind", [b"\n\n", b"\r\r", b"\n"])
def test_an_end_behind_an_ordinary_line_counts(before: bytes, line_end: bytes, behind: bytes) -> None:
    """An end is found in the piece that begins with an ordinary line, or with the end of one."""
    text = line_end.join([before, ORDINARY_LINE, b"", b"data: [DONE]"]) + behind
    assert ending(CHAT, [text]) is Ending.COMPLETE
    assert ending(CHAT, [ORDINARY_LINE + line_end * 2, text]) is Ending.COMPLETE
    assert ending(CHAT, [ORDINARY_LINE + line_end * 2 + b"data: [DONE]" + behind]) is Ending.COMPLETE
    assert ending(CHAT, cut(text, [len(before) + len(line_end)])) is Ending.COMPLETE


def test_an_ordinary_line_behind_an_errors_name_counts() -> None:
    """Whatever the data of an error event looks like, it is an error."""
    assert ending(CHAT, [b"event: error\n", ORDINARY_LINE + b"\n\n"]) is Ending.ERROR


def test_done_without_a_line_break_counts_at_the_end() -> None:
    """A last `data: [DONE]` that no line break ends counts once the body is complete."""
    watch = watch_of(CHAT)
    assert watch.feed(b"data: {}\n\n") is None
    assert watch.feed(b"data: [DONE]") is None
    assert watch.at_end() is Ending.COMPLETE


def test_half_an_event_at_the_end_is_no_end() -> None:
    """A final event whose JSON the end of the body cut off has reached no client."""
    half = b'data: {"type":"response.completed","respo'
    assert ending(RESPONSES, [b"event: response.created\ndata: {}\n\n", half]) is None


NOT_DONE = [
    b'data: {"content":"[DONE]"}\n\n', b'data: {"content":"data: [DONE]"}\n\n', b"[DONE]\n\n", b": data: [DONE]\n\n",
    b"event: [DONE]\ndata: {}\n\n", b"id: [DONE]\n\n", b'data: "[DONE]"\n\n', b"xdata: [DONE]\n\n",
    b'data: {"x":"\\n\\ndata: [DONE]\\n\\n"}\n\n', b"data:\n\n[DONE]\n\n", b"data: [DONE", b"", b"\n\n",
]  # fmt: skip


@pytest.mark.parametrize("text", NOT_DONE)
def test_done_inside_something_else_does_not_count(text: bytes) -> None:
    """`[DONE]` in JSON content, in a comment, in another field or cut short is no end."""
    assert ending(CHAT, [text]) is None
    assert ending(CHAT, cut(text, range(len(text)))) is None


@pytest.mark.parametrize("key", FINALS[RESPONSES])
def test_the_final_events_of_responses(key: str) -> None:
    """completed and incomplete are an end, failed and error are an error, by name or by type."""
    data = json.dumps({"type": key}, separators=(",", ":"))
    assert ending(RESPONSES, [f"event: {key}\ndata: {{}}\n\n".encode()]) is FINALS[RESPONSES][key]
    assert ending(RESPONSES, [f"data: {data}\n\n".encode()]) is FINALS[RESPONSES][key]


@pytest.mark.parametrize("text", [b"event: response.completed\n", b"event: response.created\ndata: {}\n\n"])
def test_an_event_counts_with_its_data(text: bytes) -> None:
    """A final event that is only named, or another event, ends nothing yet."""
    assert ending(RESPONSES, [text]) is None


def test_a_later_name_replaces_an_earlier_one() -> None:
    """The data line belongs to the event that was named last."""
    text = b"event: response.completed\nevent: response.created\ndata: {}\n\n"
    assert ending(RESPONSES, [text]) is None
    assert ending(RESPONSES, cut(text, range(len(text)))) is None


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"])
def test_an_event_without_data_is_none(line_end: bytes) -> None:
    """A blank line ends an event; what was named before it does not count for the data behind it."""
    text = line_end.join([b"event: error", b"", b"data: {}", b"", b""])
    assert ending(CHAT, [text]) is None
    assert ending(CHAT, cut(text, range(len(text)))) is None
    whole = line_end.join([b"event: error", b"data: {}", b"", b""])
    assert ending(CHAT, cut(whole, range(len(whole)))) is Ending.ERROR


def test_one_routes_end_is_not_anothers() -> None:
    """`[DONE]` ends no message stream, `message_stop` no chat."""
    assert ending(MESSAGES, [b"data: [DONE]\n\n"]) is None
    assert ending(RESPONSES, [b"data: [DONE]\n\n"]) is None
    assert ending(CHAT, [b"event: message_stop\ndata: {}\n\n"]) is None


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_an_error_event_is_an_error_everywhere(route: bytes) -> None:
    """An in-band error, named or as an `error` object, is an error on every watched route."""
    assert ending(route, [b'event: error\ndata: {"error":{}}\n\n']) is Ending.ERROR
    assert ending(route, [b'data: {"error":{"message":"x"}}\n\n']) is Ending.ERROR


def test_each_watched_route_has_a_watch() -> None:
    """The four streaming routes are watched, with or without a trailing slash; elsewhere a clean end is all."""
    for route in (CHAT, COMPLETIONS, RESPONSES, MESSAGES):
        assert end_watch(route) is not None
        assert end_watch(route + b"/") is not None
    for route in (b"/v1/embeddings", b"/v1/models", b"/v1/chat", b"/v1/responses/r1", b"/v1/Messages", b"/v1/"):
        assert end_watch(route) is None


@pytest.mark.parametrize("route", [CHAT, RESPONSES, MESSAGES])
def test_a_line_without_end_costs_no_memory(route: bytes) -> None:
    """64 MiB without a line break leave a few bytes behind, and the stream can still end after it."""
    watch, piece = watch_of(route), b"x" * 65_536
    watch.feed(b"data: ")
    tracemalloc.start()
    try:
        for _ in range(1024):
            assert watch.feed(piece) is None
        kept_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept_bytes < 4096
    assert peak_bytes < 4 * len(piece)
    assert watch.feed(b'\n\ndata: {"error":1}\n\n') is Ending.ERROR


def test_no_end_event_is_left_out_silently() -> None:
    """The search knows three words; a table that needs a fourth fails at the start."""
    ends = tuple(EndEvent(word, Ending.COMPLETE, word) for word in (b"one", b"two", b"three", b"four"))
    with pytest.raises(ValueError, match="two or three"):
        EndSearch(ends)
    assert EndSearch(ends[:3]).words == (b"one", b"two", b"three")
