"""Owns the properties of what a client sends as text: targets, header fields, task ids, list cursors.

Each property is held against a second, slower reading of the contract, so that neither can be wrong alone.
"""

from __future__ import annotations

import json
import re
from urllib.parse import quote, unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import InvalidPath
from gateway.http.head import Fields, RequestHead, parse_target
from gateway.relay.messages import nominated, request_head, response_fields
from gateway.store import interface as records
from gateway.store.interface import InvalidCursor, decode_cursor, encode_cursor
from gateway.store.layout import DOCUMENT_PREFIX
from gateway.tasks.task import is_valid_id

EXAMPLES = settings(max_examples=250, deadline=None)

# -- targets --

PIECES = [
    b"/v1/", b"/v1", b"/", b"//", b".", b"..", b"%2e", b"%2E", b"%252e", b"%2f", b"%5c", b"\\", b"%", b"%25", b"25",
    b"2e", b"%00", b"%0d%0a", b"?", b"#", b"http://h", b"models", b"api", b"%zz", b"%c3%a9", b"\xff", b";", b"%32%65",
    b"%%32e",
]  # fmt: skip
targets = st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join) | st.binary(max_size=80)


def leads_out(path: bytes) -> bool:
    """Whether any number of decodings shows a dot segment or a byte that someone may take for a separator."""
    while True:
        if re.search(rb"[\\\x00\r\n]", path) or {b".", b".."} & set(path.split(b"/")):
            return True
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return False
        path = decoded


@EXAMPLES
@given(targets | targets.map(lambda rest: b"/v1/" + rest))
def test_a_target_is_relayed_exactly_when_it_stays_inside(raw: bytes) -> None:
    """Refused is what some decoding leads out with; relayed is what begins with /v1/ on the wire, as it came."""
    path_and_query = re.sub(rb"\A[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*(?=(/)|)", b"", raw)
    if path_and_query != raw and not path_and_query.startswith(b"/"):
        path_and_query = b"/" + path_and_query
    try:
        target = parse_target(raw)
    except InvalidPath:
        assert leads_out(path_and_query.partition(b"?")[0])
        return
    assert not leads_out(target.path)
    assert target.wire == path_and_query
    assert target.is_relayed == path_and_query.startswith(b"/v1/")


# -- fields --

