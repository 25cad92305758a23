"""Owns the promise that a client library's own retry works: same id, while the attempt before it is torn down.

Contract section 4.7.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import DONE, outcome
from tests.support.streams import BODY, CHAT, HeldStream, held
from tests.support.waiting import until
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Field, Response


ALONE = pytest.mark.alone  # a claim waits for a second, and a request 250 ms for the store
REPETITIONS = 20


def named(task_id: str) -> Field:
    """The field that chooses the id."""
    return (b"X-Task-Id", task_id.encode())


async def retried(client: Client, task_id: str) -> Response:
    """A retry on a connection of its own that is open already, as clients' pools keep them."""
    return await client.ask("POST", CHAT, named(task_id), body=BODY)


async def test_a_retry_is_served_that_is_read_before_its_client_is_seen_leaving(
    launch: Launch, upstream: Upstream, store: Store
) -> None:
    """A gateway that reads the retry first, and then the end of the first connection, serves the retry."""
    gateway = await launch(REDIS_URL=store.url)
    for _ in range(REPETITIONS):
        stream, spare = HeldStream(), await gateway.connect()
        await spare.ask("GET", "/livez")
        await stream.begin(gateway, upstream)
        gateway.process.send_signal(signal.SIGSTOP)
        await spare.send(request("POST", CHAT, named(stream.task_id), body=BODY))
        await stream.client.close()
        gateway.process.send_signal(signal.SIGCONT)
        assert (await spare.answer()).status == 200
        document = await gateway.status(stream.task_id)
        assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 2)
        await until(stream.exchange.closed.is_set, what="Ollama is told that the first client left")


async def test_a_retry_is_served_while_the_first_upload_is_not_read(gateway: Gateway, upstream: Upstream) -> None:
    """A client that resets an upload which Ollama does not take is noticed when its retry comes."""
    first = HeldStream()
    finished = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        exchange.stop_reading()
        await finished.wait()

    upstream.then(script)
    client = await gateway.connect()
    client.writer.write(
        request("POST", CHAT, named(first.task_id), (b"Content-Length", b"100000000")) + bytes(30_000_000)
    )
    await upstream.exchange()
    retry = await gateway.connect()
    client.reset()
    await client.close()  # now the reset is on its way
    answer = await retried(retry, first.task_id)
    finished.set()
    assert (answer.status, (await gateway.status(first.task_id))["extensions"]["attempt"]) == (200, 2)


@ALONE
async def test_a_retry_at_another_gateway_waits_for_the_end(launch: Launch, upstream: Upstream, store: Store) -> None:
    """A retry that reaches another gateway first is served there as soon as the first attempt has ended."""
    one, two = [await launch(REDIS_URL=store.url) for _ in range(2)]
    for _ in range(REPETITIONS):
        stream = await held(one, upstream)
        spare = await two.connect()
        retry = asyncio.ensure_future(retried(spare, stream.task_id))
        again = await two.ask("POST", CHAT, named(stream.task_id), body=BODY)  # the retry is there, and waits
        assert (again.status, retry.done()) == (409, False)
        await stream.client.close()
        assert (await retry).status == 200
        document = await store.ended(stream.task_id, attempt=2)
        assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 2)


@ALONE
async def test_a_request_that_goes_on_elsewhere_is_not_waited_for_longer(
    launch: Launch, upstream: Upstream, store: Store
) -> None:
    """The same id at another gateway is 409 after a second, nothing is called, and the first request goes on."""
    one, two = [await launch(REDIS_URL=store.url) for _ in range(2)]
    stream = await held(one, upstream)
    began = time.monotonic()
    refused = await two.ask("POST", CHAT, named(stream.task_id), body=BODY)
    assert (refused.status, refused.json()["error"]["code"]) == (409, "task_id_in_use")
    assert time.monotonic() - began > 0.9
    assert len(upstream.exchanges) == 1
    await stream.end()
    assert outcome(await store.ended(stream.task_id)) == DONE
    assert (await two.ask("POST", CHAT, named(stream.task_id), body=BODY)).status == 200


@ALONE
async def test_a_client_that_leaves_while_its_claim_waits_takes_nothing(
    launch: Launch, upstream: Upstream, store: Store
) -> None:
    """A retry that is given up while it waits reaches nothing, and leaves the first request as it is."""
    one, two = [await launch(REDIS_URL=store.url) for _ in range(2)]
    stream = await held(one, upstream)
    spare = await two.send("POST", CHAT, named(stream.task_id), body=BODY)

    async def is_waiting() -> bool:
        return in_flight(await metrics(two)) == 1

    await until(is_waiting, 2, "the retry waits")
    await spare.close()

    async def has_gone() -> bool:
        return in_flight(await metrics(two)) == 0

    await until(has_gone, 2, "the retry is gone")
    assert (await store.document(stream.task_id))["state"] == "RUNNING"
    await stream.end()
    document = await store.ended(stream.task_id)
    assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 1)
    assert len(upstream.exchanges) == 1


async def metrics(gateway: Gateway) -> str:
    """What Prometheus would read."""
    return (await gateway.http.get("/metrics")).text


def in_flight(text: str) -> float:
    """How many tasks run or wait at a gateway."""
    lines = [line for line in text.splitlines() if line.startswith("ollama_gateway_tasks_in_flight")]
    assert lines, text
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
