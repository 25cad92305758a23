"""`/livez`: the process is alive. `/readyz`: Ollama answers `/v1/models`, and the gateway is not about to stop.

If OLLAMA_PULL_MODELS is set, `/readyz` lists the models that are still missing. A setting makes it wait for them.
If there was a GPU at the start, `/readyz` says whether it still works. A setting makes it wait for that, too.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from gateway import __version__
from gateway.errors import UpstreamFailure
from gateway.gpu.watch import GpuWatch
from gateway.http.request import Request
from gateway.kept.keeping import Keeping
from gateway.routes.plain import Answer, as_json, described
from gateway.tracking.tracker import Tracker
from gateway.upstream.models import listed_models, missing_models, read_progress
from gateway.upstream.pool import Upstream

_PROBE_TIMEOUT_SECONDS = 2.0
_PROBE_AGE_SECONDS = 1.0
_LIST_AGE_SECONDS = 3.0
_MAX_LIST_BYTES = 4_194_304

Status = Literal["ready", "degraded", "draining", "not_ready"]


@dataclass(frozen=True, slots=True)
class Liveness:
    """The process answers."""

    status: Literal["alive"] = "alive"


@dataclass(frozen=True, slots=True)
class ModelsAtStart:
    """How far the models of `OLLAMA_PULL_MODELS` are."""

    wanted: list[str]
    missing: list[str] = field(metadata=described("of those wanted, what Ollama does not have yet"))
    pulling: str | None = field(metadata=described("the one that is being pulled now"))
    percent: int | None = field(metadata=described("of that one, as far as its size is known"))


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """The kept answers that this gateway holds in memory."""

    answers: int
    held_bytes: int = field(metadata=described("with the bodies of respond-async requests that wait for Ollama"))
    max_bytes: int = field(metadata=described("`MAX_KEPT_BYTES`"))


@dataclass(frozen=True, slots=True)
class GpuCondition:
    """Whether the GPU works, as far as the gateway can see."""

    devices: list[str] = field(metadata=described("those of the gateway's start, without `/dev/`"))
    missing: list[str] = field(metadata=described("of these, what is gone or cannot be opened now"))
    is_required: bool = field(metadata=described("`REQUIRE_GPU`: with a problem the gateway is not ready"))
    problem: str | None = field(metadata=described("what is wrong, in words; null: nothing is"))


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether requests will be served. The store's condition is only reported: without it, requests go on."""

    status: Status = field(metadata=described("degraded: ready, but the store is away; draining: about to stop"))
    upstream: Literal["up", "down"]
    store: Literal["up", "down", "off"] = field(metadata=described("off: none is configured"))
    unsaved: int = field(metadata=described("statuses that wait to be written to the store"))
    dropped: int = field(
        metadata=described("ended tasks whose status was forgotten because the store was away for too long")
    )
    kept: KeptAnswers | None = field(metadata=described("null: no answer can be kept"))
    models: ModelsAtStart | None = field(metadata=described("null: none are pulled at the start"))
    gpu: GpuCondition | None = field(metadata=described("null: there was no GPU at the start, and none is required"))
    version: str


class ModelsProbe:
    """Asks Ollama which of the `wanted` models it has, at most every three seconds. Reads the pull program's file."""

    def __init__(self, upstream: Upstream, wanted: tuple[str, ...], progress_file: Path | None) -> None:
        self._upstream = upstream
        self._wanted = wanted
        self._progress_file = progress_file
        self._asked_at = float("-inf")
        self.missing = list(wanted)

    async def refresh(self) -> None:
        """Asks Ollama again if the last answer is old. If that fails, the last answer stays."""
        if not self._wanted or time.monotonic() - self._asked_at < _LIST_AGE_SECONDS:
            return
        self._asked_at = time.monotonic()
        try:
            _, body = await self._upstream.get(
                "/api/tags", timeout_seconds=_PROBE_TIMEOUT_SECONDS, keep_bytes=_MAX_LIST_BYTES
            )
            self.missing = missing_models(self._wanted, listed_models(body))
        except (UpstreamFailure, ValueError):  # Ollama is away, or this server is not Ollama
            return

    def report(self) -> ModelsAtStart | None:
        """The last answer and the progress; None if no models are wanted."""
        if not self._wanted:
            return None
        progress = read_progress(self._progress_file) if self.missing else None
        is_pulling = progress is not None and progress.pulling in self.missing
        return ModelsAtStart(
            wanted=list(self._wanted),
            missing=self.missing,
            pulling=progress.pulling if progress and is_pulling else None,
            percent=progress.percent if progress and is_pulling else None,
        )


