"""Which header fields pass the gateway, in order, with their duplicates, and nothing added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.head import Fields, RequestHead
from gateway.relay.messages import (
    answer_head,
    is_encoded,
    is_event_stream,
    nominated,
    request_head,
    response_fields,
)
from gateway.upstream.response import Head

DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
HOST = b"127.0.0.1:11434"
HOP_BY_HOP = [b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-authorization",
              b"proxy-connection", b"proxy-authenticate"]  # fmt: skip
NOT_FOR_UPSTREAM = [*HOP_BY_HOP, b"host", b"expect", b"origin", b"x-task-id", b"access-control-request-method",
                    b"access-control-request-headers", b"access-control-request-private-network"]  # fmt: skip

plain_names = st.sampled_from([b"accept", b"authorization", b"x-api-key", b"cookie", b"x-proxy-a", b"te-x", b"hosts",
                               b"user-agent", b"content-type", b"referer", b"x-connection", b"vary"])  # fmt: skip
field_values = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\x00"), max_size=12).map(
    lambda text: text.strip().encode("latin-1")
)
plain_fields = st.lists(st.tuples(plain_names, field_values), max_size=8)


def head_of(fields: Fields, method: bytes = b"POST", target: bytes = b"/v1/x?y=%2F") -> tuple[bytes, Fields]:
    """First line and fields of the request head that goes upstream, asked for as the proxy asks."""
    head = request_head(RequestHead(method.decode(), target, fields, is_http_10=False), HOST)
    assert head.endswith(b"\r\n\r\n")
    line, *lines = head[:-4].split(b"\r\n")
    pairs = [part.partition(b": ") for part in lines]
    return line, [(name, value) for name, _, value in pairs]


def answer_fields(fields: Fields, *, is_stream: bool = False) -> Fields:
    """The fields of an answer as the client gets them."""
    return response_fields(fields, task_id="t-1", date=lambda: DATE, is_stream=is_stream)


# -- the way in --


@given(plain_fields)
def test_a_request_keeps_its_fields(fields: Fields) -> None:
    """Order, duplicates and values pass; Host alone is ours, and nothing else is added."""
    line, found = head_of([(b"host", b"example.com"), *fields])
    assert line == b"POST /v1/x?y=%2F HTTP/1.1"
    assert found == [(b"host", HOST), *fields]


def test_the_target_is_written_as_it_is() -> None:
    """Method and target go into the request line byte for byte."""
    line, _ = head_of([], method=b"PATCH", target=b"/v1/%252f//a?%00&&+=\xff")
    assert line == b"PATCH /v1/%252f//a?%00&&+=\xff HTTP/1.1"


@pytest.mark.parametrize(
    "name", [name for name in NOT_FOR_UPSTREAM if name not in (b"connection", b"transfer-encoding")]
)
def test_what_is_not_for_the_upstream_stays_here(name: bytes) -> None:
    """Hop-by-hop fields, Proxy-*, CORS questions, Expect and the task id are not passed on."""
    _, found = head_of([(b"accept", b"a"), (name, b"x"), (name, b"y"), (b"accept", b"b")])
    assert found == [(b"host", HOST), (b"accept", b"a"), (b"accept", b"b")]


def test_what_connection_nominates_stays_here() -> None:
    """Every field named by any Connection field is dropped, however it is spelled there."""
    fields: Fields = [
        (b"x-a", b"1"), (b"connection", b"keep-alive, X-A"), (b"x-b", b"2"), (b"connection", b"x-B ,,\tx-d"),
        (b"x-c", b"3"), (b"x-d", b"4"), (b"x-a", b"5"),
    ]  # fmt: skip
    assert head_of(fields)[1] == [(b"host", HOST), (b"x-c", b"3")]


def test_framing_and_host_cannot_be_nominated_away() -> None:
    """A client cannot make its own message lose Content-Length or Host."""
    fields: Fields = [(b"connection", b"content-length, host, x"), (b"content-length", b"5"), (b"x", b"1")]
    assert head_of(fields)[1] == [(b"host", HOST), (b"content-length", b"5")]


@given(plain_fields, st.sampled_from([b"chunked", b"Chunked", b"gzip, chunked"]))
def test_a_chunked_body_is_announced_once(fields: Fields, coding: bytes) -> None:
    """Never both Content-Length and Transfer-Encoding, and no coding but chunked."""
    _, found = head_of([(b"content-length", b"5"), (b"transfer-encoding", coding), *fields])
    assert found == [(b"host", HOST), *fields, (b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize("dropped", [(), (b"authorization",), (b"x-api-key",), (b"authorization", b"x-api-key")])
@given(fields=plain_fields)
def test_the_gateways_credential_stays_here(fields: Fields, dropped: tuple[bytes, ...]) -> None:
    """Exactly the fields that carried a key of ours are dropped, nominated or not."""
    for connection in ([], [(b"connection", b"x-gone")]):
        asked = RequestHead("GET", b"/v1/x", [*fields, *connection], is_http_10=False)
        asked.withheld = dropped
        lines = request_head(asked, HOST)[:-4].split(b"\r\n")[2:]
        assert lines == [b"%b: %b" % field for field in fields if field[0] not in dropped]


@pytest.mark.parametrize(
    ("values", "names"),
    [([], set()), ([b""], {b""}), ([b"close"], {b"close"}), ([b"A, b", b"C"], {b"a", b"b", b"c"}),
     ([b"Host,Content-Length,x"], {b"x"})],
)  # fmt: skip
def test_nominated_names(values: list[bytes], names: set[bytes]) -> None:
    """The names of all Connection values, lower case, framing and host excepted."""
    assert nominated(values) == names


# -- the way out --


@given(plain_fields)
def test_an_answer_keeps_its_fields(fields: Fields) -> None:
    """Order, duplicates and values pass; the task id and a missing Date follow."""
    assert answer_fields(fields) == [*fields, (b"x-task-id", b"t-1"), (b"date", DATE)]


@given(plain_fields, field_values)
def test_an_upstreams_date_is_kept(fields: Fields, date: bytes) -> None:
    """Where the upstream tells the date, ours is not added."""
    assert answer_fields([(b"date", date), *fields]) == [(b"date", date), *fields, (b"x-task-id", b"t-1")]


def test_a_nominated_date_is_replaced() -> None:
    """There is exactly one Date, also when the upstream declares its own to be hop-by-hop."""
    assert answer_fields([(b"connection", b"date"), (b"date", b"x")]) == [(b"x-task-id", b"t-1"), (b"date", DATE)]


@pytest.mark.parametrize("name", [*HOP_BY_HOP, b"x-task-id"])
def test_hop_by_hop_fields_of_an_answer_stay_here(name: bytes) -> None:
    """Hop-by-hop fields are dropped and our task id replaces an upstream one."""
    fields: Fields = [(b"etag", b"1"), (name, b"x"), (name, b"y"), (b"etag", b"2")]
    assert answer_fields(fields) == [(b"etag", b"1"), (b"etag", b"2"), (b"x-task-id", b"t-1"), (b"date", DATE)]


@pytest.mark.parametrize(
    "name", [b"access-control-allow-origin", b"access-control-allow-credentials", b"access-control-expose-headers"]
)
def test_cors_is_not_the_upstreams(name: bytes) -> None:
    """What the upstream says about CORS is dropped; its Vary stays."""
    fields: Fields = [(b"vary", b"Origin"), (name, b"*"), (b"x-access-control-a", b"1")]
    assert answer_fields(fields) == [fields[0], fields[2], (b"x-task-id", b"t-1"), (b"date", DATE)]


def test_what_an_answer_nominates_stays_here() -> None:
    """Fields named by the answer's Connection are dropped, its framing excepted."""
    fields: Fields = [(b"x-a", b"1"), (b"connection", b"close, X-A, content-length"), (b"content-length", b"2")]
    assert answer_fields(fields) == [(b"content-length", b"2"), (b"x-task-id", b"t-1"), (b"date", DATE)]


