"""The promises of the pipeline to Redis: replies in the order of commands, one second for each, none to a later one."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hiredis import ReplyError
from redis._parsers.base import BaseParser
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store import pipeline as pipeline_module
from gateway.store.address import Access
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError
from gateway.store.layout import Script
from gateway.store.pipeline import COMMAND_TIMEOUT_SECONDS, Pipeline
from gateway.store.reasons import kind_of
from tests.support.ports import free_port
from tests.support.tap import Tap, tapped
from tests.support.tracking import seconds_of
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gateway.store.pipeline import Command, Replies
    from tests.support.store import Store as Server

pytestmark = pytest.mark.alone

AT_ONCE_SECONDS = 0.3
PING: Command = ("PING",)


@pytest.fixture
async def tap(server: Server) -> AsyncIterator[Tap]:
    """Stands between the pipeline and the server."""
    async with tapped(server.port) as tap:
        yield tap


@pytest.fixture
async def pipeline(tap: Tap) -> AsyncIterator[Pipeline]:
    """A pipeline through the tap."""
    pipeline = Pipeline(Connector(tap.url))
    yield pipeline
    await pipeline.close()


def asked(pipeline: Pipeline, *commands: Command) -> asyncio.Future[list[Any]]:
    """The replies to commands, which are asked for at once. Raises StoreError."""
    answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def take(replies: Replies) -> None:
        if isinstance(replies, StoreError):
            answer.set_exception(replies)
        else:
            answer.set_result(replies)

    pipeline.ask(commands, take)
    return answer


async def together(*answers: asyncio.Future[list[Any]]) -> list[list[Any]]:
    """The replies to each of several callers."""
    return await asyncio.gather(*answers)


async def test_replies_come_in_the_order_of_asking(pipeline: Pipeline) -> None:
    """Concurrent callers each get all of their own replies, also while the connection is being opened."""
    for _ in range(2):
        answers = await asyncio.gather(
            *(asked(pipeline, *[("ECHO", f"{n}.{i}") for i in range(n)]) for n in range(1, 9))
        )
        assert answers == [[f"{n}.{i}" for i in range(n)] for n in range(1, 9)]


async def test_replies_may_come_in_pieces(pipeline: Pipeline, tap: Tap) -> None:
    """A reply that arrives in single bytes is the same reply."""
    tap.is_split = True
    long = "é" * 2000
    answers = await together(asked(pipeline, ("ECHO", long), PING), asked(pipeline, PING))
    assert answers == [[long, "PONG"], ["PONG"]]


async def test_a_connection_is_kept(pipeline: Pipeline, tap: Tap) -> None:
    """One connection serves all commands as long as nothing fails."""
    for _ in range(5):
        assert await asked(pipeline, PING) == ["PONG"]
    assert (pipeline.is_open, tap.connections) == (True, 1)


async def test_an_idle_connection_that_was_closed_costs_nothing(pipeline: Pipeline, tap: Tap) -> None:
    """The pipeline reconnects, whether it notices the close before the next command or with it."""
    for connections in (1, 2, 3):
        assert await asked(pipeline, PING) == ["PONG"]
        assert tap.connections == connections
        tap.cut()
        if connections == 2:
            await until(lambda: not pipeline.is_open, 30, "it is noticed")


async def test_what_breaks_while_it_is_asked_is_asked_once_more(pipeline: Pipeline, tap: Tap) -> None:
    """If a connection ends before the reply, the commands are sent once more, not again and again."""
    await asked(pipeline, PING)
    tap.open.clear()
    answers = asked(pipeline, PING), asked(pipeline, ("ECHO", "x"))
    tap.cut()
    await until(lambda: tap.connections == 2, 30, "it is asked again")
    tap.open.set()
    assert await within(AT_ONCE_SECONDS, together(*answers)) == [["PONG"], ["x"]]


async def test_no_answer_in_time_is_an_error_and_reaches_nobody(pipeline: Pipeline, tap: Tap) -> None:
    """After one second all waiting callers get an error. A reply that comes later reaches no caller."""
    await asked(pipeline, PING)
    tap.open.clear()
    answers = asyncio.gather(*(asked(pipeline, ("ECHO", f"late{n}")) for n in range(3)), return_exceptions=True)
    seconds = await seconds_of(answers)
    assert COMMAND_TIMEOUT_SECONDS * 0.9 <= seconds <= COMMAND_TIMEOUT_SECONDS + AT_ONCE_SECONDS
    assert [type(answer) for answer in answers.result()] == [StoreError] * 3
    tap.open.set()
    assert await asked(pipeline, ("ECHO", "new")) == ["new"]
    assert tap.connections == 2


async def test_opening_counts_into_the_time(pipeline: Pipeline, tap: Tap) -> None:
    """A server that accepts connections and sends nothing costs one second, too."""
    tap.open.clear()
    with pytest.raises(StoreError, match="no answer in time"):
        await within(COMMAND_TIMEOUT_SECONDS + AT_ONCE_SECONDS, asked(pipeline, PING))


async def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    """If no server listens, each command gets a StoreError with a reason."""
    pipeline = Pipeline(Connector(f"redis://127.0.0.1:{free_port()}/0"))
    for _ in range(2):
        with pytest.raises(StoreError, match=r"(?i)connect"):
            await within(AT_ONCE_SECONDS, asked(pipeline, PING))
    await pipeline.close()


@pytest.mark.parametrize("said", [b"+PONG\r\n", b"no reply at all\r\n"])
async def test_what_nobody_asked_for_ends_the_connection(pipeline: Pipeline, tap: Tap, said: bytes) -> None:
    """A reply without a command, or malformed bytes, is never taken for the reply to the next command."""
    await asked(pipeline, PING)
    tap.say(said)
    await until(lambda: not pipeline.is_open, 30, "the connection is given up")
    assert await asked(pipeline, ("ECHO", "x")) == ["x"]


async def test_push_messages_are_passed_over(pipeline: Pipeline, server: Server) -> None:
    """RESP3's push messages answer no command."""
    await asked(pipeline, ("CLIENT", "TRACKING", "ON", "BCAST"))
    for n in range(3):
        await server.client.set("tracked", n)
        assert await asked(pipeline, ("ECHO", f"{n}"), ("GET", "tracked")) == [f"{n}", f"{n}"]
    assert pipeline.is_open


