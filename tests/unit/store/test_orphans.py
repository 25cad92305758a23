"""A task whose gateway is silent becomes FAILED lost, once, whichever gateway notices.

Silence only lets the loss be presumed: the same request puts it right. Nothing changes a loss that is certain.

Against a real server. A grace of 0 makes a task silent in the next millisecond.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from gateway.store.interface import Written, request_name
from gateway.store.redis import RedisStore
from gateway.tasks.stages import PRESUMED_MS, Stage, State
from tests.support.records import ids, put, record, stage_and_attempt, stored, text_of, walk
from tests.support.waiting import next_millisecond

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.store.interface import Record
    from tests.support.store import Store as Server

    NewClient = Callable[..., RedisStore]

INDEX = "tsx:ollama:2:"
LONGEST_TTL_SECONDS = 3600
TTL_DONE_SECONDS = 1234
IN_FLIGHT = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING]
NO_ONE: tuple[str, ...] = ()
NAME = request_name("m-r1-p1", 1000, "t")  # of `silent("t")`


@pytest.fixture
async def client(server: Server, patience: None) -> AsyncIterator[NewClient]:
    """Makes stores of several gateway processes on the empty server."""
    await server.client.flushall()
    clients: list[RedisStore] = []

    def new(boot: str = "m-r2-p2", instance: str = "other") -> RedisStore:
        clients.append(
            RedisStore(
                server.url,
                boot=boot,
                longest_ttl_seconds=LONGEST_TTL_SECONDS,
                ttl_done_seconds=TTL_DONE_SECONDS,
                instance=instance,
            )
        )
        return clients[-1]

    yield new
    for each in clients:
        await each.close()


def silent(task_id: str, stage: Stage = Stage.STREAMING, **more: Any) -> Record:
    """A record whose task counts as silent at once."""
    return record(task_id, stage, boot="m-r1-p1", instance="dead", grace_seconds=0, **more)


async def leave(store: RedisStore, *records: Record) -> None:
    """Writes tasks that nothing will renew."""
    assert all(written.is_written for written in await put(store, records))
    await next_millisecond()
    await next_millisecond()


async def read(store: RedisStore, task_id: str) -> dict[str, Any]:
    """The document that a poller gets."""
    [text] = await store.read([task_id], NO_ONE)
    document: dict[str, Any] = json.loads(text or "")
    return document


async def beats(server: Server) -> list[str]:
    """The ids that count as in flight."""
    return [str(name) for name in await server.client.zrange(INDEX + "beats", 0, -1)]


async def presumed(server: Server) -> list[str]:
    """The names of the requests that are presumed lost."""
    return [str(name) for name in await server.client.zrange(INDEX + "presumed", 0, -1)]


# -- who notices --


@pytest.mark.parametrize("stage", IN_FLIGHT)
async def test_a_read_that_comes_first_reports_it(client: NewClient, stage: Stage) -> None:
    """A read of a silent task makes it lost, whatever its stage, and all later readers get the same."""
    store = client()
    await leave(store, silent("t", stage))
    assert (await read(store, "t"))["stage"] == "lost"
    assert (await stored(client(), "t"))["stage"] == "lost"


async def test_a_list_reports_it(client: NewClient) -> None:
    """A list shows a silent task as lost: it is no longer in RUNNING, and is in FAILED from then on."""
    store = client()
    await leave(store, silent("a", created_ms=1), record("b", Stage.STREAMING, created_ms=2))
    page = await store.page(10, State.RUNNING, None, exempt=NO_ONE)
    assert ids(page) == ["b"]
    page = await store.page(10, State.FAILED, None, exempt=NO_ONE)
    assert (ids(page), json.loads(page.documents[0])["stage"]) == (["a"], "lost")


async def test_a_look_finds_it(client: NewClient, server: Server) -> None:
    """No read is needed: each gateway looks once a second, and that look finds silent tasks and no others."""
    store = client()
    await leave(store, silent("t"), record("alive", Stage.STREAMING, created_ms=2), record("done", Stage.DONE))
    await store.watch(NO_ONE)
    assert await stage_and_attempt(store, "t") == ("lost", 1)
    assert await stage_and_attempt(store, "alive") == ("streaming", 1)
    assert await stage_and_attempt(store, "done") == ("done", 1)
    assert await beats(server) == ["alive"]
    assert store.lost == 1


async def test_any_number_is_found(client: NewClient, server: Server) -> None:
    """If a gateway leaves a thousand tasks behind, all of them become lost, though each look takes only some."""
    store = client()
    await leave(store, *(silent(f"t{n}", created_ms=n) for n in range(1000)))
    for _ in range(4):
        await store.watch(NO_ONE)
    assert await beats(server) == []
    assert len(await walk(store, state=State.FAILED)) == store.lost == 1000


async def test_one_look_finds_many(client: NewClient, server: Server) -> None:
    """If hundreds are silent, the same look goes on: all are to be lost within two seconds."""
    store = client()
    await leave(store, *(silent(f"t{n}", created_ms=n) for n in range(300)))
    await store.watch(NO_ONE)
    assert await beats(server) == []


async def test_a_look_ends_though_all_that_is_silent_is_its_own(client: NewClient, server: Server) -> None:
    """It asks twice, finds the same names, and leaves them."""
    store = client()
    await leave(store, *(silent(f"t{n}", created_ms=n) for n in range(300)))
    found: list[str] = []
    await store.watch({request_name("m-r1-p1", n, f"t{n}") for n in range(300)}, found.append)
    assert len(found) == 2 * 256
    assert len(await beats(server)) == 300


async def test_twenty_notice_it_and_it_is_lost_once(client: NewClient) -> None:
    """Clients that read, list and look at the same moment get the same document, and one of them wrote it."""
    clients = [client(boot=f"m-r{n}-p{n}") for n in range(4)]
    await leave(clients[0], silent("t"))
    reads = asyncio.gather(*(each.read(["t"], NO_ONE) for each in clients for _ in range(3)))
    pages = asyncio.gather(*(each.page(5, None, None, exempt=NO_ONE) for each in clients))
    looks = asyncio.gather(*(each.watch(NO_ONE) for each in clients))
    told = {text for [text] in await reads} | {page.documents[0] for page in await pages}
    await looks
    assert told == {await text_of(clients[0], "t")}
    assert sum(each.lost for each in clients) == 1
    assert await walk(clients[0], state=State.FAILED) == ["t"]


# -- what it becomes --


async def test_the_document_of_a_lost_task(client: NewClient, server: Server) -> None:
    """A silent task is FAILED lost, presumed, as a new event that ends now; all else stays, for TTL_DONE."""
    store = client()
    await leave(store, silent("t", attempt=3, owner="alice", ttl_seconds=60))
    before = await stored(store, "t")
    begun = time.time()
    after = await read(store, "t")
    assert (after["state"], after["stage"]) == ("FAILED", "lost")
    assert after["event_id"] != before["event_id"]
    finished_ms = after["extensions"].pop("finished_ms")
    assert begun - 0.01 <= finished_ms / 1000 <= time.time() + 0.01
    assert after["timestamp"] == finished_ms // 1000
    assert after["extensions"].pop("reason") == "lost"
    assert after["extensions"].pop("lost_after_ms") is None
    assert after["extensions"].pop("is_presumed") is True
    for changed in ("finished_ms", "reason", "lost_after_ms", "is_presumed"):
        del before["extensions"][changed]
    assert after["extensions"] == before["extensions"]
    assert {name for name in before if before[name] != after[name]} == {
        "event_id", "state", "stage", "message", "timestamp",
    }  # fmt: skip
    assert TTL_DONE_SECONDS - 5 <= await server.ttl("t") <= TTL_DONE_SECONDS


async def test_the_lists_of_a_lost_task(client: NewClient, server: Server) -> None:
    """A lost task moves from RUNNING to FAILED, for all and for its owner, keeps its place, and is not in flight."""
    store = client()
    await leave(
        store,
        silent("t", created_ms=2000, owner="alice"),
        record("older", Stage.DONE, created_ms=1000, owner="alice"),
        record("newer", Stage.DONE, created_ms=3000, owner="alice"),
    )
    await store.watch(NO_ONE)
    for owner in (None, "alice"):
        assert await walk(store, owner=owner) == ["newer", "t", "older"]
        assert await walk(store, state=State.RUNNING, owner=owner) == []
        assert await walk(store, state=State.FAILED, owner=owner) == ["t"]
    assert await beats(server) == []


@pytest.mark.parametrize("stage", Stage)
async def test_a_presumed_loss_is_put_right(client: NewClient, server: Server, stage: Stage) -> None:
    """The request that was presumed lost writes its truth, whatever that is, and all lists have it."""
    store, owner = client(), client(boot="m-r1-p1", instance="dead")
    await leave(owner, silent("t", Stage.QUEUED))
    await store.watch(NO_ONE)
    lost = await stored(store, "t")
    assert (await presumed(server), lost["extensions"]["is_presumed"]) == ([NAME], True)
    right = record("t", stage, boot="m-r1-p1", instance="dead")
    assert await put(owner, [right]) == [Written(True, 1, was_presumed=True)]
    assert await put(owner, [right]) == [Written(True, 1)]
    after = await stored(store, "t")
    assert (after["stage"], after["extensions"]["is_presumed"]) == (stage, False)
    assert after["event_id"] != lost["event_id"]
    assert [await walk(store, state=state) for state in State] == [
        ["t"] if state == stage.state else [] for state in State
    ]
    assert await beats(server) == (["t"] if stage in IN_FLIGHT else [])
    assert await presumed(server) == []


@pytest.mark.parametrize(
    ("boot", "created_ms", "attempt"), [("m-r1-p2", 1000, 1), ("m-r1-p1", 1001, 1), ("m-r1-p1", 1001, 2)]
)
async def test_no_other_request_puts_it_right(client: NewClient, boot: str, created_ms: int, attempt: int) -> None:
    """Another process, or another request of the same one, is refused; a later attempt is its own."""
    store = client()
    await leave(store, silent("t"))
    await store.watch(NO_ONE)
    writer = client(boot=boot)
    [written] = await put(writer, [record("t", Stage.DONE, attempt=attempt, boot=boot, created_ms=created_ms)])
    assert written == Written(attempt == 2, attempt)
    assert (await stored(store, "t"))["stage"] == ("done" if attempt == 2 else "lost")


async def test_a_newer_attempt_stays(client: NewClient, server: Server) -> None:
    """The old request changes nothing once another has the id, whether that runs or has ended."""
    store, owner = client(), client(boot="m-r1-p1", instance="dead")
    await leave(owner, silent("t"))
    await store.watch(NO_ONE)
    assert await put(store, [record("t", attempt=0, created_ms=2000, boot="m-r2-p2")]) == [Written(True, 2)]
    assert await presumed(server) == []
    for stage in (Stage.QUEUED, Stage.DONE):
        await put(store, [record("t", stage, attempt=2, created_ms=2000, boot="m-r2-p2")])
        newer = await text_of(store, "t")
        assert newer is not None
        for late in Stage:
            assert await put(owner, [record("t", late, boot="m-r1-p1", instance="dead")]) == [Written(False, 2)]
        assert await text_of(store, "t") == newer


async def test_a_loss_is_presumed_for_ten_minutes(client: NewClient, server: Server) -> None:
    """Then any gateway makes it final, as a new event, by a look or by a read that comes first."""
    store = client()
    await leave(store, silent("looked"), silent("asked"), silent("young"))
    await store.watch(NO_ONE)
    before = {name: await stored(store, name) for name in ("looked", "asked", "young")}
    for name in ("looked", "asked"):
        before[name]["extensions"]["finished_ms"] -= PRESUMED_MS
        await server.client.set(f"ts:ollama:{name}", orjson.dumps(before[name]), ex=60)
    asked = await read(store, "asked")
    await server.client.zadd(INDEX + "presumed", {request_name("m-r1-p1", 1000, "looked"): 1})
    await store.watch(NO_ONE)
    for name, after in (("looked", await stored(store, "looked")), ("asked", asked)):
        assert (after["stage"], after["extensions"]["is_presumed"]) == ("lost", False)
        assert after["event_id"] != before[name]["event_id"]
        assert after["extensions"]["finished_ms"] == before[name]["extensions"]["finished_ms"]
        assert TTL_DONE_SECONDS - 5 <= await server.ttl(name) <= TTL_DONE_SECONDS
    assert await stored(store, "young") == before["young"]
    assert await presumed(server) == [request_name("m-r1-p1", 1000, "young")]
    assert sorted(await walk(store, state=State.FAILED)) == ["asked", "looked", "young"]
    assert store.lost == 3


async def test_its_own_gateway_is_told_of_it(client: NewClient) -> None:
    """A look gives a gateway the names of its own requests that are presumed lost, and does not make them final."""
    store = client()
    await leave(store, silent("t"), silent("other"))
    await store.watch(NO_ONE)
    told: list[str] = []
    await client().watch({NAME}, told.append)
    assert told == [NAME]


async def test_what_is_presumed_and_gone_is_forgotten(client: NewClient, server: Server) -> None:
    """A name whose document has expired or is another request's leaves the list when its time is over."""
    store = client()
    await put(store, [record("t", Stage.DONE, created_ms=1)])
    await server.client.zadd(INDEX + "presumed", {request_name("m-r1-p1", 1000, name): 1 for name in ("t", "gone")})
    await store.watch(NO_ONE)
    assert await presumed(server) == []
    assert (await stored(store, "t"))["stage"] == "done"


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1"])
async def test_a_score_that_is_no_moment_stops_nothing(client: NewClient, server: Server, score: str) -> None:
    """A forged name whose score is no moment is taken out, and the same look finds silent tasks."""
    store = client()
    await server.client.zadd(INDEX + "presumed", {"forged": score})
    await leave(store, silent("t"))
    await store.probe()
    await store.watch(NO_ONE)
    await store.end_earlier_run()
    assert await presumed(server) == [NAME]
    assert (await stored(store, "t"))["stage"] == "lost"


