"""What a request target means: relayed bytes are the wire's own, no decoding leads out of `/v1/`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidPath
from gateway.http import head

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_DECODE_PASSES = 16
HARMLESS = b"ABCxyz089-_~!$&'()*+,;=:@ \xc3\xa9\xff"


def refused(raw: bytes) -> bool:
    """Whether `parse` refuses `raw`; any exception but InvalidPath fails the test."""
    try:
        head.parse_target(raw)
    except InvalidPath:
        return True
    return False


@st.composite
def encoded(draw: st.DrawFn, text: bytes, depth: int) -> bytes:
    """`text` percent-encoded `depth` times over, each byte at random and in either case of hex digits."""
    for _ in range(depth):
        parts = []
        for byte in text:
            form = draw(st.sampled_from(["%c", "%%%02x", "%%%02X"]))
            parts.append((form % byte).encode("latin-1"))
        text = b"".join(parts)
    return text


segments = st.lists(st.sampled_from(HARMLESS), min_size=1, max_size=8).map(bytes)


@st.composite
def legal_paths(draw: st.DrawFn) -> bytes:
    """A path under /v1/ without dot segments, some of its bytes percent-encoded up to twice."""
    parts = draw(st.lists(segments, min_size=1, max_size=4))
    joined = [draw(encoded(part, draw(st.integers(0, 2)))) for part in parts]
    return b"/v1/" + draw(st.sampled_from([b"/", b"%2F", b"//"])).join(joined)


@given(st.binary(max_size=200))
def test_any_bytes_are_understood_or_refused(raw: bytes) -> None:
    """Whatever comes on the wire, the answer is a target or InvalidPath and never another error."""
    refused(raw)


@given(st.text(alphabet="%25eEcC./\\?#:0dDaA12", max_size=60).map(str.encode))
def test_bytes_that_hide_something_are_understood_or_refused(raw: bytes) -> None:
    """The same for bytes that are all escapes, dots and separators, and what is taken has no way out when decoded."""
    if not refused(b"/v1/" + raw):
        path, _, _ = raw.partition(b"?")
        for _ in range(20):
            path = unquote_to_bytes(path)
        assert b"\\" not in path
        assert not {b".", b".."} & set(path.split(b"/"))


@given(legal_paths(), st.none() | st.binary(max_size=60))
def test_a_legal_target_keeps_its_bytes(path: bytes, query: bytes | None) -> None:
    """What is relayed is what came: path and query byte for byte, whatever escapes they hold."""
    raw = path if query is None else path + b"?" + query
    parsed = head.parse_target(raw)
    assert parsed.wire == raw
    assert (parsed.path, parsed.query) == (path, query)
    assert parsed.is_relayed


@given(
    st.sampled_from([b".", b".."]),
    st.integers(0, 5),
    st.sampled_from([b"/", b"%2f", b"%252F", b"/x/"]),
    st.sampled_from([b"", b"/", b"/models", b"%2f", b"%252fmodels", b"?a=b"]),
    st.data(),
)
def test_a_dot_segment_is_refused_at_any_depth_of_encoding(
    segment: bytes, depth: int, before: bytes, after: bytes, data: st.DataObject
) -> None:
    """However often and however partly a `.` or `..` segment is percent-encoded, the target is refused."""
    assert refused(b"/v1" + before + data.draw(encoded(segment, depth)) + after)


@given(st.sampled_from([b"\\", b"\x00", b"\r", b"\n"]), st.integers(0, 5), st.data())
def test_forbidden_bytes_are_refused_at_any_depth_of_encoding(byte: bytes, depth: int, data: st.DataObject) -> None:
    """A backslash, NUL, CR or LF anywhere in the decoded path is refused."""
    assert refused(b"/v1/mo" + data.draw(encoded(byte, depth)) + b"dels")


def nested(byte: bytes, escapes: dict[bytes, bytes], most_bytes: int) -> bytes:
    """The escape of `byte`, written again in terms of `escapes` as often as it fits into `most_bytes`."""
    text = deeper = b"%" + byte.hex().encode()
    while len(deeper) <= most_bytes:
        text = deeper
        for plain, code in escapes.items():
            deeper = deeper.replace(plain, code)
    return text


LONG = {
    "one run of %25": b"%" + b"25" * 32_000,
    "a run that ends in a dot": b"%" + b"25" * 32_000 + b"2e%2e",
    "many short runs": b"%2525252e" * 7_000,
    "percent signs": b"%" * 64_000,
    "halves of an escape": b"%2%35" * 12_000,
    "escaped digits": nested(b".", {b"2": b"%32", b"5": b"%35"}, 64_000),
    "escaped everything": nested(b".", {b"%": b"%25", b"2": b"%32"}, 64_000),
    "percent and its digits": b"%" * 30_000 + b"25" * 15_000,
    "harmless escapes": b"%41%62" * 10_000,
}


@pytest.mark.parametrize("path", LONG.values(), ids=LONG)
def test_long_hostile_input_costs_few_passes(path: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 KiB of escapes within escapes are decided after a bounded number of decoding passes."""
    passes = []

    def counted(text: bytes) -> bytes:
        passes.append(len(text))
        return unquote_to_bytes(text)

    monkeypatch.setattr(head, "unquote_to_bytes", counted)
    refused(b"/v1/" + path)
    assert 1 <= len(passes) <= MOST_DECODE_PASSES


