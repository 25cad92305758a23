"""A thousand streams lose their clients at random bytes, and are read on from there, half of them elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import KEEP, new_id, read
from tests.support.scripted import CHUNKED, EVENTS, head
from tests.support.streams import CHAT
from tests.support.waiting import next_turn, until
from tests.support.wire import LAST_CHUNK, Client, chunk, request

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream

pytestmark = pytest.mark.timeout(600)

STREAMS = 1000
AT_ONCE = 20


def events_of(number: int) -> list[bytes]:
    """The answer to one call: different sizes, up to 60 KB."""
    chance = random.Random(number)
    sizes = [chance.choice([1, 20, 300, 5000]) for _ in range(chance.randrange(1, 40))]
    return [b"data: %b\n\n" % chance.randbytes(size).hex().encode() for size in sizes] + [b"data: [DONE]\n\n"]


async def answer(exchange: Exchange) -> None:
    """The script: the number in the request's body says what the answer is."""
    number = int(await exchange.read())
    await exchange.send(head(200, EVENTS, CHUNKED))
    for event in events_of(number):
        await next_turn()
        await exchange.send(chunk(event))
    await exchange.send(LAST_CHUNK)


async def take(client: Client, count: int) -> bytes:
    """Just so many bytes of a chunked body, or all."""
    got = b""
    while len(got) < count and (size := int(await client.reader.readline(), 16)):
        taken = min(size, count - len(got))
        got += await client.reader.readexactly(taken)
        if taken == size:
            await client.reader.readexactly(2)
    return got


async def cut_and_read_on(gateways: list[Gateway], upstream: Upstream, number: int) -> bool:
    """Whether one stream, cut at a random byte and read on, has the bytes of the upstream."""
    chance = random.Random(-1 - number)
    whole = b"".join(events_of(number))
    first, at = gateways[number % 2], gateways[(number // 2) % 2]
    task_id = new_id()
    client = await Client.connect(first.port)
    await client.send(request("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=b"%d" % number))
    got = b""
    tags = []
    if chance.random() < 0.1:  # before the head
        await until(lambda: any(bytes(one.body.data) == b"%d" % number for one in upstream.exchanges), 60)
    else:
        await client.head()
        got = await take(client, chance.randrange(len(whole) + 1))
    if chance.random() < 0.5:
        client.reset()
    else:
        await client.close()
    while len(got) < len(whole) and chance.random() < 0.3:  # a reader is cut, too
        reader = await Client.connect(at.port)
        await reader.send(request("GET", f"/tasks/{task_id}/response?from={len(got)}"))
        tags = [(b"If-Match", (await reader.head()).get("etag") or b"")]
        part = await reader.reader.read(chance.randrange(1, 1000))
        reader.reset()
        del part  # raw bytes with framing: the next reader begins where the first client stopped
    rest = await read(at, task_id, f"from={len(got)}", *tags)
    assert rest.status == 200, (task_id, rest.data)
    joined = got + rest.data
    return rest.body.complete and hashlib.sha256(joined).digest() == hashlib.sha256(whole).digest()


async def test_a_thousand_cut_streams_are_read_on(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """1,000 of 1,000 have the same SHA-256 as at the upstream, which was called once for each."""
    store = await new_store()
    gateways = [await launch(REDIS_URL=store.url) for _ in range(2)]
    upstream.default = answer
    numbers, right = iter(range(STREAMS)), Counter[bool]()

    async def one_after_another() -> None:
        for number in numbers:
            right[await cut_and_read_on(gateways, upstream, number)] += 1

    await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))
    assert right == {True: STREAMS}
    calls = Counter(int(bytes(exchange.body.data)) for exchange in upstream.exchanges)
    assert calls == dict.fromkeys(range(STREAMS), 1)