class ReadinessProbe:
    """Decides whether the gateway is ready. Asks Ollama at most once a second, however often clients ask."""

    def __init__(
        self,
        upstream: Upstream,
        tracker: Tracker,
        keeping: Keeping,
        models: ModelsProbe,
        gpu: GpuWatch,
        *,
        is_stopping: Callable[[], bool],
        has_store: bool,
        needs_models: bool,
    ) -> None:
        self._upstream = upstream
        self._tracker = tracker
        self._keeping = keeping
        self._models = models
        self._gpu = gpu
        self._is_stopping = is_stopping
        self._has_store = has_store
        self._needs_models = needs_models
        self._is_upstream_up = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def __call__(self) -> Readiness:
        if time.monotonic() - self._asked_at >= _PROBE_AGE_SECONDS:
            self._asking = self._asking or asyncio.create_task(self._ask())
            await asyncio.shield(self._asking)
        tracker = self._tracker
        store: Literal["up", "down"] = "up" if tracker.is_store_up else "down"
        return Readiness(
            status=self._status(),
            upstream="up" if self._is_upstream_up else "down",
            store=store if self._has_store else "off",
            unsaved=tracker.unsaved,
            dropped=tracker.dropped,
            kept=self._kept(),
            models=self._models.report(),
            gpu=self._gpu_condition(),
            version=__version__,
        )

    def _kept(self) -> KeptAnswers | None:
        keeping = self._keeping
        if not keeping.is_on:
            return None
        max_bytes = keeping.limits.held_bytes
        return KeptAnswers(answers=keeping.answers, held_bytes=keeping.held_bytes, max_bytes=max_bytes)

    def _gpu_condition(self) -> GpuCondition | None:
        gpu = self._gpu
        if not gpu.is_on:
            return None
        return GpuCondition(
            devices=list(gpu.at_start), missing=gpu.missing, is_required=gpu.is_required, problem=gpu.problem
        )

    def _status(self) -> Status:
        if self._is_stopping():
            return "draining"
        if not self._is_upstream_up or (self._needs_models and self._models.missing) or self._lacks_gpu():
            return "not_ready"
        return "ready" if self._tracker.is_store_up else "degraded"

    def _lacks_gpu(self) -> bool:
        return self._gpu.is_required and self._gpu.problem is not None

    async def _ask(self) -> None:
        """Asks Ollama once for all clients that wait now, and looks at the GPU's devices."""
        try:
            self._gpu.look()
            self._is_upstream_up = await self._is_answering()
            if self._is_upstream_up:
                await self._models.refresh()
            self._asked_at = time.monotonic()
        finally:
            self._asking = None

    async def _is_answering(self) -> bool:
        try:
            return await self._upstream.get_status("/v1/models", timeout_seconds=_PROBE_TIMEOUT_SECONDS) == 200
        except UpstreamFailure:
            return False


async def livez(_: Request) -> Answer:
    """The process is alive."""
    return as_json(Liveness())


async def readyz(probe: ReadinessProbe, _: Request) -> Answer:
    """200 if the gateway is ready, also without its store; else 503."""
    readiness = await probe()
    is_ready = readiness.status in ("ready", "degraded")
    return as_json(readiness, HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE)
