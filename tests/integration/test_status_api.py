"""Owns the promises of the status routes: one document, the list, their errors, and what they cost the store.

Contract sections 4.11 to 4.13. Lists are looked at on a gateway of their own, so that no other test's tasks
are in them.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.outcome import DONE, outcome
from tests.support.schema import faults
from tests.support.scripted import answering
from tests.support.waiting import next_millisecond, until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


CHAT = "/v1/chat/completions"


@pytest.fixture(params=["store", "in-process"])
async def fresh(request: pytest.FixtureRequest, launch: Launch, new_store: NewStore) -> Gateway:
    """A gateway without any task yet, once over a store of its own and once without a store."""
    settings = {"REDIS_URL": (await new_store()).url} if request.param == "store" else {}
    return await launch(**settings)


async def make(gateway: Gateway, *task_ids: str) -> None:
    """One finished task per id, each created in a later millisecond than the one before."""
    client = await gateway.connect()
    for task_id in task_ids:
        await next_millisecond()
        answer = await client.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
        assert answer.body.complete
    await client.close()


async def listed(gateway: Gateway, **params: Any) -> dict[str, Any]:
    """One page of the list."""
    answer = await gateway.http.get("/tasks/status", params=params)
    assert answer.status_code == 200, answer.text
    page: dict[str, Any] = answer.json()
    assert page.keys() == {"items", "count", "next_cursor"}
    assert page["count"] == len(page["items"])
    return page


async def walk(gateway: Gateway, **params: Any) -> list[dict[str, Any]]:
    """All pages of the list."""
    pages = [await listed(gateway, **params)]
    while (cursor := pages[-1]["next_cursor"]) is not None:
        pages.append(await listed(gateway, cursor=cursor, **params))
    return pages


def ids(page: dict[str, Any]) -> list[str]:
    """The task ids of a page, in its order."""
    return [item["task_id"] for item in page["items"]]


async def test_an_unknown_id_is_404_with_a_detail(gateway: Gateway, fresh_id: str) -> None:
    """An id that no one used is 404 with a JSON detail."""
    answer = await gateway.http.get(f"/tasks/status/{fresh_id}")
    assert answer.status_code == 404
    assert answer.json().keys() == {"detail"}
    assert isinstance(answer.json()["detail"], str)


@pytest.mark.parametrize(
    "bad", ["-a", "a%20b", "a%00b", "caf%C3%A9", "x" * 129, "a%0Ab", ".", "..%5c", "a$b", "%7Bid%7D"]
)
async def test_a_malformed_id_is_400(gateway: Gateway, bad: str) -> None:
    """An id that no task can have is 400, never 404 and never 500."""
    answer = await gateway.ask("GET", f"/tasks/status/{bad}")
    assert answer.status == 400


async def test_the_list_is_empty_at_first(fresh: Gateway) -> None:
    """Without a task the list is empty and has no next page."""
    assert await listed(fresh) == {"items": [], "count": 0, "next_cursor": None}


async def test_the_list_is_newest_first_and_exact(fresh: Gateway) -> None:
    """All tasks, newest first, each the document that the single route answers."""
    made = [f"task-{number:03}" for number in range(30)]
    await make(fresh, *made)
    page = await listed(fresh)
    assert ids(page) == made[::-1]
    assert page["next_cursor"] is None
    assert page["items"][0] == await fresh.status(made[-1])


async def test_the_limit_cuts_and_the_cursor_goes_on(fresh: Gateway) -> None:
    """Pages of a limit follow each other without gap or double, the last one has no cursor."""
    made = [f"task-{number:03}" for number in range(23)]
    await make(fresh, *made)
    pages = await walk(fresh, limit=7)
    assert [task_id for page in pages for task_id in ids(page)] == made[::-1]
    assert [page["count"] for page in pages] == [7, 7, 7, 2]


async def test_the_default_limit_is_fifty(fresh: Gateway) -> None:
    """Without a limit a page holds the newest fifty."""
    made = [f"task-{number:03}" for number in range(55)]
    await make(fresh, *made)
    page = await listed(fresh)
    assert ids(page) == made[:4:-1]
    assert ids(await listed(fresh, limit=1000)) == made[::-1]
    assert ids(await listed(fresh, limit=1)) == [made[-1]]


async def test_walking_on_while_tasks_arrive(fresh: Gateway) -> None:
    """A walk sees each task that was there at its start exactly once, however many come meanwhile."""
    made = [f"task-{number:03}" for number in range(20)]
    await make(fresh, *made)
    page = await listed(fresh, limit=3)
    found, number = ids(page), 0
    while page["next_cursor"] is not None:
        number += 1
        await make(fresh, f"late-{number}")
        page = await listed(fresh, limit=3, cursor=page["next_cursor"])
        found += ids(page)
    assert found == made[::-1]


async def test_the_state_filters(fresh: Gateway, upstream: Upstream) -> None:
    """`state` gives the tasks of that state only, newest first, and exactly."""
    await make(fresh, "good-1")
    upstream.then(answering(500, body=b"no"), answering(200, body=b"{}"), answering(404, body=b"no"))
    await make(fresh, "bad-1", "good-2", "bad-2")
    stream = upstream.gated()
    await next_millisecond()
    client = await fresh.send("POST", CHAT, (b"X-Task-Id", b"now"), body=b"{}")
    stream.head()
    await client.head()
    assert ids(await listed(fresh, state="SUCCESS")) == ["good-2", "good-1"]
    assert ids(await listed(fresh, state="FAILED")) == ["bad-2", "bad-1"]
    assert ids(await listed(fresh, state="RUNNING")) == ["now"]
    assert ids(await listed(fresh, state="PENDING")) == []
    assert ids(await listed(fresh)) == ["now", "bad-2", "good-2", "bad-1", "good-1"]
    stream.piece(b"data: [DONE]\n\n")
    await client.up_to(b"[DONE]")
    assert ids(await listed(fresh, state="RUNNING")) == []
    assert ids(await listed(fresh, state="SUCCESS")) == ["now", "good-2", "good-1"]
    stream.end()


async def test_a_filtered_walk_is_exact(fresh: Gateway, upstream: Upstream) -> None:
    """Pages of a filtered list are full, without gap or double."""
    upstream.default = answering(200, body=b"{}")
    made = [f"task-{number:03}" for number in range(24)]
    for task_id in made:
        upstream.then(answering(500 if int(task_id[-3:]) % 3 == 0 else 200, body=b"{}"))
        await make(fresh, task_id)
    pages = await walk(fresh, limit=3, state="FAILED")
    assert [page["count"] for page in pages[:-1]] == [3] * (len(pages) - 1)
    assert [task_id for page in pages for task_id in ids(page)] == made[21::-3]


async def test_a_new_attempt_is_a_new_creation(fresh: Gateway) -> None:
    """An id used again moves to the top and is listed once."""
    await make(fresh, "one", "two", "three", "one")
    page = await listed(fresh)
    assert ids(page) == ["one", "three", "two"]
    assert page["items"][0]["extensions"]["attempt"] == 2


async def test_tasks_made_at_once_are_all_listed(fresh: Gateway) -> None:
    """Forty tasks in parallel are each listed once, by creation and by id where that is the same."""
    await asyncio.gather(*(make(fresh, f"task-{number:03}") for number in range(40)))
    page = await listed(fresh)
    assert sorted(ids(page)) == [f"task-{number:03}" for number in range(40)]
    order = [(item["extensions"]["created_ms"], item["task_id"]) for item in page["items"]]
    assert [created for created, _ in order] == sorted((created for created, _ in order), reverse=True)
    assert [task_id for part in await walk(fresh, limit=9) for task_id in ids(part)] == ids(page)


BAD_PARAMETERS = [
    "limit=0", "limit=-1", "limit=1001", "limit=abc", "limit=1.5", "limit=99999999999999999999",
    "state=FOO", "state=success", "state=SUCCESS%00", "cursor=garbage", "cursor=%00", "cursor=" + "9" * 400,
]  # fmt: skip


@pytest.mark.parametrize("query", BAD_PARAMETERS)
async def test_bad_parameters_are_422(gateway: Gateway, query: str) -> None:
    """A limit, state or cursor that means nothing is 422."""
    answer = await gateway.http.get(f"/tasks/status?{query}")
    assert answer.status_code == 422, answer.text


async def test_empty_parameters_are_as_if_left_out(gateway: Gateway) -> None:
    """`state=&cursor=` is the plain list."""
    answer = await gateway.http.get("/tasks/status?limit=50&state=&cursor=")
    assert answer.status_code == 200, answer.text


async def test_no_scan_and_no_keys(launch: Launch, new_store: NewStore) -> None:
    """Relaying, reading and listing cost no SCAN and no KEYS."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await listed(gateway)  # the lists of a new store are begun: that looks for documents
    await store.client.config_resetstat()
    await make(gateway, *[f"task-{number}" for number in range(20)])
    await gateway.status("task-1")
    page = await listed(gateway, limit=5)
    await listed(gateway, limit=5, cursor=page["next_cursor"])
    await listed(gateway, limit=5, state="FAILED")
    commands = await store.commands()
    assert {"evalsha", "get"} <= commands
    assert [name for name in commands if "scan" in name or name in ("keys", "flushdb", "flushall")] == []


