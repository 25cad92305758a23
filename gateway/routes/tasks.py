"""`GET /tasks/status…`: what became of requests. Asks the tracker, answers its documents as they stand.

The models describe the documents for /openapi.json; a document is sent as the store holds it, not rebuilt.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.store import InvalidCursor
from gateway.task import ID_PATTERN, Reason, Stage, State, is_valid_id
from gateway.tracker import StoreUnavailable, Tracker

router = APIRouter(prefix="/tasks", tags=["tasks"])


class Extensions(BaseModel):
    """What the gateway knows beyond the state. Times are Unix milliseconds, sizes are body bytes."""

    model_config = ConfigDict(extra="allow")

    method: str
    path: str = Field(description="as on the wire")
    query: str = Field(description="as on the wire; values of keys that look like credentials are redacted")
    stream: bool = Field(description="whether the answer is an event stream; false until its head has come")
    status_code: int | None = Field(description="the HTTP status that the client got")
    reason: Reason | None = Field(description="why the task is FAILED")
    created_ms: int
    started_ms: int | None = Field(description="handed over to Ollama")
    first_byte_ms: int | None
    finished_ms: int | None
    request_bytes: int
    response_bytes: int
    attempt: int = Field(description="counts the requests that used this id one after another", ge=1)
    instance: str
    boot: str = Field(description="one run of one gateway process")


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
    timestamp: float = Field(description="Unix seconds of the last change or heartbeat")
    extensions: Extensions


class TaskPage(BaseModel):
    """Some tasks, newest first."""

    items: list[TaskDocument]
    count: int
    next_cursor: str | None = Field(description="names the next page; null at the end")


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


_STORE_AWAY = {"model": Problem, "description": "the store is away and this gateway does not know it itself"}


def _tracker(request: Request) -> Tracker:
    tracker: Tracker = request.app.state.tracker
    return tracker


def _store_is_away(error: StoreUnavailable) -> HTTPException:
    return HTTPException(503, f"the status store is away: {error}", headers={"Retry-After": "2"})


@router.get(
    "/status/{task_id}",
    response_model=TaskDocument,
    responses={
        400: {"model": Problem, "description": "not a task id"},
        404: {"model": Problem, "description": "no such task, or its status has expired"},
        503: _STORE_AWAY,
    },
)
async def task_status(task_id: str, request: Request) -> Response:
    """The status document of one task."""
    if not is_valid_id(task_id):
        raise HTTPException(400, f"not a task id; allowed: {ID_PATTERN}")
    try:
        document = await _tracker(request).read(task_id)
    except StoreUnavailable as error:
        raise _store_is_away(error) from error
    if document is None:
        raise HTTPException(404, f"no task {task_id!r}; it never was, or its status has expired")
    return Response(document, media_type="application/json", headers={"Cache-Control": "no-store"})


@router.get("/status", response_model=TaskPage, responses={503: _STORE_AWAY})
async def task_list(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    state: State | Literal[""] | None = None,
    cursor: Annotated[str | None, Query(max_length=512, description="`next_cursor` of the page before")] = None,
) -> Response:
    """Tasks by creation, newest first."""
    try:
        page = await _tracker(request).page(limit, state or None, cursor or None)
    except StoreUnavailable as error:
        raise _store_is_away(error) from error
    except InvalidCursor as error:
        raise HTTPException(422, "cursor is not valid; allowed: next_cursor of an earlier page") from error
    next_cursor = "null" if page.next_cursor is None else f'"{page.next_cursor}"'
    body = f'{{"items":[{",".join(page.documents)}],"count":{len(page.documents)},"next_cursor":{next_cursor}}}'
    return Response(body, media_type="application/json", headers={"Cache-Control": "no-store"})
