"""Another client ends a request: `POST /tasks/{id}/cancel`, at the gateway that runs it or at another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.chaos.load import relay
from tests.support.outcome import outcome
from tests.support.streams import HeldStream, cancel, held
from tests.support.waiting import GUARD_SECONDS, within

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store


CLOSED_SECONDS = 1.0  # on the same instance, and with a heartbeat of as much on another one, too
CANCELLED = ("FAILED", "cancelled", "cancelled")
Pair = tuple["Gateway", "Gateway"]  # who runs the task, and who is called


@pytest.fixture(params=["the same gateway", "another gateway"])
async def pair(request: pytest.FixtureRequest, gateways: Launch, store: Store) -> Pair:
    """The gateway that runs the task and the one that is called."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "1"}
    runner = await gateways(**settings, GATEWAY_INSTANCE="runner")
    called = runner if request.param == "the same gateway" else await gateways(**settings, GATEWAY_INSTANCE="other")
    return runner, called


async def test_it_closes_the_upstream(pair: Pair, upstream: Upstream) -> None:
    """The upstream's connection is closed within a second of the call, which is what makes Ollama stop."""
    runner, called = pair
    stream = await held(runner, upstream)
    calling = asyncio.ensure_future(cancel(called, stream.task_id))
    await within(CLOSED_SECONDS, stream.exchange.closed.wait(), "the upstream's connection is closed")
    await calling


async def test_it_answers_the_final_document(pair: Pair, upstream: Upstream, store: Store) -> None:
    """The answer is 200 with FAILED `cancelled`, the document that the store has."""
    runner, called = pair
    stream = await held(runner, upstream)
    answer = await cancel(called, stream.task_id)
    assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    assert answer.text == await store.raw(stream.task_id)


async def test_the_client_sees_a_broken_message(pair: Pair, upstream: Upstream) -> None:
    """A stream that was cancelled ends without a terminator."""
    runner, called = pair
    stream = await held(runner, upstream)
    await cancel(called, stream.task_id)
    assert await within(GUARD_SECONDS, stream.is_cut(), "the client's connection is closed")


async def test_before_the_head_the_client_gets_an_error(pair: Pair, upstream: Upstream) -> None:
    """A client that has no head yet gets 499 `cancelled`, in OpenAI's shape and with the task's id."""
    runner, called = pair
    stream = HeldStream()
    await stream.ask(runner, upstream)
    await cancel(called, stream.task_id)
    answer = await within(GUARD_SECONDS, stream.client.answer("POST"), "the client has an answer")
    assert (answer.status, answer.head.task_id) == (499, stream.task_id)
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("gateway_error", "cancelled")


async def test_twice_is_the_same_as_once(pair: Pair, upstream: Upstream, store: Store) -> None:
    """A second call answers 200 with what the first one answered, and changes nothing."""
    runner, called = pair
    stream = await held(runner, upstream)
    first = await cancel(called, stream.task_id)
    second = await cancel(called, stream.task_id)
    assert (second.status_code, second.text) == (200, first.text)
    assert await store.raw(stream.task_id) == first.text


async def test_both_of_two_calls_at_once_answer_the_end(pair: Pair, upstream: Upstream) -> None:
    """Calls at the same time, one at each gateway, both answer 200 with the one end."""
    stream = await held(pair[0], upstream)
    answers = await asyncio.gather(*(cancel(gateway, stream.task_id) for gateway in pair))
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].text == answers[1].text


async def test_an_ended_task_is_unchanged(pair: Pair, upstream: Upstream, store: Store) -> None:
    """An ended task is answered as it is, 200, and stays so byte for byte."""
    runner, called = pair
    (task_id,) = (await relay(runner, 1)).task_ids
    before = await store.raw(task_id)
    answer = await cancel(called, task_id)
    assert (answer.status_code, answer.text) == (200, before)
    assert await store.raw(task_id) == before