def test_a_dot_behind_a_long_run_is_refused() -> None:
    """Depth alone hides nothing: 32,000 levels of encoding over a `..` segment are still refused."""
    assert refused(b"/v1/%" + b"25" * 32_000 + b"2e%" + b"25" * 9 + b"2E/x")
    assert not refused(b"/v1/%" + b"25" * 32_000 + b"2ex")


def test_a_path_that_does_not_settle_is_refused() -> None:
    """What would need more passes than honest input ever does is refused, not relayed."""
    assert refused(b"/v1/" + nested(b"a", {b"6": b"%36"}, 100))
    assert not refused(b"/v1/" + nested(b"a", {b"6": b"%36"}, 10))


REFUSED = [
    b"/v1/..", b"/v1/.", b"/v1/../", b"/v1/./models", b"/../v1/models", b"/v1/%2e%2e/api/tags", b"/v1/.%2E/x",
    b"/v1/%252e%252e/x", b"/v1/x%2f..%2fy", b"/v1/x%2F%2E%2E", b"/v1/a\\b", b"/v1/a%5cb", b"/v1/a%255Cb",
    b"/v1/a%00", b"/v1/a%0d%0aX:1", b"/v1/a\nb", b"..", b".", b"http://host/v1/../x", b"http://host/..?x",
]  # fmt: skip
TAKEN = [
    b"/v1/...", b"/v1/.hidden", b"/v1/a..b/c", b"/v1/..a", b"/v1/a.", b"/v1/models?x=/../y", b"/v1/models?a=%2e%2e",
    b"/v1/models?x=%0a\\", b"/v1/%", b"/v1/%zz", b"/v1/%2", b"/v1/100%25", b"/v1/%2F%3F+&&%2526%C3%A9",
]  # fmt: skip


@pytest.mark.parametrize("raw", REFUSED)
def test_a_way_out_is_invalid_path(raw: bytes) -> None:
    """Dot segments, backslashes, NUL, CR and LF in the path are refused, in any spelling."""
    with pytest.raises(InvalidPath) as caught:
        head.parse_target(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_path")


@pytest.mark.parametrize("raw", TAKEN)
def test_what_only_looks_like_a_way_out_is_taken(raw: bytes) -> None:
    """Dots within a segment, a query that says what it likes and broken escapes pass unchanged."""
    parsed = head.parse_target(raw)
    assert parsed.wire == raw
    assert parsed.is_relayed


ELSEWHERE = [
    b"/%76%31/models", b"/v1%2fmodels", b"/V1/models", b"/v1", b"//v1/models", b"/api/tags", b"v1/models", b"*", b"",
    b"/v1x/models", b"http://host", b"http://host?/v1/models", b"http://host//v1/models",
]  # fmt: skip


@pytest.mark.parametrize("raw", ELSEWHERE)
def test_only_the_bytes_v1_are_relayed(raw: bytes) -> None:
    """A path is relayed when the wire's own bytes begin with /v1/, not when some decoding does."""
    assert not head.parse_target(raw).is_relayed


ABSOLUTE: dict[bytes, tuple[bytes, bytes | None]] = {
    b"http://host/v1/models": (b"/v1/models", None),
    b"https://user@host:8080/v1/models?a=b": (b"/v1/models", b"a=b"),
    b"HTTP://[::1]:1/v1/%2Fx?": (b"/v1/%2Fx", b""),
    b"http:///v1/models": (b"/v1/models", None),
    b"http://host": (b"/", None),
    b"http://host?q=1": (b"/", b"q=1"),
}


@pytest.mark.parametrize("raw", ABSOLUTE)
def test_an_absolute_target_means_its_path(raw: bytes) -> None:
    """`GET http://host/v1/models` is `/v1/models`; scheme and authority decide nothing."""
    parsed = head.parse_target(raw)
    assert (parsed.path, parsed.query) == ABSOLUTE[raw]


@pytest.mark.parametrize(
    ("raw", "split"),
    [
        (b"http://h:1/v1/x?y", (b"h:1", b"/v1/x?y")),
        (b"http://h", (b"h", b"/")),
        (b"http://h?y", (b"h", b"/?y")),
        (b"http:///v1/x", (b"", b"/v1/x")),
        (b"/http://h/v1/x", (None, b"/http://h/v1/x")),
        (b"h:1", (None, b"h:1")),
    ],
)
def test_an_absolute_target_has_an_authority(raw: bytes, split: tuple[bytes | None, bytes]) -> None:
    """Authority and origin-form are told apart; what has no scheme has no authority."""
    assert head.split_absolute(raw) == split


@given(legal_paths(), st.sampled_from([b"http://h", b"https://a:b@h:1", b"x-y+z.1://"]))
def test_an_absolute_target_keeps_the_bytes_of_its_path(path: bytes, origin: bytes) -> None:
    """What follows the authority is relayed byte for byte."""
    assert head.parse_target(origin + path).wire == path


SETTLED: list[Callable[[bytes], bytes]] = [lambda p: p, lambda p: p + b"?q", lambda p: b"http://h" + p]


@pytest.mark.parametrize("form", SETTLED, ids=["path", "query", "absolute"])
def test_the_same_path_is_decided_the_same_in_every_form(form: Callable[[bytes], bytes]) -> None:
    """A query or an authority around a path changes nothing about whether it is refused."""
    assert refused(form(b"/v1/%2e%2e/x"))
    assert not refused(form(b"/v1/%2e%2ex"))
