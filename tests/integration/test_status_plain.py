"""Statuses and lists by plain calls are what FastAPI's routes answer: same status, fields, ETag and body.

An unknown parameter is what leads a request to the routes (contract section 4).
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import OTHER, Pair
from tests.integration.test_api_keys import ADMIN, ALICE, BOB, KEYS, bearer
from tests.integration.test_store_rights import store_is
from tests.support.scripted import answering
from tests.support.store import DOCUMENTS, OURS
from tests.support.streams import BODY, CHAT, HeldStream, held
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response

QUIET = {"HEARTBEAT_SEC": "60"}  # no status changes unless a test wants that
ORIGIN = "https://chat.example"
CLOCKS = re.compile(rb'"(timestamp|lost_after_ms)":\d+')  # of a task in flight, they are made for each answer


@pytest.fixture(params=["store", "in-process"])
async def quiet(request: pytest.FixtureRequest, gateways: Launch, store: Store) -> Pair:
    """Two gateways of one store, and one without any; no heartbeat comes while a test looks."""
    if request.param == "store":
        settings = QUIET | {"REDIS_URL": store.url}
        return Pair(await gateways(**settings), await gateways(**settings, **OTHER))
    alone = await gateways(**QUIET)
    return Pair(alone, alone)


def by_fastapi(target: str) -> str:
    """The target with a parameter that the plain way does not know."""
    return target + ("&" if "?" in target else "?") + "x=1"


def seen(answer: Response) -> tuple[int, list[Field], bytes]:
    """All that a client sees of an answer, apart from the moment in which it was made."""
    fields = sorted(field for field in answer.head.lowered if field[0] != b"date")
    return answer.status, fields, CLOCKS.sub(rb"\1", answer.data)


async def both(gateway: Gateway, target: str, *fields: Field, method: str = "GET", **more: Any) -> Response:
    """The answer of both ways, after they were found to be the same."""
    plain = await gateway.ask(method, target, *fields, **more)
    general = await gateway.ask(method, by_fastapi(target), *fields, **more)
    assert seen(plain) == seen(general)
    assert len(plain.head.all("date")) == 1
    return plain


async def ended(gateway: Gateway, upstream: Upstream, task_id: str, *fields: Field, status: int = 200) -> None:
    """A task that has ended."""
    upstream.then(answering(status, body=b"{}"))
    await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), *fields, body=BODY)


def status_of(task_id: str) -> str:
    """The target of one status."""
    return f"/tasks/status/{task_id}"


def known(tag: bytes) -> Field:
    """The field of a client that has this ETag."""
    return (b"If-None-Match", tag)


# -- one status --


@pytest.mark.parametrize("stage", ["forwarding", "streaming"])
async def test_the_status_of_a_task_in_flight(quiet: Pair, upstream: Upstream, stage: str) -> None:
    """Of a task of this gateway and of another one."""
    stream = HeldStream()
    await (stream.begin if stage == "streaming" else stream.ask)(quiet.first, upstream)
    for gateway in quiet:
        await gateway.at(stream.task_id, stage)
        answer = await both(gateway, status_of(stream.task_id))
        assert (answer.status, answer.json()["stage"]) == (200, stage)
        assert answer.head.get("etag") == b'"%b"' % answer.json()["event_id"].encode()
    if stage == "forwarding":
        stream.script.head()
        await stream.client.head()
    await stream.end()


async def test_the_status_of_a_task_that_waits(launch: Launch, store: Store, upstream: Upstream) -> None:
    """With its position in the queue, at its gateway and at another one."""
    settings = QUIET | {"REDIS_URL": store.url}
    first, other = await launch(**settings, MAX_RUNNING="1"), await launch(**settings)
    running = await held(first, upstream)
    waiting = HeldStream()
    client = await first.send("POST", CHAT, (b"X-Task-Id", waiting.task_id.encode()), body=BODY)
    for gateway in (first, other):
        await gateway.at(waiting.task_id, "queued")
        answer = await both(gateway, status_of(waiting.task_id))
        assert answer.json()["extensions"]["queue_position"] == 1
    await client.close()
    await running.end()


@pytest.mark.parametrize(("status", "state"), [(200, "SUCCESS"), (500, "FAILED")])
async def test_the_status_of_a_task_that_has_ended(
    quiet: Pair, upstream: Upstream, fresh_id: str, status: int, state: str
) -> None:
    """Well or badly, at this gateway and at another one."""
    await ended(quiet.first, upstream, fresh_id, status=status)
    for gateway in quiet:
        await gateway.ended(fresh_id)
        assert (await both(gateway, status_of(fresh_id))).json()["state"] == state


async def test_a_task_that_is_not_there(quiet: Pair, fresh_id: str) -> None:
    """404 says which one, with and without a wait, and none is 304."""
    for target in (status_of(fresh_id), status_of(fresh_id) + "?wait=5"):
        for fields in ([], [known(b"*")], [known(b'"a"')]):
            answer = await both(quiet.first, target, *fields)
            assert (answer.status, fresh_id in answer.json()["detail"]) == (404, True)


@pytest.mark.parametrize(
    ("template", "is_known"),
    [
        (b'"%b"', True),
        (b'W/"%b"', True),
        (b"*", True),
        (b'"one", W/"%b"', True),
        (b'"one","two" , "%b"', True),
        (b"%b", True),
        (b'"one"', False),
        (b'"one", "two"', False),
        (b'""', False),
        (b"", False),
    ],
)
async def test_what_the_client_knows(
    quiet: Pair, upstream: Upstream, fresh_id: str, template: bytes, is_known: bool
) -> None:
    """Strong tags, weak ones, several, `*`: the same 200 or 304, for a status and for a list; 304 has no length."""
    await ended(quiet.first, upstream, fresh_id, (b"X-Task-Label", fresh_id.encode()))
    await quiet.first.ended(fresh_id)
    for target in (status_of(fresh_id), f"/tasks/status?label={fresh_id}"):
        tag = ((await both(quiet.first, target)).head.get("etag") or b"").strip(b'"')
        answer = await both(quiet.first, target, known(template.replace(b"%b", tag)))
        assert answer.status == (304 if is_known else 200)
        assert (answer.head.all("content-length") == []) == is_known


@pytest.mark.parametrize("field", [b'"%b"', b'W/"%b"', b"*", b'"older"', b'"older", "%b"', b'""', b"", b","])
async def test_what_a_client_that_waits_knows(quiet: Pair, upstream: Upstream, field: bytes) -> None:
    """Both ways wait for the same event, and give the same answer when the time is up."""
    stream = await held(quiet.first, upstream)
    for gateway in quiet:
        event = (await gateway.at(stream.task_id, "streaming"))["event_id"]
        tag = known(field.replace(b"%b", event.encode()))
        is_waited_for = field not in (b"*", b'"older"', b'""')
        wait = 0.4 if is_waited_for else 30
        target, seconds = status_of(stream.task_id) + f"?wait={wait}", []
        for change in ("", "&x=1"):
            begun = time.monotonic()
            await gateway.ask("GET", target + change, tag)
            seconds.append(time.monotonic() - begun)
        assert not is_waited_for or min(seconds) >= wait
        assert is_waited_for or max(seconds) < wait
        await both(gateway, target, tag)
    await stream.end()


async def test_two_fields_with_tags(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """More than one If-None-Match field is left to the routes, with and without an odd parameter."""
    await ended(quiet.first, upstream, fresh_id)
    await quiet.first.ended(fresh_id)
    tag = (await both(quiet.first, status_of(fresh_id))).head.get("etag") or b""
    for fields in ([known(tag), known(b'"a"')], [known(b'"a"'), known(tag)]):
        await both(quiet.first, status_of(fresh_id), *fields)
        await both(quiet.first, "/tasks/status", *fields)


async def test_head_is_as_get_without_a_body(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """The same fields as GET, for a status, a list, and a task that is not there."""
    await ended(quiet.first, upstream, fresh_id, (b"X-Task-Label", fresh_id.encode()))
    await quiet.first.ended(fresh_id)
    for target in (status_of(fresh_id), f"/tasks/status?label={fresh_id}", status_of("none-" + fresh_id)):
        answer = await both(quiet.first, target, method="HEAD")
        got = await quiet.first.ask("GET", target)
        assert (answer.status, seen(answer)[1], answer.data) == (got.status, seen(got)[1], b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_another_method_is_405(quiet: Pair, fresh_id: str, method: str) -> None:
    """The plain way answers GET and HEAD alone."""
    for target in ("/tasks/status", status_of(fresh_id)):
        assert (await both(quiet.first, target, method=method)).status == 405


async def test_a_request_with_a_body(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """A body is not looked at, and the next request on the connection is answered."""
    await ended(quiet.first, upstream, fresh_id)
    await quiet.first.ended(fresh_id)
    for target in (status_of(fresh_id), "/tasks/status?limit=1", status_of("none-" + fresh_id)):
        for more in ({"body": b"x" * 1000}, {"chunks": [b"x", b"y"]}, {"body": b""}):
            await both(quiet.first, target, **more)
            client = await quiet.first.connect()
            first = await client.ask("GET", target, **more)
            if first.head.get("connection") != b"close":
                assert seen(await client.ask("GET", target)) == seen(first)


async def test_answers_on_one_connection_come_in_order(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """Requests of both kinds that were sent at once are answered one after another."""
    await ended(quiet.first, upstream, fresh_id)
    await quiet.first.ended(fresh_id)
    targets = [status_of(fresh_id), "/tasks/status?limit=1", "/livez", status_of("none"), by_fastapi(status_of("none"))]
    alone = [seen(await quiet.first.ask("GET", target)) for target in targets]
    client = await quiet.first.connect()
    await client.send(b"".join(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode() for target in targets))
    assert [seen(await client.answer()) for _ in targets] == alone


async def test_pages_of_other_sites(gateways: Launch, store: Store, upstream: Upstream, fresh_id: str) -> None:
    """The CORS fields of an allowed origin are the same; one that is not allowed is refused."""
    gateway = await gateways(REDIS_URL=store.url, CORS_ALLOW_ORIGINS=ORIGIN, **QUIET)
    await ended(gateway, upstream, fresh_id)
    await gateway.ended(fresh_id)
    for target in (status_of(fresh_id), "/tasks/status?limit=1", status_of("none-" + fresh_id)):
        allowed = await both(gateway, target, (b"Origin", ORIGIN.encode()))
        assert allowed.head.get("access-control-allow-origin") == ORIGIN.encode()
        assert b"ETag" in (allowed.head.get("access-control-expose-headers") or b"")
        assert (await both(gateway, target, (b"Origin", b"https://evil.example"))).status == 403


# -- whose tasks --


async def test_each_key_sees_its_own(gateways: Launch, store: Store, upstream: Upstream, fresh_id: str) -> None:
    """Another key's task is 404, with any tag and any wait; `admin` sees all; a list has the caller's own."""
    gateway = await gateways(REDIS_URL=store.url, GATEWAY_API_KEYS=KEYS, **QUIET)
    await ended(gateway, upstream, fresh_id, bearer(ALICE), (b"X-Task-Label", fresh_id.encode()))
    for key, status in ((ALICE, 200), (ADMIN, 200), (BOB, 404)):
        for more in ("", "?wait=5", "?wait=0"):
            assert (await both(gateway, status_of(fresh_id) + more, bearer(key))).status == status
        answer = await both(gateway, status_of(fresh_id), bearer(key), known(b"*"))
        assert answer.status == (304 if status == 200 else 404)
        listed = await both(gateway, f"/tasks/status?label={fresh_id}", bearer(key))
        assert [task["task_id"] for task in listed.json()["items"]] == [fresh_id] * (status == 200)
        assert (await both(gateway, "/tasks/status?limit=1000", bearer(key))).status == 200
    running = HeldStream()
    upstream.then(running.script)
    fields = [bearer(ALICE), (b"X-Task-Id", running.task_id.encode())]
    running.client = await gateway.send("POST", CHAT, *fields, body=BODY)
    await upstream.exchange(len(upstream.exchanges) - 1)
    running.script.head()
    await running.client.head()
    assert (await both(gateway, status_of(running.task_id) + "?wait=30", bearer(BOB))).status == 404
    await running.end()


# -- lists --


async def test_pages_of_a_list(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """By limit, state, label and cursor: page for page the same, from both gateways; and the same again as 304."""
    for number in range(5):
        await ended(quiet.first, upstream, f"{fresh_id}-{number}", (b"X-Task-Label", fresh_id.encode()))
    for gateway in quiet:
        await gateway.ended(f"{fresh_id}-4")
        target, listed = f"/tasks/status?limit=2&label={fresh_id}", []
        cursor: str | None = ""
        while cursor is not None:
            answer = await both(gateway, target + (f"&cursor={cursor}" if cursor else ""))
            listed += [task["task_id"] for task in answer.json()["items"]]
            cursor = answer.json()["next_cursor"]
        assert listed == [f"{fresh_id}-{number}" for number in range(4, -1, -1)]
        for query in ("", "?limit=1", "?limit=1000", "?state=SUCCESS", "?limit=3&state=FAILED", "?state=PENDING"):
            answer = await both(gateway, "/tasks/status" + query)
            tag = answer.head.get("etag") or b""
            assert (await both(gateway, "/tasks/status" + query, known(tag))).status == 304


async def test_a_list_without_a_task(quiet: Pair, fresh_id: str) -> None:
    """An empty page has an ETag as any other."""
    answer = await both(quiet.first, f"/tasks/status?label={fresh_id}")
    assert answer.json() == {"items": [], "count": 0, "next_cursor": None}
    assert (await both(quiet.first, f"/tasks/status?label={fresh_id}", known(b"*"))).status == 304


async def test_another_page_has_another_etag(quiet: Pair, upstream: Upstream, fresh_id: str) -> None:
    """With any change of a task, and with another cursor behind the same tasks."""
    target = f"/tasks/status?label={fresh_id}&limit=1"
    tags = {(await both(quiet.first, target)).head.get("etag")}
    for number in range(3):
        await ended(quiet.first, upstream, f"{fresh_id}-{number}", (b"X-Task-Label", fresh_id.encode()))
        await quiet.first.ended(f"{fresh_id}-{number}")
        tags.add((await both(quiet.first, target)).head.get("etag"))
    assert len(tags) == 4
    long, short = f"/tasks/status?label={fresh_id}&limit=3", f"/tasks/status?label={fresh_id}&limit=2"
    assert (await both(quiet.first, long)).head.get("etag") != (await both(quiet.first, short)).head.get("etag")


# -- what is invalid --

INVALID = [
    ("/tasks/status?limit=0", 422), ("/tasks/status?limit=1001", 422), ("/tasks/status?limit=-1", 422),
    ("/tasks/status?limit=", 422), ("/tasks/status?limit=ten", 422), ("/tasks/status?limit=1.5", 422),
    ("/tasks/status?state=DONE", 422), ("/tasks/status?state=success", 422),
    ("/tasks/status?label=", 422), ("/tasks/status?label=a%20b", 422), ("/tasks/status?label=a+b", 422),
    ("/tasks/status?label=" + "l" * 129, 422), ("/tasks/status?label=a&state=SUCCESS", 422),
    ("/tasks/status?scope=store", 422),
    ("/tasks/status?cursor=abc", 422), ("/tasks/status?cursor=%21", 422), ("/tasks/status?cursor=" + "A" * 513, 422),
    ("/tasks/status/a?wait=-1", 422), ("/tasks/status/a?wait=60.001", 422), ("/tasks/status/a?wait=nan", 422),
    ("/tasks/status/a?wait=inf", 422), ("/tasks/status/a?wait=", 422), ("/tasks/status/a?wait=1s", 422),
    ("/tasks/status/-a", 400), ("/tasks/status/a%20b", 400), ("/tasks/status/" + "a" * 129, 400),
]  # fmt: skip


@pytest.mark.parametrize(("target", "status"), INVALID)
async def test_what_is_invalid_is_refused(quiet: Pair, target: str, status: int) -> None:
    """With FastAPI's words, with and without another parameter."""
    answer = await both(quiet.first, target)
    assert (answer.status, "detail" in answer.json()) == (status, True)


