"""Composition root: builds the parts from the settings. The only module that knows all parts."""

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from gateway import __version__
from gateway.access.keyring import Keyring
from gateway.access.origins import OriginPolicy
from gateway.dispatch import Gateway
from gateway.gpu.watch import GpuWatch, WatchOptions
from gateway.kept.keeping import Keeping, KeptLimits
from gateway.metrics.counts import Counts
from gateway.metrics.exposition import Metrics, ModelMemory
from gateway.nodes.announcer import Announcer
from gateway.nodes.node import Node
from gateway.queue.places import Places
from gateway.relay.proxy import Proxy
from gateway.routes import dashboard, health, models, nodes
from gateway.routes import metrics as scraping
from gateway.routes.cancel import CancelRoutes
from gateway.routes.on_demand import RoutesOnDemand, load_application
from gateway.routes.plain import PlainRoutes, Route
from gateway.routes.response import ResponseRoute
from gateway.settings import Settings, pull_progress_file, run_name
from gateway.stopping import Drain
from gateway.store.address import Access
from gateway.store.answers import AnswerStore
from gateway.store.connecting import Connector
from gateway.store.interface import Store, new_boot
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.store.redis_answers import RedisAnswers
from gateway.tracking.tracked import SILENT_BEATS
from gateway.tracking.tracker import Tracker
from gateway.upstream.pool import Upstream

if TYPE_CHECKING:
    from gateway.tracing.exporter import Traces

log = logging.getLogger("gateway")

_FIRST_LOOK_SECONDS = 0.25  # how long the start waits for the store, whose clock the times of tasks are by


def create_app(settings: Settings, gpu_options: WatchOptions | None = None) -> Gateway:
    """Builds the gateway, an ASGI application, from checked settings. Opens no connection yet.

    `gpu_options` is for tests: where the devices are, and how often to look.
    """
    counts = Counts()
    upstream = _upstream(settings)
    boot = new_boot(run_name(settings))
    connector = _connector(settings)
    store = _store(settings, connector, boot)
    tracker = _tracker(settings, store, boot, counts)
    traces = _traces(settings, tracker)
    places = Places(settings.max_running, settings.max_queued) if settings.max_running else None
    keeping = Keeping(tracker, _answer_store(settings, connector), _kept_limits(settings), counts)
    proxy = Proxy(
        upstream,
        tracker,
        counts,
        places,
        keeping,
        max_body_bytes=settings.max_body_bytes,
        error_text_bytes=settings.error_text_bytes,
        trace_of=None if traces is None else traces.trace_of,
    )
    loaded_models = models.LoadedModelsProbe(upstream)
    gpu = _gpu_watch(settings, gpu_options or WatchOptions(), loaded_models, counts)
    metrics = Metrics(counts, tracker, places, keeping, has_store=settings.redis_url is not None, has_gpu=gpu.is_on)
    announcer = _announcer(settings, store, tracker, metrics, loaded_models, counts)
    drain = Drain(tracker, places, settings.drain_seconds, settings.drain_notice_seconds)
    drain.on_begin(announcer.drain)
    keyring = Keyring(settings.api_keys, settings.api_keys_file)
    readiness = _readiness(settings, upstream, tracker, keeping, gpu, drain)
    known = _plain_routes(readiness, metrics, loaded_models, announcer)
    plain = PlainRoutes(known, CancelRoutes(tracker).find, counts)
    routes = RoutesOnDemand(partial(load_application, tracker, counts))
    policy = OriginPolicy(settings.cors_allow_origins, settings.allowed_hosts, machine=settings.machine)
    lifespan = partial(_lifespan, upstream, tracker, keeping, keyring, metrics, announcer, gpu, traces)
    return Gateway(
        proxy, plain, routes, ResponseRoute(keeping), tracker.answers, policy, keyring, counts, drain, lifespan
    )


def _upstream(settings: Settings) -> Upstream:
    idle_seconds = settings.upstream_idle_timeout_seconds
    return Upstream(settings.upstream_host, settings.upstream_port, idle_timeout_seconds=idle_seconds)


def _tracker(settings: Settings, store: Store, boot: str, counts: Counts) -> Tracker:
    return Tracker(
        store,
        algorithm_id=settings.algorithm_id,
        instance=settings.instance,
        boot=boot,
        ttl_running_seconds=settings.ttl_running_seconds,
        ttl_done_seconds=settings.ttl_done_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
        counts=counts,
    )


def _traces(settings: Settings, tracker: Tracker) -> "Traces | None":
    """What sends traces; None if they are off, or cannot be sent: the gateway works without them."""
    if settings.otlp_endpoint is None:
        return None
    from gateway.tracing.sdk_log import SparseHandler

    sdk_log = SparseHandler(logging.getLogger("gateway.tracing"))
    sdk_log.attach()  # OpenTelemetry logs while it is loaded, too
    try:
        from gateway.tracing.exporter import Traces

        traces = Traces(sdk_log, instance=settings.instance, version=__version__)
    except Exception as error:
        sdk_log.detach()
        log.warning("no traces are sent: %s", _why_no_traces(error))
        return None
    tracker.on_end = lambda task: traces.ended(task, task.likely_attempt)
    return traces


