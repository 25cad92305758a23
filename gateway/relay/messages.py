"""Makes the messages of an exchange from those of its other end: the request for Ollama, the head for the client.

Pure but for the `Date` of an answer that has none. `gateway.http.headers` knows which fields pass.
"""

from http import HTTPStatus

from gateway.http import headers
from gateway.http.request import Request, http_date
from gateway.http.target import Target
from gateway.tasks.task import Task
from gateway.upstream.response import Head

_WITHOUT_BODY = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


def request_head(request: Request, target: Target, host_field: bytes) -> bytes:
    """The head of `request` as Ollama gets it."""
    return headers.request_head(
        request.method.encode("ascii"),
        target.wire,
        host_field,
        request.fields,
        connection=request.values(b"connection"),
        is_chunked=b"transfer-encoding" in request.by_name,
        dropped=request.credential,
    )


def next_of_body(request: Request, *, is_last: bool) -> bytes:
    """Takes what waits of the request's body, framed as the client framed it. `is_last` says that nothing follows."""
    piece = request.take()
    return headers.chunk(piece, is_last=is_last) if b"transfer-encoding" in request.by_name else piece


def has_readable_body(request: Request, head: Head) -> bool:
    """Whether an answer has a body, and one that can be looked into."""
    return request.method != "HEAD" and head.status not in _WITHOUT_BODY and not headers.is_encoded(head.fields)


def answer_fields(head: Head, task: Task) -> tuple[bytes, int | None]:
    """The field lines of an answer as the client gets them, and the Content-Length among them."""
    fields = head.fields
    if head.status == HTTPStatus.NO_CONTENT:
        fields = [field for field in fields if field[0] != b"content-length"]  # RFC 9110 section 8.6
    fields = headers.response_fields(fields, task_id=task.task_id, date=http_date(), is_stream=task.is_stream)
    return headers.lines(fields), headers.length_of(fields)