async def test_a_list_that_is_being_rebuilt_is_503(launch: Launch, new_store: NewStore) -> None:
    """The answer says so and when to come again; statuses are answered meanwhile, and then the list is whole."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await make(gateway, "one", "two")
    await until(gateway.is_saved, what="the store has both")
    await listed(gateway)
    await store.client.set("tsx:ollama:rebuild", "another gateway", ex=60)
    await store.client.delete("tsx:ollama:2:SUCCESS")
    answer = await gateway.http.get("/tasks/status")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert answer.json()["detail"] == "the list is being rebuilt; try again in a moment"
    assert (await gateway.status("one"))["state"] == "SUCCESS"
    assert (await gateway.http.get("/readyz")).json()["status"] == "ready"
    await store.client.delete("tsx:ollama:rebuild")
    assert {task["task_id"] for task in (await listed(gateway))["items"]} == {"one", "two"}


async def test_the_list_survives_a_document_that_vanished(launch: Launch, new_store: NewStore) -> None:
    """A key that expired or was deleted is left out of the list, and the page is still full."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await make(gateway, "one", "two", "three", "four")
    await until(gateway.is_saved, what="the store has all")
    await store.client.delete("ts:ollama:three")
    assert ids(await listed(gateway)) == ["four", "two", "one"]
    assert ids(await listed(gateway, limit=2)) == ["four", "two"]