def _why_no_traces(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry's SDK is not installed"
    # Without the error's text: the value of a wrong OTEL_* variable may be a credential.
    return f"OpenTelemetry's SDK does not start with these OTEL_* variables ({type(error).__name__})"


def _store(settings: Settings, connector: Connector | None, boot: str) -> Store:
    if connector is None:
        log.info("no store is configured: statuses live in this process and are lost at exit")
        return MemoryStore()
    longest = max(settings.ttl_running_seconds, settings.ttl_done_seconds)
    return RedisStore(
        connector,
        boot=boot,
        longest_ttl_seconds=longest,
        ttl_done_seconds=settings.ttl_done_seconds,
        grace_seconds=SILENT_BEATS * settings.heartbeat_seconds,
        instance=settings.instance,
    )


def _answer_store(settings: Settings, connector: Connector | None) -> AnswerStore | None:
    """The store of kept answers; None if they stay in this process."""
    if connector is None or not settings.max_response_bytes:
        return None
    return RedisAnswers(connector, max_stored_bytes=settings.max_stored_response_bytes)


def _connector(settings: Settings) -> Connector | None:
    """The way into the store; None if none is configured."""
    if settings.redis_url is None:
        return None
    access = Access(
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
    return Connector(access)


def _kept_limits(settings: Settings) -> KeptLimits:
    return KeptLimits(
        response_bytes=settings.max_response_bytes,
        held_bytes=settings.max_kept_bytes,
        ttl_running_seconds=settings.ttl_running_seconds,
        ttl_response_seconds=settings.ttl_response_seconds,
        heartbeat_seconds=settings.heartbeat_seconds,
    )


def _announcer(
    settings: Settings,
    store: Store,
    tracker: Tracker,
    metrics: Metrics,
    loaded_models: models.LoadedModelsProbe,
    counts: Counts,
) -> Announcer:
    own = Node(
        instance=settings.instance,
        version=__version__,
        started_ms=int(time.time() * 1000),
        running=0,
        waiting=0,
        max_running=settings.max_running,
        models=(),
        store="none",  # the announcer says how it is
        is_draining=False,
        silent_ms=int(SILENT_BEATS * settings.heartbeat_seconds * 1000),
    )

    async def names() -> Sequence[str]:
        loaded = await loaded_models()
        return [] if loaded is None else [model.name for model in loaded.models]

    return Announcer(
        store.nodes if isinstance(store, RedisStore) else None,
        own,
        load=metrics.load,
        loaded_models=names,
        is_store_up=lambda: tracker.is_store_up,
        heartbeat_seconds=settings.heartbeat_seconds,
        counts=counts,
    )


def _gpu_watch(
    settings: Settings, options: WatchOptions, loaded_models: models.LoadedModelsProbe, counts: Counts
) -> GpuWatch:
    async def memory() -> Sequence[ModelMemory] | None:
        loaded = await loaded_models()
        return None if loaded is None else [scraping.model_memory(model) for model in loaded.models]

    return GpuWatch(options, memory, counts, is_required=settings.require_gpu)


def _readiness(
    settings: Settings, upstream: Upstream, tracker: Tracker, keeping: Keeping, gpu: GpuWatch, drain: Drain
) -> health.ReadinessProbe:
    wanted = health.ModelsProbe(upstream, settings.pull_models, pull_progress_file())
    return health.ReadinessProbe(
        upstream,
        tracker,
        keeping,
        wanted,
        gpu,
        is_stopping=drain.has_begun,
        has_store=settings.redis_url is not None,
        needs_models=settings.ready_requires_models,
    )


def _plain_routes(
    readiness: health.ReadinessProbe, metrics: Metrics, loaded_models: models.LoadedModelsProbe, announcer: Announcer
) -> dict[bytes, Route]:
    """The routes that need no ASGI application, by their paths."""
    ollama = scraping.OllamaState(readiness, loaded_models)
    return {
        b"/livez": Route(health.livez),
        b"/readyz": Route(partial(health.readyz, readiness)),
        b"/models/loaded": Route(partial(models.models_loaded, loaded_models)),
        b"/nodes": Route(partial(nodes.nodes, announcer)),
        b"/metrics": Route(partial(scraping.scrape, metrics, ollama)),
        **dashboard.ROUTES,
    }


@asynccontextmanager
async def _lifespan(
    upstream: Upstream,
    tracker: Tracker,
    keeping: Keeping,
    keyring: Keyring,
    metrics: Metrics,
    announcer: Announcer,
    gpu: GpuWatch,
    traces: "Traces | None",
) -> AsyncIterator[None]:
    """Starts and stops the writer and the other background tasks."""
    writer = asyncio.create_task(tracker.run(), name="status writer")
    keeper = asyncio.create_task(keeping.run(), name="kept answers")
    measuring = asyncio.create_task(metrics.run(), name="metrics")
    looking = asyncio.create_task(keyring.run(), name="API keys")
    watching = asyncio.create_task(gpu.run(), name="GPU")
    await tracker.until_looked(_FIRST_LOOK_SECONDS)
    telling = asyncio.create_task(announcer.run(), name="nodes")
    _relax_garbage_collection()
    yield
    measuring.cancel()
    looking.cancel()
    watching.cancel()
    keeper.cancel()
    await asyncio.gather(keeping.close(), announcer.close())
    telling.cancel()
    writer.cancel()
    with suppress(asyncio.CancelledError):
        await writer
    await tracker.close()
    if traces is not None:
        await traces.close()  # last: the tracker has ended what still ran
    upstream.close()


def _relax_garbage_collection() -> None:
    """Makes the garbage collector run rarely, and skip all objects that exist now: they stay for good.

    A request leaves no cycles. Searching for some took a sixth of each request's CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
