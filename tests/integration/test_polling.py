"""Owns the promises to pollers of a status: ETag and 304, and answers that wait for the next event.

Contract section 4.14.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.streams import HeldStream, held
from tests.support.waiting import until, until_steady, within

if TYPE_CHECKING:
    import httpx

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.alone

AT_ONCE_SECONDS = 3.0  # far from the time that a poller would wait here
LOOK_SECONDS = 0.25
WAITERS = 100


async def poll(gateway: Gateway, task_id: str, known: str | None = None, **params: Any) -> httpx.Response:
    """One poll; `known` goes into If-None-Match."""
    headers = {} if known is None else {"If-None-Match": known}
    return await gateway.http.get(f"/tasks/status/{task_id}", params=params, headers=headers)


async def timed_poll(*args: Any, **params: Any) -> tuple[httpx.Response, float]:
    """The same, and how long it took."""
    begun = time.monotonic()
    return await poll(*args, **params), time.monotonic() - begun


# -- ETag --


async def test_the_etag_is_the_event(gateway: Gateway, upstream: Upstream) -> None:
    """The ETag is the document's event_id in quotes, another one with each stage; nothing is to be cached unasked."""
    stream, tags = HeldStream(), []
    await stream.ask(gateway, upstream)

    async def note() -> None:
        answer = await poll(gateway, stream.task_id)
        assert answer.headers["ETag"] == f'"{answer.json()["event_id"]}"'
        assert answer.headers["Cache-Control"] == "no-store"
        tags.append(answer.headers["ETag"])

    await note()
    stream.script.head()
    await stream.client.head()
    await note()
    await stream.end()
    await note()
    await note()
    assert (len(set(tags)), tags[2]) == (3, tags[3])


@pytest.mark.parametrize(
    ("known", "is_known"),
    [
        ('"{}"', True),
        ('W/"{}"', True),
        ("*", True),
        ('"another", "{}"', True),
        ('"one",W/"two","{}"', True),
        ("{}", True),
        ('"another"', False),
        ('"another", "third"', False),
        ('""', False),
        ("", False),
    ],
)
async def test_what_is_known_is_304(gateway: Gateway, upstream: Upstream, known: str, is_known: bool) -> None:
    """If-None-Match with the present event, in a list or weak, or `*`, is 304 with the ETag and no body; else 200."""
    stream = await held(gateway, upstream)
    tag = (await poll(gateway, stream.task_id)).headers["ETag"]
    answer = await poll(gateway, stream.task_id, known.format(tag.strip('"')))
    assert answer.headers["ETag"] == tag
    assert (answer.status_code, answer.content == b"") == ((304, True) if is_known else (200, False))
    await stream.end()


