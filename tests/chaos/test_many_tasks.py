"""A store with a million tasks: what a list costs there, and whether it is exact.

Issue 3, acceptance 10. The store is filled by a script of its own, as putting a million tasks takes minutes; that it
holds what the gateway would have written is tested by putting some of them.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from gateway.store.interface import encode_cursor, place
from gateway.store.layout import LIST_PREFIX
from gateway.store.redis import RedisStore
from gateway.tasks.document import complete_document
from gateway.tasks.stages import Stage, State
from tests.chaos.load import relay
from tests.chaos.mortal import Mortal
from tests.conftest import started_store
from tests.support.records import put, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.interface import Record
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client

pytestmark = pytest.mark.timeout(600)

TASKS = 1_000_000
AT_ONCE = 20_000  # tasks per call of the filling script
TTL_SECONDS = 3600
GRACE_MS = 3_600_000
FIRST_MS = 1_700_000_000_000
LATEST_MS = 50  # of a list call, at the 99th percentile
CALLS = 200
ROUNDS = 3  # the quickest counts, for the machine has other work, too
WALKED = 10_000
ARRIVING = 2000  # more than can come during the walk
COMPARED = range(1000, 1015)  # all kinds
# What tasks are, by `kind`: nearly all have ended, and of each kind in flight there are some thousands.
STAGES = [Stage.DONE, Stage.ERROR, Stage.DONE, Stage.CANCELLED, Stage.LOST,
          Stage.STREAMING, Stage.FORWARDING, Stage.QUEUED, Stage.SHUTDOWN, Stage.DONE]  # fmt: skip

# ARGV: the first number, how many, the creation of number 0, TTL, grace in ms, then a document, a state and a rank of
# each kind. In the documents stand @N@ for the id, @C@ for the creation and @L@ for lost_after_ms.
FILL = """
local first, count, created_0, ttl, grace = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local time = redis.call('TIME')
local lost_after = string.format('%.0f', time[1] * 1000 + grace)
for number = first, first + count - 1 do
  local kind = 6 + 3 * (number % 500 < 10 and number % 10 or number % 5)
  local id = string.format('task-%07d', number)
  local created = string.format('%013.0f', created_0 + math.floor(number / 2))
  local document, state, rank = ARGV[kind], ARGV[kind + 1], ARGV[kind + 2]
  document = document:gsub('@N@', id):gsub('@C@', created):gsub('@L@', lost_after)
  redis.call('SET', 'ts:ollama:' .. id, document, 'EX', ttl)
  redis.call('ZADD', KEYS[1] .. state, 0, created .. ':' .. id, 0, '#')
  redis.call('ZADD', KEYS[1] .. 'lists', 0, state, 0, '#')
  redis.call('ZADD', KEYS[1] .. 'labels', 'inf', '#')
  redis.call('ZADD', KEYS[1] .. 'expiry', time[1] + ttl, created .. ':' .. state .. '::' .. id)
  if rank ~= '3' then
    redis.call('ZADD', KEYS[1] .. 'beats', lost_after, id)
  end
end
"""


def name(number: int) -> str:
    """The id of a task; two of them are created in each millisecond."""
    return f"task-{number:07}"


def created_ms(number: int) -> int:
    """When a task was created."""
    return FIRST_MS + number // 2


def kind(number: int) -> int:
    """Which of the ten kinds a task is."""
    return number % 10 if number % 500 < 10 else number % 5


def status(number: int) -> Record:
    """A task as the gateway would write it."""
    stage = STAGES[kind(number)]
    return record(name(number), stage, created_ms=created_ms(number), ttl_seconds=TTL_SECONDS, grace_seconds=3600)


def template(number: int) -> tuple[str, str, int]:
    """The document of the tasks of a kind, their state and rank; the number of one of them is given."""
    one = status(number)
    document = complete_document(one.head, 1).replace(name(number), "@N@").replace(str(created_ms(number)), "@C@")
    if one.rank < Stage.DONE.rank:
        document = document.replace('"lost_after_ms":null', '"lost_after_ms":@L@')
    return document, one.state, one.rank


@dataclass
class Crowd:
    """A store with a million tasks, a gateway before it and a connection to that."""

    store: Store
    gateway: Mortal
    client: Client

    async def page(self, query: str) -> dict[str, Any]:
        """One page of the list."""
        answer = await self.client.ask("GET", f"/tasks/status?{query}")
        assert answer.status == 200, answer.data[:500]
        page: dict[str, Any] = answer.json()
        return page

    async def p99_ms(self, *queries: str) -> float:
        """The 99th percentile of the time a list call takes, by nearest rank; the best of some rounds."""
        best = math.inf
        for _ in range(ROUNDS):
            taken = []
            for number in range(CALLS):
                begun = time.monotonic()
                page = await self.page(queries[number % len(queries)])
                taken.append((time.monotonic() - begun) * 1000)
                assert page["count"] == 50
            best = min(best, sorted(taken)[math.ceil(0.99 * CALLS) - 1])
        return best


@pytest.fixture(scope="module")
async def crowd(scripted: Upstream, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crowd]:
    """The filled store and a gateway."""
    store = await started_store(tmp_path_factory)
    gateway = Mortal(tmp_path_factory, scripted, REDIS_URL=store.url)
    try:
        await fill(store)
        await gateway.start()
        client = await gateway.connect()
        yield Crowd(store, gateway, client)
        await client.close()
        await gateway.stop()
    finally:
        await gateway.put_down()
        await store.close()


async def fill(store: Store) -> None:
    """A million tasks, as if the gateway had put them."""
    script = store.client.register_script(FILL)
    parts = [part for number in range(10) for part in template(number)]
    for first in range(0, TASKS, AT_ONCE):
        await script([LIST_PREFIX], [first, AT_ONCE, FIRST_MS, TTL_SECONDS, GRACE_MS, *parts])


async def test_it_is_what_the_gateway_would_have_written(
    crowd: Crowd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Tasks of each stage that the gateway puts into another store are the same there: document and lists."""
    other = await started_store(tmp_path_factory)
    writer = RedisStore(other.url, boot="boot-1", longest_ttl_seconds=TTL_SECONDS)
    try:
        await put(writer, [status(number) for number in COMPARED])
        for number in COMPARED:
            assert await everything_of(crowd.store, number) == await everything_of(other, number)
        ours = {key for key in await other.keys() if key.startswith(LIST_PREFIX)}
        assert await crowd.store.client.exists(*ours) == len(ours)
        sizes = [await crowd.store.client.zcard(LIST_PREFIX + state) for state in State]
        assert sum(sizes) >= TASKS
    finally:
        await writer.close()
        await other.close()


