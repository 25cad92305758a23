"""`/tasks/{task_id}/response`: reads a kept answer from any byte on, live while the task runs, and deletes it.

It does not go through the ASGI application: an answer may have any status and fields, and may have to be broken off.
`DESCRIPTION` tells of it in /openapi.json.
"""

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

from gateway.errors import InvalidParameter, InvalidTaskId, MethodNotAllowed
from gateway.http.background import Background
from gateway.http.head import Target
from gateway.http.request import Request, own_fields
from gateway.kept.deleting import delete
from gateway.kept.keeping import Keeping
from gateway.kept.looking import Looking
from gateway.kept.reading import Reading, Wish
from gateway.tasks.task import ID_PATTERN, is_valid_id

_PATH = re.compile(rb"/tasks/([^/]+)/response")
_RESERVED = b"status"  # `/tasks/status/response` is the status of a task whose id is `response`
_WHOLE = re.compile(r"[0-9]{1,16}")
_SECONDS = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,6})?")
_MOST_WAIT = 60
_GENERATION = re.compile(r"[0-9A-Za-z-]{1,64}")
_RANGE = re.compile(rb"bytes=([0-9]{1,16})-")
_TAG = re.compile(rb'"([!#-~]*)"')


def task_id_in(path: bytes) -> bytes | None:
    """The task's id in the path of this route, decoded but not checked; None for another path."""
    match = _PATH.fullmatch(path)
    return None if match is None or match[1] == _RESERVED else unquote_to_bytes(match[1])


class _OtherMethod(MethodNotAllowed):
    """A method that this route does not have."""

    allowed = "GET, HEAD, DELETE"


class ResponseRoute:
    """Answers requests for kept answers."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._looking = Looking(keeping)

    def open(self, request: Request, raw_id: bytes, target: Target) -> None:
        """Answers one request. Raises GatewayError if it is not valid."""
        task_id = raw_id.decode("latin-1")
        if not is_valid_id(task_id):
            raise InvalidTaskId(f"not a task id; allowed: {ID_PATTERN}")
        if request.method in ("GET", "HEAD"):
            reading = Reading(self._looking, request, _wish(request, task_id, target.query or b""))
            reading.begin(reading.run())
        elif request.method == "DELETE":
            deleting = Background(request)
            deleting.begin(self._delete(request, task_id))
        else:
            raise _OtherMethod(f"{request.method} is not allowed here; allowed: {_OtherMethod.allowed}")

    async def _delete(self, request: Request, task_id: str) -> None:
        await delete(self._keeping, self._looking, task_id, request.reader)
        request.answer(HTTPStatus.NO_CONTENT, own_fields([]))


def _wish(request: Request, task_id: str, query: bytes) -> Wish:
    """What a reader asks for. Raises InvalidParameter."""
    given = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    generations = _generations(request.values(b"if-match"))
    if (named := _one(given, "generation", _GENERATION, "the generation that an ETag names")) is not None:
        generations = frozenset({named})
    wait = _one(given, "wait", _SECONDS, f"seconds from 0 to {_MOST_WAIT}")
    if wait is not None and float(wait) > _MOST_WAIT:
        raise InvalidParameter(f"wait={wait} is not valid; allowed: seconds from 0 to {_MOST_WAIT}")
    ranged = _RANGE.fullmatch(request.by_name.get(b"range", b"").replace(b" ", b""))
    if_range = request.by_name.get(b"if-range")
    return Wish(
        task_id,
        request.reader,
        offset=int(_one(given, "from", _WHOLE, "a whole number of bytes from 0 on") or 0),
        generations=generations,
        wait_seconds=None if wait is None else float(wait),
        range_from=None if ranged is None else int(ranged[1]),
        if_range=None if if_range is None else if_range.decode("latin-1").strip().strip('"'),
    )


def _generations(if_match: list[bytes]) -> frozenset[str] | None:
    """The generations that If-Match allows; None: all. A weak tag matches none (RFC 9110 section 13.1.1)."""
    tags = b",".join(if_match)
    if not if_match or tags.strip() == b"*":
        return None
    return frozenset(tag[1].decode() for tag in _TAG.finditer(tags) if not _is_weak(tags, tag.start()))


def _is_weak(tags: bytes, at: int) -> bool:
    return tags[max(at - 2, 0) : at] == b"W/"


def _one(given: dict[str, list[str]], name: str, pattern: re.Pattern[str], allowed: str) -> str | None:
    values = given.get(name)
    if not values:
        return None
    if len(values) > 1 or pattern.fullmatch(values[0]) is None:
        raise InvalidParameter(f"{name}={values[0]:.64} is not valid; allowed: {allowed}, once")
    return values[0]


def _error(meaning: str) -> dict[str, Any]:
    return {"description": meaning}


def with_response_route(schema: dict[str, Any]) -> dict[str, Any]:
    """The OpenAPI description of the other routes, with this route in it."""
    schema["paths"].update(DESCRIPTION)
    return schema


_ID = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string"}}
DESCRIPTION: dict[str, Any] = {
    "/tasks/{task_id}/response": {
        "get": {
            "tags": ["tasks"],
            "summary": "The kept answer of a task",
            "operationId": "task_response",
            "description": "Ollama's status, header fields and bytes, live while the task runs. The answer ends as the "
            "original did. `ETag` names the generation; a client that reads on sends it as `If-Match`.",
            "parameters": [
                _ID,
                {"name": "from", "in": "query", "description": "the first byte that is wanted",
                 "schema": {"type": "integer", "minimum": 0, "default": 0}},
                {"name": "wait", "in": "query", "description": "seconds to wait for the head of the answer; without it "
                 "as long as the task runs", "schema": {"type": "number", "minimum": 0, "maximum": _MOST_WAIT}},
                {"name": "generation", "in": "query", "description": "as `If-Match`", "schema": {"type": "string"}},
            ],
            "responses": {
                "200": _error("the answer from `from` on, with Ollama's own status in the place of 200"),
                "202": _error("the answer has not begun within `wait`: the status document"),
                "206": _error("what `Range: bytes=N-` asks for, of an answer that has ended whole"),
                "400": _error("not a task id"),
                "404": _error("no such task (`not_found`), or its answer was not to be kept (`response_not_kept`)"),
                "410": _error("the answer is no longer kept (`response_gone`)"),
                "412": _error("another generation than the one that `If-Match` names (`generation_changed`)"),
                "416": _error("`from` is behind the end of the answer (`offset_not_satisfiable`)"),
                "422": _error("a parameter is not valid (`invalid_parameter`)"),
                "503": _error("the store is away and this gateway does not hold the answer (`store_unavailable`)"),
            },
        },
        "delete": {
            "tags": ["tasks"],
            "summary": "Deletes the kept answer of a task",
            "operationId": "task_response_delete",
            "parameters": [_ID],
            "description": "A task that runs goes on without being kept; if its client has left, it is cancelled.",
            "responses": {
                "204": _error("it is gone"),
                "400": _error("not a task id"),
                "404": _error("no such task, or its answer was not to be kept"),
                "410": _error("it is gone already"),
                "503": _error("the store is away"),
            },
        },
    }
}  # fmt: skip
