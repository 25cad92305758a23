"""The table of gateways in Redis: each record is its gateway's own, and what others put there is left out."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import StoreError
from gateway.store.layout import MAX_INSTANCE, MAX_NODES, MAX_RECORD_BYTES
from gateway.store.redis import RedisStore
from tests.support.forged import KINDS, forge_key
from tests.support.nodes import TABLE, forge
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gateway.store.redis_nodes import RedisNodes
    from tests.support.store import Store as Server

KEPT_MS = 600_000


@pytest.fixture
async def gateways(server: Server, patience: None) -> AsyncIterator[Callable[[str, str], RedisNodes]]:
    """Makes the table as one gateway process uses it; the server is empty."""
    await server.client.flushall()
    stores: list[RedisStore] = []

    def make(instance: str, boot: str) -> RedisNodes:
        stores.append(RedisStore(server.url, boot=boot, instance=instance, longest_ttl_seconds=3600))
        return stores[-1].nodes

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def first(gateways: Callable[[str, str], RedisNodes]) -> RedisNodes:
    """One gateway."""
    return gateways("gw-1", "a-1-1")


@pytest.fixture
def second(gateways: Callable[[str, str], RedisNodes]) -> RedisNodes:
    """Another one."""
    return gateways("gw-2", "b-1-1")


async def table(nodes: RedisNodes) -> dict[str, str]:
    """The records that a gateway sees."""
    return {found.instance: found.record for found in await nodes.look()}


async def now_ms(server: Server) -> int:
    """The server's clock in Unix milliseconds."""
    seconds, microseconds = await server.client.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def test_all_see_all(first: RedisNodes, second: RedisNodes) -> None:
    """Each gateway sees the newest record of each, just written, and the answer to its own word has them too."""
    await first.tell("{1}", KEPT_MS)
    told = await second.tell('{"é": 2}', KEPT_MS)
    await first.tell("{3}", KEPT_MS)
    assert await table(first) == await table(second) == {"gw-1": "{3}", "gw-2": '{"é": 2}'}
    assert {found.instance for found in told.nodes} == {"gw-1", "gw-2"}
    assert all(0 <= found.age_ms < 1000 * GUARD_SECONDS for found in told.nodes)


async def test_the_age_is_by_the_stores_clock(server: Server, first: RedisNodes) -> None:
    """The age of a record is the time since the server wrote it; one from the future has none."""
    await server.client.hset(TABLE, "past", f"{await now_ms(server) - 5_000} {KEPT_MS} b r")
    await server.client.hset(TABLE, "future", f"{await now_ms(server) + 60_000} {KEPT_MS} b r")
    ages = {found.instance: found.age_ms for found in await first.look()}
    assert 5_000 <= ages["past"] < 5_000 + 1000 * GUARD_SECONDS
    assert ages["future"] == 0


@pytest.mark.parametrize("off_ms", [-KEPT_MS - 1, KEPT_MS + 1000 * GUARD_SECONDS])
async def test_a_record_is_kept_for_its_time(server: Server, first: RedisNodes, off_ms: float) -> None:
    """A record that was not written again for its time is removed, also if the server's clock was set back."""
    await server.client.hset(TABLE, "gone", f"{int(await now_ms(server) + off_ms)} {KEPT_MS} b r")
    assert await table(first) == {}
    assert not await server.client.exists(TABLE)


async def test_the_key_expires(server: Server, first: RedisNodes, second: RedisNodes) -> None:
    """The key has a TTL, as long as the longest time for which a record is kept; a shorter one does not shorten it."""
    await first.tell("{}", 3_600_000)
    await second.tell("{}", KEPT_MS)
    assert 3_600 - GUARD_SECONDS < await server.client.ttl(TABLE) <= 3_600


async def test_one_that_leaves_is_gone(first: RedisNodes, second: RedisNodes) -> None:
    """A gateway that leaves is removed at once, and no other is."""
    await first.tell("{}", KEPT_MS)
    await second.tell("{}", KEPT_MS)
    await first.leave()
    assert set(await table(second)) == {"gw-2"}
    await first.leave()


async def test_a_restarted_gateway_is_one(gateways: Callable[[str, str], RedisNodes], first: RedisNodes) -> None:
    """A new run replaces the record of the former one, hears of it, and is not removed when the former one leaves."""
    assert not (await first.tell("{1}", KEPT_MS)).is_taken
    again = gateways("gw-1", "a-2-1")
    assert (await again.tell("{2}", KEPT_MS)).is_taken
    assert not (await again.tell("{2}", KEPT_MS)).is_taken
    await first.leave()
    assert await table(again) == {"gw-1": "{2}"}


MALFORMED = [
    "", "x", "{}", "1 2 3", "-1 1 b {}", "1.5 600000 b {}", "9999999999999999 600000 b {}", "1 6000000000 b {}",
    "nan 600000 b {}", b"\xff\xfe", "x" * (MAX_RECORD_BYTES + 1),
]  # fmt: skip