async def test_a_rebuild_finds_what_is_presumed(client: NewClient, server: Server) -> None:
    """If Redis evicted the names, a rebuild of the lists finds them again."""
    store = client()
    await leave(store, silent("t"))
    await store.watch(NO_ONE)
    until_ms = await server.client.zscore(INDEX + "presumed", NAME)
    assert until_ms is not None
    await server.client.delete(*(str(key) for key in await server.client.keys(INDEX + "*")))
    assert await walk(store, state=State.FAILED) == ["t"]
    assert await server.client.zscore(INDEX + "presumed", NAME) == until_ms


@pytest.mark.parametrize("kind", ["certain", "of the version before"])
async def test_a_loss_for_good_is_final(client: NewClient, server: Server, kind: str) -> None:
    """A request that goes on writing changes nothing: no heartbeat, stage or end is accepted."""
    store, owner = client(), client(boot="m-r1-p1", instance="dead")
    await leave(owner, silent("t"))
    if kind == "certain":
        await client(boot="m-r2-p1", instance="dead").end_earlier_run()
    else:
        await store.watch(NO_ONE)
        document = await stored(store, "t")
        del document["extensions"]["is_presumed"]
        await server.client.set("ts:ollama:t", orjson.dumps(document), ex=60)
    lost = await text_of(store, "t")
    for stage in Stage:
        assert await put(owner, [record("t", stage, boot="m-r1-p1", instance="dead")]) == [Written(False, 1)]
    assert await text_of(store, "t") == lost
    assert await walk(store, state=State.FAILED) == ["t"]
    assert [await walk(store, state=state) for state in State if state != State.FAILED] == [[], [], []]


