"""Pollers that wait, in numbers and at other gateways: each is answered once, and nothing else suffers by them.

Contract section 4.14. What one poller is promised is in test_polling.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import time
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_polling import until_all_wait
from tests.integration.test_store_rights import ACCOUNT
from tests.support.store import DOCUMENTS
from tests.support.streams import HeldStream, held
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Response

pytestmark = pytest.mark.alone

QUIET = {"HEARTBEAT_SEC": "60"}
MANY = 500
FOREIGN = 500  # tasks of other gateways that are waited for: to look at all takes more than two seconds
SOON_SECONDS = 0.8  # so soon none of them is answered by a look, apart from a few
AT_ONCE_SECONDS = 3.0
PIECE_SECONDS = 2.0  # a piece through a busy machine, and no more


async def waiting(gateway: Gateway, task_ids: list[str], seconds: float = 60, known: str = "") -> list[Client]:
    """Pollers that have asked, each on a connection of its own; for another event than `known`, if that is given.

    With it the answer is sure to come, however late the gateway takes the request.
    """
    fields = [(b"If-None-Match", f'"{known}"'.encode())] if known else []
    return [await gateway.send("GET", f"/tasks/status/{task_id}?wait={seconds:g}", *fields) for task_id in task_ids]


async def answers(clients: list[Client], seconds: float = GUARD_SECONDS) -> list[Response]:
    """What all of them get."""
    return await within(seconds, asyncio.gather(*(client.answer() for client in clients)), "all are answered")


async def is_answered(client: Client) -> bool:
    """Whether a poller is answered at once."""
    try:
        async with asyncio.timeout(AT_ONCE_SECONDS):
            await client.answer()
    except TimeoutError:
        return False
    return True


async def running_elsewhere(store: Store, stream: HeldStream, count: int) -> list[str]:
    """Tasks that run at a gateway that is not there, as far as the store says: like that of `stream`."""
    await until(lambda: store.raw(stream.task_id), what="it is stored")
    document = await store.document(stream.task_id)
    document["extensions"]["lost_after_ms"] += 600_000
    task_ids = [f"elsewhere-{uuid.uuid4()}" for _ in range(count)]
    async with store.client.pipeline(transaction=False) as pipe:
        for task_id in task_ids:
            text = json.dumps(document | {"task_id": task_id}, separators=(",", ":"))
            pipe.set(DOCUMENTS + task_id, text, ex=600)
        await pipe.execute()
    return task_ids


# -- at another gateway --


async def test_a_change_is_told_to_another_gateway_at_once(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """Also where it waits for five hundred other tasks: long before it would look at this one."""
    store = await new_store()
    settings = QUIET | {"REDIS_URL": store.url}
    runner, other = await launch(**settings), await launch(**settings)
    stream = await held(runner, upstream)
    await other.at(stream.task_id, "streaming")
    crowd = await waiting(other, await running_elsewhere(store, stream, FOREIGN))
    took = []
    for _ in range(9):
        one = HeldStream()
        await one.ask(runner, upstream)
        forwarding = await other.at(one.task_id, "forwarding")
        [client] = await waiting(other, [one.task_id], known=forwarding["event_id"])
        await until_all_wait(other, one.task_id)
        begun = time.monotonic()
        one.script.head()
        [answer] = await answers([client])
        took.append(time.monotonic() - begun)
        assert answer.json()["stage"] == "streaming"
        await one.end()
    assert statistics.median(took) < SOON_SECONDS, took
    for client in crowd:
        await client.close()
    await stream.end()


@pytest.mark.parametrize("rights", ["-publish", "-subscribe", "-publish -subscribe"])
async def test_without_the_right_to_publish_it_is_told_by_looking(
    launch: Launch, new_store: NewStore, upstream: Upstream, rights: str
) -> None:
    """An account that may not use Pub/Sub costs some time, and nothing else; nothing is logged for each poller."""
    store = await new_store()
    await store.client.execute_command(*ACCOUNT, *rights.split())
    settings = QUIET | {"REDIS_URL": f"redis://gateway:secret@127.0.0.1:{store.port}/0"}
    runner, other = await launch(**settings), await launch(**settings)
    for _ in range(3):
        stream = HeldStream()
        await stream.ask(runner, upstream)
        forwarding = await other.at(stream.task_id, "forwarding")
        clients = await waiting(other, [stream.task_id] * 3, known=forwarding["event_id"])
        await until_all_wait(other, stream.task_id)
        stream.script.head()
        assert {answer.json()["stage"] for answer in await answers(clients, 5)} == {"streaming"}
        await stream.end()
    assert (await other.http.get("/readyz")).json()["store"] == "up"
    assert max(map(other.log.count, set(other.log.splitlines()))) <= 3, other.log


async def test_a_silent_gateway_ends_the_wait(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Its task is presumed lost, which pollers elsewhere are told; and they are told when it goes on after all."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "1"}
    runner, other = await launch(**settings), await launch(**settings)
    stream = await held(runner, upstream)
    streaming = await other.at(stream.task_id, "streaming")
    clients = await waiting(other, [stream.task_id] * 5, known=streaming["event_id"])
    os.kill(runner.process.pid, signal.SIGSTOP)
    try:
        lost = await answers(clients)
        told = {(answer.json()["state"], answer.json()["extensions"]["is_presumed"]) for answer in lost}
        clients = await waiting(other, [stream.task_id] * 5, known=lost[0].json()["event_id"])
    finally:
        os.kill(runner.process.pid, signal.SIGCONT)
    assert told == {("FAILED", True)}
    assert {answer.json()["state"] for answer in await answers(clients)} == {"RUNNING"}
    await stream.end()


async def test_a_store_that_goes_ends_no_wait_early(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Each wait lasts its time; then the own task's status is known, and another gateway's is 503."""
    store = await new_store()
    settings = QUIET | {"REDIS_URL": store.url}
    runner, other = await launch(**settings), await launch(**settings)
    stream = await held(runner, upstream)
    await other.at(stream.task_id, "streaming")
    begun = time.monotonic()
    here, there = await waiting(runner, [stream.task_id] * 3, 3), await waiting(other, [stream.task_id] * 3, 3)
    for gateway in (runner, other):
        await until_all_wait(gateway, stream.task_id)
    await store.kill()
    known, unknown = await answers(here), await answers(there)
    assert time.monotonic() - begun >= 3
    assert {(answer.status, answer.json()["stage"]) for answer in known} == {(200, "streaming")}
    assert {answer.status for answer in unknown} == {503}
    assert {answer.head.get("retry-after") for answer in unknown} == {b"2"}
    clients = await waiting(runner, [stream.task_id] * 3, known=known[0].json()["event_id"])
    await stream.end()
    assert {answer.json()["state"] for answer in await answers(clients)} == {"SUCCESS"}, "its own task is told at once"


