"""Decides whether the GPU works, from the devices and the loaded models that were seen, and when.

Pure: the caller looks, and passes the time of a clock that never jumps. The text of a problem names devices, but no
models: `/readyz` shows it, and needs no API key.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

CPU_ALONE_SECONDS = 60.0
CPU_ALONE = "every loaded model has been wholly on the CPU for a minute"  # that is CPU_ALONE_SECONDS; a test compares
NO_DEVICE = "no GPU device at the start"


class ModelSize(Protocol):
    """How much memory a loaded model takes, and the part of it that is in GPU memory."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def size_vram_bytes(self) -> int: ...


@dataclass(slots=True)
class Verdict:
    """What is known of the GPU. `at_start` names its devices then, without `/dev/`.

    `missing` says why a device cannot be used now, by name. `models_on_cpu` counts the loaded models that have nothing
    in GPU memory.
    """

    at_start: tuple[str, ...]
    is_required: bool
    cpu_alone_seconds: float = CPU_ALONE_SECONDS
    missing: Mapping[str, str] = field(default_factory=dict)
    models_on_cpu: int = 0
    _cpu_alone_since: float | None = None

    def see_devices(self, missing: Mapping[str, str]) -> None:
        """Takes which of the devices are missing now, and why."""
        self.missing = missing

    def see_models(self, models: Sequence[ModelSize] | None, now: float) -> None:
        """Takes the loaded models. None: Ollama did not answer, which changes nothing. A busy CPU can make it late."""
        if models is None:
            return
        counting = [model for model in models if model.size_bytes > 0]  # without size: it is not loaded yet
        self.models_on_cpu = sum(model.size_vram_bytes <= 0 for model in counting)
        if not counting or self.models_on_cpu < len(counting):
            self._cpu_alone_since = None
        elif self._cpu_alone_since is None:
            self._cpu_alone_since = now

    def problem(self, now: float) -> str | None:
        """What is wrong, in words; None if nothing is. The first of several causes: it explains the others."""
        if not self.at_start:
            return NO_DEVICE if self.is_required else None
        if self.missing:
            return "GPU devices are lost: " + ", ".join(f"{name} ({why})" for name, why in self.missing.items())
        since = self._cpu_alone_since
        return CPU_ALONE if since is not None and now - since >= self.cpu_alone_seconds else None
