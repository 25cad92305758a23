"""Owns what a client and a poller see of the queue: who is with Ollama, who waits, in which order, and who is refused.

Contract section 8.1 to 8.4, 8.6 and 8.7. How requests leave the queue is in test_queue_leaving.py.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import openai
import pytest
import pytest_asyncio

from tests.support.outcome import outcome
from tests.support.served import ANSWER, Served, ServedStreams
from tests.support.waiting import until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Field

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m"}'
KEYS = {name: f"sk-of-the-queue-{name}" for name in ("alice", "bob", "carol")}
ALL_KEYS = ",".join(f"{name}:{key}" for name, key in KEYS.items())


class Asked:
    """One request under way, on a connection of its own."""

    def __init__(self, gateway: Gateway, client: Client, task_id: str) -> None:
        self.gateway = gateway
        self.client = client
        self.task_id = task_id
        self.answer = asyncio.ensure_future(client.answer("POST"))

    async def extensions(self, key: str | None = None) -> dict[str, Any]:
        """Those of its status."""
        fields = {"Authorization": f"Bearer {key}"} if key else {}
        found = await self.gateway.http.get(f"/tasks/status/{self.task_id}", headers=fields)
        assert found.status_code == 200, found.text
        document: dict[str, Any] = found.json()
        more: dict[str, Any] = document["extensions"]
        return more | {"state": document["state"], "stage": document["stage"]}

    async def position(self) -> int | None:
        """Its position now."""
        found: int | None = (await self.extensions())["queue_position"]
        return found


async def ask(gateway: Gateway, *fields: Field, body: bytes = BODY, owner: str = "", prefix: str = "") -> Asked:
    """Sends a request, and waits until the gateway has it."""
    task_id = f"{prefix or 'queued'}-{uuid.uuid4()}"
    key: list[Field] = [(b"Authorization", b"Bearer " + KEYS[owner].encode())] if owner else []
    client = await gateway.connect()
    await client.send(request("POST", CHAT, (b"X-Task-Id", task_id.encode()), *key, *fields, body=body))
    asked = Asked(gateway, client, task_id)
    if not owner:
        await until(lambda: is_known(gateway, task_id), what="the task is known")
    return asked


async def is_known(gateway: Gateway, task_id: str) -> bool:
    """Whether the gateway knows the task."""
    return (await gateway.http.get(f"/tasks/status/{task_id}")).status_code == 200


@pytest_asyncio.fixture(loop_scope="session")
async def served(upstream: Upstream) -> Served:
    """An upstream that answers when the test says so."""
    upstream.default = Served()
    return upstream.default


async def test_the_upstream_sees_no_more_than_may_run_and_the_others_say_that_they_wait(
    launch: Launch, store: Store, served: Served
) -> None:
    """PENDING queued with position and length, in the order of arrival; RUNNING and SUCCESS have neither."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="2")
    asked = [await ask(gateway) for _ in range(5)]
    await served.holds(2)
    statuses = [await one.extensions() for one in asked]
    assert [(s["state"], s["stage"]) for s in statuses] == [("RUNNING", "forwarding")] * 2 + [("PENDING", "queued")] * 3
    assert [s["queue_position"] for s in statuses] == [None, None, 1, 2, 3]
    assert [s["queue_length"] for s in statuses] == [None, None, 3, 3, 3]
    for _ in asked:
        served.finish()
        await until(lambda: served.seen == 5 or len(served.here) == 2, what="the next one is here")
        assert served.most == 2
    answers = [await within(30, one.answer) for one in asked]
    assert [(a.status, a.data) for a in answers] == [(200, ANSWER)] * 5
    ends = [await gateway.ended(one.task_id) for one in asked]
    assert {end["state"] for end in ends} == {"SUCCESS"}
    assert {end["extensions"]["queue_position"] for end in ends} == {None}


