"""Makes the messages of an exchange from those of its other end: the request for Ollama, the head for the client.

Owns which header fields pass in each direction. Fields keep their order and their duplicates. The gateway adds nothing
to a request. To an answer it adds the task id, a Date if Ollama sent none, and `X-Accel-Buffering: no` on event
streams. Pure but for that Date.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from gateway.http.head import TASK_ID, Fields, RequestHead
from gateway.http.request import http_date
from gateway.tasks.options import OPTION_FIELDS
from gateway.upstream.response import Head

# RFC 9110 section 7.6.1. Keep-Alive is obsolete, but older peers still send it.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
# Not relayed: answered here (Expect, CORS), rewritten (Host), or ours (X-Task-Id and the options of a task).
_NOT_FOR_UPSTREAM = _HOP_BY_HOP | {b"host", b"expect", b"origin", TASK_ID} | OPTION_FIELDS
_NOT_FOR_CLIENT = _HOP_BY_HOP | {TASK_ID}
_NOT_FOR_UPSTREAM_PREFIXES = (b"proxy-", b"access-control-request-")
_NOT_FOR_CLIENT_PREFIXES = (b"proxy-", b"access-control-")  # the gateway alone answers CORS
# Connection cannot remove these: a message would lose its framing or its host.
_NOT_NOMINABLE = frozenset({b"content-length", b"host"})
_NO_CONTENT = 204
_WITHOUT_BODY = frozenset({_NO_CONTENT, 304})


def request_head(request: RequestHead, host: bytes) -> bytes:
    """The head of `request` for Ollama, with its empty line. `host` is the value of its Host field.

    The framing stays the client's: either its Content-Length, unchanged, or chunked again; never both. Fields that
    were meant for the gateway alone do not pass.
    """
    removed = _NOT_FOR_UPSTREAM
    if request.withheld or b"connection" in request.by_name:
        removed = removed.union(nominated(_values(request.fields, b"connection")), request.withheld)
    is_chunked = b"transfer-encoding" in request.by_name
    if is_chunked:
        removed |= {b"content-length"}
    head = [request.method.encode("ascii"), b" ", request.target, b" HTTP/1.1\r\nhost: ", host, b"\r\n"]
    for name, value in request.fields:
        if name not in removed and not name.startswith(_NOT_FOR_UPSTREAM_PREFIXES):
            head += (name, b": ", value, b"\r\n")
    head.append(b"transfer-encoding: chunked\r\n\r\n" if is_chunked else b"\r\n")
    return b"".join(head)


def nominated(connection: Iterable[bytes]) -> frozenset[bytes]:
    """The lower-case names that Connection values declare hop-by-hop (RFC 9110 section 7.6.1)."""
    tokens = (token.strip().lower() for value in connection for token in value.split(b","))
    return frozenset(tokens) - _NOT_NOMINABLE


class AnswerHead(NamedTuple):
    """The head of an answer, for the client: its field lines, and the Content-Length among them.

    `is_stream`: its Content-Type is that of server-sent events. `is_readable`: it has a body, and one that the gateway
    can look into.
    """

    lines: bytes
    length: int | None
    is_stream: bool
    is_readable: bool


def answer_head(head: Head, *, method: str, task_id: str) -> AnswerHead:
    """What the client of a request of `method` gets, made from Ollama's `head`."""
    status, fields, values = head.status, head.fields, first_values(head.fields)
    if status == _NO_CONTENT:
        fields = [field for field in fields if field[0] != b"content-length"]  # RFC 9110 section 8.6
    is_stream = is_event_stream(values)
    parts: list[bytes] = []
    length = None
    for name, value in response_fields(fields, task_id=task_id, date=http_date, is_stream=is_stream):
        parts += (name, b": ", value, b"\r\n")
        if name == b"content-length":
            length = int(value)
    is_readable = method != "HEAD" and status not in _WITHOUT_BODY and not is_encoded(values)
    return AnswerHead(b"".join(parts), length, is_stream, is_readable)


def first_values(fields: Fields) -> dict[bytes, bytes]:
    """The first value of each name."""
    return dict(reversed(fields))


def response_fields(fields: Fields, *, task_id: str, date: Callable[[], bytes], is_stream: bool) -> Fields:
    """The response fields that the client gets. `fields` are the upstream's, with lower-case names.

    `date` makes an IMF-fixdate; it is called if the upstream sent none.
    """
    names = dict(fields)
    dropped = _NOT_FOR_CLIENT
    if b"connection" in names:
        dropped |= nominated(_values(fields, b"connection"))
    if b"transfer-encoding" in names:
        dropped |= {b"content-length"}
    if is_stream:
        dropped |= {b"x-accel-buffering"}
    passed = [
        field for field in fields if field[0] not in dropped and not field[0].startswith(_NOT_FOR_CLIENT_PREFIXES)
    ]
    passed.append((TASK_ID, task_id.encode()))
    if is_stream:
        passed.append((b"x-accel-buffering", b"no"))
    if b"date" not in names or b"date" in dropped:
        passed.append((b"date", date()))
    return passed


def is_event_stream(values: Mapping[bytes, bytes]) -> bool:
    """Whether a response is a server-sent event stream, by its Content-Type. `values` are the first of each name."""
    return values.get(b"content-type", b"").partition(b";")[0].strip().lower() == b"text/event-stream"


def is_encoded(values: Mapping[bytes, bytes]) -> bool:
    """Whether the body has a Content-Encoding, so that the gateway cannot read it. `values` as above."""
    coding = values.get(b"content-encoding", b"")
    return coding != b"" and coding.strip().lower() != b"identity"


def _values(fields: Fields, name: bytes) -> list[bytes]:
    return [value for key, value in fields if key == name]
