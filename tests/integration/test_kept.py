"""Owns kept answers: a call that outlives its client, read on from any byte at any gateway (contract section 9)."""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.support.scripted import CHUNKED, EVENTS, head
from tests.support.waiting import until
from tests.support.wire import LAST_CHUNK, chunk, request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
PIECES = [b"data: {\"n\":%d}\n\n" % n for n in range(50)] + [b"data: [DONE]\n\n"]


@pytest.mark.parametrize("has_store", [True, False])
async def test_the_answer_outlives_its_client(launch: Launch, store: Store, upstream: Upstream, has_store: bool) -> None:
    """smoke"""
    settings = {"REDIS_URL": store.url} if has_store else {}
    first = await launch(**settings, MAX_RUNNING="2")
    other = await launch(**settings) if has_store else first
    go = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(head(200, EVENTS, CHUNKED))
        for n, piece in enumerate(PIECES):
            if n == 10:
                await go.wait()
            await exchange.send(chunk(piece))
        await exchange.send(LAST_CHUNK)

    upstream.scripts.append(script)
    task_id = f"kept-{uuid.uuid4()}"
    client = await first.connect()
    await client.send(request("POST", CHAT, (b"X-Task-Id", task_id.encode()), (b"X-Task-Keep", b"true"), body=b"{}"))
    await client.up_to(PIECES[5])
    await client.close()

    async def detached() -> bool:
        return (await first.http.get(f"/tasks/status/{task_id}")).json()["extensions"]["is_detached"]

    await until(detached)
    reading = asyncio.ensure_future(other.http.get(f"/tasks/{task_id}/response?from=20"))
    await asyncio.sleep(0.3)
    go.set()
    answer = await reading
    print(answer.status_code, answer.headers, len(answer.content))
    assert answer.content == b"".join(PIECES)[20:]

    async def ended() -> bool:
        return (await other.http.get(f"/tasks/status/{task_id}")).json()["state"] == "SUCCESS"

    await until(ended)
    again = await other.http.get(f"/tasks/{task_id}/response")
    assert again.content == b"".join(PIECES)
    print(again.headers, (await other.http.get(f"/tasks/status/{task_id}")).json())
    joined = await other.http.post(CHAT, content=b"{}", headers={"X-Task-Id": task_id, "X-Task-Keep": "true"})
    print(joined.headers)
    assert joined.content == b"".join(PIECES)
    wrong = await other.http.post(CHAT, content=b"{ }", headers={"X-Task-Id": task_id, "X-Task-Keep": "true"})
    assert wrong.status_code == 422, wrong.text
    part = await first.http.get(f"/tasks/{task_id}/response", headers={"Range": "bytes=100-"})
    assert (part.status_code, part.content) == (206, b"".join(PIECES)[100:])
    assert (await other.http.delete(f"/tasks/{task_id}/response")).status_code == 204
    gone = await first.http.get(f"/tasks/{task_id}/response")
    assert gone.status_code == 410, gone.text
    print((await first.http.get(f"/tasks/status/{task_id}")).json())
    upstream.scripts.append(script)
    accepted = await first.http.post(CHAT, content=b"{}", headers={"Prefer": "respond-async", "X-Task-Id": task_id + "-late"})
    print(accepted.status_code, accepted.headers, accepted.text)
    assert accepted.status_code == 202
    late = await other.http.get(accepted.headers["Location"])
    assert late.content == b"".join(PIECES)
