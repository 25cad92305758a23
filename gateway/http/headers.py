"""Which header fields pass the gateway in each direction, and the request head that the upstream gets.

Pure. Fields keep their order and their duplicates. The gateway adds nothing to a request. To a response it adds the
task id, a Date if Ollama sent none, and `X-Accel-Buffering: no` on event streams; to its own answers some more.
"""

from collections.abc import Iterable

Fields = list[tuple[bytes, bytes]]

TASK_ID = b"x-task-id"
# Each answer of our own has these fields, unless it has its own value: browsers do not guess its type, pages of other
# sites cannot load it as an image or a script, caches do not keep it.
_OWN = {
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}

# RFC 9110 section 7.6.1. Keep-Alive is obsolete, but older peers still send it.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
# Not relayed: answered here (Expect, CORS), rewritten (Host), or ours (X-Task-Id).
_NOT_FOR_UPSTREAM = _HOP_BY_HOP | {b"host", b"expect", b"origin", TASK_ID}
_NOT_FOR_CLIENT = _HOP_BY_HOP | {TASK_ID}
_NOT_FOR_UPSTREAM_PREFIXES = (b"proxy-", b"access-control-request-")
_NOT_FOR_CLIENT_PREFIXES = (b"proxy-", b"access-control-")  # the gateway alone answers CORS
# Connection cannot remove these: a message would lose its framing or its host.
_NOT_NOMINABLE = frozenset({b"content-length", b"host"})


def nominated(connection: Iterable[bytes]) -> frozenset[bytes]:
    """The lower-case names that Connection values declare hop-by-hop (RFC 9110 section 7.6.1)."""
    tokens = (token.strip().lower() for value in connection for token in value.split(b","))
    return frozenset(tokens) - _NOT_NOMINABLE


def request_head(
    method: bytes,
    target: bytes,
    host: bytes,
    fields: Fields,
    *,
    connection: Iterable[bytes],
    is_chunked: bool,
    dropped: Iterable[bytes] = (),
) -> bytes:
    """The request head for the upstream, with its empty line.

    `fields` have lower-case names, `connection` are the Connection values among them. The framing stays the client's:
    either its Content-Length, unchanged, or chunked again; never both. `dropped` are the (lower-case) names of the
    fields that carried the gateway's own credential.
    """
    removed = _NOT_FOR_UPSTREAM.union(nominated(connection), dropped) if connection or dropped else _NOT_FOR_UPSTREAM
    if is_chunked:
        removed |= {b"content-length"}
    head = [method, b" ", target, b" HTTP/1.1\r\nhost: ", host, b"\r\n"]
    for name, value in fields:
        if name not in removed and not name.startswith(_NOT_FOR_UPSTREAM_PREFIXES):
            head += (name, b": ", value, b"\r\n")
    head.append(b"transfer-encoding: chunked\r\n\r\n" if is_chunked else b"\r\n")
    return b"".join(head)


def response_fields(fields: Fields, *, task_id: str, date: bytes, is_stream: bool) -> Fields:
    """The response fields that the client gets. `fields` are the upstream's, with lower-case names.

    `date` is an IMF-fixdate; it is used if the upstream sent none.
    """
    names = {name for name, _ in fields}
    dropped = _NOT_FOR_CLIENT
    if b"connection" in names:
        dropped |= nominated(value for name, value in fields if name == b"connection")
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
        passed.append((b"date", date))
    return passed


def own_fields(fields: Fields) -> Fields:
    """The fields (lower-case names) of an answer of our own, and those that each has. An Allow with GET gets HEAD."""
    names = {name for name, _ in fields}
    if b"allow" in names:
        fields = [(name, _with_head(value) if name == b"allow" else value) for name, value in fields]
    return [*fields, *(field for field in _OWN.items() if field[0] not in names)]


def _with_head(allowed: bytes) -> bytes:
    methods = [method.strip() for method in allowed.split(b",")]
    if b"GET" in methods and b"HEAD" not in methods:
        methods.insert(methods.index(b"GET") + 1, b"HEAD")
    return b", ".join(methods)


def chunk(piece: bytes, *, is_last: bool) -> bytes:
    """`piece` as a chunk, and the last chunk behind it if `is_last`; that one may be empty (RFC 9112 section 7.1)."""
    framed = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
    return framed + b"0\r\n\r\n" if is_last else framed


def lines(fields: Fields) -> bytes:
    """The field lines of a message head."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


def first(fields: Fields, name: bytes) -> bytes | None:
    """The value of the first field called `name` (lower case), or None."""
    for key, value in fields:
        if key == name:
            return value
    return None


def length_of(fields: Fields) -> int | None:
    """The Content-Length, which was checked before; None if there is none."""
    length = first(fields, b"content-length")
    return None if length is None else int(length)


def is_longer(content_length: bytes, most: int) -> bool:
    """Whether a Content-Length (digits, perhaps with leading zeros) is more than `most`."""
    digits = content_length.lstrip(b"0")
    return len(digits) > len(str(most)) or int(digits or b"0") > most


def is_event_stream(fields: Fields) -> bool:
    """Whether a response is a server-sent event stream, by its Content-Type."""
    media_type = (first(fields, b"content-type") or b"").partition(b";")[0]
    return media_type.strip().lower() == b"text/event-stream"


def is_encoded(fields: Fields) -> bool:
    """Whether the body has a Content-Encoding, so that the gateway cannot read it."""
    return (first(fields, b"content-encoding") or b"identity").strip().lower() != b"identity"
