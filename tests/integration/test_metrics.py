"""Owns the promise that /metrics agrees with the tasks there were, and holds nothing of anybody's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.exposition import scrape
from tests.support.faults import elapse
from tests.support.scripted import JSON, Gated, answering, head, sending, streaming
from tests.support.served import Served
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream


CHAT = "/v1/chat/completions"
PATHS = {CHAT: "chat_completions", "/v1/completions": "completions", "/v1/models/m": "models", "/v1/x": "other"}
BODY = b'{"model":"m","prompt":"a-prompt-of-someone"}'
DELTA, DONE = b'data: {"choices":[{"delta":{"content":"an-answer"}}]}\n\n', b"data: [DONE]\n\n"
PROMTOOL = shutil.which("promtool")


async def make_tasks_of_every_kind(gateway: Gateway, upstream: Upstream) -> None:
    """Tasks with nine kinds of ends, some of them several times, on four paths."""
    for number, path in enumerate(PATHS, 1):
        upstream.then(*[answering(200, JSON, body=b"x" * 1000 * number)] * number)
        for _ in range(number):
            await gateway.ask("POST", path, body=BODY)
    upstream.then(streaming(DELTA, DONE), streaming(DELTA), streaming(DELTA, b'data: {"error":{}}\n\n'))
    upstream.then(answering(404), answering(500), sending(then="drop"))
    upstream.then(sending(head(200, (b"Content-Length", b"50")) + b"short", then="drop"))
    for method in ("POST", "POST", "POST", "GET", "DELETE", "PROPFIND", "PUT"):
        await gateway.ask(method, CHAT, body=BODY)
    await leave(gateway, upstream)
    await cancel(gateway, upstream)


async def leave(gateway: Gateway, upstream: Upstream) -> None:
    """A client that leaves before there is an answer."""
    number = len(upstream.exchanges)
    upstream.then(Gated())
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", b"left"), body=BODY)
    await upstream.exchange(number)
    await gateway.at("left", "forwarding")
    await client.close()
    await gateway.ended("left")


async def cancel(gateway: Gateway, upstream: Upstream) -> None:
    """A stream that someone cancels in the middle of it."""
    gated = upstream.gated()
    gated.head()
    gated.piece(DELTA)
    asking = asyncio.create_task(gateway.ask("POST", CHAT, (b"X-Task-Id", b"cancelled"), body=BODY))
    await gateway.at("cancelled", "streaming")
    await gateway.http.post("/tasks/cancelled/cancel")
    await asking


async def documents(gateway: Gateway) -> list[dict[str, Any]]:
    """The status documents of all tasks."""
    answer = await gateway.http.get("/tasks/status?limit=1000")
    items: list[dict[str, Any]] = answer.json()["items"]
    assert answer.json()["next_cursor"] is None
    return items


def method_of(extensions: dict[str, Any]) -> str:
    """The label of a task's method."""
    return extensions["method"] if extensions["method"] != "PROPFIND" else "other"


def status_of(extensions: dict[str, Any]) -> str:
    """The label of a task's status."""
    return f"{extensions['status_code'] // 100}xx" if extensions["status_code"] else "none"


