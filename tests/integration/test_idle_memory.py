"""Owns the promise of a small gateway: what it holds while it waits for work, and what makes it load more.

Figures of memory are the kernel's. A library with code of its own shows in the process's memory map.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted import JSON, answering
from tests.support.waiting import within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads Linux's /proc")

MOST_IDLE_BYTES = 50 * 1024 * 1024  # 41 MiB were measured
PROBED = ("/livez", "/readyz", "/metrics", "/nodes", "/models/loaded", "/", "/dashboard/app.js", "/docs")
READ_SECONDS = 60.0


def has_application(gateway: Gateway) -> bool:
    """Whether the ASGI application is loaded: pydantic's core is in the memory map."""
    return "_pydantic_core" in Path(f"/proc/{gateway.process.pid}/maps").read_text()


@pytest.mark.skipif("COVERAGE_PROCESS_START" in os.environ, reason="coverage takes memory of its own")
async def test_an_idle_gateway_is_small(launch: Launch, store: Store) -> None:
    """A gateway that is ready, with a store, holds at most 50 MiB."""
    gateway = await launch(REDIS_URL=store.url)
    assert (await gateway.ask("GET", "/readyz")).status == 200
    assert gateway.resident_bytes <= MOST_IDLE_BYTES


async def test_what_machines_ask_loads_no_application(launch: Launch, store: Store, upstream: Upstream) -> None:
    """Relayed requests, health checks, Prometheus, the page and cancel calls need no ASGI application."""
    gateway = await launch(REDIS_URL=store.url)
    upstream.loaded = answering(200, JSON, body=b'{"models":[]}')
    for target in PROBED:
        assert (await gateway.ask("GET", target)).status == 200, target
    assert (await gateway.ask("GET", "/v1/models")).status == 200
    assert (await gateway.ask("GET", "/favicon.ico")).status == 404
    assert (await gateway.ask("POST", "/tasks/no-such-task/cancel")).status == 404
    assert (await gateway.ask("POST", "/tasks/cancel?label=none")).json() == {"cancelled": 0}
    assert not has_application(gateway)


async def test_the_first_question_for_it_loads_the_application(launch: Launch) -> None:
    """/openapi.json needs it; questions that come while it loads wait for the same one, and get the same answer."""
    gateway = await launch()
    assert not has_application(gateway)
    asked = [gateway.ask("GET", "/openapi.json") for _ in range(8)]
    answers = await within(READ_SECONDS, asyncio.gather(*asked), "it is loaded")
    assert {answer.status for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1
    assert has_application(gateway)