async def test_a_lost_id_is_free(client: NewClient) -> None:
    """A lost task has ended: its id may be used again, as the next attempt."""
    store = client()
    await leave(store, silent("t"))
    await store.watch(NO_ONE)
    assert await put(store, [record("t", attempt=0, created_ms=2000)]) == [Written(True, 2)]


# -- who is not lost --


async def test_who_writes_in_time_is_not_lost(client: NewClient) -> None:
    """If a heartbeat and a read come at once, one wins: the task lives, or the heartbeat is refused."""
    store, owner = client(), client(boot="m-r1-p1", instance="dead")
    names = [f"t{n}" for n in range(200)]
    await leave(owner, *(silent(name) for name in names))
    written, _ = await asyncio.gather(
        put(owner, [record(name, Stage.STREAMING, boot="m-r1-p1", instance="dead") for name in names]),
        asyncio.gather(*(store.read([name], NO_ONE) for name in names)),
    )
    for name, result in zip(names, written, strict=True):
        assert await stage_and_attempt(store, name) == ("streaming" if result.is_written else "lost", 1)


async def test_exempt_tasks_are_not_lost(client: NewClient, server: Server) -> None:
    """A gateway's own tasks, and after an outage all tasks, are read, listed and looked at unchanged."""
    store = client()
    await leave(store, silent("own"), silent("foreign"))
    exempt = {request_name("m-r1-p1", 1000, "own")}
    assert [json.loads(text or "")["stage"] for text in await store.read(["own", "foreign"], exempt)] == [
        "streaming", "lost",
    ]  # fmt: skip
    await store.page(10, None, None, exempt=exempt)
    await store.watch(exempt)
    assert await stage_and_attempt(store, "own") == ("streaming", 1)
    assert await beats(server) == ["own"]


