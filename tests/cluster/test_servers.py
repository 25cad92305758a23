"""Each kind of server that is here does what the gateway needs, and its refusals are told in the same words.

The whole of tests/unit/store runs with another server where STORE_SERVER names one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gateway.store.answers import Saved
from gateway.store.interface import StoreError, Written
from gateway.store.redis import RedisStore
from gateway.store.redis_answers import RedisAnswers
from gateway.tasks.stages import Stage, State
from tests.support.answers import EVENT_ID, HEAD, part, save
from tests.support.ports import free_port
from tests.support.records import BOOT, ids, put, record, stage_and_attempt, walk
from tests.support.servers import SERVERS
from tests.support.store import Store
from tests.support.waiting import next_millisecond, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LISTS = "tsx:ollama:2:"
NO_ONE: tuple[str, ...] = ()
[ACCOUNT] = [
    line.replace(" gateway ", " docs ").replace(">PASSWORD", ">secret")
    for line in Path(__file__).parents[2].joinpath("docs", "redis.md").read_text().splitlines()
    if line.startswith("ACL SETUSER ")
]

pytestmark = pytest.mark.usefixtures("patience")


@pytest.fixture(scope="module", params=SERVERS)
async def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Store]:
    """One server of each kind."""
    server = Store(tmp_path_factory.mktemp("store"), SERVERS[request.param])
    await server.start()
    yield server
    await server.close()


@pytest.fixture(params=["default", "docs"])
async def url(request: pytest.FixtureRequest, server: Store) -> str:
    """The emptied server's address, for the default user and for the account that docs/redis.md makes."""
    await server.client.flushall()
    await server.client.execute_command(*ACCOUNT.split())
    login = "docs:secret@" if request.param == "docs" else ""
    return f"redis://{login}127.0.0.1:{server.port}/1"


@pytest.fixture
async def store(url: str) -> AsyncIterator[RedisStore]:
    """The statuses of one process."""
    store = RedisStore(url, boot=BOOT, longest_ttl_seconds=3600)
    yield store
    await store.close()


async def test_statuses_are_written_listed_and_lost(store: RedisStore) -> None:
    """Claims, ends, lists by state, owner and label, a page after a page, orphans and cancels."""
    await store.probe()
    tasks = [record(f"t{n}", Stage.DONE, created_ms=n, owner="me", label="job") for n in range(5)]
    assert await put(store, tasks) == [Written(True, 1)] * 5
    assert await put(store, [record("t0", attempt=0, created_ms=9)]) == [Written(True, 2)]
    assert await walk(store, limit=2) == ["t0", "t4", "t3", "t2", "t1"]
    assert ids(await store.page(10, State.SUCCESS, None)) == ["t4", "t3", "t2", "t1"]
    assert await walk(store, owner="me", label="job") == ["t4", "t3", "t2", "t1"]
    await put(store, [record("silent", Stage.STREAMING, boot="other", grace_seconds=0)])
    await store.ask_cancel("1:t")
    await next_millisecond()
    assert await store.watch(NO_ONE) == ["1:t"]
    assert (await stage_and_attempt(store, "silent"))[0] == "lost"


async def test_cancels_are_heard(store: RedisStore) -> None:
    """A cancel comes over the channel at once."""
    heard: list[str] = []
    listening = asyncio.create_task(store.listen(heard.append))

    async def is_heard() -> bool:
        await store.ask_cancel("1:t")
        return bool(heard)

    await until(is_heard, what="it is heard")
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


async def test_keys_of_another_type_are_replaced(store: RedisStore, server: Store) -> None:
    """Whatever words a server puts around the error of a script, the gateway knows a key of another type."""
    async with server.client.client() as admin:
        await admin.execute_command("SELECT", 1)
        for key in ("ts:ollama:t", f"{LISTS}lists", f"{LISTS}expiry", f"{LISTS}beats", f"{LISTS}SUCCESS"):
            await admin.delete(key)
            await admin.rpush(key, "x")
        await admin.execute_command("SELECT", 0)
    assert await put(store, [record("t", Stage.DONE)]) == [Written(True, 1)]
    await store.watch(NO_ONE)
    assert await stage_and_attempt(store, "t") == ("done", 1)


async def test_answers_are_kept(url: str, server: Store) -> None:
    """Answers are saved, read and dropped, also if a key of theirs has another type."""
    answers = RedisAnswers(url, max_stored_bytes=1_000)
    assert await save(answers, part(b"a", head=HEAD), part(b"b", 1, is_end=True)) == [Saved.SAVED] * 2
    assert await save(answers, part(b"x" * 1_000, task_id="u", head=HEAD)) == [Saved.NO_ROOM]
    async with server.client.client() as admin:
        await admin.execute_command("SELECT", 1)
        await admin.delete(f"{LISTS}answers")
        await admin.rpush(f"{LISTS}answers", "x")
        await admin.execute_command("SELECT", 0)
    assert await save(answers, part(b"", 2)) == [Saved.SAVED]
    assert (await answers.read("t", 0)).piece == b"ab"
    assert await answers.drop("t", "1-a", EVENT_ID)
    await answers.close()


async def refusal(url: str) -> StoreError:
    """What the probe says to an account."""
    store = RedisStore(url, boot=BOOT, longest_ttl_seconds=3600)
    with pytest.raises(StoreError) as caught:
        await store.probe()
    await store.close()
    return caught.value


@pytest.mark.parametrize("command", ["zadd", "expire", "zrange", "set"])
async def test_a_missing_right_is_named(server: Store, command: str) -> None:
    """The reason names the command, although older servers do not."""
    await server.client.execute_command("ACL", "SETUSER", "some", "reset", *ACCOUNT.split()[3:], f"-{command}")
    error = await refusal(f"redis://some:secret@127.0.0.1:{server.port}/0")
    assert (error.kind, command in str(error).lower()) == ("NOPERM", True), str(error)


async def test_a_server_that_refuses_scripts_is_told(server: Store, tmp_path: Path) -> None:
    """An account without the right to run scripts, and a server that does not know the command, have one reason."""
    await server.client.execute_command("ACL", "SETUSER", "some", "reset", *ACCOUNT.split()[3:], "-evalsha", "-eval")
    said = "the server refuses Lua scripts, which the gateway needs"
    assert str(await refusal(f"redis://some:secret@127.0.0.1:{server.port}/0")).startswith(said)
    other = Store(tmp_path, server.program)
    await other.start("--rename-command", "EVALSHA", "")
    assert str(await refusal(other.url)).startswith(said)
    await other.close()


@pytest.mark.parametrize(
    ("command", "undo", "kind"),
    [("REPLICAOF 127.0.0.1 {port}", "REPLICAOF NO ONE", "READONLY"),
     ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
     ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS")],
)  # fmt: skip
async def test_a_refusal_has_the_same_kind(server: Store, command: str, undo: str, kind: str) -> None:
    """The kind of a refusal in a script is the server's first word for it, whatever stands in front."""
    await server.client.execute_command(*command.format(port=free_port()).split())
    try:
        error = await refusal(server.url)
    finally:
        await server.client.execute_command(*undo.split())
    assert error.kind == kind
    assert str(error).startswith(f"ReplyError: {kind} ")
