"""HOT PATH: relays one request to Ollama and tells the tracker what becomes of it.

A raw ASGI application; each request is one `_Exchange`, to be read from top to bottom. Bodies pass piece by piece
and are never parsed or gathered; between the upstream's first byte and the client's last there is no wait for the
store but the two bounded ones of contract 4.5. What the task becomes is decided in two places and no third:
`_conclude` where the message came whole, `_end_early` where it did not. Called by app for every target under `/v1/`.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import cast

from starlette.types import Receive, Scope, Send

from gateway import headers
from gateway.counts import Counts
from gateway.errors import (
    BodyTooLarge,
    Cancelled,
    GatewayError,
    InvalidTaskId,
    MethodNotAllowed,
    ShuttingDown,
    TaskIdInUse,
    UpstreamBroken,
    UpstreamFailure,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.link import ClientLink
from gateway.outbox import TrackedTask
from gateway.tail import Ending, EndWatch, end_watch
from gateway.target import Target
from gateway.task import ID_PATTERN, Reason, is_valid_id, redact_query
from gateway.tracker import Tracker
from gateway.upstream import Connection, Upstream

log = logging.getLogger("gateway.proxy")

_ALLOWED = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})


class _ClientLeft(Exception):
    """The client closed its connection before its answer was complete."""


class Proxy:
    """Relays requests through `upstream` as tasks of `tracker`. `date` gives the current IMF-fixdate."""

    def __init__(
        self,
        upstream: Upstream,
        tracker: Tracker,
        counts: Counts,
        *,
        max_body_bytes: int,
        date: Callable[[], bytes],
    ) -> None:
        self.upstream = upstream
        self.tracker = tracker
        self._counts = counts
        self.max_body_bytes = max_body_bytes
        self.date = date

    async def __call__(self, scope: Scope, receive: Receive, send: Send, target: Target) -> None:
        deciding = headers.deciding(scope["headers"])
        try:
            task = await self._admit(scope, target, deciding)
        except GatewayError as error:
            self._counts.refused(error.code)
            await send_error(send, error, date=self.date())
            return
        await _Exchange(self, task, target, deciding, scope, receive, send).run()

    async def _admit(self, scope: Scope, target: Target, deciding: dict[bytes, list[bytes]]) -> TrackedTask:
        """Refuses what must not reach the upstream; else the task of this request, PENDING."""
        if scope["method"] == "TRACE":
            raise MethodNotAllowed("TRACE is not allowed")
        if any(headers.is_longer(length, self.max_body_bytes) for length in deciding.get(b"content-length", ())):
            raise self.body_too_large()
        task_id = _task_id(deciding.get(headers.TASK_ID, []))
        task = self.tracker.begin(
            task_id,
            scope["method"],
            target.path.decode("latin-1"),
            redact_query(target.query.decode("latin-1")) if target.query else "",
            scope["extensions"]["gateway"].owner,
        )
        if task_id is not None:
            await self._claim(task)
        return task

    async def _claim(self, task: TrackedTask) -> None:
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.tracker.claim(task, granted.set_result)
        try:
            is_granted = await granted
        except asyncio.CancelledError:
            self.tracker.forget_wait(task)
            self.tracker.finish(task, Reason.SHUTDOWN, "the gateway was stopped")
            raise
        if not is_granted:
            raise TaskIdInUse(f"the task id {task.task_id!r} is in flight at another gateway, or another key's")

    def body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the request body is longer than {self.max_body_bytes} bytes")


class _Exchange:
    """One request and its answer."""

    __slots__ = (
        "_client_left", "_connection", "_deciding", "_end_watch", "_is_chunked", "_is_started", "_link", "_proxy",
        "_receive", "_refusal", "_repeatable", "_runner", "_scope", "_send", "_target", "_task", "_tracker", "_upload",
        "_upstream",
    )  # fmt: skip

    def __init__(
        self,
        proxy: Proxy,
        task: TrackedTask,
        target: Target,
        deciding: dict[bytes, list[bytes]],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        # gateway
        self._proxy = proxy
        self._upstream = proxy.upstream
        self._tracker = proxy.tracker
        # request
        self._task = task
        self._target = target
        self._deciding = deciding
        self._scope = scope
        self._receive = receive
        self._send = send
        self._link: ClientLink = scope["extensions"]["gateway"]
        self._is_chunked = b"transfer-encoding" in deciding
        self._connection: Connection | None = None
        self._upload: asyncio.Task[None] | None = None
        self._repeatable: bytes | None = None  # the whole request, where it may be sent twice
        self._refusal: GatewayError | None = None
        self._client_left = False
        # response
        self._is_started = False
        self._end_watch: EndWatch | None = None

    async def run(self) -> None:
        """The whole exchange. Never raises: what goes wrong ends the task and, at worst, the client's connection."""
        self._link.on_lost = self._lose_client
        self._runner = cast("asyncio.Task[None]", asyncio.current_task())
        self._task.on_cut = self._cut
        try:
            if self._task.cut_by is not None:
                raise self._task.cut_by
            await self._hand_over()
            await self._relay_answer()
        except (GatewayError, _ClientLeft) as error:
            await self._end_early(error)
        except asyncio.CancelledError:
            self._runner.uncancel()
            await self._end_early(ShuttingDown("the gateway was stopped"))
        except Exception:
            log.exception("task %s failed inside the gateway", self._task.task_id)
            await self._end_early(GatewayError("internal error in the gateway"))
        finally:
            # From here on neither the client's loss nor its upload is of any consequence.
            self._link.on_lost = None
            connection, self._connection = self._connection, None
            if connection is not None:
                self._upstream.release(connection)
            if self._task.reason is not None:
                log.info("task %s failed: %s", self._task.task_id, self._task.reason)

    # -- the way in --

    async def _hand_over(self) -> None:
        """Sends the request's head and first piece; what follows goes up while the answer may already come down."""
        piece, more = await self._next_piece()
        method: str = self._scope["method"]
        request = headers.request_head(
            method.encode("ascii"),
            self._target.wire,
            self._upstream.host_field,
            self._scope["headers"],
            connection=self._deciding.get(b"connection", ()),
            is_chunked=self._is_chunked,
            dropped=self._link.credential,
        ) + self._framed(piece, is_last=not more)
        self._connection = await self._upstream.connect(method)
        connection = self._checked()
        connection.send(request, is_last=not more)
        self._tracker.forward(self._task)
        if more:
            self._upload = asyncio.get_running_loop().create_task(self._pass_up_rest())
        elif connection.is_reused and method in _IDEMPOTENT:
            self._repeatable = request

    async def _pass_up_rest(self) -> None:
        """The rest of the request body, as the client sends it and the upstream takes it."""
        more = True
        try:
            while more and (connection := self._connection) is not None:
                piece, more = await self._next_piece()
                connection.send(self._framed(piece, is_last=not more), is_last=not more)
                await connection.drain()
        except _ClientLeft:
            self._lose_client()
        except GatewayError as error:
            self._refusal = error
            self._abort("the request was refused")

    def _lose_client(self) -> None:
        self._client_left = True
        self._abort("the client left")

    def _cut(self) -> None:
        """The task was ended from outside: so is whatever this exchange waits for."""
        self._abort("the task was cut")
        self._runner.cancel()

    async def _next_piece(self) -> tuple[bytes, bool]:
        """The next piece of the request body and whether more may follow."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _ClientLeft
        piece: bytes = message.get("body", b"")
        self._task.request_bytes += len(piece)
        if self._task.request_bytes > self._proxy.max_body_bytes:
            raise self._proxy.body_too_large()
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
        has_body = self._scope["method"] != "HEAD" and status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        if is_stream and has_body and not headers.is_encoded(fields):
            self._end_watch = end_watch(self._target.path)
        self._tracker.answer(self._task, status, is_stream=is_stream)
        whole = await self._take_whole(connection) if connection.is_complete else None
        if whole is None:
            await self._settle()
        if status == HTTPStatus.NO_CONTENT:
            fields = [field for field in fields if field[0] != b"content-length"]  # RFC 9110 section 8.6
        client_fields = headers.response_fields(
            fields, task_id=self._task.task_id, date=self._proxy.date(), is_stream=is_stream
        )
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
        self._connection = await self._upstream.connect(self._scope["method"], is_fresh=True)
        connection = self._checked()
        connection.send(self._repeatable, is_last=True)
        return await connection.read_head()

    async def _take_whole(self, connection: Connection) -> bytes:
        """The body of a message that is complete, the task's end being in the store."""
        body = await connection.read_piece()
        self._account(body, is_last=True)
        await self._settle()
        return body

    async def _relay_body(self, connection: Connection) -> None:
        """Passes each piece on; the one that ends the message, or holds its end event, waits for the store."""
        connection.sink = self._pass_at_once
        is_last = False
        while not is_last:
            piece = await connection.read_piece()
            is_last = connection.is_drained
            if self._account(piece, is_last=is_last):
                await self._settle()
            await self._send({"type": "http.response.body", "body": piece, "more_body": not is_last})

    def _pass_at_once(self, piece: bytes) -> bool:
        """Passes a piece on without a turn of this task, where neither client nor store is to be waited for."""
        if not self._link.is_writable or (self._end_watch is not None and self._end_watch.may_end(piece)):
            return False
        self._account(piece, is_last=False)
        sending = self._send({"type": "http.response.body", "body": piece, "more_body": True})
        with suppress(StopIteration):
            sending.send(None)  # type: ignore[attr-defined]  # a writable client is written to without suspending
        return True

    def _account(self, piece: bytes, *, is_last: bool) -> bool:
        """Counts a piece before it goes on. True where it ends the task: then the store is to know first."""
        self._task.response_bytes += len(piece)
        ending = self._end_watch.feed(piece) if self._end_watch is not None else None
        if (ending is None and not is_last) or self._task.is_final:
            return False
        self._conclude(ending)
        return True

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

    async def _settle(self) -> None:
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tracker.settle(self._task, lambda: None if settled.done() else settled.set_result(None))
        await settled

    async def _end_early(self, error: GatewayError | _ClientLeft) -> None:
        """The task's end where the exchange broke off; tells the client as well as it still can be told."""
        if self._client_left:
            error = _ClientLeft()
        error = self._task.cut_by or self._refusal or error
        reason = _reason(error, is_started=self._is_started)
        if not self._is_started and isinstance(error, GatewayError):
            self._task.status_code = error.status
        self._tracker.finish(self._task, reason, str(error) or "the client closed the connection")
        self._abort("the exchange broke off")
        if isinstance(error, GatewayError) and not self._is_started:
            if not isinstance(error, ShuttingDown):
                await self._settle()
            self._is_started = True
            await send_error(self._send, error, date=self._proxy.date(), task_id=self._task.task_id)
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
    if isinstance(error, Cancelled):
        return Reason.CANCELLED
    return Reason.SHUTDOWN if isinstance(error, ShuttingDown) else Reason.GATEWAY_ERROR


def _task_id(ids: list[bytes]) -> str | None:
    """The task id that the client chose, None where it left that to us. Raises InvalidTaskId."""
    if len(ids) > 1:
        raise InvalidTaskId("X-Task-Id was sent more than once; allowed: one")
    text = ids[0].decode("latin-1") if ids else ""
    if text and not is_valid_id(text):
        raise InvalidTaskId(f"X-Task-Id is not valid; allowed: {ID_PATTERN}, or none to get one")
    return text or None


async def send_error(
    send: Send, error: GatewayError, *, date: bytes, task_id: str | None = None, has_detail: bool = False
) -> None:
    """Answers with an error of the gateway's own, in OpenAI's shape; outside `/v1/` with a `detail`, too."""
    body = error.body(has_detail=has_detail)
    fields = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"date", date),
    ]
    if task_id is not None:
        fields.append((headers.TASK_ID, task_id.encode()))
    if error.retry_after_seconds is not None:
        fields.append((b"retry-after", str(error.retry_after_seconds).encode()))
    if error.status == HTTPStatus.METHOD_NOT_ALLOWED:
        fields.append((b"allow", _ALLOWED))
    if error.is_last:
        fields.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