async def test_a_heartbeat_keeps_the_etag(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """While nothing changes but the timestamp a poller that knows the event is told 304."""
    gateway = await gateways(REDIS_URL=store.url, HEARTBEAT_SEC="1")
    stream = await held(gateway, upstream)
    first = await poll(gateway, stream.task_id)

    async def has_beaten() -> bool:
        return bool((await poll(gateway, stream.task_id)).json()["timestamp"] > first.json()["timestamp"])

    await until(has_beaten, 30, "a heartbeat")
    assert (await poll(gateway, stream.task_id, first.headers["ETag"])).status_code == 304
    await stream.end()


# -- waiting --


async def test_a_change_ends_the_wait(gateway: Gateway, upstream: Upstream) -> None:
    """Who waits has the next status as soon as it is there."""
    stream = await held(gateway, upstream)
    tag = (await poll(gateway, stream.task_id)).headers["ETag"]
    waiting = [asyncio.ensure_future(poll(gateway, stream.task_id, known, wait=30)) for known in (None, tag)]
    await until_all_wait(gateway, stream.task_id)
    await stream.end()
    for answer in await within(AT_ONCE_SECONDS, asyncio.gather(*waiting), "both have the end"):
        assert (answer.status_code, answer.json()["state"]) == (200, "SUCCESS")
        assert answer.headers["ETag"] != tag


@pytest.mark.parametrize("known", ['"an-older-one"', '""'])
async def test_a_known_event_that_is_past_is_no_wait(gateway: Gateway, upstream: Upstream, known: str) -> None:
    """A client that names an older event, or none by `""`, is answered at once with the present status."""
    stream = await held(gateway, upstream)
    answer, seconds = await timed_poll(gateway, stream.task_id, known, wait=30)
    assert (answer.status_code, answer.json()["state"]) == (200, "RUNNING")
    assert seconds <= AT_ONCE_SECONDS
    await stream.end()


async def test_an_ended_task_is_no_wait(gateway: Gateway, upstream: Upstream) -> None:
    """Nothing is to be waited for when a task has ended: 200 at once, or 304 for who knows it."""
    stream = await held(gateway, upstream)
    await stream.end()
    answer, seconds = await timed_poll(gateway, stream.task_id, wait=60)
    assert (answer.status_code, seconds <= AT_ONCE_SECONDS) == (200, True)
    answer, seconds = await timed_poll(gateway, stream.task_id, answer.headers["ETag"], wait=60)
    assert (answer.status_code, seconds <= AT_ONCE_SECONDS) == (304, True)


async def test_the_time_is_kept(gateway: Gateway, upstream: Upstream) -> None:
    """Without a change the answer comes when the time is up: 200 with the document, 304 for who knows it."""
    stream = await held(gateway, upstream)
    tag = (await poll(gateway, stream.task_id)).headers["ETag"]
    for known, status in ((None, 200), (tag, 304)):
        answer, seconds = await timed_poll(gateway, stream.task_id, known, wait=0.8)
        assert (answer.status_code, answer.headers["ETag"]) == (status, tag)
        assert 0.8 <= seconds <= 0.8 + AT_ONCE_SECONDS
    await stream.end()


@pytest.mark.parametrize("wait", ["-1", "-0.001", "60.001", "61", "1e9", "nan", "inf", "abc", ""])
async def test_a_wait_has_bounds(gateway: Gateway, fresh_id: str, wait: str) -> None:
    """From 0 to 60 seconds; anything else is 422."""
    assert (await poll(gateway, fresh_id, wait=wait)).status_code == 422


@pytest.mark.parametrize("wait", ["0", "30.5", "60"])
async def test_an_unknown_task_is_no_wait(gateway: Gateway, fresh_id: str, wait: str) -> None:
    """What no one knows is 404 at once, and what is no id 400."""
    answer, seconds = await timed_poll(gateway, fresh_id, wait=wait)
    assert (answer.status_code, seconds <= AT_ONCE_SECONDS) == (404, True)
    assert (await poll(gateway, "-no-id", wait=wait)).status_code == 400


async def test_a_cancelled_task_ends_the_wait(gateway: Gateway, upstream: Upstream) -> None:
    """A cancel call is a change like any other."""
    stream = await held(gateway, upstream)
    waiting = asyncio.ensure_future(poll(gateway, stream.task_id, wait=30))
    await poll(gateway, stream.task_id)
    await gateway.http.post(f"/tasks/{stream.task_id}/cancel")
    assert (await within(AT_ONCE_SECONDS, waiting)).json()["stage"] == "cancelled"


# -- at another gateway, and in numbers --


async def test_another_gateways_task_is_waited_for(launch: Launch, store: Store, upstream: Upstream) -> None:
    """Each stage of a task reaches who waits at another gateway, long before the time is up."""
    runner, other = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    stream = HeldStream()
    await stream.ask(runner, upstream)

    async def forwarded() -> str | None:
        answer = await poll(other, stream.task_id)
        return answer.headers["ETag"] if answer.json().get("stage") == "forwarding" else None

    known = await until(forwarded, 30, "the other gateway knows it")
    waiting = asyncio.ensure_future(poll(other, stream.task_id, known, wait=30))
    stream.script.head()
    await stream.client.head()
    streaming = await within(AT_ONCE_SECONDS, waiting, "the head")
    assert streaming.json()["stage"] == "streaming"
    waiting = asyncio.ensure_future(poll(other, stream.task_id, streaming.headers["ETag"], wait=30))
    await stream.end()
    assert (await within(AT_ONCE_SECONDS, waiting, "the end")).json()["state"] == "SUCCESS"


async def reads(store: Store) -> int:
    """How many documents the server was asked for."""
    stats = await store.client.info("commandstats")
    return int(stats.get("cmdstat_get", {}).get("calls", 0))


async def test_a_hundred_waiters_cost_as_one(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """A hundred pollers of another gateway's task are all answered, by one read of the store per look."""
    store = await new_store()
    runner, other = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    stream = await held(runner, upstream)
    target = f"/tasks/status/{stream.task_id}?wait=30"
    waiting = [asyncio.ensure_future(other.ask("GET", target)) for _ in range(WAITERS)]

    async def all_have_read() -> bool:
        return await reads(store) >= WAITERS

    await until(all_have_read, 30, "all wait")
    before, begun = await reads(store), time.monotonic()
    await stream_of_looks(store, before)
    looks = (time.monotonic() - begun) / LOOK_SECONDS
    assert await reads(store) - before <= 2 * looks + 5
    await stream.end()
    answers = await within(AT_ONCE_SECONDS, asyncio.gather(*waiting), "all are answered")
    assert {answer.json()["state"] for answer in answers} == {"SUCCESS"}


async def stream_of_looks(store: Store, before: int) -> None:
    """Waits until the server was asked several times more."""

    async def has_looked() -> bool:
        return await reads(store) >= before + 8

    await until(has_looked, 30, "eight looks")


async def test_who_leaves_is_waited_for_no_more(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """When those who waited have gone, the store is asked no more."""
    store = await new_store()
    runner, other = await launch(REDIS_URL=store.url, HEARTBEAT_SEC="60"), await launch(REDIS_URL=store.url)
    stream = await held(runner, upstream)
    clients = [await other.connect() for _ in range(10)]
    for client in clients:
        await client.send(f"GET /tasks/status/{stream.task_id}?wait=60 HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    await stream_of_looks(store, await reads(store) + 10)
    for client in clients:
        await client.close()

    async def is_quiet() -> bool:
        before = await reads(store)
        await until_steady(lambda: 0, 3 * LOOK_SECONDS)
        return await reads(store) == before

    await until(is_quiet, 30, "no one asks the store")
    await stream.end()


async def test_sigterm_answers_who_waits(launch: Launch, upstream: Upstream) -> None:
    """A gateway that is about to stop keeps no poller waiting: each is told the present status."""
    gateway = await launch()
    stream = await held(gateway, upstream)
    waiting = [asyncio.ensure_future(gateway.ask("GET", f"/tasks/status/{stream.task_id}?wait=60")) for _ in range(20)]
    await until_all_wait(gateway, stream.task_id)
    gateway.process.terminate()
    answers = await within(AT_ONCE_SECONDS, asyncio.gather(*waiting), "all are answered")
    assert {(answer.status, answer.json()["state"]) for answer in answers} == {(200, "RUNNING")}
    await stream.end()


async def until_all_wait(gateway: Gateway, task_id: str) -> None:
    """Polls that were sent before this one's answer are being served."""
    for _ in range(3):
        await poll(gateway, task_id)
