"""HOT PATH: relays one request to Ollama and tells the tracker what becomes of it.

A raw ASGI application; each request is one `_Exchange`, to be read from top to bottom. Bodies pass piece by piece
and are never parsed or gathered; between the upstream's first byte and the client's last there is no wait for the
store but the two bounded ones of contract 4.5. However an exchange ends, `_conclude` is told once, and only it
decides what the task becomes. Called by app for every target under `/v1/`.
"""

import asyncio
import logging
from collections.abc import Callable
from http import HTTPStatus

from starlette.types import Receive, Scope, Send

from gateway import headers
from gateway.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidTaskId,
    MethodNotAllowed,
    ShuttingDown,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.tail import Ending, EndWatch, end_watch
from gateway.target import Target
from gateway.task import ID_PATTERN, Reason, Task, is_valid_id, redact_query
from gateway.tracker import Tracker
from gateway.upstream import Connection, Upstream

log = logging.getLogger("gateway.proxy")

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class _ClientLeft(Exception):
    """The client closed its connection before its answer was complete."""


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`. `date` gives the current IMF-fixdate."""

    def __init__(self, upstream: Upstream, tracker: Tracker, *, max_body_bytes: int, date: Callable[[], bytes]) -> None:
        self._upstream = upstream
        self._tracker = tracker
        self._max_body_bytes = max_body_bytes
        self._date = date

    async def __call__(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        try:
            task = await self._admit(scope, target)
        except GatewayError as error:
            await send_error(send, error, date=self._date())
            return
        await _Exchange(self, task, target, scope, receive, send).run()

    async def _admit(self, scope: Scope, target: Target) -> Task:
        """Refuses what must not reach the upstream; else the task of this request, PENDING."""
        if scope["method"] == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        length = headers.first(scope["headers"], b"content-length")
        if length is not None and int(length) > self._max_body_bytes:
            raise self._body_too_large()
        return await self._tracker.begin(
            _task_id(scope["headers"]),
            scope["method"],
            target.path.decode("latin-1"),
            redact_query((target.query or b"").decode("latin-1")),
        )

    def _body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request body is longer than {self._max_body_bytes} bytes")


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_client_left", "_connection", "_date", "_end_watch", "_is_chunked", "_is_started", "_max_body_bytes",
        "_receive", "_refusal", "_repeatable", "_scope", "_send", "_target", "_task", "_too_large", "_tracker",
        "_upstream", "_watch",
    )  # fmt: skip

    def __init__(self, proxy: Proxy, task: Task, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        # gateway
        self._upstream = proxy._upstream
        self._tracker = proxy._tracker
        self._max_body_bytes = proxy._max_body_bytes
        self._too_large = proxy._body_too_large
        self._date = proxy._date
        # request
        self._task = task
        self._target = target
        self._scope = scope
        self._receive = receive
        self._send = send
        self._is_chunked = headers.first(scope["headers"], b"transfer-encoding") is not None
        self._connection: Connection | None = None
        self._watch: asyncio.Task[None] | None = None
        self._repeatable: bytes | None = None  # the whole request, where it may be sent twice
        self._refusal: GatewayError | None = None
        self._client_left = False
        # response
        self._is_started = False
        self._end_watch: EndWatch | None = None

    async def run(self) -> None:
        """The whole exchange. Never raises: what goes wrong ends the task and, at worst, the client's connection."""
        try:
            await self._hand_over()
            await self._relay_answer()
        except (GatewayError, _ClientLeft) as error:
            await self._end_early(error)
        except asyncio.CancelledError:
            await self._end_early(ShuttingDown("the gateway was stopped"))
        except Exception:
            log.exception("task %s failed inside the gateway", self._task.task_id)
            await self._end_early(GatewayError("internal error in the gateway"))
        finally:
            connection, self._connection = (
                self._connection,
                None,
            )  # `_watch_client` must not touch it any more
            if connection is not None:
                self._upstream.release(connection)

    # -- the way in --

    async def _hand_over(self) -> None:
        """Sends the request's head and first piece; from then on `_watch_client` reads the client."""
        piece, more = await self._next_piece()
        head = headers.request_head(
            self._scope["method"].encode("ascii"),
            self._target.wire,
            self._upstream.host_field,
            self._scope["headers"],
        )
        is_last = not more
        first_bytes = head + self._framed(piece, is_last)
        connection = self._connection = await self._upstream.connect(self._scope["method"])
        connection.send(first_bytes, is_last=is_last)
        self._tracker.forward(self._task)
        if is_last and connection.is_reused and self._scope["method"] in _IDEMPOTENT:
            self._repeatable = first_bytes
        self._watch = asyncio.get_running_loop().create_task(self._watch_client(more))

    async def _watch_client(self, more: bool) -> None:
        """Passes on the rest of the request body, then waits for the client to leave."""
        try:
            while more:
                piece, more = await self._next_piece()
                await self._pass_up(piece, is_last=not more)
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
        except _ClientLeft:
            self._client_left = True
            self._abort("the client left")
        except GatewayError as error:
            self._refusal = error
            self._abort("the request was refused")

    async def _pass_up(self, piece: bytes, *, is_last: bool) -> None:
        connection = self._connection
        if connection is not None:
            connection.send(self._framed(piece, is_last), is_last=is_last)
            await connection.drain()

    async def _next_piece(self) -> tuple[bytes, bool]:
        """The next piece of the request body and whether more may follow."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        piece: bytes = message.get("body", b"")
        self._task.request_bytes += len(piece)
        if self._task.request_bytes > self._max_body_bytes:
            raise self._too_large()
        return piece, message.get("more_body", False)

    def _framed(self, piece: bytes, is_last: bool) -> bytes:
        """`piece` as it goes on the wire: as a chunk where the client sends chunks (RFC 9112 section 7.1)."""
        if not self._is_chunked:
            return piece
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return chunk + b"0\r\n\r\n" if is_last else chunk

    # -- the way out --

    async def _relay_answer(self) -> None:
        """Passes head and body on, as they come; an answer that is whole already waits for the store just once."""
        status, fields = await self._read_head()
        connection = self._checked()
        is_stream = headers.is_event_stream(fields)
        if is_stream and not headers.is_encoded(fields):
            self._end_watch = end_watch(self._target.path)
        self._tracker.answer(self._task, status, is_stream=is_stream)
        whole = await self._take_whole(connection) if connection.is_complete else None
        if whole is None:
            await self._tracker.settle(self._task)
        client_fields = headers.response_fields(fields, task_id=self._task.task_id, date=self._date())
        if status == HTTPStatus.NOT_MODIFIED:
            # uvicorn holds a Content-Length against the body, though a 304 tells of a body it does not carry
            # (RFC 9110 section 8.6); of a HEAD it knows.
            self._scope["method"] = "HEAD"
        self._is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": client_fields})
        if whole is None:
            await self._relay_body(connection)
        else:
            await self._send({"type": "http.response.body", "body": whole})

    async def _read_head(self) -> tuple[int, headers.Fields]:
        """The response head; a kept-alive connection that was dead already is replaced once, where that is safe."""
        try:
            return await self._checked().read_head()
        except UpstreamBroken:
            if self._repeatable is None or self._checked().has_received:
                raise
        connection = self._connection = await self._upstream.connect(self._scope["method"], is_fresh=True)
        connection.send(self._repeatable, is_last=True)
        return await connection.read_head()

    async def _take_whole(self, connection: Connection) -> bytes:
        """The body of a message that is complete, the task's end being in the store."""
        body = await connection.read_piece()
        await self._account(body, is_last=True)
        return body

    async def _relay_body(self, connection: Connection) -> None:
        """Passes each piece on; the one that ends the message, or holds its end event, waits for the store."""
        is_last = False
        while not is_last:
            piece = await connection.read_piece()
            is_last = connection.is_drained
            await self._account(piece, is_last=is_last)
            await self._send({"type": "http.response.body", "body": piece, "more_body": not is_last})

    async def _account(self, piece: bytes, *, is_last: bool) -> None:
        """Counts a piece before it goes on; where it ends the task, waits until the store knows."""
        self._task.response_bytes += len(piece)
        ending = self._end_watch.feed(piece) if self._end_watch is not None else None
        if (ending is not None or is_last) and not self._task.is_final:
            self._conclude(ending)
            await self._tracker.settle(self._task)

    # -- the end --

    def _conclude(self, ending: Ending | None) -> None:
        """The task's end where the message came whole, or its end event did."""
        task, watch = self._task, self._end_watch
        status = task.status_code or 0
        if ending is None and watch is not None:
            ending = watch.at_end()
        if not 200 <= status < 300:
            self._tracker.finish(task, Reason.UPSTREAM_STATUS, f"the upstream answered HTTP {status}")
        elif ending is Ending.ERROR:
            self._tracker.finish(task, Reason.STREAM_ERROR, "the stream ended with an error event")
        elif watch is not None and ending is None:
            self._tracker.finish(task, Reason.STREAM_INCOMPLETE, "the stream ended without its end event")
        else:
            self._tracker.finish(task, None, "complete")

    async def _end_early(self, error: GatewayError | _ClientLeft) -> None:
        """The task's end where the exchange broke off; tells the client as well as it still can be told."""
        if self._client_left:
            error = _ClientLeft()
        error = self._refusal or error
        reason = _reason(error, is_started=self._is_started)
        if not self._is_started and isinstance(error, GatewayError):
            self._task.status_code = error.status
        self._tracker.finish(self._task, reason, str(error) or "the client closed the connection")
        self._abort("the exchange broke off")
        log.info("task %s failed: %s", self._task.task_id, reason)
        if isinstance(error, GatewayError) and not self._is_started:
            if not isinstance(error, ShuttingDown):
                await self._tracker.settle(self._task)
            self._is_started = True
            await send_error(self._send, error, date=self._date(), task_id=self._task.task_id)
        # Otherwise returning without the message's end makes the server close the connection: broken off.

    def _checked(self) -> Connection:
        """The connection to the upstream, unless the client's side has ended the exchange meanwhile."""
        if self._client_left:
            raise _ClientLeft
        if self._refusal is not None:
            raise self._refusal
        assert self._connection is not None
        return self._connection

    def _abort(self, why: str) -> None:
        if self._connection is not None:
            self._connection.abort(UpstreamBroken(why))


def _reason(error: GatewayError | _ClientLeft, *, is_started: bool) -> Reason:
    if isinstance(error, _ClientLeft):
        return Reason.CLIENT_DISCONNECT
    if isinstance(error, UpstreamUnavailable):
        return Reason.UPSTREAM_UNAVAILABLE
    if isinstance(error, UpstreamTimeout):
        return Reason.TIMEOUT
    if isinstance(error, UpstreamFailure):
        return Reason.UPSTREAM_TRUNCATED if is_started else Reason.UPSTREAM_ERROR
    return Reason.SHUTDOWN if isinstance(error, ShuttingDown) else Reason.GATEWAY_ERROR


def _task_id(fields: headers.Fields) -> str | None:
    """The task id that the client chose, None where it left that to us. Raises InvalidTaskId."""
    ids = [value for name, value in fields if name == headers.TASK_ID]
    if len(ids) > 1:
        raise InvalidTaskId("X-Task-Id was sent more than once; allowed: one")
    text = ids[0].decode("latin-1") if ids else ""
    if text and not is_valid_id(text):
        raise InvalidTaskId(f"X-Task-Id is not valid; allowed: {ID_PATTERN}, or none to get one")
    return text or None


async def send_error(send: Send, error: GatewayError, *, date: bytes, task_id: str | None = None) -> None:
    """Answers with an error of the gateway's own, in OpenAI's shape."""
    body = error.body()
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"date", date),
    ]
    if task_id is not None:
        fields.append((headers.TASK_ID, task_id.encode()))
    if error.retry_after_seconds is not None:
        fields.append((b"retry-after", str(error.retry_after_seconds).encode()))
    if error.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
