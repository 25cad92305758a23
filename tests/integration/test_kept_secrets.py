"""Owns what is never stored of a kept call: its request's body, and fields that concern one client alone (9.4, 9.7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.kept import ASYNC, EVENTS, KEEP, WHOLE, Kept, bearer, delete, new_id, read
from tests.support.scripted import JSON, answering
from tests.support.streams import CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from redis.asyncio.client import Monitor

    from tests.conftest import Launch, NewStore
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

SECRET = b"what-the-request-says-is-nobodys"
FIELD_SECRET = b"what-this-field-says-is-one-clients"
KEY = "sk-of-alice-and-of-no-other"
BODY = b'{"messages":[{"role":"user","content":"%b"}]}' % SECRET


async def all_that_is_stored(store: Store) -> bytes:
    """Every key and value there is, in one text."""
    found: list[bytes] = []
    client = store.client
    for key in await store.keys():
        kind = await client.type(key)
        if kind == "string":
            value: object = await client.get(key)
        elif kind == "hash":
            value = await client.hgetall(key)
        elif kind == "zset":
            value = await client.zrange(key, 0, -1)
        elif kind == "set":
            value = await client.smembers(key)
        elif kind == "none":
            value = "gone since the keys were listed"
        else:
            raise AssertionError(f"{key} is a {kind!r}")
        found.append(repr((key, value)).encode())
    return b"\n".join(found)


async def test_what_is_never_stored(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Request bodies, keys and single clients' fields are in no command to the store, no key, no log and no metric."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, GATEWAY_API_KEYS=f"alice:{KEY}", LOG_LEVEL="debug", MAX_RUNNING="5")
    key = bearer(KEY)
    told: list[str] = []
    async with store.client.monitor() as monitor:
        listening = asyncio.ensure_future(_listen(monitor, told))
        fields: list[Field] = [
            (b"Set-Cookie", FIELD_SECRET), (b"Set-Cookie2", FIELD_SECRET), (b"Authentication-Info", FIELD_SECRET),
            (b"Proxy-Authentication-Info", FIELD_SECRET), (b"set-cookie", FIELD_SECRET),
        ]  # fmt: skip
        upstream.default = answering(200, JSON, *fields, body=b'{"own":1}')
        chosen = (b"X-Task-Id", new_id().encode())
        answers = [
            await gateway.ask("POST", CHAT, key, KEEP, body=BODY),
            await gateway.ask("POST", CHAT, key, KEEP, chosen, body=BODY),
            await gateway.ask("POST", CHAT, key, KEEP, chosen, body=BODY),
            await gateway.ask("POST", CHAT, key, KEEP, chosen, body=BODY + b" "),
            await gateway.ask("POST", CHAT, key, ASYNC, body=BODY),
        ]
        assert [answer.status for answer in answers] == [200, 200, 200, 422, 202]
        assert answers[0].head.get("set-cookie") == FIELD_SECRET
        assert answers[2].head.get("set-cookie") is None
        await upstream.exchange(2)  # the 202 comes before its call is with Ollama
        left = Kept(gateway, upstream)
        await left.ask(key, body=BODY)
        await left.client.close()
        left.script.head()
        left.finish(*EVENTS[:-1])
        assert (await read(gateway, left.task_id, "", key)).data == WHOLE
        stored = await all_that_is_stored(store)
        assert (await delete(gateway, left.task_id, key)).status == 204
        await store.client.get("the-end-of-this-test")
        await until(lambda: any("the-end-of-this-test" in line for line in told), what="the monitor has told all")
        listening.cancel()
    commands = "\n".join(told).encode()
    metrics = (await gateway.ask("GET", "/metrics", key)).data
    for text in (stored, commands, gateway.log.encode(), metrics):
        assert text
        for secret in (SECRET, FIELD_SECRET, KEY.encode(), b"set-cookie", b"authentication-info"):
            assert secret not in text.lower() if secret.islower() else secret not in text
    assert b'{"own":1}' in stored or b'{\\"own\\":1}' in stored, "answers are stored, and only they"
    assert b'n\\":49' in gateway.log.encode() or b'"n":49' not in gateway.log.encode(), "answers are never logged"


async def _listen(monitor: Monitor, told: list[str]) -> None:
    while True:
        told.append(str((await monitor.next_command())["command"]))


async def test_each_key_of_a_kept_answer_has_a_ttl(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """All keys are under our prefix and have a TTL from the first byte on; `ts:ollama:` holds documents alone."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    call = Kept(gateway, upstream)
    await call.ask()

    async def look() -> list[str]:
        keys = await store.keys()
        for key in keys:
            assert key.startswith(("ts:ollama:", "tsx:ollama:")), key
            assert await store.client.pttl(key) > 0 or not await store.client.exists(key), key
        return keys

    call.script.head()
    for event in EVENTS[:5]:
        call.script.piece(event)
        await look()
    await until(lambda: _has_body(store))
    call.finish()
    await gateway.ended(call.task_id)
    keys = await look()
    assert [key for key in keys if key.startswith("ts:ollama:")] == [f"ts:ollama:{call.task_id}"]
    assert await store.client.ttl(f"ts:ollama:{call.task_id}") > 3600
    assert 3000 < max([await store.client.ttl(key) for key in keys if "body" in key]) <= 3600


async def _has_body(store: Store) -> bool:
    return any("body" in key for key in await store.keys())
