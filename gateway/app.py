"""Composition root: builds the parts from the settings, and sends each request to the relay or to a route.

The only module that knows all others. Called by __main__ through `create_app`; tests may do the same.
"""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from gateway import __version__
from gateway.drain import Drain
from gateway.errors import GatewayError, NotFound
from gateway.link import ClientLink
from gateway.memory import MemoryStore
from gateway.proxy import Proxy, send_error
from gateway.records import Store
from gateway.routes import health, tasks
from gateway.settings import Settings, run_name
from gateway.store import RedisStore
from gateway.target import Target, parse
from gateway.tracker import Tracker, new_boot
from gateway.upstream import Upstream

log = logging.getLogger("gateway")


def create_app(settings: Settings) -> "Gateway":
    """The gateway as an ASGI application."""
    upstream = Upstream(
        settings.upstream_host,
        settings.upstream_port,
        idle_timeout_seconds=settings.upstream_idle_timeout_seconds,
    )
    boot = new_boot(run_name())
    tracker = Tracker(
        _store(settings, boot),
        algorithm_id=settings.algorithm_id,
        instance=settings.instance,
        boot=boot,
        ttl_running_seconds=settings.ttl_running_seconds,
        ttl_done_seconds=settings.ttl_done_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )
    date = _DateClock()
    proxy = Proxy(upstream, tracker, max_body_bytes=settings.max_body_bytes, date=date)
    drain = Drain(tracker, settings.drain_seconds)
    routes = _routes(upstream, tracker, drain, has_store=settings.redis_url is not None)
    return Gateway(proxy, routes, date)


def _store(settings: Settings, boot: str) -> Store:
    if settings.redis_url is None:
        log.info("no store is configured: statuses live in this process and are lost at exit")
        return MemoryStore()
    longest = max(settings.ttl_running_seconds, settings.ttl_done_seconds)
    return RedisStore(
        settings.redis_url,
        boot=boot,
        longest_ttl_seconds=longest,
        ttl_done_seconds=settings.ttl_done_seconds,
        instance=settings.instance,
    )


def _routes(upstream: Upstream, tracker: Tracker, drain: Drain, *, has_store: bool) -> FastAPI:
    """The gateway's own routes; its lifespan is the writer's."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writer = asyncio.create_task(tracker.run(), name="status writer")
        _spare_the_collector()
        drain.install()
        yield
        writer.cancel()
        with suppress(asyncio.CancelledError):
            await writer
        await tracker.close()
        upstream.close()

    routes = FastAPI(
        title="Ollama Gateway",
        version=__version__,
        summary="The status of relayed requests. Ollama's own API is relayed under /v1/ and not described here.",
        lifespan=lifespan,
        docs_url=None,  # both pages load their assets from elsewhere
        redoc_url=None,
    )
    routes.state.tracker = tracker
    routes.state.readiness = health.ReadinessProbe(upstream, tracker, has_store=has_store)
    routes.include_router(tasks.router)
    routes.include_router(health.router)
    return routes


def _spare_the_collector() -> None:
    """What is there by now stays for good, and a request leaves no cycles: looking for them took a sixth of its CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Gateway:
    """Sends targets under `/v1/` to the relay, all others to the routes."""

    def __init__(self, proxy: Proxy, routes: FastAPI, date: Callable[[], bytes]) -> None:
        self._proxy = proxy
        self.routes = routes
        self._date = date

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.routes(scope, receive, send)
            return
        try:
            link: ClientLink = scope["extensions"]["gateway"]
            target = parse(link.target)
            if not target.is_relayed and _looks_relayed(scope["path"], target):
                raise NotFound("relayed paths begin with the bytes '/v1/'")
        except GatewayError as error:
            await send_error(send, error, date=self._date())
            return
        if target.is_relayed:
            await self._proxy(scope, receive, send, target)
        else:
            await self.routes(scope, receive, self._dated(send))

    def _dated(self, send: Send) -> Send:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"date", self._date())]
            await send(message)

        return send_dated


def _looks_relayed(decoded_path: str, target: Target) -> bool:
    return decoded_path.startswith("/v1/") or target.path == b"/v1"


class _DateClock:
    """The current IMF-fixdate (RFC 9110 section 5.6.7), formatted once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._text = b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text
