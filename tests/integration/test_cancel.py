"""Owns what a cancel call promises beside its speed: its errors, who may call, and what becomes of the id.

Contract section 4.15. How soon the upstream is closed, here and elsewhere, is in tests/chaos.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gateway.tasks.document import complete_document
from gateway.tasks.stages import Stage
from tests.support.outcome import DONE, outcome
from tests.support.records import record
from tests.support.scripted import JSON, answering, sending
from tests.support.streams import HeldStream, cancel, held
from tests.support.waiting import within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
CANCELLED = ("FAILED", "cancelled", "cancelled")
AT_ONCE_SECONDS = 0.4  # one HTTP exchange on a busy machine


async def test_it_ends_the_task_and_tells_so(gateway: Gateway, upstream: Upstream) -> None:
    """With a store and without the answer is the final document with its ETag, which the status route has, too."""
    stream = await held(gateway, upstream)
    answer = await cancel(gateway, stream.task_id)
    assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    assert answer.headers["ETag"] == f'"{answer.json()["event_id"]}"'
    assert await gateway.status(stream.task_id) == answer.json()
    await within(1, stream.exchange.closed.wait(), "the upstream is closed")
    assert await within(1, stream.is_cut(), "the client's message is broken off")


async def test_twice_is_as_once(gateway: Gateway, upstream: Upstream) -> None:
    """A second call changes nothing and has the same answer."""
    stream = await held(gateway, upstream)
    first, second = await cancel(gateway, stream.task_id), await cancel(gateway, stream.task_id)
    assert (first.status_code, first.text) == (second.status_code, second.text)


async def test_an_ended_task_stays_as_it_is(gateway: Gateway, upstream: Upstream) -> None:
    """What is SUCCESS is answered so, 200."""
    stream = await held(gateway, upstream)
    await stream.end()
    answer = await cancel(gateway, stream.task_id)
    assert (answer.status_code, outcome(answer.json())) == (200, DONE)


@pytest.mark.parametrize(("bad", "status"), [("unknown-has-this", 404), ("-a", 400), ("a%20b", 400), ("x" * 129, 400)])
async def test_what_is_no_task(gateway: Gateway, bad: str, status: int) -> None:
    """An id that no one uses is 404, one that no one can use 400, each with a detail."""
    answer = await cancel(gateway, bad)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_cancels(gateway: Gateway, upstream: Upstream, method: str) -> None:
    """Looking at the address, as browsers and crawlers do, ends nothing."""
    stream = await held(gateway, upstream)
    answer = await gateway.http.request(method, f"/tasks/{stream.task_id}/cancel")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    await stream.end()
    assert outcome(await gateway.ended(stream.task_id)) == DONE


async def test_an_upload_is_cancelled(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A request whose body is still coming ends, too: the upstream is closed, the client has 499."""
    client = await gateway.connect()
    whole = request("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"x" * 100_000)
    await client.send(whole[:-50_000])
    exchange = await upstream.exchange()
    answer = await cancel(gateway, fresh_id)
    assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    await within(1, exchange.closed.wait(), "the upstream is closed")
    seen = await within(2, client.answer("POST"), "the client has an answer")
    assert (seen.status, seen.json()["error"]["code"]) == (499, "cancelled")


async def test_a_request_that_waits_for_the_upstream_is_cancelled(
    gateway: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """While a model is loaded nothing comes for minutes; the call ends that wait, and the connection is usable."""
    upstream.then(sending(then="wait"), answering(200, JSON, body=b"{}"))
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    await upstream.exchange()
    await cancel(gateway, fresh_id)
    assert (await within(2, client.answer("POST"), "an answer")).status == 499
    assert (await gateway.ask("POST", CHAT, body=b"{}")).status == 200


async def test_the_next_attempt_is_not_cancelled(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A cancelled id may be used again at once, and the old call does not reach the new request."""
    first, second = HeldStream(), HeldStream()
    first.task_id = second.task_id = fresh_id
    await first.begin(gateway, upstream)
    await cancel(gateway, fresh_id)
    await second.begin(gateway, upstream)
    document = await gateway.status(fresh_id)
    assert (document["state"], document["extensions"]["attempt"]) == ("RUNNING", 2)
    await second.end()
    assert outcome(await gateway.ended(fresh_id)) == DONE


async def test_a_task_that_nobody_hears_for_is_202(tracked: Gateway, store: Store, fresh_id: str) -> None:
    """Where the gateway that runs it does not answer within a second, the present document comes with 202."""
    one = record(fresh_id, Stage.STREAMING, boot="someone-else-1")
    document = complete_document(one.head, 1)
    await store.client.set(f"ts:ollama:{fresh_id}", document, ex=60)
    begun = time.monotonic()
    answer = await cancel(tracked, fresh_id)
    assert (answer.status_code, answer.text) == (202, document)
    assert 0.9 <= time.monotonic() - begun <= 1 + AT_ONCE_SECONDS


async def test_without_the_store_own_tasks_can_be_cancelled(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """While the store is away the gateway still ends what it runs itself; what it does not know is 503."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    stream = await held(gateway, upstream)
    await store.kill()
    answer = await cancel(gateway, stream.task_id)
    assert (answer.status_code, outcome(answer.json())) == (200, CANCELLED)
    unknown = await cancel(gateway, "unknown-knows-this")
    assert (unknown.status_code, int(unknown.headers["Retry-After"]) > 0) == (503, True)
    await store.start()


async def test_many_are_cancelled_at_once(gateway: Gateway, upstream: Upstream) -> None:
    """Thirty streams, thirty calls at once: each ends its own and no other."""
    streams = [await held(gateway, upstream) for _ in range(40)]
    answers = await asyncio.gather(*(cancel(gateway, stream.task_id) for stream in streams[:30]))
    assert [outcome(answer.json()) for answer in answers] == [CANCELLED] * 30
    for stream in streams[30:]:
        await stream.end()
        assert outcome(await gateway.ended(stream.task_id)) == DONE