async def test_without_keys_the_order_is_that_of_arrival_and_positions_only_fall(
    launch: Launch, store: Store, served: Served
) -> None:
    """Polled all the while that twelve requests are served; low priority goes last and may be overtaken."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    low = await ask(gateway, (b"X-Task-Priority", b"low"), prefix="first")
    await served.holds(1)
    waiting_low = await ask(gateway, (b"X-Task-Priority", b"low"), prefix="low")
    asked = [await ask(gateway) for _ in range(12)]
    await until(gateway.is_saved, what="all have their ids: the turn of one that waits for the store passes")
    seen: dict[str, list[int | None]] = {one.task_id: [] for one in asked}
    order = []
    for left in range(13, -1, -1):
        for one in asked:
            seen[one.task_id].append(await one.position())
        assert await waiting_low.position() == (left if left else None)
        [here] = served.here
        order.append(here.head.get("x-client"))
        count = served.seen
        served.finish()
        if left:
            await served.has_seen(count + 1)
    assert await low.answer
    for positions in seen.values():
        known = [position for position in positions if position is not None]
        assert all(earlier >= later for earlier, later in pairwise(known)), positions
        assert known == sorted(known, reverse=True)
    assert [await one.position() for one in asked] == [None] * 12


async def test_a_heartbeat_tells_positions_to_other_gateways_and_changes_no_event(
    launch: Launch, store: Store, served: Served
) -> None:
    """Another gateway and the list have the position of the last heartbeat. The event, and so the ETag, stay."""
    first = await launch(REDIS_URL=store.url, MAX_RUNNING="1", HEARTBEAT_SEC="1")
    second = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    running, leaving, asked = [await ask(first) for _ in range(3)]
    before = await first.status(asked.task_id)
    assert before["extensions"]["queue_position"] == 2

    async def position_elsewhere() -> int | None:
        found: int | None = (await second.at(asked.task_id, "queued"))["extensions"]["queue_position"]
        return found

    await until(lambda: is_equal(position_elsewhere, 2), what="the second gateway knows it")
    leaving.client.reset()
    await until(lambda: is_equal(position_elsewhere, 1), what="the second gateway knows the change")
    after = await second.status(asked.task_id)
    assert after["event_id"] == before["event_id"]
    page = (await second.http.get("/tasks/status?limit=10")).json()["items"]
    [listed] = [one for one in page if one["task_id"] == asked.task_id]
    assert (listed["extensions"]["queue_position"], listed["extensions"]["queue_length"]) == (1, 1)
    served.finish()
    await within(30, running.answer)
    await served.holds(1)
    served.finish()
    assert (await within(30, asked.answer)).status == 200
    with pytest.raises((AssertionError, ConnectionError)):
        await leaving.answer


async def is_equal(read: Any, value: object) -> bool:
    """Whether `read` gives this value now."""
    return bool(await read() == value)


async def test_a_wait_for_a_change_wakes_when_the_turn_comes_and_not_for_positions(
    launch: Launch, store: Store, served: Served
) -> None:
    """`?wait=` on a waiting task is answered once it runs."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    _first, second, third = [await ask(gateway) for _ in range(3)]
    await served.holds(1)
    waiting = asyncio.ensure_future(gateway.http.get(f"/tasks/status/{third.task_id}?wait=60"))
    first_here = served.finish()
    await served.has_seen(2)
    assert (await second.extensions())["state"] == "RUNNING"
    assert not waiting.done(), "a new position is no change"
    served.finish()
    answer = (await within(30, waiting)).json()
    assert (answer["state"], answer["extensions"]["queue_position"]) == ("RUNNING", None)
    assert first_here.head.get("host")
    await served.holds(1)
    served.finish()


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_what_only_reads_neither_waits_nor_takes_a_place(
    launch: Launch, store: Store, served: Served, upstream: Upstream, method: str
) -> None:
    """While all places are taken it goes on at once."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    await ask(gateway)
    await served.holds(1)
    reading = await gateway.connect()
    await reading.send(request(method, "/v1/models/one"))
    await served.holds(2)
    served.finish(served.here[1])
    assert (await within(30, reading.answer(method))).status == 200
    assert (await gateway.http.get("/readyz")).status_code == 200
    waiting = await ask(gateway)
    assert await waiting.position() == 1
    served.finish()
    await served.has_seen(3)
    served.finish()


async def test_of_the_clients_own_fields_ollama_sees_none(launch: Launch, upstream: Upstream) -> None:
    """The gateway's fields are for the gateway; another X-Task- field passes."""
    gateway = await launch(MAX_RUNNING="1")
    own = [(b"X-Task-Label", b"a"), (b"X-Task-Priority", b"low"), (b"X-Task-Timeout", b"60")]
    await gateway.ask("POST", CHAT, *own, (b"X-Task-Start-Timeout", b"60"), (b"X-Task-Colour", b"red"), body=BODY)
    names = [name for name, _ in upstream.exchanges[0].head.lowered]
    assert [name for name in names if name.startswith(b"x-task")] == [b"x-task-colour"]


