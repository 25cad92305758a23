"""Owns the promises about the GPU: /readyz, the metrics and the log say when it is lost or unused (REQUIRE_GPU)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.support.exposition import Scrape
from tests.support.gpu import FakeGpu
from tests.support.scripted import JSON, answering
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Script, Upstream

CPU_ALONE = "every loaded model has been wholly on the CPU for a minute"
LOST = "GPU devices are lost: nvidia0 (gone)"


def loaded(**vram: int) -> Script:
    """Ollama has loaded these models of 100 bytes, with so many bytes in GPU memory."""
    models = [{"name": name, "size": 100, "size_vram": size} for name, size in vram.items()]
    return answering(200, JSON, body=json.dumps({"models": models}).encode())


async def ready(gateway: Gateway) -> tuple[int, str, dict[str, Any] | None]:
    """(HTTP status, status, gpu) of /readyz."""
    answer = await gateway.http.get("/readyz")
    found = answer.json()
    return answer.status_code, found["status"], found["gpu"]


async def becomes(gateway: Gateway, status: int, problem: str | None) -> dict[str, Any]:
    """Wait until /readyz answers so; what it says about the GPU then."""

    async def is_so() -> dict[str, Any] | None:
        code, _, gpu = await ready(gateway)
        return gpu if gpu and (code, gpu["problem"]) == (status, problem) else None

    found: dict[str, Any] = await until(is_so, 30, f"/readyz is {status} with problem {problem!r}")
    return found


async def test_a_lost_device_makes_it_not_ready(launch: Launch, tmp_path: Path) -> None:
    """With REQUIRE_GPU: 503 `not_ready` with the reason; alive all the same, and ready again with the device."""
    gpu = FakeGpu(tmp_path, "nvidia0", "nvidiactl")
    gateway = await launch(gpu.command, REQUIRE_GPU="true")
    devices = {"devices": ["nvidia0", "nvidiactl"], "is_required": True}
    assert await ready(gateway) == (200, "ready", {**devices, "missing": [], "problem": None})
    gpu.remove("nvidia0")
    await becomes(gateway, 503, LOST)
    assert await ready(gateway) == (503, "not_ready", {**devices, "missing": ["nvidia0"], "problem": LOST})
    assert (await gateway.http.get("/livez")).status_code == 200
    assert (await gateway.ask("POST", "/v1/x", body=b"{}")).status == 200, "requests are served all the same"
    gpu.add("nvidia0")
    await becomes(gateway, 200, None)


async def test_without_the_setting_it_stays_ready_and_says_so(launch: Launch, tmp_path: Path) -> None:
    """A lost device and unused GPUs are reported, and change nothing else."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    gateway = await launch(gpu.command)
    gpu.remove("nvidia0")
    found = await becomes(gateway, 200, LOST)
    assert found == {"devices": ["nvidia0"], "missing": ["nvidia0"], "is_required": False, "problem": LOST}
    assert (await ready(gateway))[1] == "ready"


async def test_models_on_the_cpu_alone_make_it_not_ready(
    launch: Launch, own_upstream: Upstream, tmp_path: Path
) -> None:
    """With REQUIRE_GPU: 503 once all models are on the CPU for long enough. One with a part on the GPU ends it."""
    own_upstream.loaded = loaded(a=0, b=0)
    gpu = FakeGpu(tmp_path, "kfd", "dri/renderD128")
    gateway = await launch(gpu.command, UPSTREAM_BASE=f"http://127.0.0.1:{own_upstream.port}", REQUIRE_GPU="true")
    found = await becomes(gateway, 503, CPU_ALONE)
    assert (found["devices"], found["missing"]) == (["dri/renderD128", "kfd"], [])
    own_upstream.loaded = loaded(a=0, b=1)
    await becomes(gateway, 200, None)
    own_upstream.loaded = loaded(a=0)
    await becomes(gateway, 503, CPU_ALONE)
    own_upstream.loaded = loaded()
    await becomes(gateway, 200, None)


async def test_no_gpu_at_the_start_is_not_ready_if_one_is_required(launch: Launch, tmp_path: Path) -> None:
    """A device that comes later does not help: Ollama looks for GPUs when it starts."""
    gpu = FakeGpu(tmp_path)
    gateway = await launch(gpu.command, REQUIRE_GPU="true")
    problem = "no GPU device at the start"
    expected = {"devices": [], "missing": [], "is_required": True, "problem": problem}
    assert await ready(gateway) == (503, "not_ready", expected)
    gpu.add("nvidia0")
    assert await ready(gateway) == (503, "not_ready", expected)
    assert gateway.log.count(f"the GPU that REQUIRE_GPU asks for is not there: {problem}") == 1


async def test_a_machine_without_a_gpu_hears_nothing_of_it(
    launch: Launch, own_upstream: Upstream, tmp_path: Path
) -> None:
    """No field, no metric, no line of the log, and no question to Ollama."""
    asked: list[Exchange] = []

    async def script(exchange: Exchange) -> None:
        asked.append(exchange)
        await loaded(m=0)(exchange)

    own_upstream.loaded = script
    gateway = await launch(FakeGpu(tmp_path).command, UPSTREAM_BASE=f"http://127.0.0.1:{own_upstream.port}")
    assert await ready(gateway) == (200, "ready", None)
    assert asked == []
    assert "ollama_gateway_gpu_" not in (await gateway.http.get("/metrics")).text
    assert "GPU" not in gateway.log


async def test_the_metrics_tell_of_the_gpu(launch: Launch, own_upstream: Upstream, tmp_path: Path) -> None:
    """Whether it works, its devices, those missing, and the models on the CPU."""
    own_upstream.loaded = loaded(a=0, b=100)
    gpu = FakeGpu(tmp_path, "nvidia0", "nvidia1", "nvidiactl")
    gateway = await launch(gpu.command, UPSTREAM_BASE=f"http://127.0.0.1:{own_upstream.port}")

    async def is_scraped(*expected: float) -> bool:
        answer = await gateway.http.get("/metrics")
        seen = Scrape(answer.text, answer.headers["content-type"])
        names = ("gpu_up", "gpu_devices", "gpu_devices_missing", "gpu_models_on_cpu")
        return tuple(map(seen, names)) == expected

    await until(lambda: is_scraped(1, 3, 0, 1), 30, "the gauges of a GPU that works")
    gpu.remove("nvidia0", "nvidiactl")
    await until(lambda: is_scraped(0, 3, 2, 1), 30, "the gauges of a GPU that is lost")


async def test_the_log_says_each_change_once(launch: Launch, tmp_path: Path) -> None:
    """The devices of the start, the loss and the return, a line each, without /readyz being asked."""
    gpu = FakeGpu(tmp_path, "nvidia0")
    gateway = await launch(gpu.command)
    await until(lambda: "GPU devices of this machine: nvidia0" in gateway.log, 30, "the devices are named")
    gpu.remove("nvidia0")
    await until(lambda: LOST in gateway.log, 30, "the loss is noticed")
    gpu.add("nvidia0")
    await until(lambda: "the GPU works again" in gateway.log, 30, "the return is noticed")
    await becomes(gateway, 200, None)
    assert [gateway.log.count(line) for line in (LOST, "the GPU works again")] == [1, 1]