async def test_a_request_is_exempt_and_not_its_id(client: NewClient) -> None:
    """A gateway never calls its own request lost, but an earlier request of another gateway with the same id."""
    store = client()
    await leave(store, silent("t", created_ms=1000))
    await store.watch({request_name("m-r2-p2", 1000, "t"), request_name("m-r1-p1", 2000, "t")})
    assert await stage_and_attempt(store, "t") == ("lost", 1)


@pytest.mark.parametrize("created_ms", [1, 4_000_000_000_000])
async def test_no_gateways_clock_matters(client: NewClient, created_ms: int) -> None:
    """The server's clock decides: a gateway whose clock is decades wrong loses no task, and is found when silent."""
    store = client()
    await leave(store, record("alive", Stage.STREAMING, created_ms=created_ms), silent("t", created_ms=created_ms))
    await store.watch(NO_ONE)
    assert (await read(store, "alive"))["stage"] == "streaming"
    assert await stage_and_attempt(store, "t") == ("lost", 1)


async def test_a_heartbeat_moves_the_moment(client: NewClient) -> None:
    """Each write sets again how long a task may be silent."""
    store, owner = client(), client(boot="m-r1-p1", instance="dead")
    await leave(owner, silent("t"))
    await leave(owner, record("t", Stage.STREAMING, boot="m-r1-p1", grace_seconds=30))
    await store.watch(NO_ONE)
    document = await read(store, "t")
    assert document["stage"] == "streaming"
    assert 29_000 <= document["extensions"]["lost_after_ms"] - time.time() * 1000 <= 31_000


