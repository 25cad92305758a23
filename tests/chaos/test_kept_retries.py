"""Clients try again by themselves: the official one behind a proxy that cuts, and fifty at once with one id."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai
import orjson
import pytest

from tests.support import patient
from tests.support.cutting import CuttingProxy
from tests.support.kept import EVENTS, KEEP, WHOLE, new_id
from tests.support.scripted import CHUNKED, JSON, head
from tests.support.scripted import EVENTS as EVENT_STREAM
from tests.support.streams import BODY, CHAT
from tests.support.waiting import next_turn, until
from tests.support.wire import LAST_CHUNK, chunk, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Head, Response

pytestmark = pytest.mark.timeout(600)

CALLS = 200
AT_ONCE = 20
RETRIES = 50
AWAY = "the store is away"


async def completion(exchange: Exchange) -> None:
    """The script: a chat completion that repeats what was asked, after some turns of the loop."""
    asked = orjson.loads(await exchange.read())["messages"][0]["content"]
    for _ in range(20):
        await next_turn()
    body = orjson.dumps(
        {
            "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": asked}}],
        }
    )  # fmt: skip
    await exchange.send(head(200, JSON, (b"Content-Length", b"%d" % len(body))) + body)


async def test_the_official_client_survives_cut_connections(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """openai-python with `max_retries=5`: 200 of 200 plain calls are answered, with 200 calls of the upstream."""
    store = await new_store()
    gateway = await launch(patient.COMMAND, REDIS_URL=store.url)
    upstream.default = completion
    proxy = CuttingProxy(gateway.port, random.Random(16), most=4)
    await proxy.open()
    answered: Counter[bool] = Counter()
    numbers = iter(range(CALLS))
    try:
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{proxy.port}/v1",
            api_key="unused",
            max_retries=5,
            default_headers={"X-Task-Keep": "true"},
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        ) as client:

            async def one_after_another() -> None:
                for number in numbers:
                    said = f"number {number}"
                    answer = await client.chat.completions.create(
                        model="m", messages=[{"role": "user", "content": said}], extra_headers={"X-Task-Id": new_id()}
                    )
                    answered[answer.choices[0].message.content == said] += 1

            await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    finally:
        await proxy.close()
    assert answered == {True: CALLS}
    assert len(upstream.exchanges) == CALLS
    assert sum(proxy.cuts.values()) > CALLS, "the proxy has cut"


class Waiting:
    """Answers with a stream that goes on once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        """The script."""
        await exchange.read()
        await exchange.send(head(200, EVENT_STREAM, CHUNKED) + chunk(EVENTS[0]))
        await self.go.wait()
        await exchange.send(b"".join(map(chunk, EVENTS[1:])) + LAST_CHUNK)


@pytest.mark.parametrize("size", [0, 1024 * 1024])
@pytest.mark.parametrize("is_begun", [False, True])
async def test_fifty_retries_at_once_are_one_call(
    launch: Launch, store: Store, upstream: Upstream, size: int, is_begun: bool
) -> None:
    """Over two gateways: one call of the upstream, 50 equal answers; also with the first request's body on its way."""
    gateways = [await launch(REDIS_URL=store.url) for _ in range(2)]
    for _ in range(5):
        async with unless_away(gateways):
            await one_call(gateways, upstream, BODY + b" " * size, is_begun=is_begun)


@asynccontextmanager
async def unless_away(gateways: list[Gateway]) -> AsyncIterator[None]:
    """The rule holds while the store answers in time; a round in which a gateway says that it did not says nothing."""
    before = [gateway.log.count(AWAY) for gateway in gateways]
    try:
        yield
    except AssertionError:
        if [gateway.log.count(AWAY) for gateway in gateways] == before:
            raise


async def one_call(gateways: list[Gateway], upstream: Upstream, body: bytes, *, is_begun: bool) -> None:
    """The rule, for one id."""
    upstream.default = script = Waiting()
    number = len(upstream.exchanges)
    task_id = new_id()
    whole = request("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=body)

    async def ask(client: Client, data: bytes) -> Head:
        await client.send(data)
        return await client.head()

    clients = [await gateways[(number + n) % 2].connect() for n in range(RETRIES)]
    rest = whole
    if is_begun:
        await clients[0].send(whole[: -len(body) // 2])
        rest = whole[-len(body) // 2 :]
        await until(lambda: len(upstream.exchanges) == number + 1, what="the upstream has the first one's head")
    asked = [asyncio.ensure_future(ask(client, whole)) for client in clients[1:]]
    for _ in range(100):
        await next_turn()
    heads = [await ask(clients[0], rest), *await asyncio.gather(*asked)]
    script.go.set()
    answers = [await client.rest(one) for client, one in zip(clients, heads, strict=True)]
    assert Counter((a.status, a.data, a.body.complete) for a in answers) == {(200, WHOLE, True): RETRIES}
    assert Counter(a.head.get("x-task-joined") for a in answers) == {None: 1, b"true": RETRIES - 1}
    assert len(upstream.exchanges) == number + 1
    document = await gateways[0].ended(task_id)
    assert (document["state"], document["extensions"]["attempt"]) == ("SUCCESS", 1)


async def test_fifty_retries_of_a_call_that_ends_at_once_are_one_call(
    launch: Launch, store: Store, upstream: Upstream
) -> None:
    """The first call may begin and end between another gateway's look and its claim: that one joins it, too."""
    gateways = [await launch(REDIS_URL=store.url) for _ in range(2)]
    upstream.default = completion
    for number in range(10):
        async with unless_away(gateways):
            await one_quick_call(gateways, upstream, number)


async def one_quick_call(gateways: list[Gateway], upstream: Upstream, number: int) -> None:
    """The rule, for one id."""
    before = len(upstream.exchanges)
    body = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": f"number {number}"}]})
    whole = request("POST", CHAT, (b"X-Task-Id", new_id().encode()), KEEP, body=body)

    async def ask(client: Client) -> Response:
        await client.send(whole)
        return await client.answer("POST")

    clients = [await gateways[n % 2].connect() for n in range(RETRIES)]
    answers = await asyncio.gather(*map(ask, clients))
    assert len({(answer.status, answer.data) for answer in answers}) == 1
    assert answers[0].status == 200
    assert len(upstream.exchanges) == before + 1
