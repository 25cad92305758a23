"""Looks after the GPU: at its devices, and at where Ollama has its models. Logs each change once.

Owns how often. Ollama is asked every 15 seconds, and only on a machine that had a GPU at the start.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.gpu.devices import Devices
from gateway.gpu.verdict import CPU_ALONE_SECONDS, ModelSize, Verdict
from gateway.metrics import counts
from gateway.metrics.counts import Counts

log = logging.getLogger("gateway.gpu")


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Where to look, and how often. Tests have other places and less patience."""

    devices: Path = Path("/dev")
    drivers: Path = Path("/proc/devices")
    ask_seconds: float = 15.0
    cpu_alone_seconds: float = CPU_ALONE_SECONDS


class GpuWatch:
    """The state of the GPU. `run` is its loop; `look` looks at the devices at once, without waiting for their driver.

    `loaded_models` gives the models that Ollama has in memory, or None if it does not answer.
    """

    def __init__(
        self,
        options: WatchOptions,
        loaded_models: Callable[[], Awaitable[Sequence[ModelSize] | None]],
        counted: Counts,
        *,
        is_required: bool,
    ) -> None:
        self._devices = Devices(options.devices, options.drivers)
        self._loaded_models = loaded_models
        self._counts = counted
        self._ask_seconds = options.ask_seconds
        self._verdict = Verdict(self._devices.at_start, is_required, options.cpu_alone_seconds)
        self._logged: str | None = None
        counted.show(counts.GPU_DEVICES, len(self._devices.at_start))

    @property
    def is_on(self) -> bool:
        """Whether there is anything to say: a GPU at the start, or one that is required."""
        return bool(self._verdict.at_start) or self._verdict.is_required

    @property
    def at_start(self) -> tuple[str, ...]:
        """The devices at the start."""
        return self._verdict.at_start

    @property
    def missing(self) -> list[str]:
        """Those that are missing now."""
        return list(self._verdict.missing)

    @property
    def is_required(self) -> bool:
        """Whether the gateway is not ready with a problem."""
        return self._verdict.is_required

    @property
    def problem(self) -> str | None:
        """What is wrong with the GPU, in words; None if nothing is."""
        return self._verdict.problem(time.monotonic())

    def look(self) -> None:
        """Looks at the devices now."""
        if self.is_on:
            self._verdict.see_devices(self._devices.missing())
            self._tell()

    async def run(self) -> None:
        """Looks and asks until it is cancelled. Ends at once if there was no GPU at the start."""
        self.look()
        if self.at_start:
            log.info("GPU devices of this machine: %s", ", ".join(self.at_start))
        while self.at_start:
            try:
                self._verdict.see_models(await self._loaded_models(), time.monotonic())
                self.look()
            except Exception:
                log.exception("looking at the GPU failed inside the gateway; trying again")
            await asyncio.sleep(self._ask_seconds)

    def _tell(self) -> None:
        """Shows the state in the metrics, and logs a change."""
        problem, row = self.problem, self._counts
        row.show(counts.GPU_UP, problem is None)
        row.show(counts.GPU_MISSING, len(self._verdict.missing))
        row.show(counts.GPU_MODELS_ON_CPU, self._verdict.models_on_cpu)
        if problem == self._logged:
            return
        self._logged = problem
        if problem is None:
            log.info("the GPU works again")
        elif self.at_start:
            log.warning("the GPU is lost or unused: %s", problem)
        else:
            log.warning("the GPU that REQUIRE_GPU asks for is not there: %s", problem)
