"""Owns what becomes of a kept call when its client leaves, and what ends one that has no client (contract 9.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kept import (
    DONE_EVENT,
    EVENTS,
    KEEP,
    WHOLE,
    Kept,
    code_of,
    kept,
    new_id,
    read,
    response_of,
    route,
)
from tests.support.outcome import CLIENT_LEFT, DONE, failed, outcome
from tests.support.streams import BODY, CHAT, cancel
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.integration.conftest import Pair
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

MEGABYTE = 1024 * 1024


@pytest.mark.parametrize("is_reset", [False, True])
async def test_the_answer_goes_on_without_its_client(pair: Pair, upstream: Upstream, is_reset: bool) -> None:
    """A client that leaves in the middle detaches its call: `is_detached` with a new event; all can be read."""
    call = await kept(pair.first, upstream)
    call.script.piece(EVENTS[0])
    await call.client.up_to(EVENTS[0])
    before = await pair.first.at(call.task_id, "streaming")
    assert before["extensions"]["is_detached"] is False
    await call.leave(is_reset=is_reset)
    after = await pair.first.status(call.task_id)
    assert after["event_id"] != before["event_id"]
    assert (after["state"], after["stage"]) == ("RUNNING", "streaming")
    assert not call.exchange.closed.is_set()
    call.finish(*EVENTS[1:-1])
    assert (await read(pair.other, call.task_id)).data == WHOLE
    end = await pair.ended(call.task_id)
    assert (outcome(end), end["extensions"]["is_detached"]) == (DONE, True)


async def test_a_client_with_an_id_may_leave_before_the_head(pair: Pair, upstream: Upstream) -> None:
    """The call goes on from the moment that its body is whole, also before Ollama has answered."""
    call = Kept(pair.first, upstream)
    await call.ask()
    await call.leave()
    call.script.head()
    call.finish(*EVENTS[:-1])
    assert (await read(pair.other, call.task_id)).data == WHOLE
    assert outcome(await pair.ended(call.task_id)) == DONE


async def test_a_client_without_an_id_that_leaves_before_the_head_ends_its_call(pair: Pair, upstream: Upstream) -> None:
    """It cannot know the id, so its answer would be lost on it."""
    upstream.gated()
    client = await pair.first.send("POST", CHAT, KEEP, body=BODY)
    exchange = await upstream.exchange()
    await client.close()
    await within(GUARD_SECONDS, exchange.closed.wait())


async def test_a_client_without_an_id_that_leaves_behind_the_head_leaves_its_call(
    pair: Pair, upstream: Upstream
) -> None:
    """The head has told it the id."""
    stream = upstream.gated()
    client = await pair.first.send("POST", CHAT, KEEP, body=BODY)
    stream.head()
    task_id = (await client.head()).task_id
    await client.close()

    async def is_detached() -> bool:
        return bool((await pair.first.status(task_id))["extensions"]["is_detached"])

    await until(is_detached)
    stream.piece(EVENTS[-1])
    stream.end()
    assert (await read(pair.other, task_id)).data == EVENTS[-1]


async def test_a_client_that_leaves_inside_its_body_ends_its_call(pair: Pair, upstream: Upstream) -> None:
    """FAILED client_disconnect, and Ollama's connection is closed, as without the field."""
    task_id = new_id()
    client = await pair.first.connect()
    await client.send(
        b"POST %b HTTP/1.1\r\nHost: x\r\nX-Task-Id: %b\r\nX-Task-Keep: true\r\nContent-Length: 9\r\n\r\nhal"
        % (CHAT.encode(), task_id.encode())
    )
    upstream.gated()
    exchange = await upstream.exchange()
    await client.close()
    await within(GUARD_SECONDS, exchange.closed.wait())
    assert outcome(await pair.ended(task_id)) == CLIENT_LEFT


async def test_false_is_as_without_the_field(pair: Pair, upstream: Upstream) -> None:
    """With `X-Task-Keep: false` nothing is kept, and the client's leaving ends the call."""
    task_id = new_id()
    upstream.gated()
    client = await pair.first.send(
        "POST", CHAT, (b"X-Task-Id", task_id.encode()), (b"X-Task-Keep", b"false"), body=BODY
    )
    await upstream.exchange()
    await client.close()
    end = await pair.ended(task_id)
    assert (outcome(end), end["extensions"]["response"]) == (CLIENT_LEFT, None)
    assert code_of(await read(pair.other, task_id)) == (404, "response_not_kept")


@pytest.mark.parametrize("values", [[b"yes"], [b""], [b"True"], [b"1"], [b"true", b"true"]])
async def test_another_value_is_refused(tracked: Gateway, upstream: Upstream, values: list[bytes]) -> None:
    """All but one `true` or `false` is 400 `invalid_header`, and no task."""
    task_id = new_id()
    fields = [(b"X-Task-Keep", value) for value in values]
    answer = await tracked.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), *fields, body=BODY)
    assert code_of(answer) == (400, "invalid_header")
    assert (await tracked.http.get(f"/tasks/status/{task_id}")).status_code == 404
    assert upstream.exchanges == []


async def test_the_fields_do_not_reach_the_upstream(tracked: Gateway, upstream: Upstream) -> None:
    """`X-Task-Keep` is the gateway's own."""
    await tracked.ask("POST", CHAT, KEEP, body=BODY)
    assert upstream.exchanges[0].head.get("x-task-keep") is None


