"""Answers requests for the gateway's own routes without the ASGI application.

Machines ask for most of them every few seconds, and a cancel has to take effect at once. The ASGI application takes
18 MiB and half a second to load (on_demand.py). `description.py` and `tasks.py` describe these routes in /openapi.json.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

import orjson

from gateway.errors import GatewayError
from gateway.http.head import Fields, Target
from gateway.http.request import Request, http_date, lines, own_fields
from gateway.metrics.counts import Counts

log = logging.getLogger("gateway")

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")

_running: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Each gets a date, its length, and the fields of all answers of ours on top."""

    status: int
    fields: Fields
    body: bytes = b""


Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Answer]]


@dataclass(frozen=True, slots=True)
class Route:
    """What answers the requests for one path. HEAD comes as GET does, and its answer is sent without the body."""

    handler: Handler
    methods: tuple[str, ...] = ("GET",)  # none: all


def as_json(value: object, status: int = HTTPStatus.OK, *fields: tuple[bytes, bytes]) -> Answer:
    """A dataclass or a dict as JSON, with times in UTC as `Z`."""
    return Answer(status, [_JSON, *fields], orjson.dumps(value, option=orjson.OPT_UTC_Z))


def described(text: str) -> dict[str, str]:
    """The metadata of a dataclass's field: what /openapi.json says about it. FastAPI reads it."""
    return {"description": text}


async def _not_found(_: Request) -> Answer:
    return as_json({"detail": "Not Found"}, HTTPStatus.NOT_FOUND)


# Where the ASGI application has routes. It need not be loaded to know that there is none elsewhere.
_OF_THE_APPLICATION = (b"/tasks/", b"/openapi.json")
_NOWHERE = Route(_not_found, ())

Finder: TypeAlias = Callable[[Request, Target], Route | None]


class PlainRoutes:
    """The routes by their paths, and those that `find` finds, whose paths have parameters."""

    def __init__(self, routes: Mapping[bytes, Route], find: Finder, counts: Counts) -> None:
        self._routes = routes
        self._find = find
        self._counts = counts

    def open(self, request: Request, target: Target) -> bool:
        """Answers a request for one of these routes, or for none. False: the ASGI application has to answer it."""
        path = unquote_to_bytes(target.path) if b"%" in target.path else target.path
        route = self._routes.get(path) or self._find(request, target)
        if route is None:
            if path.startswith(_OF_THE_APPLICATION):
                return False
            route = _NOWHERE
        _Call(route, request, self._counts).begin()
        return True


class _Call:
    """One request that a route answers, in an asyncio task of its own (`Answerer`).

    If its client leaves, nothing is sent. But its handler goes on, so that a cancel takes effect. Work in `Background`
    would end.
    """

    def __init__(self, route: Route, request: Request, counts: Counts) -> None:
        self._route = route
        self._request = request
        self._counts = counts
        self._changed = asyncio.Event()
        self._has_left = False

    def begin(self) -> None:
        self._request.answered_by(self)
        task = asyncio.get_running_loop().create_task(self._run())
        _running.add(task)
        task.add_done_callback(_running.discard)

    # -- what the client does --

    def on_request(self) -> None:
        """Nothing: no route here reads a body."""

    def on_writable(self) -> None:
        self._changed.set()

    def on_left(self) -> None:
        self._has_left = True
        self._changed.set()

    # -- the answer --

    async def _run(self) -> None:
        answer = await self._answer()
        while not (self._request.wire.is_writable or self._has_left):
            self._changed.clear()
            await self._changed.wait()
        if not self._has_left:
            self._send(answer)

    async def _answer(self) -> Answer:
        methods = self._route.methods
        if methods and ("GET" if self._request.method == "HEAD" else self._request.method) not in methods:
            return as_json({"detail": "Method Not Allowed"}, 405, (b"allow", ", ".join(methods).encode()))
        try:
            return await self._route.handler(self._request)
        except GatewayError as error:
            self._counts.refused(error.code)
            return Answer(error.status, [_JSON], error.body(has_detail=True))
        except Exception:
            log.exception("a route failed inside the gateway")
            return Answer(500, [_TEXT], b"Internal Server Error")

    def _send(self, answer: Answer) -> None:
        fields = own_fields([*answer.fields, (b"date", http_date())])
        has_body = answer.status != HTTPStatus.NOT_MODIFIED
        if has_body:
            fields.append((b"content-length", b"%d" % len(answer.body)))
        self._request.start(answer.status, lines(fields), length=len(answer.body))
        self._request.end(answer.body if has_body and self._request.method != "HEAD" else b"")