async def test_sigterm_answers_who_waits_for_another_gateways_task(
    launch: Launch, store: Store, upstream: Upstream
) -> None:
    """A gateway that is about to stop tells each of them the present status at once."""
    runner, other = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    stream = await held(runner, upstream)
    await other.at(stream.task_id, "streaming")
    clients = await waiting(other, [stream.task_id] * 20)
    await until_all_wait(other, stream.task_id)
    other.process.terminate()
    told = await answers(clients, 5)
    assert {(answer.status, answer.json()["state"]) for answer in told} == {(200, "RUNNING")}
    await stream.end()


# -- bounded --


@pytest.mark.parametrize("is_plain", [True, False])
async def test_half_of_the_connections_may_wait(launch: Launch, upstream: Upstream, is_plain: bool) -> None:
    """One more is answered at once, both ways; when one has left or was answered, the next waits again."""
    gateway = await launch(MAX_CONNECTIONS="8")
    stream = await held(gateway, upstream)
    more = "" if is_plain else "&x=1"
    target = f"/tasks/status/{stream.task_id}?wait=60{more}"
    clients = await waiting(gateway, [stream.task_id] * 4)
    at_once = f"/tasks/status/{stream.task_id}?wait=2{more}"

    async def is_full() -> bool:
        begun = time.monotonic()
        answer = await gateway.ask("GET", at_once)
        tag = answer.head.get("etag") or b""
        known = await gateway.ask("GET", at_once, (b"If-None-Match", tag))
        assert (answer.status, answer.json()["stage"], known.status) == (200, "streaming", 304)
        return time.monotonic() - begun < 2

    await until(is_full, what="one more is answered at once")
    await clients.pop().close()

    async def waits() -> bool:
        client = await gateway.send("GET", target)
        if await is_answered(client):
            await client.close()
            return False
        clients.append(client)
        return True

    await until(waits, what="the place of the one that has left is free")
    await stream.end()
    assert {answer.json()["state"] for answer in await answers(clients)} == {"SUCCESS"}


