"""What the dashboard says when Ollama, the store or the gateway itself is away, and that it recovers by itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from playwright.async_api import expect

from tests.support.gateway import COMMAND
from tests.support.gpu import FakeGpu
from tests.support.ports import refusing_port
from tests.support.process import kill, spawn
from tests.support.scripted import JSON, Upstream, answering
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import NewPage
    from tests.conftest import Launch, NewStore


CHAT = "/v1/chat/completions"
REFUSED = "net::ERR_CONNECTION_REFUSED"


async def test_ollama_is_down(launch: Launch, new_page: NewPage) -> None:
    """While Ollama does not answer, the page says so and what it means; failed requests have their reason."""
    with refusing_port() as port:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        for number in range(3):
            await gateway.ask("POST", CHAT, (b"X-Task-Id", b"failed-%d" % number), body=b"{}")
        page = await new_page(gateway)
        await page.open("/", "503")
        await page.shows("#problems", "Ollama does not answer: requests get 503")
        await page.shows("#condition-ollama", "down")
        await page.shows("#condition-gateway", "up")
        await page.shows("#models-note", "Unknown, because Ollama does not answer")
        await expect(page.row("recent", "failed-0")).to_contain_text("upstream_unavailable")
        await page.shows("#plot-states-text", "3 failed")
        await page.shoot("ollama-down")


async def test_ollama_comes_back(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """When Ollama answers again, the page says that all is well, and shows its models."""
    upstream.models = answering(500)
    upstream.loaded = answering(500)
    page = await new_page(await launch())
    await page.open("/", "503")
    await page.shows("#condition-ollama", "down")
    upstream.models = answering(200, JSON, body=b'{"data":[]}')
    upstream.loaded = answering(200, JSON, body=b'{"models":[{"name":"tiny","size":1048576,"size_vram":0}]}')
    await page.shows("#problems", "All is well.")
    await page.shows("#models tbody", "tiny")
    await page.shows("#models tbody", "CPU only")


async def test_the_gpu_is_lost(launch: Launch, upstream: Upstream, new_page: NewPage, tmp_path: Path) -> None:
    """The page says which device is lost and what to do, warns of models on the CPU, and sees it come back."""
    models = b'{"models":[{"name":"tiny","size":1048576,"size_vram":0},{"name":"big","size":9,"size_vram":9}]}'
    upstream.loaded = answering(200, JSON, body=models)
    gpu = FakeGpu(tmp_path, "nvidia0", "nvidiactl")
    page = await new_page(await launch(gpu.command, REQUIRE_GPU="true"))
    await page.open("/", "503")
    await page.shows("#models-note", "Wholly on the CPU although this machine has a GPU: tiny.")
    await page.shows("#problems", "All is well.")
    gpu.remove("nvidia0")
    lost = "GPU devices are lost: nvidia0 (gone). Because of REQUIRE_GPU the gateway is not ready."
    await page.shows("#problems", lost)
    await page.shows("#problems", "Start the container again")
    await page.shoot("gpu-lost")
    gpu.add("nvidia0")
    await page.shows("#problems", "All is well.")


async def test_a_gpu_that_is_not_required_is_missed(
    launch: Launch, upstream: Upstream, new_page: NewPage, tmp_path: Path
) -> None:
    """Without REQUIRE_GPU the gateway stays ready, and the page shows the problem all the same."""
    upstream.loaded = answering(200, JSON, body=b'{"models":[{"name":"tiny","size":1048576,"size_vram":0}]}')
    page = await new_page(await launch(FakeGpu(tmp_path, "kfd").command))
    await page.open()
    unused = "Every loaded model has been wholly on the CPU for a minute. Ollama uses the CPU, which is slow."
    await page.shows("#problems", unused)
    await page.shows("#condition-gateway", "up")


async def test_without_a_gpu_models_on_the_cpu_are_no_warning(
    launch: Launch, upstream: Upstream, new_page: NewPage, tmp_path: Path
) -> None:
    """On a machine without a GPU a model on the CPU is as it should be."""
    upstream.loaded = answering(200, JSON, body=b'{"models":[{"name":"tiny","size":1048576,"size_vram":0}]}')
    page = await new_page(await launch(FakeGpu(tmp_path).command))
    await page.open()
    await page.shows("#models tbody", "CPU only")
    await expect(page["#models-note"]).to_have_text("")
    await page.shows("#problems", "All is well.")


async def test_models_that_are_not_there_yet_are_named(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """Which of the models that were asked for at the start Ollama does not have yet, stands with the loaded ones."""
    page = await new_page(await launch(OLLAMA_PULL_MODELS="qwen3:0.6b gpt-oss:20b"))
    await page.open("/", "503")
    await page.shows("#pull-note", "Still missing: qwen3:0.6b, gpt-oss:20b.")


async def test_the_store_is_down_and_comes_back(launch: Launch, new_store: NewStore, new_page: NewPage) -> None:
    """Without the store the last list stays, marked as old, and the page says what waits; with it all is well again."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, HEARTBEAT_SEC="0.5")
    await gateway.ask("POST", CHAT, (b"X-Task-Id", b"before"), body=b"{}")
    page = await new_page(gateway)
    await page.open("/", "503")
    await expect(page.row("recent", "before")).to_be_visible()
    await page.shows("#condition-store", "up")

    await store.kill()
    await page.shows("#problems", "cannot be listed")
    await gateway.ask("POST", CHAT, (b"X-Task-Id", b"meanwhile"), body=b"{}")
    await page.shows("#condition-store", "down")
    await page.shows(
        "#problems", "The store is down: requests are served, but tasks of other gateways cannot be listed"
    )
    await page.shows("#condition-unsaved", re.compile("[1-9]"))
    await expect(page.row("recent", "before")).to_be_visible()
    await page.shoot("store-down")
    await page["#search-id"].fill("meanwhile")
    await page["#search-id"].press("Enter")
    await page.shows("#task-fields", "SUCCESS, done")  # this gateway knows its own tasks
    await page.page.keyboard.press("Escape")

    await store.start()
    await page.shows("#problems", "All is well.")
    await expect(page.row("recent", "meanwhile")).to_be_visible()