# -- what stands in the way --


async def test_what_is_gone_is_forgotten(client: NewClient, server: Server) -> None:
    """A silent task whose document expired or was evicted is not looked for any more, and not restored."""
    store = client()
    await leave(store, silent("t"))
    await server.client.delete("ts:ollama:t")
    await store.watch(NO_ONE)
    assert await beats(server) == []
    assert await text_of(store, "t") is None


async def test_a_loss_that_came_half_way_is_completed(client: NewClient, server: Server) -> None:
    """If a gateway died between writing the document and the list, the next look updates the list."""
    store = client()
    await leave(store, silent("t"))
    await store.watch(NO_ONE)
    lost = await text_of(store, "t")
    await server.client.flushall()
    await leave(store, silent("t"))
    await server.client.set("ts:ollama:t", lost or "", ex=60)
    await store.watch(NO_ONE)
    assert await walk(store, state=State.FAILED) == ["t"]
    assert await walk(store, state=State.RUNNING) == []
    assert await beats(server) == []


FOREIGN = ["", "hello", "[]", "{}", '{"extensions":5,"lost_after_ms":1}}']
FOREIGN_DOCUMENTS = [
    '{"extensions":{"lost_after_ms":1}}', '{"extensions":{}}', '{"task_id":"t","state":"RUNNING","extensions":{}}'
]  # fmt: skip