@pytest.mark.parametrize(
    "fields",
    [
        [(b"X-Task-Priority", b"high")],
        [(b"X-Task-Priority", b"low"), (b"X-Task-Priority", b"low")],
        [(b"X-Task-Start-Timeout", b"0")],
        [(b"X-Task-Timeout", b"86401")],
        [(b"X-Task-Label", b"two words")],
    ],
)
async def test_a_field_with_another_value_is_400_and_no_task(
    gateway: Gateway, upstream: Upstream, fresh_id: str, fields: list[Field]
) -> None:
    """The answer has our shape and names the id; Ollama is not asked."""
    answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), *fields, body=BODY)
    assert (answer.status, answer.json()["error"]["code"], answer.head.task_id) == (400, "invalid_header", fresh_id)
    assert "allowed: " in answer.json()["error"]["message"]
    assert (await gateway.http.get(f"/tasks/status/{fresh_id}")).status_code == 404
    assert not upstream.exchanges


async def test_a_full_queue_is_429_with_the_time_until_it_has_room(
    launch: Launch, store: Store, served: Served
) -> None:
    """No task; the id can be used again. `/readyz` stays as it is. What is wrong for other reasons is said before."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", MAX_QUEUED="1", MAX_BODY_BYTES="1000")
    running, waiting = await ask(gateway), await ask(gateway)
    refused = await gateway.ask("POST", CHAT, (b"X-Task-Id", b"one-too-many"), body=BODY)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "queue_full")
    assert (refused.head.get("retry-after"), refused.head.task_id) == (b"5", "one-too-many")
    assert refused.head.get("x-should-retry") is None
    assert (await gateway.http.get("/tasks/status/one-too-many")).status_code == 404
    assert (await gateway.http.get("/readyz")).status_code == 200
    for fields, body, status in (
        ([(b"X-Task-Id", b"-bad")], BODY, 400),
        ([(b"X-Task-Priority", b"high")], BODY, 400),
        ([(b"X-Task-Id", waiting.task_id.encode())], BODY, 409),
        ([], b"x" * 1001, 413),
    ):
        assert (await gateway.ask("POST", CHAT, *fields, body=body)).status == status
    served.finish()
    assert (await within(30, running.answer)).status == 200
    await served.holds(1)
    again = await ask(gateway)
    for one in (waiting, again):
        served.finish()
        assert (await within(30, one.answer)).status == 200
        await until(lambda: len(served.here) or served.seen == 3, what="the next one is here")


async def test_an_id_that_is_in_flight_elsewhere_is_409_also_while_the_queue_is_full(
    launch: Launch, store: Store, served: Served
) -> None:
    """429 would have the client try again, and 409 says that this is useless."""
    first = await launch(REDIS_URL=store.url)
    second = await launch(REDIS_URL=store.url, MAX_RUNNING="1", MAX_QUEUED="0")
    elsewhere = await ask(first)
    await ask(second)
    await served.holds(2)
    answer = await second.ask("POST", CHAT, (b"X-Task-Id", elsewhere.task_id.encode()), body=BODY)
    assert (answer.status, answer.json()["error"]["code"]) == (409, "task_id_in_use")
    other = await second.ask("POST", CHAT, (b"X-Task-Id", b"free-to-use"), body=BODY)
    assert (other.status, other.json()["error"]["code"]) == (429, "queue_full")
    served.finish()
    served.finish()


async def test_openais_client_comes_back_by_itself_and_succeeds(launch: Launch, store: Store, served: Served) -> None:
    """It waits as long as Retry-After says."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", MAX_QUEUED="0")
    running = await ask(gateway)
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key="none") as client:
        asking = asyncio.ensure_future(
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
        )

        async def is_refused() -> bool:
            return 'code="queue_full"} 1' in (await gateway.http.get("/metrics")).text

        await until(is_refused, what="it was refused once")
        served.finish()
        assert (await within(30, running.answer)).status == 200
        await served.holds(1)
        served.finish()
        assert (await within(30, asking)).choices == []


