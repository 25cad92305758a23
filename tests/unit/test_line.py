"""What the line to Redis promises: replies in the order of asking, a second for each, none to a later command."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
import uvloop
from hiredis import ReplyError
from redis._parsers.base import BaseParser
from redis.asyncio import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from gateway.store import pipeline as line_module
from gateway.store.interface import StoreError
from gateway.store.layout import Script
from gateway.store.pipeline import COMMAND_TIMEOUT_SECONDS, Line, kind_of
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


@pytest_asyncio.fixture(loop_scope="session")
async def tap(server: Server) -> AsyncIterator[Tap]:
    """What stands between the line and the server."""
    async with tapped(server.port) as tap:
        yield tap


@pytest_asyncio.fixture(loop_scope="session")
async def line(tap: Tap) -> AsyncIterator[Line]:
    """A line through the tap."""
    line = Line(tap.url)
    yield line
    await line.close()


def asked(line: Line, *commands: Command | bytes) -> asyncio.Future[list[Any]]:
    """The replies to commands, which are asked for at once. Raises StoreError."""
    answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def take(replies: Replies) -> None:
        if isinstance(replies, StoreError):
            answer.set_exception(replies)
        else:
            answer.set_result(replies)

    line.ask(commands, take)
    return answer


async def test_replies_come_in_the_order_of_asking(line: Line) -> None:
    """Several askers at once get their own replies, each all of them, also while the connection is being opened."""
    for _ in range(2):
        answers = await asyncio.gather(*(asked(line, *[("ECHO", f"{n}.{i}") for i in range(n)]) for n in range(1, 9)))
        assert answers == [[f"{n}.{i}" for i in range(n)] for n in range(1, 9)]


async def test_replies_may_come_in_pieces(line: Line, tap: Tap) -> None:
    """An answer that is cut into single bytes is the same answer."""
    tap.is_split = True
    long = "é" * 2000
    assert await asyncio.gather(asked(line, ("ECHO", long), PING), asked(line, PING)) == [[long, "PONG"], ["PONG"]]


async def test_a_connection_is_kept(line: Line, tap: Tap) -> None:
    """One connection serves all that is asked, as long as nothing fails."""
    for _ in range(5):
        assert await asked(line, PING) == ["PONG"]
    assert (line.is_open, tap.connections) == (True, 1)


async def test_an_idle_connection_that_was_closed_costs_nothing(line: Line, tap: Tap) -> None:
    """It is opened again, whether that is noticed before the next question or with it."""
    for connections in (1, 2, 3):
        assert await asked(line, PING) == ["PONG"]
        assert tap.connections == connections
        tap.cut()
        if connections == 2:
            await until(lambda: not line.is_open, 30, "it is noticed")


async def test_what_breaks_while_it_is_asked_is_asked_once_more(line: Line, tap: Tap) -> None:
    """A connection that ends before the answer is made again once, and not for ever."""
    await asked(line, PING)
    tap.open.clear()
    answers = asyncio.gather(asked(line, PING), asked(line, ("ECHO", "x")))
    tap.cut()
    await until(lambda: tap.connections == 2, 30, "it is asked again")
    tap.open.set()
    assert await within(AT_ONCE_SECONDS, answers) == [["PONG"], ["x"]]


async def test_no_answer_in_time_is_an_error_and_reaches_nobody(line: Line, tap: Tap) -> None:
    """After a second all who wait are told; an answer that comes later is nobody's."""
    await asked(line, PING)
    tap.open.clear()
    answers = asyncio.gather(*(asked(line, ("ECHO", f"late{n}")) for n in range(3)), return_exceptions=True)
    seconds = await seconds_of(answers)
    assert COMMAND_TIMEOUT_SECONDS * 0.9 <= seconds <= COMMAND_TIMEOUT_SECONDS + AT_ONCE_SECONDS
    assert [type(answer) for answer in answers.result()] == [StoreError] * 3
    tap.open.set()
    assert await asked(line, ("ECHO", "new")) == ["new"]
    assert tap.connections == 2


async def test_opening_counts_into_the_time(line: Line, tap: Tap) -> None:
    """A server that takes connections and says nothing costs a second, too."""
    tap.open.clear()
    with pytest.raises(StoreError, match="no answer in time"):
        await within(COMMAND_TIMEOUT_SECONDS + AT_ONCE_SECONDS, asked(line, PING))


