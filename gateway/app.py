"""Composition root: builds the parts from the settings, and sends each request to the relay or to a route.

First it refuses pages that may not call (access.origins) and, if API keys are on, requests without a valid key
(access.keys). The only module that knows all parts.
"""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import unquote_to_bytes

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from gateway import __version__
from gateway.access import origins
from gateway.access.keyring import Keyring
from gateway.access.keys import identify
from gateway.access.origins import OriginPolicy
from gateway.errors import GatewayError, NotFound, Unauthorized
from gateway.http.asgi import AsgiCall
from gateway.http.head import RELAYED_PREFIX, Target, parse_target
from gateway.http.request import Request, lines
from gateway.kept.keeping import Keeping, KeptLimits
from gateway.metrics.counts import Counts
from gateway.metrics.exposition import Metrics
from gateway.net.vanished import PeerWatch
from gateway.queue.places import Places
from gateway.relay.proxy import Proxy
from gateway.routes import dashboard, health, models, tasks
from gateway.routes import metrics as scraping
from gateway.routes.response import ResponseRoute, task_id_in, with_response_route
from gateway.settings import Settings, pull_progress_file, run_name
from gateway.stopping import Drain
from gateway.store.address import Access
from gateway.store.answers import AnswerStore
from gateway.store.interface import Store, new_boot
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.store.redis_answers import RedisAnswers
from gateway.tracking.tracked import SILENT_BEATS
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream

log = logging.getLogger("gateway")

# These targets need no key: the machines that start, stop or choose this gateway have none.
_OPEN_TARGETS = frozenset({b"/livez", b"/readyz"}) | dashboard.SHELL_TARGETS


def create_app(settings: Settings) -> "Gateway":
    """Builds the gateway, an ASGI application, from checked settings. Opens no connection yet."""
    counts = Counts()
    upstream = Upstream(
        settings.upstream_host,
        settings.upstream_port,
        idle_timeout_seconds=settings.upstream_idle_timeout_seconds,
    )
    boot = new_boot(run_name(settings))
    tracker = Tracker(
        _store(settings, boot),
        algorithm_id=settings.algorithm_id,
        instance=settings.instance,
        boot=boot,
        ttl_running_seconds=settings.ttl_running_seconds,
        ttl_done_seconds=settings.ttl_done_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        counts=counts,
    )
    places = Places(settings.max_running, settings.max_queued) if settings.max_running else None
    keeping = Keeping(tracker, _answer_store(settings), _kept_limits(settings), counts)
    proxy = Proxy(upstream, tracker, counts, places, keeping, max_body_bytes=settings.max_body_bytes)
    drain = Drain(tracker, places, settings.drain_seconds, settings.drain_notice_seconds)
    keyring = Keyring(settings.api_keys, settings.api_keys_file)
    readiness = _readiness(settings, upstream, tracker, keeping, drain)
    metrics = Metrics(counts, tracker, places, keeping, has_store=settings.redis_url is not None)
    routes = _routes(upstream, tracker, keeping, keyring, readiness, metrics)
    policy = OriginPolicy(settings.cors_allow_origins, settings.allowed_hosts, machine=settings.machine)
    return Gateway(proxy, routes, ResponseRoute(keeping), policy, keyring, counts, drain)


def _store(settings: Settings, boot: str) -> Store:
    access = _access(settings)
    if access is None:
        log.info("no store is configured: statuses live in this process and are lost at exit")
        return MemoryStore()
    longest = max(settings.ttl_running_seconds, settings.ttl_done_seconds)
    return RedisStore(
        access,
        boot=boot,
        longest_ttl_seconds=longest,
        ttl_done_seconds=settings.ttl_done_seconds,
        grace_seconds=SILENT_BEATS * settings.heartbeat_seconds,
        instance=settings.instance,
    )


def _answer_store(settings: Settings) -> AnswerStore | None:
    """The store of kept answers; None if they stay in this process."""
    access = _access(settings)
    if access is None or not settings.max_response_bytes:
        return None
    return RedisAnswers(access, max_stored_bytes=settings.max_stored_response_bytes)


def _access(settings: Settings) -> Access | None:
    """How to get into the store; None if none is configured."""
    if settings.redis_url is None:
        return None
    return Access(
        settings.redis_url,
        user=settings.redis_user,
        password_file=settings.redis_password_file,
        ca_file=settings.redis_ca_file,
        cert_file=settings.redis_cert_file,
        key_file=settings.redis_key_file,
        sentinel_user=settings.redis_sentinel_user,
        sentinel_password=settings.redis_sentinel_password,
        sentinel_password_file=settings.redis_sentinel_password_file,
    )


def _kept_limits(settings: Settings) -> KeptLimits:
    return KeptLimits(
        response_bytes=settings.max_response_bytes,
        held_bytes=settings.max_kept_bytes,
        ttl_running_seconds=settings.ttl_running_seconds,
        ttl_response_seconds=settings.ttl_response_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )


