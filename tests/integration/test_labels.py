"""Owns what a label promises: the list of its tasks is exact, and one call cancels all that are in flight.

Contract section 4.3, 4.11 and 4.15. The lists in the store are in tests/unit/store/test_labels.py.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from gateway.store.redis import RedisStore
from gateway.tasks.stages import Stage
from tests.support.outcome import DONE, outcome
from tests.support.records import put, record
from tests.support.scripted import JSON, answering
from tests.support.served import Served
from tests.support.terminal import said
from tests.support.waiting import until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
CANCELLED = ("FAILED", "cancelled", "cancelled")
KEYS = {name: f"sk-of-a-label-{name}" for name in ("alice", "bob", "admin")}
ALL_KEYS = ",".join(f"{name}:{key}" for name, key in KEYS.items())
BAD = ["", "a b", "\u00e9", "x" * 129, "a\tb", "\x7f"]


@pytest.fixture
def label() -> str:
    """A label that no task has, with all that is special in a query, in a key or in JSON."""
    return f"job:{uuid.uuid4()}@#&+%\"\\'/?=~!"


@pytest_asyncio.fixture(loop_scope="session")
async def served(upstream: Upstream) -> Served:
    """An upstream that answers when the test says so."""
    upstream.default = Served()
    return upstream.default


def key_of(owner: str) -> dict[str, str]:
    """The field of a key; none without an owner."""
    return {"Authorization": f"Bearer {KEYS[owner]}"} if owner else {}


async def listed(gateway: Gateway, label: str, owner: str = "", limit: int = 1000) -> list[str]:
    """The ids of all pages of a label, newest first."""
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"label": label, "limit": str(limit), "cursor": cursor}
        answer = await gateway.http.get("/tasks/status", params=query, headers=key_of(owner))
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert {item["extensions"]["label"] for item in page["items"]} <= {label}
        assert page["count"] == len(page["items"]) <= limit
        found += [item["task_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    return found


async def cancel(gateway: Gateway, label: str, owner: str = "") -> httpx.Response:
    """Asks a gateway to end all tasks of a label."""
    return await gateway.http.post("/tasks/cancel", params={"label": label}, headers=key_of(owner))


async def served_at_once(gateway: Gateway, task_id: str, label: str = "", owner: str = "") -> None:
    """A task that is over; the upstream has to answer at once."""
    fields: list[Field] = [(b"X-Task-Id", task_id.encode()), (b"X-Task-Label", label.encode())]
    fields += [(name.encode(), value.encode()) for name, value in key_of(owner).items()]
    assert (await gateway.ask("POST", CHAT, *fields, body=b"{}")).status == 200


class Running:
    """Tasks in flight, each on a connection of its own."""

    def __init__(self) -> None:
        self.answers: dict[str, asyncio.Future[Any]] = {}

    async def begin(self, gateway: Gateway, label: str, owner: str = "") -> str:
        """Sends a request; returns its id once the gateway knows it."""
        task_id = f"labelled-{uuid.uuid4()}"
        fields: list[Field] = [(b"X-Task-Id", task_id.encode()), (b"X-Task-Label", label.encode())]
        fields += [(name.encode(), value.encode()) for name, value in key_of(owner).items()]
        client = await gateway.connect()
        await client.send(request("POST", CHAT, *fields, body=b"{}"))
        self.answers[task_id] = asyncio.ensure_future(client.answer("POST"))

        async def is_known() -> bool:
            answer = await gateway.http.get(f"/tasks/status/{task_id}", headers=key_of(owner))
            return answer.status_code == 200

        await until(is_known, what="the task is known")
        return task_id

    async def statuses(self, task_ids: list[str]) -> list[int]:
        """The HTTP statuses that these clients got."""
        return [(await within(30, self.answers[task_id], "an answer")).status for task_id in task_ids]


async def in_store(store: Store, task_ids: list[str]) -> list[tuple[str, str, str | None]]:
    """How these tasks stand in the store."""
    return [outcome(await store.document(task_id)) for task_id in task_ids]


# -- the filter --


@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_the_list_of_a_label_is_exact(
    gateway: Gateway, upstream: Upstream, label: str, fresh_id: str, limit: int
) -> None:
    """Page by page, newest first: each task that has the label, once, and no other."""
    upstream.default = answering(200, JSON, body=b"{}")
    labels = [label, "", label, label + "x", label[:-1], label, ""]
    for number, one in enumerate(labels):
        await served_at_once(gateway, f"{fresh_id}-{number}", one)
    assert await listed(gateway, label, limit=limit) == [f"{fresh_id}-{number}" for number in (5, 2, 0)]
    assert await listed(gateway, label + "x", limit=limit) == [f"{fresh_id}-3"]
    assert await listed(gateway, label + "yz", limit=limit) == []


async def test_a_new_attempt_has_its_own_label(gateway: Gateway, upstream: Upstream, label: str, fresh_id: str) -> None:
    """An id that is used again is in the list of the label that it has now, at its new place."""
    upstream.default = answering(200, JSON, body=b"{}")
    for number, one in enumerate([label, label + "2", "", label]):
        await served_at_once(gateway, fresh_id, one)
        await served_at_once(gateway, f"{fresh_id}-{number}", label)
        others = [f"{fresh_id}-{n}" for n in range(number, -1, -1)]
        at = [others[0], fresh_id, *others[1:]] if one == label else others
        assert await listed(gateway, label) == at
        assert await listed(gateway, label + "2") == [fresh_id] * (one == label + "2")


@pytest.mark.parametrize("bad", BAD)
async def test_what_cannot_be_a_label_is_422(gateway: Gateway, bad: str) -> None:
    """For the list and for cancel, and the answer names the parameter."""
    for answer in (await gateway.http.get("/tasks/status", params={"label": bad}), await cancel(gateway, bad)):
        assert answer.status_code == 422, answer.text
        assert answer.json()["detail"][0]["loc"] == ["query", "label"]


async def test_state_and_label_at_once_are_422(gateway: Gateway, label: str) -> None:
    """The answer says so; an empty state is none."""
    answer = await gateway.http.get("/tasks/status", params={"label": label, "state": "RUNNING"})
    assert answer.status_code == 422
    assert "not both" in answer.json()["detail"][0]["msg"]
    answer = await gateway.http.get("/tasks/status", params={"label": label, "state": ""})
    assert (answer.status_code, answer.json()["items"]) == (200, [])


async def test_a_key_sees_its_own_tasks_of_a_label(
    gateways: Launch, store: Store, upstream: Upstream, label: str, fresh_id: str
) -> None:
    """`admin` sees all."""
    keyed = await gateways(REDIS_URL=store.url, GATEWAY_API_KEYS=ALL_KEYS)
    upstream.default = answering(200, JSON, body=b"{}")
    for number, owner in enumerate(["alice", "bob", "admin", "alice"]):
        await served_at_once(keyed, f"{fresh_id}-{number}", label, owner)
    assert await listed(keyed, label, "alice", limit=1) == [f"{fresh_id}-3", f"{fresh_id}-0"]
    assert await listed(keyed, label, "bob") == [f"{fresh_id}-1"]
    assert await listed(keyed, label, "admin", limit=3) == [f"{fresh_id}-{number}" for number in (3, 2, 1, 0)]


async def cheapest(store: Store, ask: Callable[[], Awaitable[object]]) -> tuple[int, int]:
    """How many GETs and script calls a question costs. Now and then a look of the gateway's falls into it."""
    costs = []
    for _ in range(3):
        await store.client.config_resetstat()
        await ask()
        calls = await store.client.info("commandstats")
        costs.append(tuple(calls.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("get", "evalsha")))
        assert not {"scan", "keys"} & await store.commands()
    return min(gets for gets, _ in costs), min(scripts for _, scripts in costs)