async def test_counters_agree_with_the_tasks(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Over a mix of ends, every counter and histogram is what the status documents add up to."""
    gateway = await launch(REDIS_URL=(await new_store()).url)
    await make_tasks_of_every_kind(gateway, upstream)
    tasks = await documents(gateway)
    seen = await scrape(gateway.http)
    assert len(tasks) == 10 + 7 + 2
    requests, ends, durations, bytes_in, bytes_out, first = (Counter[Any]() for _ in range(6))
    for task in tasks:
        extensions = task["extensions"]
        path = (PATHS[extensions["path"]],)
        requests[method_of(extensions), *path, status_of(extensions)] += 1
        ends[extensions["reason"] or "", task["state"]] += 1
        durations[path] += extensions["finished_ms"] - extensions["created_ms"]
        bytes_in[path] += extensions["request_bytes"]
        bytes_out[path] += extensions["response_bytes"]
        first[path] += extensions["first_byte_ms"] is not None
    assert seen.series("requests_total") == requests
    assert seen.series("tasks_total") == ends
    assert len(ends) == 8
    assert seen.series("request_body_bytes_total") == bytes_in
    assert seen.series("response_body_bytes_total") == bytes_out
    assert seen.series("first_byte_seconds_count") == first
    assert {
        key: round(value * 1000) for key, value in seen.series("request_duration_seconds_sum").items()
    } == +durations
    assert seen("handover_seconds_count") == len(tasks)
    assert seen.series("tasks_in_flight") == {}


async def test_the_queue_is_counted_and_times_to_ollama_are_without_it(launch: Launch, upstream: Upstream) -> None:
    """Who is with Ollama, who waits, who was refused; the time in the queue is in its own histogram alone."""
    upstream.default = served = Served()
    gateway = await launch(MAX_RUNNING="1", MAX_QUEUED="2")
    asking = [asyncio.create_task(gateway.ask("POST", CHAT, body=BODY)) for _ in range(3)]
    await served.holds(1)

    async def counts(running: int, waiting: int) -> bool:
        seen = await scrape(gateway.http)
        return (seen("running_requests"), seen("waiting_requests")) == (running, waiting)

    await until(lambda: counts(1, 2), what="two wait")
    assert (await gateway.ask("POST", CHAT, body=BODY)).status == 429
    await elapse(1, time.monotonic(), "they have waited for a second")
    for number in range(1, 4):
        served.finish()
        await served.has_seen(min(number + 1, 3))
    await within(30, asyncio.gather(*asking))
    await until(lambda: counts(0, 0), what="all have ended")
    seen = await scrape(gateway.http)
    assert seen("queue_wait_seconds_count") == 3
    assert seen("queue_wait_seconds_sum") >= 2
    assert seen("handover_seconds_sum") < seen("queue_wait_seconds_sum")
    assert seen("first_byte_seconds_sum", path="chat_completions") < seen("queue_wait_seconds_sum")
    assert seen("request_duration_seconds_sum", path="chat_completions") > seen("queue_wait_seconds_sum")
    assert seen("refused_total", code="queue_full") == 1


async def test_without_a_bound_requests_at_ollama_are_counted_and_none_waits(
    launch: Launch, upstream: Upstream
) -> None:
    """GETs count in neither number, and the histogram of the queue stays empty."""
    upstream.default = served = Served()
    gateway = await launch()
    asking = [asyncio.create_task(gateway.ask(method, CHAT)) for method in ("POST", "POST", "GET")]
    await served.holds(3)
    seen = await scrape(gateway.http)
    assert (seen("running_requests"), seen("waiting_requests")) == (2, 0)
    for _ in asking:
        served.finish()
    await within(30, asyncio.gather(*asking))
    assert (await scrape(gateway.http))("queue_wait_seconds_count") == 0


async def test_refusals_count_by_code(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """What is refused and no task counts by its code, and not among the requests."""
    gateway = await launch(REDIS_URL=(await new_store()).url, MAX_BODY_BYTES="100")
    await gateway.ask("GET", "/v1/%2e%2e/api/tags")
    await gateway.ask("GET", "/v1/models", (b"X-Task-Id", b"!"))
    await gateway.ask("POST", CHAT, body=b"x" * 101)
    await gateway.ask("TRACE", "/v1/models")
    await gateway.ask("GET", "/v1/models", (b"Origin", b"http://stranger.example"))
    await gateway.ask("GET", "/v1/models", (b"Host", b"two"), (b"Host", b"hosts"))
    await gateway.ask("GET", "/v1/models", *[(b"X-%d" % number, b"y" * 8000) for number in range(10)])
    gated = upstream.gated()
    asking = asyncio.create_task(gateway.ask("POST", CHAT, (b"X-Task-Id", b"twice")))
    await gateway.at("twice", "forwarding")
    assert (await gateway.ask("POST", CHAT, (b"X-Task-Id", b"twice"))).head.status == 409
    gated.head()
    gated.end()
    await asking
    seen = await scrape(gateway.http)
    codes = ("invalid_path", "invalid_task_id", "body_too_large", "method_not_allowed", "origin_not_allowed",
             "bad_request", "head_too_large", "task_id_in_use")  # fmt: skip
    assert seen.series("refused_total") == {(code,): 1 for code in codes}
    assert sum(seen.series("requests_total").values()) == 1


async def test_metrics_need_a_key_where_keys_are_on(launch: Launch, new_store: NewStore) -> None:
    """Without a key they are 401, which counts; no metric holds a key."""
    gateway = await launch(REDIS_URL=(await new_store()).url, GATEWAY_API_KEYS="me:a-secret-key-of-mine")
    assert (await gateway.http.get("/metrics")).status_code == 401
    seen = await scrape(gateway.http, Authorization="Bearer a-secret-key-of-mine")
    assert seen.series("refused_total") == {("unauthorized",): 1}
    assert "a-secret-key" not in seen.text


async def test_metrics_hold_nothing_of_anybodys(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """No prompt, answer, id, path, query, model or field of a request is in the metrics."""
    upstream.then(streaming(DELTA, DONE))
    body = b'{"model":"a-model-of-someone","messages":["a-prompt-of-someone"]}'
    fields = (b"X-Task-Id", fresh_id.encode()), (b"X-Secret", b"a-field-of-someone")
    await gateway.ask("POST", CHAT + "?q=a-query-of-someone", *fields, body=body)
    await gateway.ask("GET", "/v1/models/a-path-of-someone")
    text = (await scrape(gateway.http)).text
    assert [word for word in ("someone", "an-answer", fresh_id) if word in text] == []


async def test_tasks_in_flight_are_shown_by_stage(launch: Launch, upstream: Upstream) -> None:
    """A task is forwarding until the head comes, then streaming, then gone."""
    gateway = await launch()
    gated = upstream.gated()
    asking = asyncio.create_task(gateway.ask("POST", CHAT, (b"X-Task-Id", b"one"), body=BODY))
    await gateway.at("one", "forwarding")
    assert (await scrape(gateway.http)).series("tasks_in_flight") == {("forwarding",): 1}
    gated.head()
    await gateway.at("one", "streaming")
    assert (await scrape(gateway.http)).series("tasks_in_flight") == {("streaming",): 1}
    gated.piece(DONE)
    gated.end()
    await asking
    assert (await scrape(gateway.http)).series("tasks_in_flight") == {}


async def test_the_stores_condition_is_shown(launch: Launch, new_store: NewStore) -> None:
    """Up and quick; then away, with what waits to be written; waits and batches are timed."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await gateway.ask("POST", CHAT, body=BODY)
    seen = await scrape(gateway.http)
    assert (seen("store_up"), seen("store_unsaved"), seen("store_write_failures_total")) == (1, 0, 0)
    assert seen("store_write_seconds_count") >= 1
    assert 0 < seen("store_wait_seconds_sum") < 1
    await store.kill()
    for _ in range(3):
        await gateway.ask("POST", CHAT, body=BODY)
    seen = await scrape(gateway.http)
    assert (seen("store_up"), seen("store_unsaved")) == (0, 3)
    assert seen("store_write_failures_total") >= 1


async def test_without_a_store_nothing_is_said_of_one(launch: Launch) -> None:
    """Where no store is configured there are no metrics of it."""
    gateway = await launch()
    assert "_store_" not in (await scrape(gateway.http)).text


async def test_ollama_is_shown(own_upstream: Upstream, launch: Launch) -> None:
    """Whether it answers and what it has loaded; the second is asked for once in ten seconds."""
    asked = 0
    models = [{"name": "qwen3:0.6b", "size": 1000, "size_vram": 600}, {"name": "other", "size": 5, "size_vram": 0}]

    async def loaded(exchange: Exchange) -> None:
        nonlocal asked
        asked += 1
        await exchange.answer(200, JSON, body=json.dumps({"models": models}).encode())

    own_upstream.loaded = loaded
    gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{own_upstream.port}")
    for _ in range(5):
        seen = await scrape(gateway.http)
        assert seen("upstream_up") == 1
        assert seen.series("model_memory_bytes") == {("qwen3:0.6b",): 1000, ("other",): 5}
        assert seen.series("model_vram_bytes") == {("qwen3:0.6b",): 600}
    assert asked == 1


@pytest.mark.alone  # it looks at tenths of a second
async def test_a_silent_ollama_does_not_hold_a_scrape(launch: Launch, upstream: Upstream) -> None:
    """A scrape waits a second for Ollama, and then says what it knows."""
    upstream.models = sending(then="wait")
    gateway = await launch()
    seen = await within(1.9, scrape(gateway.http))
    assert seen("upstream_up") == 0


def files_in(directory: Path) -> list[Path]:
    """What is in a directory."""
    return list(directory.iterdir())


async def test_counting_makes_no_file(launch: Launch, tmp_path: Path) -> None:
    """Nothing is written to disk."""
    gateway = await launch(TMPDIR=str(tmp_path))
    await gateway.ask("POST", CHAT, body=BODY)
    await scrape(gateway.http)
    assert files_in(tmp_path) == []


def check_metrics(text: str) -> tuple[int, str, str]:
    """What promtool says of a scrape: its exit code, output and errors."""
    assert PROMTOOL is not None, "promtool is not installed"
    command = [PROMTOOL, "check", "metrics"]
    checked = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120, check=False)
    return checked.returncode, checked.stdout, checked.stderr


@pytest.mark.skipif(PROMTOOL is None and not os.environ.get("CI"), reason="promtool is not installed")
async def test_promtool_finds_nothing_wrong(tracked: Gateway) -> None:
    """`promtool check metrics` has neither an error nor advice, in both formats."""
    await tracked.ask("POST", CHAT, body=BODY)
    text = (await scrape(tracked.http)).text
    assert check_metrics(text) == (0, "", "")
    assert (await scrape(tracked.http, Accept="application/openmetrics-text")).text.endswith("# EOF\n")


@pytest.mark.parametrize("target", ["/", "/docs", "/dashboard/index.html", "/metrics"])
async def test_head_is_get_without_its_body(gateway: Gateway, target: str) -> None:
    """What asks with HEAD whether there is something (`curl -I`, load balancers) gets GET's status and type."""
    got, asked = await gateway.ask("GET", target), await gateway.ask("HEAD", target)
    assert (asked.status, asked.data) == (200, b"")
    assert asked.head.all("content-type") == got.head.all("content-type")