@pytest.mark.parametrize("has_head", [False, True])
async def test_a_cancel_ends_a_call_without_a_client(pair: Pair, upstream: Upstream, has_head: bool) -> None:
    """FAILED `cancelled` from any gateway; a reader is broken off, or gets the error before the head."""
    call = Kept(pair.first, upstream)
    await (call.begin if has_head else call.ask)()
    await call.leave()
    if has_head:
        call.script.piece(EVENTS[0])
    reader = await pair.other.send("GET", route(call.task_id))
    if has_head:
        await reader.up_to(EVENTS[0])
    assert (await cancel(pair.other, call.task_id)).status_code == 200
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    end = await pair.ended(call.task_id)
    assert outcome(end) == ("FAILED", "cancelled", "cancelled")
    if has_head:
        rest = await within(GUARD_SECONDS, reader.reader.read())
        assert not rest.endswith(b"0\r\n\r\n"), rest
        part = await read(pair.other, call.task_id)
        assert (part.status, part.data, part.body.complete) == (200, EVENTS[0], False)
    else:
        assert code_of(await reader.answer()) == (499, "cancelled")
        assert code_of(await read(pair.other, call.task_id)) == (499, "cancelled")


@pytest.mark.parametrize("has_head", [False, True])
async def test_its_timeout_ends_a_call_without_a_client(pair: Pair, upstream: Upstream, has_head: bool) -> None:
    """`X-Task-Timeout` still counts: FAILED `timeout`; readers end as the client would have."""
    call = Kept(pair.first, upstream)
    await (call.begin if has_head else call.ask)((b"X-Task-Timeout", b"5"))
    if has_head:
        call.script.piece(EVENTS[0])
    await call.leave()
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    assert outcome(await pair.ended(call.task_id)) == failed("timeout")
    answer = await read(pair.other, call.task_id)
    if has_head:
        assert (answer.status, answer.data, answer.body.complete) == (200, EVENTS[0], False)
    else:
        assert code_of(answer) == (504, "task_timeout")
        assert answer.head.get("x-should-retry") == b"false"


async def test_a_silent_upstream_ends_a_call_without_a_client(
    gateways: Launch, store: Store, upstream: Upstream
) -> None:
    """`UPSTREAM_IDLE_TIMEOUT_SEC` still counts."""
    gateway = await gateways(REDIS_URL=store.url, UPSTREAM_IDLE_TIMEOUT_SEC="5")
    call = Kept(gateway, upstream)
    await call.ask()
    await call.leave()
    assert outcome(await gateway.ended(call.task_id)) == failed("timeout")
    assert code_of(await read(gateway, call.task_id)) == (504, "upstream_timeout")


async def test_a_call_that_waits_in_the_queue_survives_its_client(
    gateways: Launch, store: Store, upstream: Upstream
) -> None:
    """A request whose body is here keeps its place in the line when its client leaves."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    first = await kept(gateway, upstream)
    second = Kept(gateway, upstream)
    upstream.then(second.script)
    second.client = await gateway.send("POST", CHAT, second.name, KEEP, body=BODY)
    await gateway.at(second.task_id, "queued")
    await second.leave()
    waiting = await gateway.status(second.task_id)
    assert (waiting["stage"], waiting["extensions"]["queue_position"]) == ("queued", 1)
    first.finish()
    second.script.head()
    second.finish()
    assert (await read(gateway, second.task_id)).data == EVENTS[-1]
    assert outcome(await gateway.ended(second.task_id)) == DONE


async def test_nothing_slows_the_upstream_once_the_client_has_left(pair: Pair, upstream: Upstream) -> None:
    """A client that reads nothing slows Ollama; when it leaves, all flows, whatever a stalled reader takes."""
    size = 12 * MEGABYTE
    call = Kept(pair.first, upstream)
    await call.begin()
    call.client.stop_reading()
    reader = await pair.other.connect(receive_buffer=4096)
    reader.stop_reading()
    await reader.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % route(call.task_id).encode())
    for _ in range(size // MEGABYTE):
        call.script.piece(b"x" * MEGABYTE)
    call.script.end()
    assert not call.script.steps.empty()
    assert (await pair.first.status(call.task_id))["stage"] == "streaming"
    await call.leave()
    await until(call.script.steps.empty, what="the upstream has sent all")
    await pair.ended(call.task_id)
    answer = await read(pair.other, call.task_id)
    assert (answer.body.size, answer.body.complete) == (size, True)
    await reader.close()


async def test_it_is_kept_while_the_client_is_there(pair: Pair, upstream: Upstream) -> None:
    """The client gets the bytes as ever, and the answer is there, too; `is_detached` stays false."""
    call = Kept(pair.first, upstream)
    await call.ask()
    call.script.head()
    call.finish(*EVENTS[:-1])
    answer = await call.client.answer()
    assert (answer.status, answer.data, answer.body.complete) == (200, WHOLE, True)
    await pair.ended(call.task_id)
    document = await pair.first.status(call.task_id)
    assert document["extensions"]["is_detached"] is False
    assert await response_of(pair.other, call.task_id) == "kept"
    assert (await read(pair.other, call.task_id)).data == WHOLE


async def test_an_upstream_that_does_not_end_its_message_is_not_waited_for_without_a_client(
    pair: Pair, upstream: Upstream
) -> None:
    """The end event ends the task; some seconds later the exchange is closed, and readers are broken off."""
    call = await kept(pair.first, upstream)
    await call.leave()
    call.script.piece(DONE_EVENT)
    assert outcome(await pair.ended(call.task_id)) == DONE
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    answer = await read(pair.other, call.task_id)
    assert (answer.data, answer.body.complete) == (DONE_EVENT, False)
    assert outcome(await pair.ended(call.task_id)) == DONE
