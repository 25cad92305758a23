"""Owns the promise that Prometheus scrapes a gateway under load without a gap, and reads the numbers there are.

MONITORING_SECONDS sets how long: a minute by hand, less in CI.
"""

from __future__ import annotations

import asyncio
import os
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.monitoring.server import INTERVAL_SECONDS, Prometheus
from tests.monitoring.test_files import alerts, dashboard_queries
from tests.support.gpu import FakeGpu
from tests.support.scripted import JSON, answering, streaming
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream

pytestmark = pytest.mark.timeout(240)

SECONDS = int(os.environ.get("MONITORING_SECONDS", "20"))
CLIENTS = 4
CHAT = "/v1/chat/completions"
RANGE = "[30m]"


@pytest.fixture
async def gateway(launch: Launch, new_store: NewStore, upstream: Upstream, tmp_path: Path) -> Gateway:
    """A gateway on a machine with a GPU, with answers of three kinds and a loaded model behind it."""
    kinds = [answering(200, JSON, body=b"{}"), answering(500), streaming(b"data: {}\n\n", b"data: [DONE]\n\n")]
    number = 0

    async def answer(exchange: Exchange) -> None:
        nonlocal number
        number += 1
        await kinds[number % len(kinds)](exchange)

    upstream.default = answer
    upstream.loaded = answering(200, JSON, body=b'{"models":[{"name":"m","size":100,"size_vram":60}]}')
    return await launch(FakeGpu(tmp_path, "nvidia0").command, REDIS_URL=(await new_store()).url)


@pytest.fixture
async def prometheus(
    prometheus_program: str, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Prometheus]:
    """A server that scrapes the gateway."""
    server = Prometheus(prometheus_program, tmp_path_factory.mktemp("prometheus"), gateway.port)
    await server.start()
    yield server
    await server.stop()


async def ask_until(gateway: Gateway, stop: asyncio.Event) -> int:
    """One client's requests, one after another on connections of its own; how many."""
    number = 0
    while not stop.is_set():
        await gateway.ask("POST", CHAT, body=b'{"model":"m"}')
        number += 1
    return number


async def scraped_for(prometheus: Prometheus, seconds: int) -> bool:
    """Whether there are so many seconds of scrapes."""
    found = await prometheus.query(f"up{RANGE}")
    return bool(found) and found[0]["values"][-1][0] - found[0]["values"][0][0] >= seconds


async def test_prometheus_scrapes_under_load(gateway: Gateway, prometheus: Prometheus) -> None:
    """No scrape failed or was left out, no counter ever fell, and the numbers are the requests made."""
    stop = asyncio.Event()
    clients = [asyncio.create_task(ask_until(gateway, stop)) for _ in range(CLIENTS)]
    try:
        await until(lambda: scraped_for(prometheus, SECONDS), SECONDS + 60, "enough scrapes")
    finally:
        stop.set()
        made = sum(await asyncio.gather(*clients))
    tasks = "sum(ollama_gateway_tasks_total)"
    await until(lambda: is_number(prometheus, tasks, made), what=f"{made} tasks in Prometheus")
    await check_scrapes(prometheus)
    assert await prometheus.number(f"sum(resets(ollama_gateway_tasks_total{RANGE}))") == 0
    assert await prometheus.number("sum(ollama_gateway_requests_total)") == made
    assert await prometheus.number("sum(ollama_gateway_request_duration_seconds_count)") == made
    failed = await prometheus.number('sum(ollama_gateway_tasks_total{reason="upstream_status"})')
    assert failed == (made + 2) // 3, "the first request of each three"
    await check_queries(prometheus)
    await check_rules(prometheus)


async def is_number(prometheus: Prometheus, expression: str, number: float) -> bool:
    """Whether an expression gives this number now."""
    return await prometheus.number(expression) == number


async def check_scrapes(prometheus: Prometheus) -> None:
    """No scrape failed, none was left out, and none was refused in part."""
    (up,) = await prometheus.query(f"up{RANGE}")
    times = [time for time, _ in up["values"]]
    assert len(times) >= SECONDS / INTERVAL_SECONDS - 1
    assert {value for _, value in up["values"]} == {"1"}
    assert max(after - before for before, after in pairwise(times)) < 2 * INTERVAL_SECONDS
    assert await prometheus.number(f"min_over_time(scrape_samples_scraped{RANGE})") > 100
    (target,) = (await prometheus.get("targets"))["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert re.findall(r".*level=(?:warn|error).*", prometheus.log.read_text()) == []


async def check_queries(prometheus: Prometheus) -> None:
    """Every query of the dashboard is understood, and gives something where something is to be seen."""
    empty = []
    for query in dashboard_queries():
        query = re.sub(r"\$(?:job|instance)", ".*", query).replace("$__rate_interval", "30s")
        if not await prometheus.query(query):
            empty.append(query)
    assert [query for query in empty if "refused" not in query] == []


async def check_rules(prometheus: Prometheus) -> None:
    """Every alert was evaluated without an error."""
    rules = [rule for group in (await prometheus.get("rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == {rule["alert"]: "ok" for rule in alerts()}