async def everything_of(store: Store, number: int) -> dict[str, Any]:
    """All that a store holds of a task, but for the moments that depend on when it was written."""
    task_id, where = name(number), place(created_ms(number), name(number))
    document = await store.document(task_id)
    has_beat = document["extensions"].pop("lost_after_ms") is not None
    del document["event_id"], document["timestamp"]
    expiry = f"{where[:13]}:{document['state']}::{task_id}"
    lists = [key for key in {stage.state for stage in STAGES}
             if await store.client.zscore(LIST_PREFIX + key, where) == 0]  # fmt: skip
    return {
        "document": document,
        "keys": list(document["extensions"]),
        "lists": sorted(lists),
        "expires": await store.client.zscore(LIST_PREFIX + "expiry", expiry) is not None,
        "beats": (has_beat, await store.client.zscore(LIST_PREFIX + "beats", task_id) is not None),
    }


def cursor_before(number: int) -> str:
    """A cursor from which the list goes on with this task, whatever is newer."""
    return encode_cursor(place(created_ms(number + 1), name(number + 1)))


NEWEST = TASKS - 1
DEPTHS = [NEWEST, 900_000, 500_000, 100_000, 1_000]


async def test_the_newest_are_listed_at_once(crowd: Crowd) -> None:
    """The first page takes 50 ms at most, at the 99th percentile."""
    assert await crowd.p99_ms("limit=50") <= LATEST_MS


@pytest.mark.parametrize("state", State)
async def test_so_are_those_of_a_state(crowd: Crowd, state: State) -> None:
    """So does the first page of each state, from half a million tasks to a few thousand."""
    assert await crowd.p99_ms(f"state={state}") <= LATEST_MS


async def test_depth_costs_nothing(crowd: Crowd) -> None:
    """So does a page deep in the list, filtered or not."""
    deep = [f"cursor={cursor_before(depth)}" for depth in DEPTHS]
    assert await crowd.p99_ms(*deep, *(f"{query}&state=FAILED" for query in deep)) <= LATEST_MS


@pytest.mark.parametrize("state", [None, *State])
async def test_the_order_is_exact(crowd: Crowd, state: State | None) -> None:
    """At any depth a page holds what comes next by creation, ties by id, and nothing of another state."""
    for depth in DEPTHS:
        numbers = (number for number in range(depth, -1, -1) if state in (None, STAGES[kind(number)].state))
        expected = [name(number) for number in islice(numbers, 1000)]
        page = await crowd.page(f"limit=1000&cursor={cursor_before(depth)}&state={state or ''}")
        assert [item["task_id"] for item in page["items"]] == expected
        assert {item["state"] for item in page["items"]} <= ({state} if state else set(State))


async def test_a_long_walk_is_exact_while_tasks_arrive(crowd: Crowd) -> None:
    """10,000 tasks by cursor, fifty at a time: no gap and no double, though tasks begin all the time."""
    before = {item["task_id"] for item in (await crowd.page("limit=1000"))["items"]}
    arriving = asyncio.ensure_future(relay(crowd.gateway, ARRIVING))
    found: list[str] = []
    old: list[str] = []
    query = "limit=50"
    while len(old) < WALKED:
        page = await crowd.page(query)
        found += [item["task_id"] for item in page["items"]]
        old = [task_id for task_id in found if task_id.startswith("task-")]
        query = f"limit=50&cursor={page['next_cursor']}"
    after = {item["task_id"] for item in (await crowd.page("limit=1000"))["items"]}
    assert len(after - before) >= 50, "many arrived during the walk"
    assert (await arriving).failures == []
    assert len(set(found)) == len(found)
    assert old == [name(number) for number in range(NEWEST, NEWEST - len(old), -1)]


async def test_no_command_looks_at_all_keys(crowd: Crowd) -> None:
    """After all of that the server has run no SCAN and no KEYS, nor anything like them."""
    await crowd.page("limit=1000")
    commands = await crowd.store.commands()
    assert {"zrange", "get"} <= commands
    assert {command for command in commands if "scan" in command or command in ("keys", "sort", "randomkey")} == set()