def _readiness(
    settings: Settings, upstream: Upstream, tracker: Tracker, keeping: Keeping, drain: Drain
) -> health.ReadinessProbe:
    wanted = health.ModelsProbe(upstream, settings.pull_models, pull_progress_file())
    return health.ReadinessProbe(
        upstream,
        tracker,
        keeping,
        wanted,
        is_stopping=drain.has_begun,
        has_store=settings.redis_url is not None,
        needs_models=settings.ready_requires_models,
    )


def _routes(
    upstream: Upstream,
    tracker: Tracker,
    keeping: Keeping,
    keyring: Keyring,
    readiness: health.ReadinessProbe,
    metrics: Metrics,
) -> FastAPI:
    """The gateway's own routes. Their lifespan starts and stops the writer and the other background tasks."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        writer = asyncio.create_task(tracker.run(), name="status writer")
        keeper = asyncio.create_task(keeping.run(), name="kept answers")
        measuring = asyncio.create_task(metrics.run(), name="metrics")
        looking = asyncio.create_task(keyring.run(), name="API keys")
        _relax_garbage_collection()
        yield
        measuring.cancel()
        looking.cancel()
        keeper.cancel()
        await keeping.close()
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
        docs_url=None,  # FastAPI's pages load their assets from other hosts
        redoc_url=None,
        redirect_slashes=False,
    )
    describe = routes.openapi
    routes.openapi = lambda: with_response_route(describe())  # type: ignore[method-assign]
    routes.state.tracker = tracker
    routes.state.readiness = readiness
    routes.state.loaded_models = models.LoadedModelsProbe(upstream)
    routes.state.metrics = metrics
    routes.state.ollama = scraping.OllamaState(readiness, routes.state.loaded_models)
    routes.include_router(tasks.router)
    routes.include_router(health.router)
    routes.include_router(models.router)
    routes.include_router(dashboard.router)
    routes.include_router(scraping.router)
    return routes


def _relax_garbage_collection() -> None:
    """Makes the garbage collector run rarely, and skip all objects that exist now: they stay for good.

    A request leaves no cycles. Searching for some took a sixth of each request's CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Gateway:
    """Sends requests under `/v1/` to the relay and all others to the routes. Refuses requests that are not allowed.

    As an ASGI application it serves the lifespan only. The server calls `open` for each request.
    """

    def __init__(
        self,
        proxy: Proxy,
        routes: FastAPI,
        responses: ResponseRoute,
        policy: OriginPolicy,
        keyring: Keyring,
        counts: Counts,
        drain: Drain,
    ) -> None:
        self.routes = routes
        self.keyring = keyring
        self.counts = counts
        self.drain = drain
        self.peers = PeerWatch()  # the clients
        self._proxy = proxy
        self._responses = responses
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the routes' lifespan, and gives this object to the server by the lifespan's state."""
        scope.setdefault("state", {})["gateway"] = self
        await self.routes(scope, receive, send)

    def open(self, request: Request) -> None:
        """Answers a request, or hands it to the relay or to a route. Never raises."""
        try:
            self._policy.check(request.method, request.target, request.by_name)
            if b"origin" in request.by_name:
                if origins.is_preflight(request.method, request.by_name):
                    request.answer(204, origins.preflight_fields(request.by_name))
                    return
                request.own_lines = lines(origins.response_fields(request.by_name[b"origin"]))
            target = self._admit(request)
            task_id = None if target.is_relayed else task_id_in(target.path)
            if (target.is_relayed or task_id is not None) and request.by_name.get(b"sec-fetch-dest") == b"document":
                request.own_lines += origins.DOCUMENT_LINES
            if target.is_relayed:
                self._proxy.open(request, target)
            elif task_id is not None:
                self._responses.open(request, task_id, target)
            else:
                AsgiCall(self.routes, request).begin()
        except GatewayError as error:
            self.counts.refused(error.code)
            request.refuse(error, has_detail=_has_detail(request.target))
        except Exception:
            log.exception("a request failed inside the gateway")
            if request.is_started:
                request.break_off()
            else:
                request.refuse(GatewayError("internal error in the gateway"))

    def _admit(self, request: Request) -> Target:
        """Parses the target. Checks the key first, so that a client without one learns nothing. Raises GatewayError."""
        if self.keyring.is_on and request.target.partition(b"?")[0] not in _OPEN_TARGETS:
            self._identify(request)
        target = parse_target(request.target)
        if not target.is_relayed and _looks_relayed(target):
            raise NotFound("relayed paths begin with the bytes '/v1/'")
        return target

    def _identify(self, request: Request) -> None:
        """Sets the request's owner, from its API key. Raises Unauthorized."""
        caller = identify(self.keyring.current(), request.fields)
        if caller is None:
            raise Unauthorized("a valid API key is needed, as 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        request.owner, request.sees_all, request.withheld = caller.name, caller.sees_all, caller.carriers


def _has_detail(target: bytes) -> bool:
    """Whether errors have `detail`, as those of FastAPI's routes have."""
    return not target.startswith(RELAYED_PREFIX) and task_id_in(target.partition(b"?")[0]) is None


def _looks_relayed(target: Target) -> bool:
    return target.path == b"/v1" or unquote_to_bytes(target.path).startswith(RELAYED_PREFIX)