async def test_a_server_that_is_not_there_is_an_error_at_once() -> None:
    """Nobody listens: StoreError with a reason, each time."""
    line = Line(f"redis://127.0.0.1:{free_port()}/0")
    for _ in range(2):
        with pytest.raises(StoreError, match=r"(?i)connect"):
            await within(AT_ONCE_SECONDS, asked(line, PING))
    await line.close()


@pytest.mark.parametrize("said", [b"+PONG\r\n", b"no reply at all\r\n"])
async def test_what_nobody_asked_for_ends_the_connection(line: Line, tap: Tap, said: bytes) -> None:
    """A reply without a question, or something that is none, is never taken for the answer to the next question."""
    await asked(line, PING)
    tap.say(said)
    await until(lambda: not line.is_open, 30, "the connection is given up")
    assert await asked(line, ("ECHO", "x")) == ["x"]


async def test_push_messages_are_passed_over(line: Line, server: Server) -> None:
    """What RESP3 lets the server say unasked is nobody's answer."""
    await asked(line, ("CLIENT", "TRACKING", "ON", "BCAST"))
    for n in range(3):
        await server.client.set("tracked", n)
        assert await asked(line, ("ECHO", f"{n}"), ("GET", "tracked")) == [f"{n}", f"{n}"]
    assert line.is_open


async def test_an_error_among_the_replies_is_the_answer(line: Line, tap: Tap) -> None:
    """Whoever asked is told in the server's words, and the next one may meet another server."""
    with pytest.raises(StoreError, match="ERR unknown command"):
        await asked(line, PING, ("NONSENSE",), PING)
    assert await asked(line, PING) == ["PONG"]
    assert tap.connections == 2


async def test_scripts_are_there_and_come_back(line: Line, tap: Tap, server: Server) -> None:
    """Scripts can be called by their digests from the first command on, and after the server forgot them."""
    script = Script("cancel")
    scripted = Line(tap.url, [script.text])
    command: Command = ("EVALSHA", script.digest, 0, "1:t", 60)
    for _ in range(2):
        assert await asyncio.gather(asked(scripted, command), asked(scripted, PING)) == [[1], ["PONG"]]
        await server.client.script_flush()
    with pytest.raises(StoreError, match="NOSCRIPT"):
        await asked(line, command)
    await scripted.close()


async def test_who_fails_on_his_answer_harms_nobody(line: Line, caplog: pytest.LogCaptureFixture) -> None:
    """An asker that raises is said in the log; the replies behind his reach their askers."""
    line.ask([PING], lambda replies: [][len(replies)])
    assert await asked(line, PING) == ["PONG"]
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
    """Long and short answers on one connection; none at all where the certificate is not known."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with tapped(port, context) as tap:
        line = Line(f"rediss://localhost:{tap.port}/0?ssl_ca_certs={certificate}")
        long = "x" * 100_000
        for _ in range(3):
            assert await asyncio.gather(asked(line, ("ECHO", long)), asked(line, PING)) == [[long], ["PONG"]]
        assert tap.connections == 1
        distrustful = Line(f"rediss://localhost:{tap.port}/0")
        with pytest.raises(StoreError, match=r"(?i)certificate"):
            await asked(distrustful, PING)
        await distrustful.close()
        await line.close()


async def test_redis_py_hands_over_its_connection(server: Server) -> None:
    """The one private name of redis-py that is used is still there and means what it did."""
    connection = Connection(port=server.port)
    await connection.connect()
    assert isinstance(connection._writer, asyncio.StreamWriter), "redis-py keeps its stream elsewhere: see _taken_from"
    stream = line_module._taken_from(connection)
    assert not connection.is_connected, "redis-py does not notice that it has no stream any more"
    await connection.disconnect()
    assert not stream.transport.is_closing(), "redis-py has closed what is no longer its own"
    stream.close()
    await stream.wait_closed()


@pytest.mark.parametrize("kind", ["READONLY", "OOM", "MISCONF", "ERR", "LOADING", "NOAUTH", "NOPERM", "MASTERDOWN"])
def test_a_refusal_has_its_kind(kind: str) -> None:
    """The first word of what a server says is the kind of the failure, whichever connection hears it."""
    text = f"{kind} something is wrong"
    assert kind_of(ReplyError(text)) == kind_of(BaseParser.parse_error(text)) == kind


@pytest.mark.parametrize("error", [OSError("no"), RedisConnectionError("closed"), RedisTimeoutError(), RuntimeError()])
def test_a_server_that_says_nothing_is_of_no_kind(error: Exception) -> None:
    """However a connection breaks, it is one kind of failure."""
    assert kind_of(error) == ""
