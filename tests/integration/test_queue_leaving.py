"""Owns how a request leaves the queue without a place: each way within a second, with the right reason, and Ollama is
never asked. And what the two timeouts of a task do, with and without a queue.

Contract section 8.5 and 8.8.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.faults import elapse
from tests.support.outcome import outcome
from tests.support.ports import free_port
from tests.support.scripted import Gated, Upstream
from tests.support.served import Served
from tests.support.waiting import until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.store import Store
    from tests.support.wire import Client, Field

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.alone]

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'
COUNT = 200
LEFT = ("FAILED", "cancelled", "client_disconnect")
CANCELLED = ("FAILED", "cancelled", "cancelled")
SHUTDOWN = ("FAILED", "shutdown", "shutdown")
TIMEOUT = ("FAILED", "error", "timeout")
UNAVAILABLE = ("FAILED", "error", "upstream_unavailable")
DONE = ("SUCCESS", "done", None)


class Waiting:
    """`count` requests in the queue of a gateway whose only place is taken."""

    def __init__(self, gateway: Gateway, upstream: Upstream) -> None:
        self.gateway = gateway
        self.served = Served()
        upstream.default = self.served
        self.clients: dict[str, Client] = {}

    async def begin(self, name: str, *fields: Field, count: int = COUNT) -> None:
        """All of them wait."""
        await self.send(f"{name}-running")
        await self.served.holds(1)
        for number in range(count):
            await self.send(f"{name}-{number}", *fields)
        await until(lambda: self.length_is(count), what="all wait")
        del self.clients[f"{name}-running"]

    async def send(self, task_id: str, *fields: Field) -> None:
        """One more request."""
        client = self.clients[task_id] = await self.gateway.connect()
        await client.send(request("POST", CHAT, (b"X-Task-Id", task_id.encode()), *fields, body=BODY))

    async def length_is(self, count: int) -> bool:
        """Whether so many wait."""
        text = (await self.gateway.http.get("/metrics")).text
        return f"ollama_gateway_waiting_requests {float(count)}" in text

    async def all_are(self, expected: tuple[str, str, str | None], gateway: Gateway | None = None) -> bool:
        """Whether all that waited have this end."""
        page = (await (gateway or self.gateway).http.get("/tasks/status?limit=1000")).json()["items"]
        ends = {one["task_id"]: outcome(one) for one in page if one["task_id"] in self.clients}
        return len(ends) == len(self.clients) and set(ends.values()) == {expected}

    async def answers(self) -> set[tuple[int, str]]:
        """The status and the code of all answers."""
        found = [await within(30, client.answer("POST")) for client in self.clients.values()]
        return {(answer.status, answer.json()["error"]["code"]) for answer in found}


async def test_clients_that_leave_are_out_within_a_second(launch: Launch, store: Store, upstream: Upstream) -> None:
    """By FIN and by RST."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    waiting = Waiting(gateway, upstream)
    await waiting.begin("leaving")
    for number, client in enumerate(waiting.clients.values()):
        if number % 2:
            client.reset()
        else:
            await client.close()
    await until(lambda: waiting.length_is(0), 1, "the queue is empty")
    await until(lambda: waiting.all_are(LEFT), what="each has its end")
    assert waiting.served.seen == 1
    waiting.served.finish()


async def test_a_cancel_from_another_gateway_takes_tasks_out(launch: Launch, store: Store, upstream: Upstream) -> None:
    """Within a second; each client has a 499."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    other = await launch(REDIS_URL=store.url)
    waiting = Waiting(gateway, upstream)
    await waiting.begin("cancelled")
    for task_id in waiting.clients:
        answer = await other.http.post(f"/tasks/{task_id}/cancel")
        assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    assert await waiting.length_is(0)
    assert await waiting.answers() == {(499, "cancelled")}
    assert waiting.served.seen == 1
    waiting.served.finish()


async def test_a_start_timeout_takes_tasks_out(launch: Launch, store: Store, upstream: Upstream) -> None:
    """504 start_timeout, and client libraries are told not to try again."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    waiting = Waiting(gateway, upstream)
    await waiting.begin("timed", (b"X-Task-Start-Timeout", b"10"))
    await until(lambda: waiting.length_is(0), 11, "the queue is empty")
    first, *_ = waiting.clients.values()
    answer = await within(30, first.answer("POST"))
    assert (answer.status, answer.head.get("x-should-retry")) == (504, b"false")
    del waiting.clients["timed-0"]
    assert await waiting.answers() == {(504, "start_timeout")}
    await until(lambda: waiting.all_are(TIMEOUT), what="each has its end")
    assert waiting.served.seen == 1
    waiting.served.finish()