async def test_the_gateway_goes_and_comes_back(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """A gateway that is gone is told, what was known stays, and it is asked again, at once if someone wants it."""
    gateway = await launch()
    await gateway.ask("POST", CHAT, (b"X-Task-Id", b"before"), body=b"{}")
    page = await new_page(gateway)
    await page.open(
        "/", REFUSED, "net::ERR_CONNECTION_RESET", "net::ERR_EMPTY_RESPONSE", "net::ERR_SOCKET_NOT_CONNECTED"
    )
    await expect(page.row("recent", "before")).to_be_visible()
    await kill(gateway.process)
    await page.shows("#problems", "The gateway does not answer")
    await page.shows("#condition-gateway", "down")
    await page.shows("#condition-ollama", "?")
    await expect(page.row("recent", "before")).to_be_visible()
    await page.shoot("gateway-away")

    gateway.process = spawn(COMMAND, gateway.log_path, gateway.settings)
    await page["#try-now"].click()
    await until(gateway.is_serving, what="it is back")
    await page.shows("#problems", "All is well.")
    await page.shows("#recent-note", "No task yet")  # it kept them in its memory


async def test_a_gateway_that_stops_says_so(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """While it waits for its last tasks, the page says that it takes no new ones."""
    gateway = await launch()
    gated = upstream.gated()
    await gateway.send("POST", CHAT, (b"X-Task-Id", b"last"), body=b"{}")
    page = await new_page(gateway)
    await page.open("/", "503", REFUSED)
    await expect(page.row("in-flight", "last")).to_be_visible()
    gateway.process.terminate()
    await page.shows("#problems", "The gateway is stopping")
    await page.page.close()
    gated.head()
    gated.end()
