"""Describes `/tasks/status…` and the cancels for /openapi.json, and answers those requests that no plain route takes.

The plain routes are in status.py and cancel.py. Documents are sent as the tracker has them: the models below only
describe them, and no document is rebuilt from a model.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway.http.request import Request as ClientRequest
from gateway.routes.description import Problem
from gateway.routes.status import (
    MOST_WAIT,
    RETRY_AFTER_SECONDS,
    is_known,
    known_event,
    not_found,
    page_body,
    page_tag,
    store_is_away,
)
from gateway.store.interface import InvalidCursor
from gateway.tasks.document import found_in
from gateway.tasks.options import LABEL_PATTERN, MAX_LABEL
from gateway.tasks.stages import MAX_ATTEMPT, Stage, State
from gateway.tasks.task import ID_PATTERN, Kept, Reason, is_valid_id
from gateway.tracking.answers import StoreUnavailable
from gateway.tracking.tracker import Tracker

router = APIRouter(prefix="/tasks", tags=["tasks"])


class Extensions(BaseModel):
    """What the gateway knows beyond the state. Times are Unix milliseconds, sizes are body bytes."""

    model_config = ConfigDict(extra="allow")

    method: str
    path: str = Field(description="as on the wire; over 2 KiB together with the query it is cut, and ends with `…`")
    query: str = Field(
        description="as on the wire, cut like the path; values of keys that look like credentials are redacted"
    )
    stream: bool = Field(description="whether the answer is an event stream; false until its head has come")
    status_code: int | None = Field(description="the HTTP status that the client got")
    reason: Reason | None = Field(description="why the task is FAILED")
    error_text: str | None = Field(
        None, description="the beginning of an answer of 400 or above, with `ERROR_TEXT_BYTES`; absent if there is none"
    )
    created_ms: int
    started_ms: int | None = Field(description="handed over to Ollama")
    first_byte_ms: int | None
    finished_ms: int | None
    request_bytes: int
    response_bytes: int
    is_detached: bool = Field(False, description="whether it goes on without its client, because its answer is kept")
    response: Kept | None = Field(None, description="what became of the answer; null if it was not to be kept")
    trace_id: str | None = Field(None, description="of the task's OpenTelemetry trace; not there without tracing")
    is_presumed: bool = Field(
        False, description="only in FAILED lost: its gateway is silent, but may live; then its true state follows"
    )
    attempt: int = Field(description="counts the requests that used this id one after another", ge=1, le=MAX_ATTEMPT)
    instance: str
    boot: str = Field(description="one run of one gateway process")
    owner: str | None = Field(description="the name of the API key; null without one")
    label: str | None = Field(None, description="the client's X-Task-Label; null without one")
    queue_position: int | None = Field(None, description="1 is next; null unless the task waits in the queue", ge=1)
    queue_length: int | None = Field(None, description="how many requests wait, this one included; null as above")
    lost_after_ms: int | None = Field(
        description="by the store's clock: with no heartbeat until then the task counts as lost; null once it ended"
    )


class TaskDocument(BaseModel):
    """The status of one request."""

    version: Literal["1.0"]
    event_type: Literal["task.status.update"]
    event_id: str = Field(description="new with every change; a heartbeat keeps it")
    algorithm_id: str
    task_id: str = Field(pattern=f"^{ID_PATTERN}$")
    state: State
    stage: Stage
    message: str
    timestamp: int = Field(description="Unix seconds of the last change or heartbeat, a whole number")
    extensions: Extensions


class TaskPage(BaseModel):
    """Some tasks, newest first."""

    items: list[TaskDocument]
    count: int
    next_cursor: str | None = Field(description="names the next page; null at the end")
    skipped: int = Field(0, description="malformed records in the store that were left out; not there where none were")


class LabelCancelled(BaseModel):
    """What became of a call that cancels by label."""

    cancelled: int = Field(description="how many tasks were asked to end")


_STORE_AWAY = {"model": Problem, "description": "the store is away and this gateway does not know it itself"}
_PARTLY_CANCELLED = {"model": Problem, "description": "the store is away; the tasks of this gateway are cancelled"}

_Label: TypeAlias = Annotated[str, StringConstraints(pattern=LABEL_PATTERN, max_length=MAX_LABEL)]


def _tracker(request: Request) -> Tracker:
    tracker: Tracker = request.app.state.tracker
    return tracker


def _reader(request: Request) -> str | None:
    """The name of the API key whose tasks the client may see; None: all tasks."""
    client: ClientRequest = request.scope["extensions"]["gateway"]
    return client.reader


def _refused(name: str, value: str | None, problem: str) -> RequestValidationError:
    """422 for a query parameter whose value is not a matter of its form alone."""
    return RequestValidationError([{"type": "value_error", "loc": ("query", name), "msg": problem, "input": value}])


def _store_is_away(error: StoreUnavailable) -> HTTPException:
    return HTTPException(503, store_is_away(error), headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


@contextmanager
def _answerable(task_id: str) -> Iterator[None]:
    """The errors of the routes for one task: 400 for an invalid id, 503 if the store is away."""
    if not is_valid_id(task_id):
        raise HTTPException(400, f"not a task id; allowed: {ID_PATTERN}")
    try:
        yield
    except StoreUnavailable as error:
        raise _store_is_away(error) from error


def _found(task_id: str, document: str | None) -> str:
    if document is None:
        raise HTTPException(404, not_found(task_id))
    return document


def _tagged(body: bytes, tag: str, if_none_match: str | None = None, status_code: int = 200) -> Response:
    """JSON with its ETag; 304 without a body if the client has that tag already."""
    headers = {"ETag": f'"{tag}"'}
    if is_known(tag, (if_none_match or "").encode()):
        return Response(status_code=304, headers=headers)
    return Response(body, status_code, media_type="application/json", headers=headers)


async def _unless_left(request: Request, answer: Coroutine[Any, Any, str | None]) -> str | None:
    """Awaits `answer`. If the client leaves, cancels it and returns None, which is sent to no client."""
    left: asyncio.Future[None] = request.scope["extensions"]["gateway.left"]
    waiting = asyncio.ensure_future(answer)

    def give_up(_: object) -> None:
        waiting.cancel()

    left.add_done_callback(give_up)
    try:
        return await waiting
    except asyncio.CancelledError:
        if not waiting.cancelled():
            waiting.cancel()
            raise
        return None
    finally:
        left.remove_done_callback(give_up)


_NO_DOCUMENT: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "not a task id"},
    404: {"model": Problem, "description": "no such task, or its status has expired"},
    503: _STORE_AWAY,
}


@router.get(
    "/status/{task_id}",
    response_model=TaskDocument,
    responses={304: {"description": "still the event that If-None-Match names"}, **_NO_DOCUMENT},
)
async def task_status(
    task_id: str,
    request: Request,
    wait: Annotated[
        float,
        Query(
            ge=0, le=MOST_WAIT, allow_inf_nan=False, description="seconds to wait for another event than the one known"
        ),
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="the ETag of the event that is known already")] = None,
) -> Response:
    """The status document of one task. `ETag` is its `event_id`. It changes with the stage, but not with a heartbeat.

    With `wait` the gateway answers when the event differs from the one in If-None-Match (without that field: from the
    present one), when the task has ended, or when the time is up.
    """
    reader, answers = _reader(request), _tracker(request).answers
    with _answerable(task_id):
        if wait and not answers.changes.is_full:
            known = known_event((if_none_match or "").encode())
            document = await _unless_left(request, answers.wait(task_id, known, wait, reader))
        else:
            document = await answers.read(task_id, reader)
    body, summary = found_in(_found(task_id, document))
    return _tagged(body, summary.event_id, if_none_match)


@router.post(
    "/{task_id}/cancel",
    response_model=TaskDocument,
    responses={202: {"model": TaskDocument, "description": "asked for, but not ended within a second"}, **_NO_DOCUMENT},
)
async def task_cancel(task_id: str, request: Request) -> Response:
    """Cancels a task in flight, at any gateway. If the task has ended, its status is returned unchanged."""
    with _answerable(task_id):
        document = await _tracker(request).cancel(task_id, _reader(request))
    body, summary = found_in(_found(task_id, document))
    return _tagged(body, summary.event_id, status_code=200 if summary.has_ended else 202)


@router.post("/cancel", response_model=LabelCancelled, responses={503: _PARTLY_CANCELLED})
async def tasks_cancel(
    label: Annotated[_Label, Query(description="the X-Task-Label of the tasks")], request: Request
) -> dict[str, int]:
    """Cancels all tasks in flight with this label, at all gateways. With keys: the caller's own, `admin`: all.

    Does not wait for their ends. If the store is away, it cancels the tasks of this gateway and answers 503; the call
    can be repeated.
    """
    try:
        return {"cancelled": await _tracker(request).answers.cancel_label(label, _reader(request))}
    except StoreUnavailable as error:
        raise _store_is_away(error) from error


@router.get(
    "/status",
    response_model=TaskPage,
    responses={304: {"description": "still what If-None-Match names"}, 503: _STORE_AWAY},
)
async def task_list(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    state: State | Literal[""] | None = None,
    label: Annotated[
        _Label | None, Query(description="only tasks with this X-Task-Label; not together with `state`")
    ] = None,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
    scope: Annotated[
        Literal["instance", ""] | None,
        Query(description="`instance`: only tasks of this gateway, as they are now, without asking the store"),
    ] = None,
    if_none_match: Annotated[str | None, Header(description="the ETag of the page that is known already")] = None,
) -> Response:
    """Tasks by creation, newest first. The `ETag` changes with any change of the page, also with heartbeats."""
    if state and label:
        raise _refused("label", label, "allowed: `state` or `label`, not both at once")
    try:
        answers = _tracker(request).answers
        wish = (limit, state or None, cursor or None, _reader(request), label or "")
        page = answers.own_page(*wish) if scope else await answers.page(*wish)
    except StoreUnavailable as error:
        raise _store_is_away(error) from error
    except InvalidCursor as error:
        raise _refused("cursor", cursor, "allowed: next_cursor of an earlier page") from error
    found = list(map(found_in, page.documents))
    body = page_body(found, page.next_cursor, page.skipped)
    return _tagged(body, page_tag(found, page.next_cursor, page.skipped), if_none_match)