def test_a_chunked_answer_has_no_length() -> None:
    """A Content-Length beside Transfer-Encoding is dropped: the server would hold the body against it."""
    fields: Fields = [(b"content-length", b"2"), (b"transfer-encoding", b"chunked")]
    assert answer_fields(fields) == [(b"x-task-id", b"t-1"), (b"date", DATE)]


def test_an_event_stream_is_not_to_be_buffered() -> None:
    """Streams carry `X-Accel-Buffering: no`, once, whatever the upstream says; other answers keep theirs."""
    fields: Fields = [(b"x-accel-buffering", b"yes"), (b"date", DATE)]
    assert answer_fields(fields, is_stream=True) == [
        (b"date", DATE),
        (b"x-task-id", b"t-1"),
        (b"x-accel-buffering", b"no"),
    ]
    assert answer_fields(fields) == [*fields, (b"x-task-id", b"t-1")]


@pytest.mark.parametrize(
    ("value", "is_stream"),
    [(b"text/event-stream", True), (b"Text/Event-Stream", True), (b"text/event-stream; charset=utf-8", True),
     (b" text/event-stream ;x", True), (b"text/event-streams", False), (b"application/json", False), (b"", False),
     (b"application/json; a=text/event-stream", False)],
)  # fmt: skip
def test_a_stream_is_known_by_its_content_type(value: bytes, is_stream: bool) -> None:
    """The media type decides, in any case and with any parameters."""
    assert is_event_stream({b"content-type": value}) == is_stream
    assert not is_event_stream({})


@pytest.mark.parametrize(
    ("value", "encoded"), [(b"gzip", True), (b"br", True), (b"identity", False), (b" Identity ", False), (b"", False)]
)
def test_an_encoded_body_cannot_be_looked_into(value: bytes, encoded: bool) -> None:
    """Any Content-Encoding but identity counts."""
    assert is_encoded({b"content-encoding": value}) == encoded
    assert not is_encoded({})


@pytest.mark.parametrize(
    ("method", "status", "fields", "is_readable"),
    [
        ("POST", 200, [], True),
        ("HEAD", 200, [], False),
        ("POST", 204, [], False),
        ("GET", 304, [], False),
        ("POST", 200, [(b"content-encoding", b"gzip")], False),
        ("POST", 200, [(b"connection", b"content-encoding"), (b"content-encoding", b"gzip")], False),
    ],
)
def test_an_answer_can_be_looked_into(method: str, status: int, fields: Fields, is_readable: bool) -> None:
    """It needs a body without a Content-Encoding, also if that field does not pass."""
    head = Head(method)
    head.status, head.fields = status, fields
    assert answer_head(head, method=method, task_id="t-1").is_readable == is_readable


def test_the_length_of_an_answer_is_that_of_its_field() -> None:
    """The Content-Length is among the lines, and a 204 has none."""
    head = Head("GET")
    head.status, head.fields = 200, [(b"content-length", b"05"), (b"date", DATE)]
    answer = answer_head(head, method="GET", task_id="t-1")
    assert (answer.length, answer.lines) == (5, b"content-length: 05\r\ndate: %b\r\nx-task-id: t-1\r\n" % DATE)
    head.status = 204
    answer = answer_head(head, method="GET", task_id="t-1")
    assert (answer.length, answer.lines) == (None, b"date: %b\r\nx-task-id: t-1\r\n" % DATE)
