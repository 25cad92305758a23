"""What records that others forged do to a gateway: requests, statuses, lists, metrics and the terminal go on.

Each field of a document in every wrong shape lies in a real store.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks.document import fields_of
from gateway.tasks.stages import Stage
from tests.support.forged import FIELDS, KINDS, LISTS, all_documents, document, forge_document, forge_key, with_shape
from tests.support.scripted import Gated
from tests.support.store import DOCUMENTS
from tests.support.terminal import said
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.alone  # an answer of the store that comes after 250 ms would count as away


CHAT = "/v1/chat/completions"
CREATED_MS = int(time.time() * 1000) - 60_000
FORGED = dict(all_documents(CREATED_MS))
MALFORMED = {task_id for task_id, text in FORGED.items() if fields_of(text, task_id) is None}


@pytest.fixture
async def forged(new_store: NewStore) -> Store:
    """A store full of them, each listed, and taken for a task in flight that is silent."""
    store = await new_store()
    for task_id, text in FORGED.items():
        await forge_document(store.client, task_id, text, CREATED_MS)
        await store.client.zadd(LISTS + "beats", {task_id: 1})
    return store


@pytest.fixture
async def gateway(forged: Store, launch: Launch) -> AsyncIterator[Gateway]:
    """A gateway in front of it; at the end its log has no traceback and the store was never away."""
    gateway = await launch(REDIS_URL=forged.url, HEARTBEAT_SEC="1")
    yield gateway
    gateway.check_log()
    assert "the store is away" not in gateway.log


async def ask(gateway: Gateway, task_id: str) -> dict[str, Any]:
    """A request with this id, and its final status."""
    answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
    assert answer.status == 200, task_id
    return await gateway.ended(task_id)


async def test_lists_leave_them_out_and_say_so(gateway: Gateway) -> None:
    """A list holds what has the shape alone, `skipped` says how many it left out, and each of them is 404."""
    await ask(gateway, "good")
    page = (await gateway.http.get("/tasks/status?limit=1000")).json()
    found = {task["task_id"] for task in page["items"]}
    assert found == {"good"} | (FORGED.keys() - MALFORMED)
    assert (page["count"], page["skipped"]) == (len(found), len(MALFORMED))
    for task_id in sorted(MALFORMED)[::25]:
        assert (await gateway.http.get(f"/tasks/status/{task_id}")).status_code == 404
        assert (await gateway.http.post(f"/tasks/{task_id}/cancel")).status_code == 404


async def test_a_list_without_them_says_nothing(launch: Launch, new_store: NewStore) -> None:
    """Where nothing was left out there is no `skipped`."""
    gateway = await launch(REDIS_URL=(await new_store()).url)
    await ask(gateway, "good")
    assert (await gateway.http.get("/tasks/status")).json().keys() == {"items", "count", "next_cursor"}


async def test_their_ids_can_be_used(gateway: Gateway) -> None:
    """A request with the id of any of them is served, and its status takes the place of what stood there."""
    for task_id in sorted(MALFORMED)[::10]:
        document = await ask(gateway, task_id)
        assert (document["state"], document["task_id"]) == ("SUCCESS", task_id)
        assert 1 <= document["extensions"]["attempt"] <= 2**31


async def test_one_over_a_running_task_is_replaced(gateway: Gateway, forged: Store, upstream: Upstream) -> None:
    """Whatever is put in a running task's place, the next heartbeat or read puts its status back."""
    upstream.then(stream := Gated())
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", b"run"), body=b"{}")
    stream.head()
    await client.head()
    for field in FIELDS:
        await forged.client.set(DOCUMENTS + "run", with_shape("run", field, {}))

        async def is_back() -> bool:
            return fields_of(await forged.raw("run") or "", "run") is not None

        await until(is_back, what=f"after a forged {field}")
        assert (await gateway.status("run"))["stage"] == "streaming"
    await client.close()
    assert (await gateway.ended("run"))["stage"] == "cancelled"


async def test_keys_of_another_type_stop_nothing(gateway: Gateway, forged: Store) -> None:
    """Each key of the list in each type: requests are served and listed, statuses told, and the store is not away."""
    for number, kind in enumerate(KINDS):
        for name in ("all", "SUCCESS", "entry", "expiry", "beats", "cancels"):
            await forge_key(forged.client, LISTS + name, kind)
            await ask(gateway, f"{name}-{number}-asked")
            page = (await gateway.http.get("/tasks/status?limit=5&state=SUCCESS")).json()
            assert page["items"][0]["task_id"] == f"{name}-{number}-asked"
    assert (await gateway.http.get("/readyz")).json()["store"] == "up"


async def test_metrics_and_readiness_go_on(gateway: Gateway) -> None:
    """They tell of a store that is up."""
    await ask(gateway, "good")
    assert (await gateway.http.get("/metrics")).status_code == 200
    assert (await gateway.http.get("/readyz")).json()["store"] == "up"


async def test_the_terminal_goes_on(gateway: Gateway) -> None:
    """The table shows what has the shape and says what was left out; a forged task is none; no escape gets through."""
    await ask(gateway, "good")
    table = await said("tasks", "--limit", "1000", GATEWAY_PORT=str(gateway.port))
    assert table.code == 0
    assert "good" in table.out
    assert f"left out: {len(MALFORMED)} malformed records in the store" in table.out
    assert "\x1b" not in table.out + table.error
    assert (await said("status", "stage-3", GATEWAY_PORT=str(gateway.port))).code == 4
    shown = await said("status", "message-11", GATEWAY_PORT=str(gateway.port))
    assert "\x1b" not in shown.out
    as_json = await said("tasks", "--json", "--limit", "1000", GATEWAY_PORT=str(gateway.port))
    assert as_json.json["skipped"] == len(MALFORMED)


async def test_the_version_befores_documents_are_read(gateway: Gateway, forged: Store) -> None:
    """With a fraction in the timestamp and without the later extensions they are listed, shown, and counted on."""
    before = document("before", Stage.DONE, created_ms=int(time.time() * 1000))
    before["timestamp"] = 1795387183.266
    for added in ("boot", "owner", "lost_after_ms"):
        del before["extensions"][added]
    await forge_document(forged.client, "before", json.dumps(before), before["extensions"]["created_ms"])
    assert await gateway.status("before") == before
    listed = (await gateway.http.get("/tasks/status?limit=1000")).json()["items"]
    assert before in listed
    assert (await said("status", "before", GATEWAY_PORT=str(gateway.port))).code == 0
    assert (await ask(gateway, "before"))["extensions"]["attempt"] == 2
