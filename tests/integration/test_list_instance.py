"""`GET /tasks/status?scope=instance`: the tasks that one gateway itself knows, as they are now, without the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import OTHER
from tests.integration.test_api_keys import ADMIN, ALICE, BOB, KEYS, bearer
from tests.integration.test_status_plain import QUIET, by_fastapi, ended
from tests.integration.test_store_rights import store_is
from tests.support.scripted import Gated
from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

OWN = "/tasks/status?scope=instance"


async def listed(gateway: Gateway, query: str = "", *fields: Field) -> dict[str, Any]:
    """The page of one question. Both ways of answering list the same tasks; clocks may go on between them."""
    plain, general = [
        await gateway.ask("GET", by_fastapi(OWN + query) if odd else OWN + query, *fields) for odd in (0, 1)
    ]
    assert (plain.status, general.status) == (200, 200), plain.data
    page: dict[str, Any] = plain.json()
    assert ids(page) == ids(general.json())
    assert page["next_cursor"] == general.json()["next_cursor"]
    return page


def ids(page: dict[str, Any]) -> list[str]:
    """The ids on a page."""
    return [task["task_id"] for task in page["items"]]


async def test_it_has_only_the_tasks_of_this_gateway(
    gateways: Launch, store: Store, upstream: Upstream, fresh_id: str
) -> None:
    """The list of each gateway has its own tasks; the list without a scope has those of both."""
    settings = QUIET | {"REDIS_URL": store.url}
    first, second = await gateways(**settings), await gateways(**settings, **OTHER)
    await ended(first, upstream, f"{fresh_id}-first")
    await ended(second, upstream, f"{fresh_id}-second")
    await first.ended(f"{fresh_id}-second")
    assert f"{fresh_id}-first" in ids(await listed(first))
    assert f"{fresh_id}-second" not in ids(await listed(first))
    assert f"{fresh_id}-second" in ids(await listed(second))


async def test_it_is_known_while_the_store_is_away(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """With the store down, the tasks from before and from now are listed, newest first, by state, label and cursor."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, **QUIET)
    label = (b"X-Task-Label", b"nightly")
    for number in range(3):
        await ended(gateway, upstream, f"{fresh_id}-{number}", label)
    await store.kill()
    await store_is("down", gateway)
    await ended(gateway, upstream, f"{fresh_id}-3", status=500)
    stream = Gated()
    upstream.then(stream)
    await gateway.send("POST", CHAT, (b"X-Task-Id", f"{fresh_id}-4".encode()), body=BODY)
    await gateway.at(f"{fresh_id}-4", "forwarding")
    assert (await gateway.ask("GET", "/tasks/status")).status == 503

    expected = [f"{fresh_id}-{number}" for number in (4, 3, 2, 1, 0)]
    assert ids(await listed(gateway)) == expected
    assert ids(await listed(gateway, "&label=nightly")) == expected[2:]
    assert ids(await listed(gateway, "&state=FAILED")) == expected[1:2]
    first = await listed(gateway, "&limit=2")
    second = await listed(gateway, f"&limit=2&cursor={first['next_cursor']}")
    third = await listed(gateway, f"&limit=2&cursor={second['next_cursor']}")
    assert ids(first) + ids(second) + ids(third) == expected
    assert third["next_cursor"] is None


async def test_each_key_sees_its_own_tasks(gateways: Launch, upstream: Upstream, fresh_id: str) -> None:
    """A key lists the tasks of its owner, `admin` those of all, and no key is 401."""
    gateway = await gateways(GATEWAY_API_KEYS=KEYS, **QUIET)
    await ended(gateway, upstream, f"{fresh_id}-alice", bearer(ALICE))
    await ended(gateway, upstream, f"{fresh_id}-bob", bearer(BOB))
    assert ids(await listed(gateway, "", bearer(ALICE))) == [f"{fresh_id}-alice"]
    assert ids(await listed(gateway, "", bearer(BOB))) == [f"{fresh_id}-bob"]
    assert ids(await listed(gateway, "", bearer(ADMIN))) == [f"{fresh_id}-bob", f"{fresh_id}-alice"]
    assert (await gateway.ask("GET", OWN)).status == 401


async def test_sizes_are_those_of_now(gateways: Launch, store: Store, upstream: Upstream, fresh_id: str) -> None:
    """Between two heartbeats the bytes of a stream grow, and so the ETag changes with them."""
    gateway = await gateways(REDIS_URL=store.url, **QUIET)
    stream = Gated()
    upstream.then(stream)
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=BODY)
    await upstream.exchange()
    stream.head()
    tags: set[bytes | None] = set()
    for size in (1000, 2000):
        stream.piece(b"x" * 1000)

        async def has_come(size: int = size) -> bool:
            answer = await gateway.ask("GET", f"{OWN}&state=RUNNING")
            [task] = answer.json()["items"]
            tags.add(answer.head.get("etag"))
            return bool(task["extensions"]["response_bytes"] == size)

        await until(has_come, what=f"{size} bytes are told")
    assert len(tags) >= 2
    await client.close()


@pytest.mark.parametrize("scope", ["store", "INSTANCE", "instances", "%69"])
async def test_another_scope_is_refused(gateway: Gateway, scope: str) -> None:
    """It is 422, and the answer says which scope is allowed."""
    answer = await gateway.ask("GET", f"/tasks/status?scope={scope}")
    assert (answer.status, b"'instance'" in answer.data) == (422, True)
