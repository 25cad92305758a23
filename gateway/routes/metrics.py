"""`/metrics`: the text for Prometheus. Asks Ollama for its state, and waits at most a second for the answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

from gateway.http.request import Request
from gateway.metrics.exposition import Metrics, ModelMemory
from gateway.routes.health import Readiness
from gateway.routes.models import LoadedModel, LoadedModels
from gateway.routes.plain import Answer

_WAIT_SECONDS = 1.0
_MODELS_AGE_SECONDS = 10.0


class OllamaState:
    """Ollama's last known state: whether it answers, and which models it has loaded."""

    def __init__(
        self,
        readiness: Callable[[], Awaitable[Readiness]],
        loaded_models: Callable[[], Awaitable[LoadedModels | None]],
    ) -> None:
        self.is_up = False
        self.models: Sequence[ModelMemory] = ()
        self._readiness = readiness
        self._loaded_models = loaded_models
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self) -> None:
        """Asks Ollama again, and waits at most a second. A later answer shows in the next scrape."""
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        await asyncio.wait([self._asking], timeout=_WAIT_SECONDS)

    async def _ask(self) -> None:
        try:
            self.is_up = (await self._readiness()).upstream == "up"
            if time.monotonic() - self._asked_at >= _MODELS_AGE_SECONDS:
                loaded = await self._loaded_models()
                self.models = [] if loaded is None else [model_memory(model) for model in loaded.models]
                self._asked_at = time.monotonic()
        finally:
            self._asking = None


def model_memory(model: LoadedModel) -> ModelMemory:
    """What the metrics and the watch over the GPU need of a loaded model."""
    return ModelMemory(model.name, model.size_bytes, model.size_vram_bytes)


async def scrape(metrics: Metrics, ollama: OllamaState, request: Request) -> Answer:
    """The metrics for Prometheus, as OpenMetrics if `Accept` asks for it."""
    await metrics.prepare()
    await ollama.refresh()
    accept = request.by_name.get(b"accept", b"").decode("latin-1")
    text, content_type = metrics.render(accept, is_upstream_up=ollama.is_up, models=ollama.models)
    return Answer(HTTPStatus.OK, [(b"content-type", content_type.encode())], text)
