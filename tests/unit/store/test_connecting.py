"""Connections to the store: to the primary that Sentinels name, with TLS, with files that are replaced meanwhile."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, TypeVar

import pytest
import uvloop
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store import connecting
from gateway.store import redis as store_module
from gateway.store.address import Access
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError
from gateway.store.malformed import Malformed
from gateway.store.pipeline import Pipeline, Replies
from gateway.store.reader import Reader
from gateway.store.redis import RedisStore
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.scripted_sentinel import ScriptedSentinel, scripted_sentinels
from tests.support.tap import tapped
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from tests.conftest import NewStore
    from tests.support.store import Store as Server

T = TypeVar("T")
AT_ONCE_SECONDS = 10.0  # less than the time that a Sentinel may take to answer in these tests


@pytest.fixture(autouse=True)
def patient_with_sentinels(monkeypatch: pytest.MonkeyPatch, patience: None) -> None:
    """On a busy machine a Sentinel, and the store, may take long to answer."""
    monkeypatch.setattr(connecting, "_ASKING_SECONDS", GUARD_SECONDS)


def through(sentinels: Sequence[ScriptedSentinel], *more: int, name: str = "main", **access: str) -> Connector:
    """Connections by way of these Sentinels, and those at the ports `more`, which come first."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in (*more, *(sentinel.port for sentinel in sentinels)))
    return Connector(Access(f"redis+sentinel://{hosts}/{name}", **access))  # type: ignore[arg-type]


async def ping(connector: Connector) -> str:
    """PING by a writer's connection; raises its StoreError."""
    pipeline = Pipeline(connector)
    answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
    pipeline.ask([("PING",)], answer.set_result)
    replies = await answer
    await pipeline.close()
    if isinstance(replies, StoreError):
        raise replies
    return str(replies[0])


async def port_read(connector: Connector) -> int:
    """The port of the server that a reader's connection leads to; raises its StoreError."""
    reader = Reader(connector, Malformed())
    try:
        return int((await reader.asked(awaiting(reader.redis.info("server"))))["tcp_port"])
    finally:
        await reader.close()


async def awaiting(command: Awaitable[T]) -> T:
    """The reply to a command of redis-py, which calls its coroutines awaitables."""
    return await command


async def both_fail(connector: Connector) -> set[tuple[str, str]]:
    """The text and kind of the errors of a writer's connection and of a reader's."""
    errors = set()
    for ask in (ping, port_read):
        with pytest.raises(StoreError) as caught:
            await ask(connector)
        errors.add((str(caught.value), caught.value.kind))
    return errors


# -- Sentinel --


async def test_connections_lead_to_the_primary_that_sentinel_names(server: Server) -> None:
    """The writer's and the readers'; the Sentinels get their own login, and keep no connection."""
    async with scripted_sentinels(1) as [sentinel]:
        sentinel.primary_port = server.port
        connector = through([sentinel], sentinel_user="s", sentinel_password="secret")
        assert await ping(connector) == "PONG"
        assert await port_read(connector) == server.port
        assert set(sentinel.logins) == {("s", "secret")} or set(sentinel.logins) == {("AUTH", "s", "secret")}


async def test_dead_sentinels_cost_no_time(server: Server) -> None:
    """With two that say nothing and one that is not there, the fourth one's answer counts at once."""
    async with scripted_sentinels(3) as sentinels:
        for sentinel in sentinels[:2]:
            sentinel.open.clear()
        sentinels[2].primary_port = server.port
        started = time.monotonic()
        assert await ping(through(sentinels, free_port())) == "PONG"
        assert time.monotonic() - started < AT_ONCE_SECONDS


async def test_the_newest_failover_counts(server: Server) -> None:
    """A Sentinel that has not heard of it yet names the old primary: its word does not count."""
    async with scripted_sentinels(3) as sentinels:
        for sentinel, epoch, port in zip(sentinels, (3, 5, 4), (free_port(), server.port, free_port()), strict=True):
            sentinel.epoch, sentinel.primary_port = epoch, port
        assert await port_read(through(sentinels)) == server.port


async def test_one_sentinel_may_call_the_primary_down(server: Server) -> None:
    """If another that knows the same failover reaches it, it counts as up."""
    async with scripted_sentinels(2) as sentinels:
        for sentinel in sentinels:
            sentinel.primary_port = server.port
        sentinels[0].flags = "s_down,master"
        assert await ping(through(sentinels)) == "PONG"