NAMES = [
    b"accept", b"connection", b"content-length", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"keep-alive",
    b"proxy-connection", b"proxy-authorization", b"host", b"expect", b"origin", b"x-task-id", b"cookie", b"x-a", b"x-b",
    b"access-control-request-method", b"access-control-allow-origin", b"date", b"server", b"x-accel-buffering",
]  # fmt: skip
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
names = st.sampled_from(NAMES) | st.from_regex(rb"[a-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True)
values = st.lists(names, max_size=3).map(b", ".join) | st.binary(max_size=20).map(
    lambda value: re.sub(rb"[\x00-\x08\x0a-\x1f\x7f]", b"", value).strip()
)
fields = st.lists(st.tuples(names, values), max_size=12)


def is_subsequence(part: Fields, whole: Fields) -> bool:
    """Whether `part` is `whole` with some of it left out."""
    rest = iter(whole)
    return all(field in rest for field in part)


def not_passed(fields: Fields) -> set[bytes]:
    """The names that a message itself declares to be for one hop, beside those that always are."""
    return HOP_BY_HOP | nominated(value for name, value in fields if name == b"connection")


@EXAMPLES
@given(fields, st.booleans())
def test_fields_that_go_up_are_some_of_those_that_came(given_fields: Fields, is_chunked: bool) -> None:
    """In order, with duplicates, none of one hop, exactly one Host and never both lengths; no line is split."""
    if is_chunked:
        given_fields = [*given_fields, (b"transfer-encoding", b"chunked")]
    else:
        given_fields = [field for field in given_fields if field[0] != b"transfer-encoding"]
    head = request_head(RequestHead("POST", b"/v1/x", given_fields, is_http_10=False), b"ollama")
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert lines[:2] == [b"POST /v1/x HTTP/1.1", b"host: ollama"]
    found = [(name, value) for name, _, value in (line.partition(b": ") for line in lines[2:])]
    if is_chunked:
        assert found.pop() == (b"transfer-encoding", b"chunked")
        assert not [name for name, _ in found if name == b"content-length"]
    assert is_subsequence(found, given_fields)
    gone = not_passed(given_fields) | {b"host", b"expect", b"origin", b"x-task-id"}
    lengths = {b"content-length"} if is_chunked else set()
    wanted = [(n, v) for n, v in given_fields if n not in gone | lengths and not n.startswith(NEVER_UP)]
    assert found == wanted


NEVER_UP = (b"proxy-", b"access-control-request-")


@EXAMPLES
@given(fields, st.booleans())
def test_fields_that_go_down_are_some_of_those_that_came(given_fields: Fields, is_stream: bool) -> None:
    """In order, with duplicates, none of one hop; added are one task id, one Date at least, one word on buffering."""
    found = response_fields(given_fields, task_id="t-1", date=lambda: b"now", is_stream=is_stream)
    ours = [(b"x-task-id", b"t-1"), (b"x-accel-buffering", b"no"), (b"date", b"now")]
    added = [field for field in ours if found.count(field) > given_fields.count(field)]
    passed = found[: len(found) - len(added)]
    assert found[len(passed) :] == added
    assert is_subsequence(passed, given_fields)
    assert not [name for name, _ in passed if name in not_passed(given_fields) or name.startswith(b"proxy-")]
    assert [value for name, value in found if name == b"x-task-id"] == [b"t-1"]
    assert b"date" in {name for name, _ in found}
    if is_stream:
        assert [value for name, value in found if name == b"x-accel-buffering"] == [b"no"]


# -- ids and cursors --

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
ids = st.from_regex(ID, fullmatch=True)
near_ids = st.builds(lambda head, odd, tail: head + odd + tail, ids, st.characters() | st.just(""), ids | st.just(""))


@EXAMPLES
@given(ids | near_ids | st.text(max_size=140))
def test_an_id_is_what_the_pattern_says(text: str) -> None:
    """Exactly the contract's pattern, for texts that are ids, nearly are, or are not."""
    assert is_valid_id(text) == (ID.fullmatch(text) is not None)


@EXAMPLES
@given(ids)
def test_an_id_needs_no_escaping_anywhere(task_id: str) -> None:
    """In a key, a URL's path, JSON, a header field and a place of the list it stands as it is."""
    assert quote(task_id, safe=":@") == task_id
    assert json.dumps(task_id) == f'"{task_id}"'
    assert not set(DOCUMENT_PREFIX + task_id) & set("{}*?[]\\ \t\r\n\"'")
    assert records.place(1, task_id)[14:] == task_id
    assert parse_target(f"/tasks/status/{task_id}".encode()).path.decode().rpartition("/")[2] == task_id


@EXAMPLES
@given(st.integers(0, 10**13 - 1), ids)
def test_a_cursor_leads_back_to_its_place(created_ms: int, task_id: str) -> None:
    """Whatever a list gives out it understands."""
    place = records.place(created_ms, task_id)
    assert decode_cursor(encode_cursor(place)) == place


def changed(cursor: str, at: int, character: str) -> str:
    """The cursor with a character put in or in place of another."""
    at %= len(cursor) + 1
    return cursor[:at] + character + cursor[at + at % 2 :]


cursors = st.builds(
    changed,
    st.builds(lambda i: encode_cursor(records.place(1, i)), ids),
    st.integers(0, 300),
    st.characters(codec="ascii"),
)


@EXAMPLES
@given(cursors | st.text(max_size=60))
def test_each_place_has_one_cursor(text: str) -> None:
    """A text is refused, or it is exactly the cursor that the list gives out for the place it names."""
    try:
        place = decode_cursor(text)
    except InvalidCursor:
        return
    assert encode_cursor(place) == text
