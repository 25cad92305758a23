"""Owns the bounds of kept answers: one answer's, those of a gateway's memory, and those of the store (contract 9.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import refused_start
from tests.support.kept import (
    ASYNC,
    DONE_EVENT,
    KEEP,
    Kept,
    bearer,
    code_of,
    delete,
    kept,
    new_id,
    read,
    response_of,
    route,
    until_response,
)
from tests.support.outcome import CLIENT_LEFT, DONE, failed, outcome
from tests.support.scripted import JSON, answering, streaming
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.integration.conftest import Pair
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

MOST = 100_000
SMALL = {"MAX_RESPONSE_BYTES": str(MOST), "MAX_KEPT_BYTES": str(10 * MOST)}
TWO_FIT = {"MAX_RESPONSE_BYTES": str(MOST), "MAX_KEPT_BYTES": str(2 * MOST)}
PIECE = b":" + b"x" * (MOST // 2 - 3) + b"\n\n"  # a comment of a stream
LAST = PIECE[-3:]  # its end, for a piece may come in several chunks


@pytest.fixture(params=["store", "in-process"])
async def small(request: pytest.FixtureRequest, gateways: Launch, store: Store) -> Pair:
    """Two gateways (or one without a store) that keep small answers alone."""
    from tests.integration.conftest import OTHER, Pair

    if request.param == "store":
        return Pair(await gateways(REDIS_URL=store.url, **SMALL), await gateways(REDIS_URL=store.url, **SMALL, **OTHER))
    alone = await gateways(**SMALL)
    return Pair(alone, alone)


# -- one answer --


async def test_an_answer_of_just_the_bound_is_kept(small: Pair, upstream: Upstream) -> None:
    """`MAX_RESPONSE_BYTES` are allowed."""
    upstream.then(answering(200, JSON, body=b"x" * MOST))
    task_id = (await small.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    assert (await read(small.other, task_id)).body.size == MOST
    assert await response_of(small.other, task_id) == "kept"


async def test_a_longer_one_is_too_large(small: Pair, upstream: Upstream) -> None:
    """What there was goes, its readers are broken off, and the client gets all: SUCCESS, `too_large`."""
    call = Kept(small.first, upstream)
    await call.ask()
    call.script.head()
    call.script.piece(PIECE)
    readers = [await gateway.send("GET", route(call.task_id)) for gateway in small]
    for reader in readers:
        await within(GUARD_SECONDS, reader.up_to(PIECE[:100]))
    call.script.piece(PIECE)
    call.script.piece(b":\n\n")
    for reader in readers:
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, reader.reader.read())
    call.finish()
    answer = await within(GUARD_SECONDS, call.client.answer())
    assert (answer.data, answer.body.complete) == (PIECE + PIECE + b":\n\n" + DONE_EVENT, True)
    assert outcome(await small.first.ended(call.task_id)) == DONE
    for gateway in small:
        await until_response(gateway, call.task_id, "too_large")
        assert code_of(await read(gateway, call.task_id)) == (410, "response_gone")
        assert code_of(await delete(gateway, call.task_id)) == (410, "response_gone")


@pytest.mark.parametrize("is_async", [False, True])
async def test_without_a_client_it_fails(small: Pair, upstream: Upstream, is_async: bool) -> None:
    """FAILED `response_too_large`, and Ollama stops: there is no use in it any more."""
    call = Kept(small.first, upstream)
    if is_async:
        upstream.then(call.script)
        assert (await small.first.ask("POST", CHAT, call.name, ASYNC, body=BODY)).status == 202
        call.exchange = await upstream.exchange()
        call.script.head()
    else:
        await call.begin()
        await call.leave()
    for _ in range(3):
        call.script.piece(PIECE)
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    assert outcome(await small.first.ended(call.task_id)) == failed("response_too_large")
    for gateway in small:
        await until_response(gateway, call.task_id, "too_large")
        assert code_of(await read(gateway, call.task_id)) == (410, "response_gone")


async def test_what_is_too_large_does_not_outlive_its_client(small: Pair, upstream: Upstream) -> None:
    """A client that leaves later ends its call."""
    call = await kept(small.first, upstream)
    for _ in range(3):
        call.script.piece(PIECE)
    await until_response(small.first, call.task_id, "too_large")
    await call.client.close()
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    assert outcome(await small.first.ended(call.task_id)) == CLIENT_LEFT


# -- a gateway's memory --


@pytest.mark.parametrize("has_store", [True, False])
async def test_without_room_a_call_is_relayed_and_not_kept(
    launch: Launch, store: Store, upstream: Upstream, has_store: bool
) -> None:
    """`no_room`; an asynchronous one gets 503 `keep_unavailable` with Retry-After. Later there is room again."""
    gateway = await launch(**TWO_FIT, **({"REDIS_URL": store.url} if has_store else {}))
    call = await kept(gateway, upstream)
    call.script.piece(PIECE)
    await call.client.up_to(LAST)
    also = await kept(gateway, upstream)
    also.script.piece(PIECE + b":\n\n")
    await also.client.up_to(b":\n\n")

    async def held_bytes() -> int:
        held: int = (await gateway.http.get("/readyz")).json()["kept"]["held_bytes"]
        return held

    async def are_counted() -> bool:
        return await held_bytes() >= 2 * len(PIECE)

    async def has_room() -> bool:
        return await held_bytes() < 2 * len(PIECE)

    await until(are_counted, what="both pieces are counted")
    upstream.then(streaming(DONE_EVENT))
    answer = await gateway.ask("POST", CHAT, KEEP, body=BODY)
    assert (answer.status, answer.data) == (200, DONE_EVENT)
    document = await gateway.ended(answer.head.task_id)
    assert (outcome(document), document["extensions"]["response"]) == (DONE, "no_room")
    assert code_of(await read(gateway, answer.head.task_id)) == (410, "response_gone")
    name = (b"X-Task-Id", new_id().encode())
    for fields in ([ASYNC], [ASYNC, name]):
        refused = await gateway.ask("POST", CHAT, *fields, body=BODY)
        assert code_of(refused) == (503, "keep_unavailable")
        assert refused.head.get("retry-after")
    assert len(upstream.exchanges) == 3
    call.finish()
    also.finish()
    assert outcome(await gateway.ended(call.task_id)) == DONE
    if not has_store:
        assert (await delete(gateway, call.task_id)).status == 204
    await until(has_room, what="an answer is held no longer")
    upstream.then(streaming(DONE_EVENT))
    again = await gateway.ask("POST", CHAT, KEEP, body=BODY)
    assert await response_of(gateway, again.head.task_id) == "kept"


async def test_a_call_without_room_ends_with_its_client(launch: Launch, upstream: Upstream) -> None:
    """What is not kept does not outlive it."""
    gateway = await launch(**TWO_FIT)
    first = await kept(gateway, upstream)
    for _ in range(2):
        first.script.piece(PIECE)
        await first.client.up_to(LAST)
    second = await kept(gateway, upstream)
    second.script.piece(PIECE)
    await second.client.up_to(LAST)
    third = await kept(gateway, upstream)
    assert await response_of(gateway, third.task_id) == "no_room"
    await third.client.close()
    await within(GUARD_SECONDS, third.exchange.closed.wait())
    assert outcome(await gateway.ended(third.task_id)) == CLIENT_LEFT
    for call in (first, second):
        call.finish()
    ends = [await gateway.ended(call.task_id) for call in (first, second)]
    # The first has just as many bytes as it may have, and its end event is too much.
    assert [end["extensions"]["response"] for end in ends] == ["too_large", "kept"]


async def test_one_that_grows_beyond_the_room_is_dropped(launch: Launch, upstream: Upstream) -> None:
    """`no_room` for the one that grows; its client gets all, and the others stay."""
    gateway = await launch(MAX_RESPONSE_BYTES=str(MOST), MAX_KEPT_BYTES=str(int(1.4 * MOST)))
    calls = [await kept(gateway, upstream) for _ in range(2)]
    for call in calls:
        call.script.piece(PIECE)
        await call.client.up_to(LAST)
    calls[0].script.piece(PIECE[100:])
    await calls[0].client.up_to(LAST)
    for call in calls:
        call.finish()
    ends = [await gateway.ended(call.task_id) for call in calls]
    assert [end["extensions"]["response"] for end in ends] == ["no_room", "kept"]
    assert (await read(gateway, calls[1].task_id)).data == PIECE + DONE_EVENT


async def test_a_body_that_is_held_counts(launch: Launch, store: Store, upstream: Upstream) -> None:
    """Those of asynchronous calls that wait count towards `MAX_KEPT_BYTES`, and no longer once Ollama has them."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", **TWO_FIT)
    call = await kept(gateway, upstream)
    upstream.default = streaming(DONE_EVENT)
    body = b"b" * (MOST - 10)
    waiting = await gateway.ask("POST", CHAT, ASYNC, body=body)
    assert waiting.status == 202
    more = await gateway.ask("POST", CHAT, ASYNC, body=b"b" * 11)
    assert more.status == 202
    refused = await gateway.ask("POST", CHAT, ASYNC, body=body)
    assert code_of(refused) == (503, "keep_unavailable")
    call.finish()
    for task_id in (waiting.head.task_id, more.head.task_id):
        assert outcome(await gateway.ended(task_id)) == DONE
    assert (await gateway.ask("POST", CHAT, ASYNC, body=body)).status == 202