VALID_BUT_ODD = [
    "/tasks/status?", "/tasks/status?&", "/tasks/status?limit=007", "/tasks/status?limit=+5", "/tasks/status?limit=5&",
    "/tasks/status?limit=5&limit=6", "/tasks/status?state=", "/tasks/status?cursor=", "/tasks/status?state=&label=a",
    "/tasks/status?scope=",
    "/tasks/status?label=%61", "/tasks/status?limit=%35", "/tasks/status?LIMIT=3", "/tasks/status?limit",
    "/tasks/status/a?", "/tasks/status/a?wait=0", "/tasks/status/a?wait=00.5", "/tasks/status/a?wait=1e0",
    "/tasks/status/a?wait=1&wait=2", "/tasks/status/a?wait=0.0000001", "/tasks/status/a?wait=.5",
    "/tasks/status/%61", "/tasks/status/", "/tasks/status//", "/tasks/status/a/b", "//tasks/status/a",
]  # fmt: skip


@pytest.mark.parametrize("target", VALID_BUT_ODD)
async def test_what_is_odd_is_as_the_routes_have_it(quiet: Pair, target: str) -> None:
    """Whatever the spelling, both ways agree."""
    await both(quiet.first, target)


# -- what the plain way cannot answer alone --


async def test_malformed_records_are_skipped(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """The page says how many it left out; the status of such a record is 404."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    for number in range(3):
        await ended(gateway, upstream, f"{fresh_id}-{number}", (b"X-Task-Label", fresh_id.encode()))
        await gateway.ended(f"{fresh_id}-{number}")
    await until(gateway.is_saved, what="the store has all")
    await store.client.set(f"{DOCUMENTS}{fresh_id}-1", "no document", ex=60)
    page = (await both(gateway, f"/tasks/status?label={fresh_id}")).json()
    assert ([task["task_id"] for task in page["items"]], page["skipped"]) == ([f"{fresh_id}-2", f"{fresh_id}-0"], 1)
    tag = (await both(gateway, f"/tasks/status?label={fresh_id}")).head.get("etag") or b""
    assert (await both(gateway, f"/tasks/status?label={fresh_id}", known(tag))).status == 304


async def test_a_malformed_status_is_404(launch: Launch, new_store: NewStore, fresh_id: str) -> None:
    """As one that is not there, and no wait waits for it."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await store.client.set(DOCUMENTS + fresh_id, "no document", ex=60)
    for more in ("", "?wait=30"):
        assert (await both(gateway, status_of(fresh_id) + more)).status == 404


async def test_a_silent_task_is_lost(launch: Launch, store: Store, upstream: Upstream) -> None:
    """The first one that asks makes it lost, whichever way it asks."""
    gateway = await launch(REDIS_URL=store.url)
    stream = await held(gateway, upstream)
    await until(lambda: store.raw(stream.task_id), what="it is stored")
    document = await store.document(stream.task_id)
    document["extensions"] |= {"boot": "another", "lost_after_ms": 1}
    for number, change in enumerate(("", "?x=1")):
        task_id = f"{stream.task_id}-{number}"
        text = json.dumps(document | {"task_id": task_id}, separators=(",", ":"))
        await store.client.set(DOCUMENTS + task_id, text, ex=60)
        assert (await gateway.ask("GET", status_of(task_id) + change)).json()["stage"] == "lost"
        assert (await both(gateway, status_of(task_id))).json()["extensions"]["is_presumed"]
    await stream.end()


async def test_while_the_store_is_away(launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str) -> None:
    """The own tasks are known; all else, and every list, is 503 with Retry-After. Then all is as before."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, **QUIET)
    stream = await held(gateway, upstream)
    await store.kill()

    await store_is("down", gateway)
    assert (await both(gateway, status_of(stream.task_id))).json()["stage"] == "streaming"
    for target in (status_of(fresh_id), status_of(fresh_id) + "?wait=5", "/tasks/status", "/tasks/status?label=a"):
        answer = await both(gateway, target)
        assert (answer.status, answer.head.get("retry-after")) == (503, b"2")
    await store.start()

    await store_is("up", gateway)
    await until(lambda: store.raw(stream.task_id), what="it is written again")
    assert (await both(gateway, "/tasks/status")).json()["count"] == 1
    await stream.end()


async def test_a_list_that_is_rebuilt(launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str) -> None:
    """An evicted list is whole again, or the answer is 503: never a page that lacks tasks."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, **QUIET)
    await ended(gateway, upstream, fresh_id)
    await until(gateway.is_saved, what="the store has it")
    for change in ("", "&x=1"):
        await store.client.delete(f"{OURS}2:SUCCESS")
        answer = await gateway.ask("GET", "/tasks/status?state=SUCCESS" + change)
        assert (answer.status, [task["task_id"] for task in answer.json()["items"]]) == (200, [fresh_id])
    await store.client.delete(f"{OURS}2:SUCCESS")
    await store.client.set(f"{OURS}rebuild", "another gateway", ex=60)
    answer = await both(gateway, "/tasks/status?state=SUCCESS")
    assert (answer.status, answer.head.get("retry-after")) == (503, b"2")
    await store.client.delete(f"{OURS}rebuild")
