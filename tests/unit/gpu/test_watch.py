"""Looks after the GPU: how often, what it shows, and that each change is logged once."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gateway.gpu.watch import GpuWatch, WatchOptions
from gateway.metrics import counts
from gateway.metrics.counts import Counts
from gateway.metrics.exposition import ModelMemory
from tests.support.gpu import FakeGpu
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

ON_CPU = ModelMemory("m", 600, 0)
ON_GPU = ModelMemory("m", 600, 600)
CPU_ALONE = "every loaded model has been wholly on the CPU for a minute"


class Machine:
    """A machine whose devices and loaded models a test sets; `asked` counts the questions to its Ollama."""

    def __init__(self, root: Path, *devices: str, is_required: bool = False, ask_seconds: float | None = 0.0) -> None:
        self.gpu = FakeGpu(root, *devices)
        self.models: Sequence[ModelMemory] | Exception | None = []
        self.asked = 0
        self.row = Counts()
        options = WatchOptions(self.gpu.root, self.gpu.drivers, cpu_alone_seconds=0.0)
        if ask_seconds is not None:
            options = replace(options, ask_seconds=ask_seconds)
        self.watch = GpuWatch(options, self.loaded, self.row, is_required=is_required)

    async def loaded(self) -> Sequence[ModelMemory] | None:
        """Ollama's answer."""
        self.asked += 1
        if isinstance(self.models, Exception):
            raise self.models
        return self.models

    def shown(self) -> tuple[float, ...]:
        """The gauges: up, devices, missing, models on the CPU."""
        families = (counts.GPU_UP, counts.GPU_DEVICES, counts.GPU_MISSING, counts.GPU_MODELS_ON_CPU)
        return tuple(self.row.row[family.start] for family in families)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """The loop runs meanwhile."""
        loop = asyncio.create_task(self.watch.run())
        yield
        loop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loop


@pytest.mark.parametrize("is_required", [False, True])
async def test_without_a_gpu_ollama_is_asked_nothing(tmp_path: Path, is_required: bool) -> None:
    """The loop ends at once where there is no GPU at the start: there is nothing to find out."""
    machine = Machine(tmp_path, is_required=is_required)
    await machine.watch.run()
    assert machine.asked == 0
    assert machine.watch.is_on is is_required
    assert machine.watch.problem == ("no GPU device at the start" if is_required else None)


async def test_ollama_is_asked_at_most_every_fifteen_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU it is asked at the start and then each 15 seconds, however often the devices are looked at."""
    loop, passed = asyncio.get_running_loop(), [0.0]
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + passed[0])
    machine = Machine(tmp_path, "nvidia0", ask_seconds=None)
    async with machine.watched():
        for times in (1, 2, 3):
            await until(lambda times=times: machine.asked == times, 10, "it is asked")  # type: ignore[misc]
            almost = loop.create_future()
            loop.call_later(13, almost.set_result, None)  # by the clock that the next line moves
            passed[0] += 13
            machine.watch.look()
            await almost
            assert machine.asked == times
            passed[0] += 2


async def test_each_change_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """However often it looks, there is one line for the problem, and one for its end."""
    caplog.set_level(logging.INFO, "gateway.gpu")
    machine = Machine(tmp_path, "nvidia0", "nvidiactl")
    machine.gpu.remove("nvidia0")
    for _ in range(3):
        machine.watch.look()
    machine.gpu.add("nvidia0")
    for _ in range(3):
        machine.watch.look()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the GPU is lost or unused: GPU devices are lost: nvidia0 (gone)"),
        ("INFO", "the GPU works again"),
    ]


async def test_a_machine_without_a_gpu_logs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Unless one is required, there is no word about GPUs."""
    caplog.set_level(logging.INFO, "gateway.gpu")
    machine = Machine(tmp_path)
    machine.watch.look()
    await machine.watch.run()
    assert caplog.records == []


async def test_the_gauges_follow(tmp_path: Path) -> None:
    """Devices at the start, those missing, models on the CPU, and whether all is well."""
    machine = Machine(tmp_path, "nvidia0", "nvidiactl")
    async with machine.watched():
        await until(lambda: machine.shown() == (1, 2, 0, 0), 10, "all is well")
        machine.gpu.remove("nvidia0")
        await until(lambda: machine.shown() == (0, 2, 1, 0), 10, "one is missing")
        machine.gpu.add("nvidia0")
        machine.models = [ON_GPU, ON_CPU]
        await until(lambda: machine.shown() == (1, 2, 0, 1), 10, "one of two models is on the CPU")
        machine.models = [ON_CPU]
        await until(lambda: machine.shown() == (0, 2, 0, 1), 10, "the only one is")
        assert machine.watch.problem == CPU_ALONE


async def test_a_failure_does_not_end_the_watch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An error of our own is logged, and the loop goes on."""
    machine = Machine(tmp_path, "nvidia0", ask_seconds=0.01)
    machine.models = RuntimeError("odd")
    async with machine.watched():
        await until(lambda: machine.asked > 1, 10, "it is asked again")
        machine.models = [ON_CPU]
        await until(lambda: machine.watch.problem == CPU_ALONE, 10, "it goes on")
    assert "looking at the GPU failed inside the gateway; trying again" in caplog.messages
