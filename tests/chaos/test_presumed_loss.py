"""What pollers and cancels make of a task that is presumed lost: its gateway is stopped by SIGSTOP, and goes on later.

Contract section 4.10.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import DONE, outcome
from tests.support.scripted import answering
from tests.support.streams import BODY, CHAT, WHOLE, HeldStream, cancel, held
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from tests.chaos.conftest import LaunchMortal
    from tests.chaos.mortal import Mortal
    from tests.conftest import NewStore
    from tests.support.scripted import Upstream
    from tests.support.store import Store

HEARTBEAT_SECONDS = 0.5
LOST = ("FAILED", "lost", "lost")


class Pair:
    """Two gateways and their store; one of them can be cut off."""

    def __init__(self, store: Store, cut_off: Mortal, other: Mortal) -> None:
        self.store, self.cut_off, self.other = store, cut_off, other

    async def lose(self, stream: HeldStream) -> str:
        """Cut one off until its stream is presumed lost; the ETag of that status."""
        self.cut_off.pause()

        async def is_lost() -> bool:
            return outcome(await self.store.document(stream.task_id)) == LOST

        await until(is_lost, GUARD_SECONDS, "it is presumed lost")
        answer = await self.other.http.get(f"/tasks/status/{stream.task_id}")
        assert answer.json()["extensions"]["is_presumed"] is True
        return answer.headers["etag"]


@pytest.fixture
async def pair(mortal: LaunchMortal, new_store: NewStore) -> Pair:
    """Both of them run."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": str(HEARTBEAT_SECONDS)}
    return Pair(store, await mortal(**settings), await mortal(**settings))


async def test_a_presumed_loss_is_waited_on(pair: Pair, upstream: Upstream) -> None:
    """A poller that waits is answered when the task runs again, and again when it has ended."""
    stream = await held(pair.cut_off, upstream)
    etag = await pair.lose(stream)
    address = f"/tasks/status/{stream.task_id}?wait=60"
    waiting = asyncio.create_task(pair.other.http.get(address, headers={"If-None-Match": etag}))
    done, _ = await asyncio.wait({waiting}, timeout=1)
    assert not done, "an end would be answered at once"
    pair.cut_off.resume()
    answer = await waiting
    assert (answer.status_code, answer.json()["state"]) == (200, "RUNNING")
    assert answer.json()["extensions"]["is_presumed"] is False
    assert await stream.end() == WHOLE
    assert outcome(await pair.other.ended(stream.task_id)) == DONE


async def test_a_presumed_loss_is_cancelled(pair: Pair, upstream: Upstream) -> None:
    """The cancel is answered 202 with what is known, and carried out when the request speaks again."""
    stream = await held(pair.cut_off, upstream)
    await pair.lose(stream)
    answer = await cancel(pair.other, stream.task_id)
    assert (answer.status_code, outcome(answer.json())) == (202, LOST)
    pair.cut_off.resume()

    async def is_cancelled() -> bool:
        return outcome(await pair.store.document(stream.task_id)) == ("FAILED", "cancelled", "cancelled")

    await until(is_cancelled, GUARD_SECONDS, "it is cancelled")
    assert await stream.is_cut()


async def test_a_label_finds_what_is_presumed_lost(pair: Pair, upstream: Upstream) -> None:
    """A cancel by label counts such a task, and ends it when its request speaks again."""
    number = len(upstream.exchanges)
    stream = HeldStream()
    upstream.then(stream.script)
    fields = ((b"X-Task-Id", stream.task_id.encode()), (b"X-Task-Label", b"job"))
    stream.client = await pair.cut_off.send("POST", CHAT, *fields, body=BODY)
    await upstream.exchange(number)
    stream.script.head()
    await stream.client.head()
    await pair.lose(stream)
    answer = await pair.other.http.post("/tasks/cancel?label=job")
    assert (answer.status_code, answer.json()) == (200, {"cancelled": 1})
    pair.cut_off.resume()

    async def is_cancelled() -> bool:
        return outcome(await pair.store.document(stream.task_id)) == ("FAILED", "cancelled", "cancelled")

    await until(is_cancelled, GUARD_SECONDS, "it is cancelled")


async def test_a_newer_attempt_stays(pair: Pair, upstream: Upstream) -> None:
    """The id is free: its next request is attempt 2. The old one ends for its client alone."""
    stream = await held(pair.cut_off, upstream)
    await pair.lose(stream)
    upstream.then(answering(200))
    again = await pair.other.ask("POST", CHAT, (b"X-Task-Id", stream.task_id.encode()), body=BODY)
    assert again.status == 200
    newer = await pair.store.raw(stream.task_id)
    pair.cut_off.resume()
    assert await stream.end() == WHOLE
    witness = await held(pair.cut_off, upstream)
    await witness.end()
    for gateway in (pair.cut_off, pair.other):
        document = await gateway.status(stream.task_id)
        assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 2)
    assert await pair.store.raw(stream.task_id) == newer


async def test_a_restart_makes_it_final(pair: Pair, upstream: Upstream) -> None:
    """The same gateway runs again as another process: within 5 s the loss is certain, as a new event."""
    stream = await held(pair.cut_off, upstream)
    etag = await pair.lose(stream)
    await pair.cut_off.kill()
    await pair.cut_off.start()
    answer = await pair.other.http.get(f"/tasks/status/{stream.task_id}?wait=5", headers={"If-None-Match": etag})
    assert (answer.status_code, outcome(answer.json())) == (200, LOST)
    assert answer.json()["extensions"]["is_presumed"] is False
    assert (await cancel(pair.other, stream.task_id)).status_code == 200


async def test_a_detached_request_ends_when_a_newer_one_has_its_id(pair: Pair, upstream: Upstream) -> None:
    """It has no client, and no one reads its status any more: so it does not keep Ollama busy."""
    number = len(upstream.exchanges)
    stream = HeldStream()
    upstream.then(stream.script)
    fields = ((b"X-Task-Id", stream.task_id.encode()), (b"Prefer", b"respond-async"))
    assert (await pair.cut_off.ask("POST", CHAT, *fields, body=BODY)).status == 202
    exchange = await upstream.exchange(number)
    stream.script.head()
    await pair.lose(stream)
    upstream.then(answering(200))
    assert (await pair.other.ask("POST", CHAT, *fields[:1], body=BODY)).status == 200
    pair.cut_off.resume()
    await asyncio.wait_for(exchange.closed.wait(), GUARD_SECONDS)
    document = await pair.other.status(stream.task_id)
    assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 2)