async def test_a_page_costs_the_same_among_many(launch: Launch, new_store: NewStore, label: str) -> None:
    """A page of 50 of 3,000 tasks with one label is a script call and the documents, without SCAN or KEYS.

    A call that cancels by the label reads the documents in flight alone. No other gateway looks into this store.
    """
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    writer = RedisStore(store.url, boot="writer-1", longest_ttl_seconds=3600)
    for start in range(0, 3000, 250):
        tasks = (record(f"{label[4:40]}-{n}", Stage.DONE, created_ms=n, label=label) for n in range(start, start + 250))
        await put(writer, list(tasks))
    await writer.close()
    await listed(gateway, label, limit=1000)

    async def page() -> None:
        answer = await gateway.http.get("/tasks/status", params={"label": label})
        assert answer.json()["count"] == 50

    async def cancels() -> None:
        assert (await cancel(gateway, label)).json() == {"cancelled": 0}

    gets, scripts = await cheapest(store, page)
    assert gets <= 60
    assert scripts <= 4, "the page, and a look or two"
    gets, scripts = await cheapest(store, cancels)
    assert gets <= 100
    assert scripts <= 5, "the two lists, and a look or two"


# -- cancelling --


async def test_thirty_tasks_at_two_gateways_end(
    launch: Launch, store: Store, served: Served, upstream: Upstream, label: str
) -> None:
    """Running and waiting ones, of the label alone; the upstream never sees one that waits, and the next ones run."""
    gateways = [await launch(REDIS_URL=store.url, MAX_RUNNING="1") for _ in range(2)]
    running = Running()
    ours = [await running.begin(gateway, label) for gateway in gateways for _ in range(15)]
    others = [await running.begin(gateway, one) for gateway in gateways for one in (label + "x", "")]
    await served.holds(2)
    states = [state for state, _, _ in await in_store(store, ours)]
    assert (states.count("RUNNING"), states.count("PENDING")) == (2, 28)
    answer = await cancel(gateways[0], label)
    assert (answer.status_code, answer.json()) == (200, {"cancelled": 30})
    assert await running.statuses(ours) == [499] * 30
    for task_id in ours:
        assert outcome(await gateways[1].ended(task_id)) == CANCELLED
    await served.has_seen(4)
    assert served.seen == 4, "two of the label, and the next of each gateway"
    assert (await cancel(gateways[1], label)).json() == {"cancelled": 0}
    for seen in (4, 6):
        await served.has_seen(seen)
        await served.holds(2)
        served.finish()
        served.finish()
    assert await running.statuses(others) == [200] * 4
    assert await listed(gateways[0], label) == ours[::-1]