async def test_many_connections_ask_once(server: Server) -> None:
    """All connections that open at the same time share one question."""
    async with scripted_sentinels(1) as [sentinel]:
        sentinel.primary_port = server.port
        reader = Reader(through([sentinel]), Malformed())
        await asyncio.gather(*(reader.asked(awaiting(reader.redis.ping())) for _ in range(20)))
        assert sentinel.asked == 1
        await reader.close()


async def test_a_replica_is_not_taken_for_the_primary(new_store: NewStore) -> None:
    """If Sentinel still names a server that has become a replica, the connection fails, and the next one asks again."""
    old, new = await new_store(), await new_store()
    await old.client.replicaof("127.0.0.1", new.port)
    async with scripted_sentinels(1) as [sentinel]:
        sentinel.primary_port = old.port
        connector = through([sentinel])
        assert await both_fail(connector) == {("Sentinel names a server that is a replica", "READONLY")}
        sentinel.primary_port = new.port
        assert await port_read(connector) == new.port


async def test_a_demoted_primary_loses_the_writer(new_store: NewStore) -> None:
    """If the open connection's server becomes a replica, its refusal closes the connection; the next asks Sentinel."""
    old, new = await new_store(), await new_store()
    async with scripted_sentinels(1) as [sentinel]:
        sentinel.primary_port = old.port
        pipeline = Pipeline(through([sentinel]))

        async def write() -> Replies:
            answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
            pipeline.ask([("SET", "k", "x")], answer.set_result)
            return await answer

        assert await write() == ["OK"]
        await old.client.replicaof("127.0.0.1", new.port)
        sentinel.primary_port = new.port
        refusal = await write()
        assert isinstance(refusal, StoreError)
        assert refusal.kind == "READONLY"
        assert await write() == ["OK"]
        assert await new.client.get("k") == "x"
        await pipeline.close()


async def test_an_old_primary_that_lives_on_is_left(new_store: NewStore) -> None:
    """After a failover by hand the old primary still takes writes: within a second or two the new one gets them.

    No write fails, reads move, too, and an answer of a Sentinel that has not heard of the failover changes nothing.
    """
    old, new = await new_store(), await new_store()
    async with scripted_sentinels(1) as [sentinel]:
        sentinel.primary_port, sentinel.epoch = old.port, 1
        connector = through([sentinel])
        pipeline, reader = Pipeline(connector), Reader(connector, Malformed())

        async def write() -> bool:
            connector.check_primary()
            answer: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
            pipeline.ask([("SET", "k", "x")], answer.set_result)
            assert await answer == ["OK"]
            return bool(await new.client.exists("k"))

        async def read_port() -> int:
            return int((await reader.asked(awaiting(reader.redis.info("server"))))["tcp_port"])

        assert not await write()
        assert await read_port() == old.port
        sentinel.epoch, sentinel.flags = 2, "master,failover_in_progress"  # as the leading Sentinel says it
        asked = sentinel.asked

        async def is_asked_again() -> bool:
            await write()
            return sentinel.asked > asked + 1

        await until(is_asked_again)
        sentinel.primary_port, sentinel.flags = new.port, "master"
        await until(write, what="the new primary is written to")
        assert await read_port() == new.port
        sentinel.primary_port, sentinel.epoch = old.port, 1
        asked = sentinel.asked
        await until(is_asked_again)
        assert (pipeline.connections, connector.moves) == (2, 1)
        await pipeline.close()
        await reader.close()


async def test_sentinels_that_cannot_help_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """None can be reached, none knows the name, the primary is down: each has its one text."""
    port = free_port()
    [(text, kind)] = await both_fail(through([], port, port))
    assert text.startswith("no Sentinel can be asked: ConnectionError: Error 111 connecting to")
    assert kind == "SENTINEL"
    async with scripted_sentinels(2) as sentinels:
        expected = {("Sentinel knows no master of the name other", "SENTINEL")}
        assert await both_fail(through(sentinels, port, name="other")) == expected
        for sentinel in sentinels:
            sentinel.flags = "s_down,o_down,master"
        assert await both_fail(through(sentinels)) == {("Sentinel says that the primary of main is down", "")}
        monkeypatch.setattr(connecting, "_ASKING_SECONDS", 0.2)
        for sentinel in sentinels:
            sentinel.open.clear()
        assert await within(AT_ONCE_SECONDS, both_fail(through(sentinels))) == {
            ("no Sentinel can be asked: TimeoutError", "SENTINEL")
        }


# -- TLS --


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that makes this module's certificates."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that is not trusted."""
    return Authority(tmp_path_factory.mktemp("certificates"), "other")