# -- the store --


async def stored_answer(gateway: Gateway, upstream: Upstream, size: int, *fields: Field) -> str | None:
    """What becomes of an answer of this size."""
    upstream.then(answering(200, JSON, body=b"x" * size))
    answer = await gateway.ask("POST", CHAT, KEEP, *fields, body=BODY)
    assert (answer.status, answer.body.size) == (200, size)
    return await response_of(gateway, answer.head.task_id, *fields)


async def test_the_store_holds_so_many_bytes(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """`MAX_STORED_RESPONSE_BYTES` for all gateways together; what would go beyond is `no_room`, statuses stay."""
    store = await new_store()
    settings = {"REDIS_URL": store.url, "MAX_STORED_RESPONSE_BYTES": str(4 * MOST), **SMALL}
    pair = [await launch(**settings) for _ in range(2)]
    fates = [await stored_answer(pair[number % 2], upstream, MOST - 1000) for number in range(6)]
    assert fates == ["kept"] * 4 + ["no_room"] * 2
    sizes = [await store.client.strlen(key) for key in await store.keys() if "body" in key]
    assert sum(sizes) <= 4 * MOST
    assert len([key for key in await store.keys() if key.startswith("ts:ollama:")]) == 6


async def test_without_a_client_no_room_in_the_store_ends_the_call(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """FAILED `response_too_large`: it is of no use to go on."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, MAX_STORED_RESPONSE_BYTES=str(MOST), **SMALL)
    assert await stored_answer(gateway, upstream, MOST - 5000) == "kept"
    call = await kept(gateway, upstream)
    await call.leave()
    call.script.piece(PIECE)
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    end = await gateway.ended(call.task_id)
    assert (outcome(end), end["extensions"]["response"]) == (failed("response_too_large"), "no_room")


async def test_one_key_has_less_than_half_of_the_store(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Where keys are on; others are not shut out."""
    store = await new_store()
    keys = "alice:sk-of-alice-half,bob:sk-of-bob-half"
    gateway = await launch(REDIS_URL=store.url, MAX_STORED_RESPONSE_BYTES=str(4 * MOST), GATEWAY_API_KEYS=keys, **SMALL)
    alice, bob = bearer("sk-of-alice-half"), bearer("sk-of-bob-half")
    assert [await stored_answer(gateway, upstream, MOST - 1000, alice) for _ in range(3)] == ["kept"] * 2 + ["no_room"]
    assert [await stored_answer(gateway, upstream, MOST - 1000, bob) for _ in range(3)] == ["kept"] * 2 + ["no_room"]


async def test_what_is_deleted_makes_room(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """At once."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, MAX_STORED_RESPONSE_BYTES=str(MOST), **SMALL)
    for _ in range(5):
        upstream.then(answering(200, JSON, body=b"x" * (MOST - 1000)))
        task_id = (await gateway.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
        assert await response_of(gateway, task_id) == "kept"
        assert (await delete(gateway, task_id)).status == 204


# -- settings --


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"MAX_RESPONSE_BYTES": "1000", "MAX_KEPT_BYTES": "999"}, ["MAX_RESPONSE_BYTES", "MAX_KEPT_BYTES"]),
        ({"TTL_RESPONSE": "101", "TTL_DONE": "100"}, ["TTL_RESPONSE", "TTL_DONE"]),
    ],
)
async def test_settings_that_contradict_are_refused(settings: dict[str, str], names: list[str]) -> None:
    """One line names both."""
    code, output = await refused_start(**settings)
    assert code == 2
    assert all(name in output for name in names)