async def test_a_drain_takes_tasks_out_once_the_notice_has_ended(
    launch: Launch, store: Store, upstream: Upstream
) -> None:
    """During the notice they wait on, and one whose turn comes is served; then they get 503, and what runs goes on."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", DRAIN_NOTICE_SEC="600", DRAIN_SEC="30")
    other = await launch(REDIS_URL=store.url)
    waiting = Waiting(gateway, upstream)
    await waiting.begin("drained", count=COUNT + 1)
    gateway.process.terminate()

    async def is_unready() -> bool:
        return (await gateway.http.get("/readyz")).status_code == 503

    await until(is_unready, what="it gives notice")
    assert await waiting.length_is(COUNT + 1)
    waiting.served.finish()
    await waiting.served.has_seen(2)
    first = waiting.clients.pop("drained-0")
    gateway.process.terminate()  # a second signal ends the notice
    assert await within(30, waiting.answers()) == {(503, "shutting_down")}
    waiting.served.finish()
    assert (await within(30, first.answer("POST"))).status == 200
    await within(30, asyncio.to_thread(gateway.process.wait), "the process ends")
    assert await waiting.all_are(SHUTDOWN, other)
    assert outcome(await other.status("drained-0")) == DONE
    assert waiting.served.seen == 2


async def test_while_ollama_starts_again_requests_wait_for_it(launch: Launch, store: Store) -> None:
    """Refused connections are tried again; the order stays; none fails."""
    port = free_port()
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", UPSTREAM_BASE=f"http://127.0.0.1:{port}")
    upstream = Upstream()
    waiting = Waiting(gateway, upstream)
    for number in range(3):
        await waiting.send(f"patient-{number}")
        await until(partial(waiting.length_is, number + 1), what="it waits")
    await elapse(1, time.monotonic(), "some tries")
    positions = [(await gateway.status(task_id))["extensions"]["queue_position"] for task_id in waiting.clients]
    assert positions == [1, 2, 3]
    await upstream.start(port)
    for number in range(3):
        await waiting.served.has_seen(number + 1)
        waiting.served.finish()
    for task_id, client in waiting.clients.items():
        assert (await within(30, client.answer("POST"))).status == 200
        assert outcome(await gateway.ended(task_id)) == DONE
    await upstream.stop()


async def test_after_fifteen_seconds_without_ollama_those_that_wait_get_503(launch: Launch, store: Store) -> None:
    """And from then on a request fails at once, until Ollama is back."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", UPSTREAM_BASE=f"http://127.0.0.1:{free_port()}")
    waiting = Waiting(gateway, Upstream())
    for number in range(3):
        await waiting.send(f"hopeless-{number}")
    await until(lambda: waiting.length_is(3), what="all wait")
    await until(lambda: waiting.length_is(0), 17, "all are out")
    first = await within(30, waiting.clients.pop("hopeless-0").answer("POST"))
    assert (first.status, first.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert first.head.get("retry-after") is not None
    assert await waiting.answers() == {(503, "upstream_unavailable")}
    await until(lambda: waiting.all_are(UNAVAILABLE), what="each has its end")
    late = await within(1, gateway.ask("POST", CHAT, body=BODY))
    assert (late.status, late.json()["error"]["code"]) == (503, "upstream_unavailable")


@pytest.mark.parametrize("bound", ["0", "4"])
@pytest.mark.parametrize("is_started", [False, True], ids=["before the head", "in a stream"])
async def test_a_timeout_bounds_the_whole_task(
    launch: Launch, store: Store, upstream: Upstream, bound: str, *, is_started: bool
) -> None:
    """504 task_timeout, or a message that is broken off. Ollama's connection is closed, so that it stops."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING=bound)
    script = Gated()
    upstream.then(script)
    client = await gateway.connect()
    fields: list[Field] = [(b"X-Task-Id", b"bounded"), (b"X-Task-Timeout", b"2")]
    await client.send(request("POST", CHAT, *fields, body=BODY))
    exchange = await upstream.exchange()
    if is_started:
        script.head()
        script.piece(b"data: {}\n\n")
        answer = await within(30, client.answer("POST"))
        assert (answer.status, answer.body.complete) == (200, False)
    else:
        answer = await within(30, client.answer("POST"))
        assert (answer.status, answer.json()["error"]["code"]) == (504, "task_timeout")
        assert answer.head.get("x-should-retry") == b"false"
    await within(1, exchange.closed.wait(), "the upstream is closed")
    assert outcome(await gateway.ended("bounded")) == TIMEOUT


async def test_without_a_queue_a_start_timeout_bounds_the_time_to_the_hand_over(
    launch: Launch, upstream: Upstream
) -> None:
    """A body that does not come counts; an answer that does not come does not."""
    gateway = await launch()
    script = Gated()
    upstream.then(script)
    handed, slow = await gateway.connect(), await gateway.connect()
    timed = (b"X-Task-Start-Timeout", b"1")
    await handed.send(request("POST", CHAT, (b"X-Task-Id", b"handed"), timed, body=BODY))
    await slow.send(request("POST", CHAT, (b"X-Task-Id", b"slow"), timed, (b"Content-Length", b"10")))
    answer = await within(30, slow.answer("POST"))
    assert (answer.status, answer.json()["error"]["code"]) == (504, "start_timeout")
    assert outcome(await gateway.ended("slow")) == TIMEOUT
    assert (await gateway.status("handed"))["state"] == "RUNNING"
    script.head()
    script.piece(b"data: [DONE]\n\n")
    script.end()
    assert (await within(30, handed.answer("POST"))).body.complete
    assert outcome(await gateway.ended("handed")) == DONE


async def test_a_task_that_ends_in_time_is_not_touched_by_its_timeouts(launch: Launch, upstream: Upstream) -> None:
    """The connection serves the next request while the first one's time runs out."""
    gateway = await launch(MAX_RUNNING="1")
    upstream.default = Served()
    client = await gateway.connect()
    first: Any = asyncio.ensure_future(
        client.ask("POST", CHAT, (b"X-Task-Timeout", b"3"), (b"X-Task-Start-Timeout", b"3"), body=BODY)
    )
    await upstream.default.holds(1)
    upstream.default.finish()
    assert (await within(30, first)).status == 200
    second = asyncio.ensure_future(client.ask("POST", CHAT, (b"X-Task-Id", b"second"), body=BODY))
    await upstream.default.holds(1)
    await elapse(3.5, time.monotonic(), "the first one's time is over")
    assert not second.done()
    upstream.default.finish()
    assert (await within(30, second)).status == 200
    assert outcome(await gateway.ended("second")) == DONE
