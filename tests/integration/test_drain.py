"""Owns what SIGTERM and Ctrl-C do to a gateway process beside what tests/chaos/test_sigterm.py sees of its streams.

Contract section 6.2.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.faults import elapse
from tests.support.outcome import DONE, outcome
from tests.support.ports import refusing_port
from tests.support.scripted import answering
from tests.support.streams import WHOLE, held
from tests.support.unread import only_unread_answers, unread_answers
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store


CHAT = "/v1/chat/completions"
LONG = "600"  # no test waits as long: what ends before does not wait for it
SHUTDOWN = ("FAILED", "shutdown", "shutdown")


async def ends(gateway: Gateway) -> None:
    """Wait until the process is gone; it has to end with 0."""
    code = await within(GUARD_SECONDS, asyncio.to_thread(gateway.process.wait), "the process ends")
    assert code == 0, gateway.log


async def is_draining(gateway: Gateway) -> bool:
    """Whether it says so."""
    answer = await gateway.http.get("/readyz")
    return bool(answer.status_code == 503 and answer.json()["status"] == "draining")


async def is_refused(gateway: Gateway) -> bool:
    """Whether new requests are refused."""
    return (await gateway.ask("GET", "/v1/models")).status == 503


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_gateway_ends_at_once(launch: Launch, number: int) -> None:
    """Without requests it does not wait for DRAIN_SEC."""
    gateway = await launch(DRAIN_SEC=LONG)
    gateway.process.send_signal(number)
    await ends(gateway)


async def test_it_answers_while_it_drains(launch: Launch, store: Store, upstream: Upstream) -> None:
    """New requests get 503 shutting_down on new connections, and status, list, cancel and health are answered.

    The process goes with the end of the last request, not with that of DRAIN_SEC.
    """
    gateway = await launch(REDIS_URL=store.url, DRAIN_SEC=LONG)
    stream, other = await held(gateway, upstream), await held(gateway, upstream)
    gateway.process.terminate()
    await until(lambda: is_draining(gateway), 30, "it drains")
    refused = await gateway.ask("POST", CHAT, (b"X-Task-Id", b"too-late"), body=b"{}")
    assert (refused.status, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert (refused.json()["error"]["type"], refused.head.task_id) == ("gateway_error", "too-late")
    assert (await gateway.http.get("/livez")).status_code == 200
    assert (await gateway.status(stream.task_id))["state"] == "RUNNING"
    assert (await gateway.http.get("/tasks/status")).status_code == 200
    cancelled = await gateway.http.post(f"/tasks/{other.task_id}/cancel")
    assert (cancelled.status_code, cancelled.json()["stage"]) == (200, "cancelled")
    assert await stream.end() == WHOLE
    await ends(gateway)
    assert outcome(await store.document(stream.task_id)) == DONE


async def test_new_requests_are_served_during_the_notice(launch: Launch, store: Store, upstream: Upstream) -> None:
    """With DRAIN_NOTICE_SEC the gateway is not ready at once, and serves new requests until the notice is over.

    The second signal is what ends it here; then they are refused, and what runs ends as it would have.
    """
    gateway = await launch(REDIS_URL=store.url, DRAIN_SEC=LONG, DRAIN_NOTICE_SEC="3600")
    gateway.process.terminate()
    await until(lambda: is_draining(gateway), 30, "it is not ready")
    upstream.then(answering(200, body=b"{}"))
    assert (await within(10, gateway.ask("POST", CHAT, body=b"{}"), "an answer")).status == 200
    stream = await held(gateway, upstream)
    gateway.process.terminate()
    await until(lambda: is_refused(gateway), 30, "new requests are refused")
    assert await is_draining(gateway)
    assert await stream.end() == WHOLE
    await ends(gateway)
    assert outcome(await store.document(stream.task_id)) == DONE


async def test_no_connection_is_kept_from_the_signal_on(launch: Launch, upstream: Upstream) -> None:
    """An answer during the notice ends its connection, so that the client's next request can go to another gateway."""
    gateway = await launch(DRAIN_NOTICE_SEC=LONG)
    client = await gateway.connect()
    upstream.then(answering(200), answering(200))
    before = await client.ask("POST", CHAT, body=b"{}")
    gateway.process.terminate()
    await until(lambda: is_draining(gateway), 30, "it has given notice")
    after = await client.ask("POST", CHAT, body=b"{}")
    assert [before.head.all("connection"), after.head.all("connection")] == [[], [b"close"]]
    assert (before.status, after.status) == (200, 200)
    assert await client.at_end()
    gateway.process.send_signal(signal.SIGINT)


async def test_the_listener_outlives_the_notice(launch: Launch, upstream: Upstream) -> None:
    """A gateway that gave notice refuses with 503 while the last request runs, and never by a closed port."""
    gateway = await launch(DRAIN_SEC=LONG, DRAIN_NOTICE_SEC="0.5")
    stream = await held(gateway, upstream)
    gateway.process.terminate()
    await until(lambda: is_refused(gateway), 30, "the notice is over")
    assert not await gateway.is_closed()
    await stream.end()
    await ends(gateway)


async def test_ctrl_c_twice_ends_at_once(launch: Launch, store: Store, upstream: Upstream) -> None:
    """The first lets requests finish, the second does not; what was cut is FAILED shutdown in the store."""
    gateway = await launch(REDIS_URL=store.url, DRAIN_SEC=LONG)
    stream = await held(gateway, upstream)
    gateway.process.send_signal(signal.SIGINT)
    await until(lambda: is_draining(gateway), 30, "it drains")
    assert gateway.process.poll() is None
    gateway.process.send_signal(signal.SIGINT)
    await ends(gateway)
    assert await within(30, stream.is_cut(), "the client's message is broken off")
    assert outcome(await store.document(stream.task_id)) == SHUTDOWN


async def test_nothing_is_waited_for_where_drain_sec_is_nought(
    launch: Launch, store: Store, upstream: Upstream
) -> None:
    """With DRAIN_SEC=0 everything is cut at once, and that is in the store."""
    gateway = await launch(REDIS_URL=store.url, DRAIN_SEC="0")
    stream = await held(gateway, upstream)
    gateway.process.terminate()
    await ends(gateway)
    assert outcome(await store.document(stream.task_id)) == SHUTDOWN


async def test_the_end_of_an_answer_is_waited_for(launch: Launch, upstream: Upstream) -> None:
    """A slow reader gets the end of an answer whose task was SUCCESS already when the signal came."""
    gateway = await launch(DRAIN_SEC=LONG)
    clients = await unread_answers(gateway, upstream)
    gateway.process.terminate()
    await elapse(2, time.monotonic(), "what uvicorn itself would give them is over")
    answers = []
    for client in clients.values():
        client.go_on_reading()
        head = await client.head()
        answers.append(len(await client.reader.readexactly(int(head.get("content-length") or b"0"))))
    assert answers == list(clients)
    await ends(gateway)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_ctrl_c_ends_the_wait_for_readers(launch: Launch, upstream: Upstream, first: int) -> None:
    """When only answers that no one takes are left, Ctrl-C ends the gateway at once, but not without its own end."""
    with refusing_port() as port:
        gateway = await launch(REDIS_URL=f"redis://127.0.0.1:{port}", DRAIN_SEC=LONG)
        assert await only_unread_answers(gateway, upstream)
        gateway.process.send_signal(first)
        await until(gateway.is_closed, 30, "no connection is taken any more")
        gateway.process.send_signal(signal.SIGINT)
        await ends(gateway)
    assert "statuses were lost: the store is away at exit" in gateway.log