async def test_a_keys_flood_does_not_shut_out_another_key(launch: Launch, store: Store, served: Served) -> None:
    """The flooding key's youngest waiting request gets the 429 that its arrival earned, FAILED queue_full."""
    gateway = await launch(
        REDIS_URL=store.url, MAX_RUNNING="1", MAX_QUEUED="2", GATEWAY_API_KEYS=f"{ALL_KEYS},admin:sk-of-the-admin"
    )
    running = await ask(gateway, owner="alice")
    await served.holds(1)
    first, youngest = [await waits(await ask(gateway, owner="alice"), "alice") for _ in range(2)]
    bobs = await waits(await ask(gateway, owner="bob"), "bob")
    answer = await within(30, youngest.answer)
    assert (answer.status, answer.json()["error"]["code"]) == (429, "queue_full")
    assert answer.head.get("retry-after") == b"5"
    more = await youngest.extensions(KEYS["alice"])
    assert (more["state"], more["stage"], more["reason"]) == ("FAILED", "error", "queue_full")
    served.finish()
    await within(30, running.answer)
    await served.holds(1)
    assert (await bobs.extensions(KEYS["bob"]))["state"] == "RUNNING", "bob had nothing running"
    served.finish()
    await within(30, bobs.answer)
    await served.holds(1)
    served.finish()
    assert (await within(30, first.answer)).status == 200


async def waits(asked: Asked, owner: str) -> Asked:
    """`asked`, once it is in the queue."""

    async def has_position() -> bool:
        fields = {"Authorization": f"Bearer {KEYS[owner]}"}
        found = await asked.gateway.http.get(f"/tasks/status/{asked.task_id}", headers=fields)
        return found.status_code == 200 and found.json()["extensions"]["queue_position"] is not None

    await until(has_position, what="it waits")
    return asked


async def test_two_keys_with_loads_of_a_hundred_to_one_get_the_same(
    launch: Launch, store: Store, served: Served
) -> None:
    """Jain's index over what was served while both ask is 0.95 at least; the light key waits two turns at most."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1", GATEWAY_API_KEYS=ALL_KEYS)
    for _ in range(100):
        await ask(gateway, owner="alice", body=b"heavy")
    await served.holds(1)
    counts = {b"heavy": 0, b"light": 0}
    turns: list[int] = []  # that passed until a request of the light key was here
    for _ in range(40):
        light = await waits(await ask(gateway, owner="bob", body=b"light"), "bob")
        for passed in range(1, 4):
            seen = served.seen
            served.finish()
            await served.has_seen(seen + 1)
            here = served.here[-1]
            counts[bytes(here.body.data)] += 1
            if here.body.data == b"light":
                turns.append(passed)
                break
        seen = served.seen
        served.finish()
        await within(30, light.answer)
        await served.has_seen(seen + 1)
        counts[bytes(served.here[-1].body.data)] += 1
    shares = list(counts.values())
    assert sum(shares) ** 2 / (2 * sum(share**2 for share in shares)) >= 0.95
    assert sorted(turns)[int(len(turns) * 0.95)] <= 2
    assert served.most == 1


async def test_a_request_gets_its_place_when_its_body_is_here_and_until_then_its_turn_passes(
    launch: Launch, store: Store, served: Served
) -> None:
    """A body that fits into what is read while waiting."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    slow = await gateway.connect()
    whole = request("POST", CHAT, (b"X-Task-Id", b"slow-body"), body=b"x" * 200_000)
    await slow.send(whole[:-1])
    await until(lambda: is_known(gateway, "slow-body"), what="the task is known")
    fast = await ask(gateway)
    await served.holds(1)
    assert (await fast.extensions())["state"] == "RUNNING"
    status = await gateway.status("slow-body")
    assert (status["state"], status["extensions"]["queue_position"]) == ("PENDING", 1)
    await slow.send(whole[-1:])
    served.finish()
    assert (await within(30, fast.answer)).status == 200
    await served.holds(1)
    served.finish()
    assert (await within(30, slow.answer("POST"))).status == 200
    assert served.here == []
    assert (await gateway.ended("slow-body"))["extensions"]["request_bytes"] == 200_000