async def test_an_error_among_the_replies_is_the_answer(pipeline: Pipeline, tap: Tap) -> None:
    """The caller gets the server's words, and the next command may reach another server."""
    with pytest.raises(StoreError, match="ERR unknown command"):
        await asked(pipeline, PING, ("NONSENSE",), PING)
    assert await asked(pipeline, PING) == ["PONG"]
    assert tap.connections == 2


async def test_scripts_are_there_and_come_back(pipeline: Pipeline, tap: Tap, server: Server) -> None:
    """Scripts can be called by their digests from the first command on, and after the server forgot them."""
    script = Script("cancel")
    scripted = Pipeline(Connector(tap.url), [script.text])
    command: Command = ("EVALSHA", script.digest, 0, "1:t", 60)
    for _ in range(2):
        assert await together(asked(scripted, command), asked(scripted, PING)) == [[1], ["PONG"]]
        await server.client.script_flush()
    with pytest.raises(StoreError, match="NOSCRIPT"):
        await asked(pipeline, command)
    await scripted.close()


async def test_who_fails_on_his_answer_harms_nobody(pipeline: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    """If a callback raises, the log says so, and later replies still reach their callers."""

    def fail(_: Replies) -> None:
        raise RuntimeError

    pipeline.ask([PING], fail)
    assert await asked(pipeline, PING) == ["PONG"]
    assert "taking in the answer to 1 commands failed" in caplog.text


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_speaks_tls(server: Server, tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """With rediss:// the bytes go through TLS, whose certificate is checked, on the loop of production, too."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(made, check=True, capture_output=True)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(talk_in_tls(server.port, certificate, key))


async def talk_in_tls(port: int, certificate: Path, key: Path) -> None:
    """Long and short replies on one connection; none at all if the certificate is not trusted."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with tapped(port, context) as tap:
        pipeline = Pipeline(Connector(Access(f"rediss://localhost:{tap.port}/0", ca_file=certificate)))
        long = "x" * 100_000
        for _ in range(3):
            assert await together(asked(pipeline, ("ECHO", long)), asked(pipeline, PING)) == [[long], ["PONG"]]
        assert tap.connections == 1
        distrustful = Pipeline(Connector(f"rediss://localhost:{tap.port}/0"))
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            await asked(distrustful, PING)
        await distrustful.close()
        await pipeline.close()


async def test_redis_py_hands_over_its_connection(server: Server) -> None:
    """The only private name of redis-py that the gateway uses still exists and has the same meaning."""
    connection = Connection(port=server.port)
    await connection.connect()
    assert isinstance(connection._writer, asyncio.StreamWriter), "redis-py keeps its stream elsewhere: see _take_stream"
    stream = pipeline_module._take_stream(connection)
    assert not connection.is_connected, "redis-py does not notice that it has no stream any more"
    await connection.disconnect()
    assert not stream.transport.is_closing(), "redis-py has closed what is no longer its own"
    stream.close()
    await stream.wait_closed()


@pytest.mark.parametrize("kind", ["READONLY", "OOM", "MISCONF", "ERR", "LOADING", "NOAUTH", "NOPERM", "MASTERDOWN"])
def test_a_refusal_has_its_kind(kind: str) -> None:
    """The first word of a server's error is the kind of the failure, on either kind of connection."""
    text = f"{kind} something is wrong"
    assert kind_of(ReplyError(text)) == kind_of(BaseParser.parse_error(text)) == kind


@pytest.mark.parametrize("error", [OSError("no"), RedisConnectionError("closed"), RedisTimeoutError(), RuntimeError()])
def test_a_server_that_says_nothing_is_of_no_kind(error: Exception) -> None:
    """All ways in which a connection breaks have the same, empty kind."""
    assert kind_of(error) == ""
