"""Owns the promises of /livez and /readyz: alive is the process, ready is Ollama answering /v1/models.

Contract section 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import ReadOnly
from tests.support.ports import free_port, refusing_port
from tests.support.scripted import Upstream, answering, sending
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Script


async def test_ready_while_the_upstream_answers(gateway: Gateway) -> None:
    """An upstream that answers /v1/models with 200 makes the gateway ready and alive."""
    assert (await gateway.http.get("/readyz")).status_code == 200
    assert (await gateway.http.get("/livez")).status_code == 200


async def test_alive_but_not_ready_without_an_upstream(launch: Launch) -> None:
    """No one listens upstream: alive with 200, not ready with 503."""
    with refusing_port() as port:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        assert (await gateway.http.get("/livez")).status_code == 200
        assert (await gateway.http.get("/readyz")).status_code == 503


@pytest.mark.parametrize("script", [answering(500), answering(404), sending(then="drop"), sending(then="wait")])
async def test_not_ready_while_the_upstream_is_unwell(launch: Launch, upstream: Upstream, script: Script) -> None:
    """An upstream that answers /v1/models with an error, or not at all, is not ready; that is known within 5 s."""
    upstream.models = script
    gateway = await launch()
    assert (await gateway.http.get("/readyz", timeout=5)).status_code == 503
    assert (await gateway.http.get("/livez")).status_code == 200


async def test_ready_as_soon_as_the_upstream_is(launch: Launch) -> None:
    """Readiness follows the upstream within seconds, up and down again."""
    upstream = Upstream()
    port = free_port()
    gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")

    async def is_ready() -> bool:
        return (await gateway.http.get("/readyz")).status_code == 200

    async def is_not_ready() -> bool:
        return not await is_ready()

    assert await is_not_ready()
    await upstream.start(port)
    await until(is_ready, 10, "ready")
    await upstream.stop()
    await until(is_not_ready, 10, "not ready")


async def test_without_its_store_it_is_ready_and_says_degraded(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """What the store's condition is, and how many statuses wait for it, is reported; 200 all the same."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)

    async def readiness() -> dict[str, Any]:
        answer = await gateway.http.get("/readyz")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def is_degraded() -> bool:
        return bool((await readiness())["status"] == "degraded")

    async def is_well() -> bool:
        now = await readiness()
        return (now["status"], now["store"], now["unsaved"]) == ("ready", "up", 0)

    await until(is_well, 30, "ready")
    await store.kill()
    for number in range(3):
        answer = await gateway.ask("POST", "/v1/x", (b"X-Task-Id", b"kept-%d" % number), body=b"{}")
        assert answer.status == 200
    await until(is_degraded, 30, "degraded")
    now = await readiness()
    assert (now["store"], now["upstream"], now["unsaved"], now["dropped"]) == ("down", "up", 3, 0)
    await store.start()
    await until(is_well, 5, "ready again, and all is written")
    assert {await store.raw(f"kept-{number}") is not None for number in range(3)} == {True}


async def test_without_any_store_it_says_so(launch: Launch) -> None:
    """A gateway that has no store configured is ready, not degraded: the store is off."""
    gateway = await launch()
    found = (await gateway.http.get("/readyz")).json()
    assert (found["status"], found["store"], found["unsaved"]) == ("ready", "off", 0)


async def test_it_tells_of_kept_answers(launch: Launch, upstream: Upstream) -> None:
    """How many this gateway holds, their bytes, and the bound; null where no answer can be kept."""
    gateway = await launch(MAX_RESPONSE_BYTES="1000", MAX_KEPT_BYTES="5000")
    upstream.then(answering(200, body=b"12345"))
    await gateway.ask("POST", "/v1/x", (b"X-Task-Keep", b"true"), body=b"{}")
    kept = (await gateway.http.get("/readyz")).json()["kept"]
    assert kept == {"answers": 1, "held_bytes": 5, "max_bytes": 5000}
    gateway = await launch(MAX_RESPONSE_BYTES="0")
    assert (await gateway.http.get("/readyz")).json()["kept"] is None


async def test_a_store_that_only_reads_is_down(launch: Launch, new_store: NewStore) -> None:
    """A store that answers and takes no writes is reported as down, and as up when it does again."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)

    async def says(condition: str) -> bool:
        return bool((await gateway.http.get("/readyz")).json()["store"] == condition)

    async with ReadOnly(store) as fault:
        await fault.begin()
        await gateway.ask("POST", "/v1/x", body=b"{}")
        await until(lambda: says("down"), 30, "it is noticed")
        await fault.end()
        await until(lambda: says("up"), 30, "it is noticed, too")
