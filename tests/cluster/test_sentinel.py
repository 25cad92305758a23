"""A failover by real Sentinels under a gateway's load: no client notices, no end is missing, writes go on at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.store.redis import CANCEL_CHANNEL
from tests.chaos.load import Round, relay
from tests.support.certificates import Authority
from tests.support.faults import elapse
from tests.support.sentinels import Watched
from tests.support.servers import SERVERS, speaks_tls
from tests.support.streams import stored_states
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.store import Store

pytestmark = pytest.mark.timeout(180)

TLS_SERVERS = [program for program in SERVERS.values() if speaks_tls(program)]
[ACCOUNT] = [
    line
    for line in Path(__file__).parents[2].joinpath("docs", "redis.md").read_text().splitlines()
    if line.startswith("ACL SETUSER ")
]
WRITING_SECONDS = 2.0  # after the Sentinels' word
RETURN_SECONDS = 5.0
LISTENING_SECONDS = 10.0


@pytest.fixture(params=SERVERS)
async def watched(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Watched]:
    """A primary, two replicas and three Sentinels of each kind of server that is here."""
    async with Watched(tmp_path, SERVERS[request.param]) as watched:
        yield watched


class Load:
    """Requests through a gateway, as long as this runs. `rounds` is what has become of them, in their order."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.rounds: list[tuple[float, Round]] = []  # and when each began
        self._is_over = False

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._run())
        await until(lambda: len(self.rounds) >= 5, what="requests go through")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await self._task

    async def _run(self) -> None:
        while not self._is_over:
            begun = time.monotonic()
            self.rounds.append((begun, await relay(self.gateway, 8, at_once=4)))
            await elapse(0.05, begun, "a load that leaves the machine time for all these servers")

    @property
    def failures(self) -> list[str]:
        """Of all requests so far."""
        return [failure for _, round_ in self.rounds for failure in round_.failures]

    def task_ids(self, since: float = 0.0) -> list[str]:
        """Those whose round began after `since`."""
        return [task_id for begun, round_ in self.rounds if begun >= since for task_id in round_.task_ids]


async def seconds_until_written(load: Load, watched: Watched, primary: Store) -> float:
    """The time from the Sentinels' word until the new primary has the end of a request that came after it."""
    since = watched.switched_at
    assert since is not None

    async def is_written() -> bool:
        ids = load.task_ids(since)
        return bool(ids) and "SUCCESS" in (await stored_states(primary, ids)).values()

    await until(is_written, 30, "the new primary gets statuses")
    return time.monotonic() - since


async def check_ends(load: Load, primary: Store) -> None:
    """No request failed, and the store has the end of each within five seconds."""
    assert load.failures == []
    ids = load.task_ids()

    async def is_complete() -> bool:
        return set((await stored_states(primary, ids)).values()) == {"SUCCESS"}

    await until(is_complete, RETURN_SECONDS, "all ends are there")


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_failover_costs_no_request_and_no_end(fault: str, watched: Watched, launch: Launch) -> None:
    """The primary is killed, or stands still: writes go on 2 s after the Sentinels' word, and all ends are there.

    The gateway then listens for cancels at the new primary.
    """
    gateway = await launch(REDIS_URL=watched.url, HEARTBEAT_SEC="1")
    async with Load(gateway) as load:
        was_well = "the store is away" not in gateway.log  # on a busy machine it may have been away before
        if fault == "killed":
            await watched.primary.kill()
        else:
            watched.freeze(watched.primary)
        primary = await watched.new_primary()
        seconds = await seconds_until_written(load, watched, primary)
    assert seconds <= WRITING_SECONDS
    await check_ends(load, primary)

    async def is_listened_to() -> bool:
        return bool(dict(await primary.client.pubsub_numsub(CANCEL_CHANNEL))[CANCEL_CHANNEL])

    await until(is_listened_to, LISTENING_SECONDS, "the gateway listens there")
    await until(lambda: "the store is back" in gateway.log, what="it says so")
    assert gateway.log.count("the store is away") == 1 or not was_well, gateway.log


async def test_a_manual_failover_is_followed(watched: Watched, launch: Launch) -> None:
    """The old primary lives on, and takes writes until it is told to be a replica: they go to the new one at once."""
    for store in watched.stores:
        await store.client.config_set("min-replicas-to-write", 0)
    gateway = await launch(REDIS_URL=watched.url, HEARTBEAT_SEC="1")
    async with Load(gateway) as load:
        await watched.fail_over()
        primary = await watched.new_primary()
        seconds = await seconds_until_written(load, watched, primary)
    assert seconds <= WRITING_SECONDS
    await check_ends(load, primary)


@pytest.mark.skipif(not TLS_SERVERS, reason="no server here speaks TLS")
async def test_a_failover_with_tls_and_client_certificates(launch: Launch, tmp_path: Path) -> None:
    """Sentinels and servers demand certificates of the gateway and show theirs: it is the same with them."""
    async with Watched(tmp_path, TLS_SERVERS[0], Authority(tmp_path / "certificates")) as watched:
        gateway = await launch(REDIS_URL=watched.url, HEARTBEAT_SEC="1", **watched.tls_settings)
        async with Load(gateway) as load:
            await watched.primary.kill()
            primary = await watched.new_primary()
            seconds = await seconds_until_written(load, watched, primary)
        assert seconds <= WRITING_SECONDS
        await check_ends(load, primary)
        await gateway.stop()


async def test_passwords_of_store_and_sentinels_are_replaced(watched: Watched, launch: Launch, tmp_path: Path) -> None:
    """The files count at each connect, to the Sentinels and to the servers, also after a failover in between."""
    files = {name: tmp_path / name for name in ("store", "sentinel")}
    await demand(watched, files, "first")
    gateway = await launch(
        REDIS_URL=watched.url.replace("://", "://gateway@"), REDIS_PASSWORD_FILE=str(files["store"]),
        REDIS_SENTINEL_USER="gateway", REDIS_SENTINEL_PASSWORD_FILE=str(files["sentinel"]), HEARTBEAT_SEC="1",
    )  # fmt: skip
    async with Load(gateway) as load:
        await demand(watched, files, "second")
        await watched.fail_over()
        primary = await watched.new_primary()
        await seconds_until_written(load, watched, primary)
    await check_ends(load, primary)
    assert "first" not in gateway.log
    assert "second" not in gateway.log.replace("seconds", "")


async def demand(watched: Watched, files: dict[str, Path], password: str) -> None:
    """From now on all servers and Sentinels want this password of the gateway, and its files have it.

    Its account at the Sentinels has the one right that docs/redis.md names.
    """
    for name, file in files.items():
        file.with_suffix(".new").write_text(f"{password}-{name}\n")
        file.with_suffix(".new").replace(file)
    for store in watched.stores:
        await store.client.execute_command(*ACCOUNT.replace(">PASSWORD", f"resetpass >{password}-store").split())
    for port in watched.ports:
        async with watched.sentinel(port) as client:
            rules = f"on resetpass >{password}-sentinel nocommands +sentinel|masters"
            await client.execute_command("ACL", "SETUSER", "gateway", *rules.split())