async def test_statuses_outlive_their_gateway(launch: Launch, store: Any, fresh_id: str) -> None:
    """Another instance with the same store answers for a task that this one ran."""
    first, second = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    await make(first, fresh_id)
    assert await second.ended(fresh_id) == await first.status(fresh_id)


async def test_a_list_that_is_known_is_304(fresh: Gateway) -> None:
    """A list has an ETag, too: 304 without a body while nothing in the page has changed, else 200 with a new one."""
    await make(fresh, "one", "two")
    first = await fresh.http.get("/tasks/status")
    known = {"If-None-Match": first.headers["ETag"]}
    again = await fresh.http.get("/tasks/status", headers=known)
    assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert (await fresh.http.get("/tasks/status", params={"limit": 1}, headers=known)).status_code == 200
    await make(fresh, "three")
    later = await fresh.http.get("/tasks/status", headers=known)
    assert (later.status_code, later.json()["count"]) == (200, 3)
    assert later.headers["ETag"] != first.headers["ETag"]


async def test_openapi_describes_the_routes_and_their_answers(gateway: Gateway, fresh_id: str) -> None:
    """/openapi.json names the status routes, and their real answers are what its schemas say."""
    spec = (await gateway.http.get("/openapi.json")).json()
    await make(gateway, fresh_id)
    paths = {path.replace("{task_id}", fresh_id): item for path, item in spec["paths"].items()}
    for path in (f"/tasks/status/{fresh_id}", "/tasks/status"):
        described = paths[path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
        assert described, path
        answer = await gateway.http.get(path)
        assert faults(answer.json(), described, spec) == []
        assert faults({"nonsense": 1}, described, spec) != []
    assert {"/livez", "/readyz"} <= spec["paths"].keys()
    parameters = {entry["name"] for entry in paths["/tasks/status"]["get"]["parameters"]}
    assert {"limit", "state", "cursor"} <= parameters


async def test_the_status_routes_are_no_tasks(fresh: Gateway) -> None:
    """Asking for statuses, health and schema makes no tasks."""
    for path in ("/tasks/status", "/tasks/status/x", "/livez", "/readyz", "/openapi.json", "/nothing"):
        await fresh.http.get(path)
    assert ids(await listed(fresh)) == []


async def test_the_store_may_go_and_come_back(launch: Launch, new_store: NewStore, upstream: Upstream) -> None:
    """Without its store the gateway relays on and says no false 404; statuses appear when it is back."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await make(gateway, "before")
    await store.kill()
    for number in range(5):
        answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", b"while-%d" % number), body=b"{}")
        assert (answer.status, answer.data) == (200, b"{}")
    unknown = await gateway.http.get("/tasks/status/unknown-one")
    assert unknown.status_code == 503
    assert int(unknown.headers["retry-after"]) > 0
    await store.start()

    async def is_stored() -> bool:
        await make(gateway, "after")
        return await store.raw("after") is not None

    await until(is_stored, 15, "statuses reach the store again")
    for task_id in ("after", "while-0", "while-4"):
        assert outcome(await gateway.status(task_id)) == DONE
        assert outcome(await store.ended(task_id)) == DONE


ASKED_ELSEWHERE = [
    ("GET", "/tasks/status/unknown"),
    ("GET", "/tasks/status/unknown?wait=1"),
    ("GET", "/tasks/status"),
    ("GET", "/tasks/status?label=a"),
    ("GET", "/tasks/unknown/response"),
    ("DELETE", "/tasks/unknown/response"),
    ("POST", "/tasks/unknown/cancel"),
    ("POST", "/tasks/cancel?label=a"),
]


async def test_clients_do_not_learn_the_address_of_the_store(launch: Launch, new_store: NewStore) -> None:
    """Each 503 for want of the store says what has failed. Only the log has the address."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    await store.kill()
    port = str(store.port)

    async def is_refused() -> bool:
        answer = await gateway.http.get("/tasks/status/unknown")
        assert port not in answer.text
        return answer.status_code == 503 and "the status store is away: connection refused" in answer.text

    await until(is_refused, what="the gateway knows that the store is away")
    for method, target in ASKED_ELSEWHERE:
        answer = await gateway.http.request(method, target)
        assert (answer.status_code, port in answer.text, "127.0.0.1" in answer.text) == (503, False, False), answer.text
    await until(lambda: re.search(rf"the store is away \(.*:{port}", gateway.log), what="the log names the address")
    await store.start()


async def test_a_store_that_comes_late_is_used(launch: Launch, new_store: NewStore) -> None:
    """A gateway that starts without its store serves at once and uses the store as soon as it is there."""
    store = await new_store()
    await store.kill()
    gateway = await launch(REDIS_URL=store.url)
    await make(gateway, "early")
    await store.start()

    async def is_stored() -> bool:
        await make(gateway, "late")
        return await store.raw("late") is not None

    async def is_unknown() -> bool:
        return (await gateway.http.get("/tasks/status/unknown-one")).status_code == 404

    await until(is_stored, what="statuses reach the store")
    await until(is_unknown, what="the store is asked")
