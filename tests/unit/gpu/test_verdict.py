"""Decides whether the GPU works, from what was seen and when."""

from __future__ import annotations

import pytest

from gateway.gpu.verdict import CPU_ALONE, CPU_ALONE_SECONDS, NO_DEVICE, Verdict
from gateway.metrics.exposition import ModelMemory

ON_CPU = ModelMemory("embedder", 600, 0)
ON_GPU = ModelMemory("writer", 8_000, 8_000)
SPLIT = ModelMemory("large", 20_000, 1)
LOADING = ModelMemory("new", 0, 0)
START = 1_000.0
LATER = START + CPU_ALONE_SECONDS


def verdict(*devices: str, is_required: bool = False) -> Verdict:
    """The verdict on a machine with these devices at the start."""
    return Verdict(devices, is_required)


@pytest.mark.parametrize("is_required", [False, True])
def test_a_gpu_that_is_there_has_no_problem(is_required: bool) -> None:
    """All devices are there, and no model is loaded: nothing is wrong, required or not."""
    gpu = verdict("nvidia0", is_required=is_required)
    gpu.see_devices({})
    gpu.see_models([], START)
    assert gpu.problem(LATER) is None


def test_no_device_at_the_start_is_a_problem_only_if_one_is_required() -> None:
    """A machine without a GPU is none, unless a GPU is required. Its models on the CPU are as they should be."""
    gpu = verdict()
    for now in (START, LATER):
        gpu.see_models([ON_CPU], now)
    assert gpu.problem(LATER) is None
    assert verdict(is_required=True).problem(START) == NO_DEVICE == "no GPU device at the start"


def test_a_lost_device_is_named_with_its_reason() -> None:
    """Each missing device is a problem until it is back, also if others are left."""
    gpu = verdict("nvidia0", "nvidia1", "nvidiactl")
    gpu.see_devices({"nvidia1": "gone", "nvidiactl": "not permitted"})
    assert gpu.problem(START) == "GPU devices are lost: nvidia1 (gone), nvidiactl (not permitted)"
    gpu.see_devices({})
    assert gpu.problem(START) is None


def test_all_models_on_the_cpu_are_a_problem_after_a_minute() -> None:
    """Not before: a minute lies between the first look that found all of them there and now. The text says so."""
    assert (CPU_ALONE_SECONDS, CPU_ALONE.partition(" for ")[2]) == (60, "a minute")
    gpu = verdict("kfd")
    gpu.see_models([ON_CPU, ON_CPU], START)
    assert gpu.models_on_cpu == 2
    assert gpu.problem(LATER - 0.1) is None
    gpu.see_models([ON_CPU], LATER)
    assert gpu.problem(LATER) == CPU_ALONE


@pytest.mark.parametrize("models", [[ON_CPU, ON_GPU], [SPLIT], [ON_CPU, SPLIT], [], [LOADING]])
def test_a_look_that_finds_a_model_on_the_gpu_or_none_ends_it(models: list[ModelMemory]) -> None:
    """A model with any part on the GPU shows that it works; without a loaded model there is nothing to say."""
    gpu = verdict("nvidia0")
    gpu.see_models([ON_CPU], START)
    assert gpu.problem(LATER) == CPU_ALONE
    gpu.see_models(models, LATER)
    assert gpu.problem(LATER) is None
    gpu.see_models([ON_CPU], LATER + 1)
    assert gpu.problem(LATER + CPU_ALONE_SECONDS) is None, "the minute begins again"
    assert gpu.problem(LATER + 1 + CPU_ALONE_SECONDS) == CPU_ALONE


def test_a_model_without_a_size_does_not_count() -> None:
    """A model that is not loaded yet is neither on the CPU nor on the GPU."""
    gpu = verdict("nvidia0")
    gpu.see_models([LOADING, ON_CPU], START)
    assert gpu.models_on_cpu == 1
    assert gpu.problem(LATER) == CPU_ALONE


def test_an_ollama_that_does_not_answer_changes_nothing() -> None:
    """It is late when its CPU is busy, which is when all models are there."""
    gpu = verdict("nvidia0")
    gpu.see_models(None, START - 60)
    assert gpu.problem(LATER) is None
    gpu.see_models([ON_CPU], START)
    gpu.see_models(None, START + 30)
    assert (gpu.models_on_cpu, gpu.problem(LATER)) == (1, CPU_ALONE)
    gpu.see_models(None, LATER)
    assert gpu.problem(LATER) == CPU_ALONE


def test_a_lost_device_comes_first() -> None:
    """Where a device is missing, that is why the models are on the CPU."""
    gpu = verdict("nvidia0")
    gpu.see_models([ON_CPU], START)
    gpu.see_devices({"nvidia0": "gone"})
    assert gpu.problem(LATER) == "GPU devices are lost: nvidia0 (gone)"