async def test_a_large_upload_that_waits_is_read_no_further_than_its_share(
    launch: Launch, store: Store, served: Served
) -> None:
    """50 MB: at most 256 KiB are read, and the gateway grows by less than 1 MiB. Then all of it arrives."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    await ask(gateway)
    await served.holds(1)
    client = await gateway.connect()
    before = gateway.resident_bytes
    size = 50_000_000
    sending = asyncio.ensure_future(
        client.send(request("POST", CHAT, (b"X-Task-Id", b"large-upload"), body=bytes(size)))
    )

    async def read_bytes() -> int:
        found = await gateway.http.get("/tasks/status/large-upload")
        return found.json()["extensions"]["request_bytes"] if found.status_code == 200 else 0

    await until(lambda: is_equal(read_bytes, 262_144), what="it has read its share")
    assert gateway.resident_bytes - before < 1_048_576
    assert not sending.done()
    served.finish()
    await within(60, sending)
    await served.holds(1)
    served.finish()
    assert (await within(30, client.answer("POST"))).status == 200
    assert (await gateway.ended("large-upload"))["extensions"]["request_bytes"] == size


async def test_a_client_that_expects_100_gets_it_with_its_place(launch: Launch, store: Store, served: Served) -> None:
    """Not before: the client would send a body that the gateway does not read."""
    gateway = await launch(REDIS_URL=store.url, MAX_RUNNING="1")
    await ask(gateway)
    await served.holds(1)
    client = await gateway.connect()
    whole = request("POST", CHAT, (b"X-Task-Id", b"expecting"), (b"Expect", b"100-continue"), body=BODY)
    await client.send(whole[: -len(BODY)])
    await until(lambda: is_known(gateway, "expecting"), what="the task is known")
    interim = asyncio.ensure_future(client.head())
    assert (await gateway.status("expecting"))["extensions"]["queue_position"] == 1
    assert not interim.done()
    served.finish()
    assert (await within(30, interim)).status == 100
    await client.send(BODY)
    await served.has_seen(2)
    served.finish()
    assert (await within(30, client.answer("POST"))).status == 200


async def test_500_requests_of_three_keys_with_all_endings_never_exceed_the_bound_and_lose_no_place(
    launch: Launch, store: Store, upstream: Upstream
) -> None:
    """The upstream never sees five at once; each task has a true end; afterwards exactly four run again."""
    chance, served = random.Random(15), ServedStreams()
    upstream.default = served
    gateway = await launch(
        REDIS_URL=store.url, MAX_RUNNING="4", MAX_QUEUED="40", GATEWAY_API_KEYS=f"{ALL_KEYS},admin:sk-of-the-admin"
    )
    admin = {"Authorization": "Bearer sk-of-the-admin"}
    done = asyncio.Event()

    async def one_request(number: int) -> str:
        owner = chance.choice(list(KEYS))
        timeout: list[Field] = [(b"X-Task-Start-Timeout", b"1")] if chance.random() < 0.1 else []
        asked = await ask(gateway, *timeout, owner=owner, prefix=f"all-{number}")
        match chance.random():
            case x if x < 0.15:
                asked.client.reset()
            case x if x < 0.3:
                await gateway.http.post(f"/tasks/{asked.task_id}/cancel", headers=admin)
        await asyncio.wait([asked.answer], timeout=60)
        assert asked.answer.done()
        if asked.answer.exception() is None and asked.answer.result().status == 429:
            return "refused"
        return asked.task_id

    serving = asyncio.ensure_future(served.finish_by_chance(chance, done))
    tasks: list[str] = []
    for start in range(0, 500, 60):
        tasks += await asyncio.gather(*(one_request(number) for number in range(start, min(start + 60, 500))))
    done.set()
    await serving
    assert served.most == 4
    ids = [task for task in tasks if task != "refused"]
    assert len(ids) > 300

    async def page() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = (await gateway.http.get("/tasks/status?limit=1000", headers=admin)).json()[
            "items"
        ]
        return [one for one in found if one["task_id"] in set(ids)]

    await until(lambda: have_ended(page), what="each has its end")
    assert len({outcome(one)[2] for one in await page()}) >= 4, "all kinds of ends came"
    upstream.default = after = Served()
    asked = [await ask(gateway, owner=chance.choice(list(KEYS)), prefix="after") for _ in range(6)]
    await after.holds(4)
    for _ in asked:
        await until(lambda: bool(after.here), what="one is here")
        after.finish()
        await until(lambda: after.seen == 6 or len(after.here) == 4, what="the next one is here")
    answers = [await within(30, one.answer) for one in asked]
    assert ([answer.status for answer in answers], after.most) == ([200] * 6, 4)


async def have_ended(page: Any) -> bool:
    """Whether all tasks of the page have a final state."""
    return all(one["state"] in ("SUCCESS", "FAILED") for one in await page())