async def look_past(store: RedisStore, server: Server, value: str) -> None:
    """A foreign value in a silent task's place is left as it is, and the other silent tasks are found."""
    await leave(store, silent("a"), silent("t"), silent("z"))
    await server.client.set("ts:ollama:t", value, ex=60)
    for _ in range(2):
        await store.watch(NO_ONE)
    assert await server.raw("t") == value
    for name in ("a", "z"):
        assert await stage_and_attempt(store, name) == ("lost", 1)


@pytest.mark.parametrize("value", FOREIGN)
async def test_a_foreign_value_does_not_end_the_look(client: NewClient, server: Server, value: str) -> None:
    """A malformed document does not keep a gateway from finding the other silent tasks."""
    await look_past(client(), server, value)


@pytest.mark.parametrize("value", FOREIGN_DOCUMENTS)
async def test_a_foreign_document_does_not_end_the_look(client: NewClient, server: Server, value: str) -> None:
    """Nor does a foreign document that looks like one of ours."""
    await look_past(client(), server, value)


# -- a gateway that comes back --


@pytest.mark.parametrize(
    ("boot", "instance", "becomes_lost"),
    [
        ("m-r1-p1", "gateway", True),  # the former run
        ("m-r2-p9", "gateway", False),  # another process of this run
        ("n-r1-p1", "gateway", False),  # another machine that has the same name
        ("m-r1-p1", "another", False),  # another gateway on this machine
        ("old", "gateway", False),  # not a name of ours
    ],
)
async def test_only_tasks_of_the_earlier_run_are_lost(
    client: NewClient, boot: str, instance: str, becomes_lost: bool
) -> None:
    """A gateway that starts again makes its earlier run's tasks lost for good at once, and no other tasks."""
    store = client(boot="m-r2-p2", instance="gateway")
    for n, stage in enumerate(IN_FLIGHT):
        await put(store, [record(f"t{n}", stage, boot=boot, instance=instance)])
    await put(store, [record("done", Stage.DONE, boot=boot, instance=instance)])
    await leave(store, record("presumed", Stage.STREAMING, boot=boot, instance=instance, grace_seconds=0))
    event_id = (await read(store, "presumed"))["event_id"]
    await store.end_earlier_run()
    for n, stage in enumerate(IN_FLIGHT):
        assert await stage_and_attempt(store, f"t{n}") == ("lost" if becomes_lost else stage, 1)
        assert not (await stored(store, f"t{n}"))["extensions"]["is_presumed"]
    was_presumed = await stored(store, "presumed")
    assert was_presumed["extensions"]["is_presumed"] != becomes_lost
    assert (was_presumed["event_id"] != event_id) == becomes_lost
    assert await stage_and_attempt(store, "done") == ("done", 1)


async def test_any_number_of_tasks_becomes_lost(client: NewClient, server: Server) -> None:
    """A gateway that had a thousand streams when it was killed has none after its restart."""
    store = client(boot="m-r2-p2", instance="gateway")
    await put(store, [record(f"t{n}", Stage.STREAMING, boot="m-r1-p1", instance="gateway") for n in range(1000)])
    await store.end_earlier_run()
    assert await beats(server) == []
    assert len(await walk(store, state=State.FAILED)) == 1000


async def test_a_beat_is_gone_when_a_task_ends(client: NewClient, server: Server) -> None:
    """An ended task is no longer in flight, so that the look has little to check."""
    store = client()
    await put(store, [record(name, Stage.STREAMING, boot="m-r2-p2") for name in ("a", "b")])
    assert await beats(server) == ["a", "b"]
    await put(store, [record("a", Stage.DONE, boot="m-r2-p2")])
    assert await beats(server) == ["b"]