async def test_without_a_store_it_ends_the_own_ones(launch: Launch, served: Served, label: str) -> None:
    """The number is right, and ended tasks do not count."""
    gateway = await launch(MAX_RUNNING="1")
    running = Running()
    done = await running.begin(gateway, label)
    await served.holds(1)
    served.finish()
    assert await running.statuses([done]) == [200]
    ours = [await running.begin(gateway, label) for _ in range(3)]
    other = await running.begin(gateway, label + "x")
    await served.holds(1)
    assert (await cancel(gateway, label)).json() == {"cancelled": 3}
    assert await running.statuses(ours) == [499] * 3
    await served.has_seen(3)
    served.finish()
    assert await running.statuses([other]) == [200]
    assert outcome(await gateway.status(done)) == DONE


async def test_a_key_cancels_its_own(launch: Launch, store: Store, served: Served, label: str) -> None:
    """Here and at another gateway; `admin` cancels all."""
    gateways = [await launch(REDIS_URL=store.url, GATEWAY_API_KEYS=ALL_KEYS) for _ in range(2)]
    running = Running()
    tasks = {
        owner: [await running.begin(gateway, label, owner) for gateway in gateways for _ in range(2)]
        for owner in ("alice", "bob")
    }
    await served.holds(8)
    assert (await cancel(gateways[0], label, "bob")).json() == {"cancelled": 4}
    assert await running.statuses(tasks["bob"]) == [499] * 4
    await served.holds(4)
    assert [state for state, _, _ in await in_store(store, tasks["alice"])] == ["RUNNING"] * 4

    async def none_is_left() -> bool:
        return bool((await cancel(gateways[0], label, "bob")).json() == {"cancelled": 0})

    await until(none_is_left, what="the store has the ends of all of bob's")
    assert (await cancel(gateways[1], label, "admin")).json() == {"cancelled": 4}
    assert await running.statuses(tasks["alice"]) == [499] * 4
    assert (await gateways[0].http.post("/tasks/cancel", params={"label": label})).status_code == 401


async def test_without_a_label_nothing_is_cancelled(gateway: Gateway) -> None:
    """422 names the parameter; looking at the address ends nothing; a task may be called `cancel`."""
    answer = await gateway.http.post("/tasks/cancel")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", "label"])
    answer = await gateway.http.get("/tasks/cancel", params={"label": "x"})
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    assert (await gateway.http.post("/tasks/cancel/cancel")).status_code == 404


async def test_with_the_store_away_the_own_ones_end_and_it_is_said(
    launch: Launch, new_store: NewStore, served: Served, label: str
) -> None:
    """503 with Retry-After, because other gateways cannot be asked; the detail has the number of the own ones."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    running = Running()
    ours = [await running.begin(gateway, label) for _ in range(2)]
    other = await running.begin(gateway, "")
    await served.holds(3)
    await store.kill()
    answer = await cancel(gateway, label)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert "2 of this gateway's own tasks were cancelled" in answer.json()["detail"]
    assert await running.statuses(ours) == [499] * 2
    await served.holds(1)
    served.finish()
    assert await running.statuses([other]) == [200]


# -- the terminal --


async def test_the_terminal_knows_labels(tracked: Gateway, served: Served, label: str) -> None:
    """`tasks --label` lists them, `cancel --label` ends those in flight, and both say wrong usage."""
    settings = {"GATEWAY_PORT": str(tracked.port)}
    running = Running()
    ours = [await running.begin(tracked, label) for _ in range(2)]
    await served.holds(2)
    found = await said("tasks", "--label", label, "--json", **settings)
    assert [item["task_id"] for item in found.json["items"]] == ours[::-1]
    found = await said("cancel", "--label", label, **settings)
    assert (found.code, found.out) == (0, "asked 2 tasks to end\n")
    assert await running.statuses(ours) == [499] * 2
    found = await said("cancel", "--label", label, "--json", **settings)
    assert (found.code, found.json) == (0, {"cancelled": 0})
    wrong = [
        ("tasks", "--label", "a b"), ("tasks", "--label", label, "--state", "RUNNING"), ("cancel", "--label", ""),
        ("cancel", "some-id", "--label", label), ("cancel",),
    ]  # fmt: skip
    for words in wrong:
        assert (await said(*words, **settings)).code == 2, words
