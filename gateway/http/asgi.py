"""Runs an ASGI application for one request: some of the gateway's own routes. Relayed requests do not come here.

Knows ASGI's messages (ASGI specification, HTTP), but no route. The application gets HEAD as GET, so each GET route
answers it with the same head; the body is not sent. The scope has two extensions: `gateway` is the Request itself,
`gateway.left` is a future that is done once the client has left.
"""

import asyncio
import logging
import traceback
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING
from urllib.parse import unquote

from gateway.http.request import Request, http_date, lines, own_fields

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("gateway")

_running: set[asyncio.Task[None]] = set()  # the event loop itself holds tasks weakly


class AsgiCall:
    """One request that `application` answers, in a task of its own. Needs a running event loop."""

    def __init__(self, application: "ASGIApp", request: Request) -> None:
        self._application = application
        self._request = request
        self._changed = asyncio.Event()  # the application may go on
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_read = False  # the application has the whole request
        self._is_ended = False  # it has given the whole answer

    def begin(self) -> None:
        self._request.answered_by(self)
        task = asyncio.get_running_loop().create_task(self._run())
        _running.add(task)
        task.add_done_callback(_running.discard)

    # -- what the client does --

    def on_request(self) -> None:
        self._changed.set()

    def on_writable(self) -> None:
        self._changed.set()

    def on_left(self) -> None:
        self._left.set_result(None)
        self._changed.set()

    # -- what the application does --

    async def _run(self) -> None:
        try:
            await self._application(self._scope(), self._receive, self._send)
        except Exception:
            log.exception("a route failed inside the gateway")
        if self._is_ended or self._left.done():
            return
        if self._request.is_started:
            self._request.break_off()
        else:
            fields = own_fields([(b"content-type", b"text/plain; charset=utf-8")])
            self._request.answer(500, fields, b"Internal Server Error")

    def _scope(self) -> "Scope":
        request = self._request
        path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.0" if request.is_http_10 else "1.1",
            "method": "GET" if request.method == "HEAD" else request.method,
            "scheme": "http",
            "path": unquote(path.decode("latin-1")),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": request.fields,
            "client": None,
            "server": None,
            "extensions": {"gateway": request, "gateway.left": self._left},
        }

    @property
    def _is_over(self) -> bool:
        return self._is_ended or self._left.done()

    async def _receive(self) -> "Message":
        """The next piece of the body. After the last one it waits until the client leaves or the answer ends."""
        request = self._request
        request.send_continue()
        while not (self._is_over or (not self._is_read and (request.waiting_bytes or request.is_whole))):
            self._changed.clear()
            await self._changed.wait()
        if self._is_over:
            return {"type": "http.disconnect"}
        self._is_read = request.is_whole
        return {"type": "http.request", "body": request.take(), "more_body": not request.is_whole}

    async def _send(self, message: "Message") -> None:
        request = self._request
        while not (request.wire.is_writable or self._left.done()):
            self._changed.clear()
            await self._changed.wait()
        if self._left.done():
            return
        if message["type"] == "http.response.start":
            fields = own_fields([*message.get("headers", ()), (b"date", http_date())])
            length = dict(fields).get(b"content-length")
            request.start(message["status"], lines(fields), length=None if length is None else int(length))
            return
        body = b"" if request.method == "HEAD" else message.get("body", b"")
        if not message.get("more_body", False):
            self._is_ended = True
            request.end(body)
        elif body:
            request.write(body)


async def serve_lifespan(lifespan: AbstractAsyncContextManager[None], receive: "Receive", send: "Send") -> None:
    """Enters `lifespan` when the server starts, and leaves it when the server ends (ASGI specification, lifespan)."""
    phase = "startup"
    await receive()
    try:
        async with lifespan:
            await send({"type": "lifespan.startup.complete"})
            phase = "shutdown"
            await receive()
    except BaseException:
        await send({"type": f"lifespan.{phase}.failed", "message": traceback.format_exc()})
        raise
    await send({"type": "lifespan.shutdown.complete"})