def serving(certificate: Path, key: Path) -> ssl.SSLContext:
    """A server's side of TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize(
    ("reason", "names", "has_expired", "trusts"),
    [("unable to get local issuer certificate", "DNS:localhost", False, "other"),
     ("unable to get local issuer certificate", "DNS:localhost", False, ""),
     ("certificate has expired", "DNS:localhost", True, "authority"),
     ("Hostname mismatch, certificate is not valid for 'localhost'.", "DNS:elsewhere", False, "authority")],
)  # fmt: skip
def test_a_store_that_is_not_trusted_is_away(
    reason: str, names: str, has_expired: bool, trusts: str, server: Server, authority: Authority, other: Authority,
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:  # fmt: skip
    """Another authority (the system's too, if a file is named), an old certificate, another name: the line says so."""
    ca_file = {"authority": authority.certificate, "other": other.certificate}.get(trusts)

    async def ask() -> None:
        async with tapped(server.port, serving(*authority.issue("bad", names, has_expired=has_expired))) as tap:
            connector = Connector(Access(f"rediss://localhost:{tap.port}/0", ca_file=ca_file))
            assert await both_fail(connector) == {(f"its certificate is not trusted: {reason}", "CERTIFICATE")}

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(ask())


async def test_replaced_files_count_for_the_next_connection(
    server: Server, authority: Authority, other: Authority, tmp_path: Path
) -> None:
    """The authorities' file is replaced while the gateway runs; while it is missing, the line names the reason."""
    file = tmp_path / "ca.pem"
    async with tapped(server.port, serving(*authority.issue("server"))) as tap:
        connector = Connector(Access(f"rediss://localhost:{tap.port}/0", ca_file=file))
        reader = Reader(connector, Malformed())
        told = "the files for TLS cannot be used: No such file or directory"
        assert await both_fail(connector) == {(told, "CERTIFICATE")}
        file.write_bytes(other.certificate.read_bytes())
        with pytest.raises(StoreError, match="not trusted"):
            await reader.asked(awaiting(reader.redis.ping()))
        file.with_suffix(".new").write_bytes(authority.certificate.read_bytes())
        file.with_suffix(".new").replace(file)
        assert await reader.asked(awaiting(reader.redis.ping()))
        assert await ping(connector) == "PONG"
        await reader.close()


async def test_sentinels_speak_tls_too(server: Server, authority: Authority, other: Authority) -> None:
    """With rediss+sentinel:// the Sentinels have to be trusted as the store has to be."""
    context = serving(*authority.issue("server"))
    async with scripted_sentinels(1, context) as [sentinel], tapped(server.port, context) as tap:
        sentinel.primary_port = tap.port
        url = f"rediss+sentinel://localhost:{sentinel.port}/main"
        assert await ping(Connector(Access(url, ca_file=authority.certificate))) == "PONG"
        [(text, kind)] = await both_fail(Connector(Access(url, ca_file=other.certificate)))
        assert text.startswith("no Sentinel can be asked: its certificate is not trusted: ")
        assert kind == "CERTIFICATE"


# -- listening --


async def test_a_dead_connection_is_not_listened_to_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the server of the channel stands still, listening fails within seconds, so that it can begin elsewhere."""
    monkeypatch.setattr(store_module, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(store_module, "COMMAND_TIMEOUT_SECONDS", 5.0)
    async with tapped(server.port) as tap:
        store = RedisStore(tap.url, boot="b-1-1", longest_ttl_seconds=60)
        heard: list[str] = []
        listening = asyncio.create_task(store.listen(heard.append))

        async def is_heard() -> bool:
            await server.client.publish(store_module.CANCEL_CHANNEL, "x")
            return bool(heard)

        async def has_subscribed_again() -> bool:
            return int((await server.client.info("commandstats"))["cmdstat_subscribe"]["calls"]) > 3

        await until(is_heard, what="it listens")
        await until(has_subscribed_again, what="a silent channel is subscribed to again")
        before = len(heard)
        await server.client.publish(store_module.CANCEL_CHANNEL, "y")
        await until(lambda: len(heard) > before, what="it still listens")
        assert tap.connections == 1
        tap.open.clear()
        with pytest.raises(StoreError):
            await within(GUARD_SECONDS, listening, "it notices")
        await store.close()


async def test_a_connection_that_does_not_close_in_time_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that fails is a StoreError, also if closing the idle connections then fails, too."""
    reader = Reader(Connector.to("redis://127.0.0.1:1/0"), Malformed())

    async def closing(inuse_connections: bool = True) -> None:
        raise RedisTimeoutError("Timed out closing connection after 1.0")

    monkeypatch.setattr(reader._pool, "disconnect", closing)
    with pytest.raises(StoreError):
        await reader.asked(reader.documents(["-"]))