async def test_pollers_that_leave_leave_nothing_behind(launch: Launch, upstream: Upstream) -> None:
    """Round after round as many may wait as at first, whether they leave with FIN or with RST."""
    gateway = await launch(MAX_CONNECTIONS="8")
    stream = await held(gateway, upstream)
    for round_number in range(10):
        clients = await waiting(gateway, [stream.task_id] * 4)
        await until_all_wait(gateway, stream.task_id)
        for client in clients:
            await client.close() if round_number % 2 else client.reset()

        async def has_room() -> bool:
            return await gateway.is_serving()

        await until(has_room, what="their connections are closed")
    [client] = await waiting(gateway, [stream.task_id])
    assert not await is_answered(client), "it waits: the others count no more"
    await stream.end()


# -- in numbers --


async def longest_piece(stream: HeldStream, told: asyncio.Future[list[Response]]) -> float:
    """The longest that a piece of a stream takes, of those that are sent one after another until all are told."""
    longest, number = 0.0, 0
    while not told.done():
        begun = time.monotonic()
        stream.script.piece(b"data: %d\n\n" % number)
        await within(GUARD_SECONDS, stream.client.up_to(b"data: %d\n\n\r\n" % number))
        longest, number = max(longest, time.monotonic() - begun), number + 1
    return longest


@pytest.mark.parametrize("is_foreign", [False, True])
async def test_many_waiters_are_answered_while_a_stream_flows(
    launch: Launch, new_store: NewStore, upstream: Upstream, is_foreign: bool
) -> None:
    """Five hundred that wait for one task hear of its end; five hundred others time out together, a little later."""
    store = await new_store()
    settings = QUIET | {"REDIS_URL": store.url}
    runner = await launch(**settings)
    other = await launch(**settings) if is_foreign else runner
    task, patient = [await held(runner, upstream) for _ in range(2)]
    stream = await held(other, upstream)
    await other.at(patient.task_id, "streaming")
    streaming = await other.at(task.task_id, "streaming")
    seconds = 5.0
    late = await waiting(other, [patient.task_id] * MANY, seconds)
    begun = time.monotonic()
    early = await waiting(other, [task.task_id] * MANY, known=streaming["event_id"])
    telling = asyncio.ensure_future(answers(early))
    await task.end()
    assert await longest_piece(stream, telling) < PIECE_SECONDS
    assert {(answer.status, answer.json()["state"]) for answer in telling.result()} == {(200, "SUCCESS")}
    telling = asyncio.ensure_future(answers(late))
    assert await longest_piece(stream, telling) < PIECE_SECONDS
    assert time.monotonic() - begun >= seconds - 1.5, "they began before"
    assert {(answer.status, answer.json()["stage"]) for answer in telling.result()} == {(200, "streaming")}
    for one in (patient, stream):
        await one.end()