@pytest.mark.parametrize("value", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_record_is_left_out(
    server: Server, first: RedisNodes, second: RedisNodes, value: str | bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """What no gateway wrote is removed and told of once; the gateway of that name writes its record again."""
    await second.tell("{}", KEPT_MS)
    for _ in range(2):
        await server.client.hset(TABLE, "gw-1", value)
        assert set(await table(second)) == {"gw-2"}
    assert caplog.text.count("malformed in the store: ") == 1
    await server.client.hset(TABLE, "gw-1", value)
    assert not (await first.tell("{}", KEPT_MS)).is_taken
    assert set(await table(second)) == {"gw-1", "gw-2"}


@pytest.mark.parametrize("name", ["x" * (MAX_INSTANCE + 1), "x" * 1_000_000, b"\xff" * 200])
async def test_a_name_that_is_too_long_is_left_out(server: Server, first: RedisNodes, name: str | bytes) -> None:
    """A field whose name is longer than an instance can be is removed."""
    await server.client.hset(TABLE, name, f"{await now_ms(server)} {KEPT_MS} b {{}}")
    assert await table(first) == {}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "hash"])
async def test_a_key_of_another_type_is_replaced(
    server: Server, first: RedisNodes, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A key of another type is deleted, told of, and does not hinder a gateway's word, look or leave."""
    await forge_key(server.client, TABLE, kind)
    assert await table(first) == {}
    await forge_key(server.client, TABLE, kind)
    await first.leave()
    await forge_key(server.client, TABLE, kind)
    await first.tell("{}", KEPT_MS)
    assert await table(first) == {"gw-1": "{}"}
    assert caplog.text.count(f"malformed in the store: '{TABLE}'") == 1


async def test_a_flood_of_foreign_records_is_bounded(
    server: Server, first: RedisNodes, second: RedisNodes, caplog: pytest.LogCaptureFixture
) -> None:
    """More records than there can be gateways are deleted in one step; each gateway is back with its next word."""
    now = await now_ms(server)
    await second.tell("{}", KEPT_MS)
    await forge(server.client, {f"n{n}": f"{now} {KEPT_MS} b {{}}" for n in range(MAX_NODES)})
    with caplog.at_level(logging.WARNING):
        assert [found.instance for found in (await first.tell("{}", KEPT_MS)).nodes] == ["gw-1"]
    assert len(caplog.records) == 1
    await second.tell("{}", KEPT_MS)
    assert set(await table(first)) == {"gw-1", "gw-2"}


async def test_as_many_as_there_may_be_are_seen(server: Server, first: RedisNodes) -> None:
    """The table has room for 256 gateways."""
    now = await now_ms(server)
    await forge(server.client, {f"n{n}": f"{now} {KEPT_MS} b {{}}" for n in range(MAX_NODES - 1)})
    await first.tell("{}", KEPT_MS)
    assert len(await first.look()) == MAX_NODES == 256


async def test_what_the_caller_finds_malformed_is_told_of_once(
    first: RedisNodes, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that the caller cannot read is logged by its name, once."""
    first.report("\x1b[31m")
    first.report("\x1b[31m")
    assert caplog.text.count(f"'{TABLE} \\x1b[31m'") == 1


@pytest.mark.parametrize("command", ["hkeys", "hlen", "hstrlen", "hget", "hset"])
async def test_a_missing_right_is_a_store_error(
    server: Server, gateways: Callable[[str, str], RedisNodes], command: str
) -> None:
    """A server that forbids one of the commands raises StoreError of the kind that the announcer logs."""
    nodes = gateways("gw-1", "a-1-1")
    await nodes.tell("{}", KEPT_MS)
    await server.client.acl_setuser("default", commands=[f"-{command}"], keys=["*"], enabled=True)
    with pytest.raises(StoreError) as refusal:
        await nodes.tell("{}", KEPT_MS)
    await server.client.acl_setuser("default", commands=["+@all"], keys=["*"], enabled=True)
    assert refusal.value.kind in ("NOPERM", "ERR")


async def test_a_store_that_is_away_raises(gateways: Callable[[str, str], RedisNodes], server: Server) -> None:
    """Every call raises StoreError while the store cannot be reached, and works again once it can."""
    nodes = gateways("gw-1", "a-1-1")
    await server.kill()
    for call in (nodes.look(), nodes.tell("{}", KEPT_MS), nodes.leave()):
        with pytest.raises(StoreError):
            await call
    await server.start()

    async def is_told() -> bool:
        try:
            return bool((await nodes.tell("{}", KEPT_MS)).nodes)
        except StoreError:
            return False

    await until(is_told, GUARD_SECONDS, "the store takes it")
