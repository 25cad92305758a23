"""Owns the promise of docs/proxies.md: its nginx example, as it stands, passes on what the gateway promises.

A real nginx (Debian's `nginx-light`), skipped at home without one. Around the example stand limits as nginx has them by
default, but for the time of silence, which is a second: only what the example itself says can make a test pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import socket
import ssl
import time
from typing import TYPE_CHECKING, Self

import pytest

from tests.support.faults import elapse
from tests.support.outcome import CLIENT_LEFT, DONE, outcome
from tests.support.pages import ADDRESS, output, page, table, the_block
from tests.support.ports import free_port
from tests.support.process import spawn, terminate
from tests.support.scripted import EVENTS, JSON, Gated
from tests.support.waiting import until, within
from tests.support.wire import Client, chunk, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

    Front = Callable[..., Awaitable["Nginx"]]


PAGE = page("docs/proxies.md")
EXAMPLE = the_block(PAGE, "nginx", "proxy_pass")
NAME = "ollama.example.com"
CHAT = "/v1/chat/completions"
END = b"data: [DONE]\n\n"
SILENCE_SECONDS = 1
AROUND = """
{user}
pid {directory}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    proxy_read_timeout {silence}s;
    proxy_send_timeout {silence}s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    {example}
}}
"""


def leave(client: Client) -> None:
    """Close the connection at once, without TLS's own farewell."""
    client.writer.transport.abort()


class Nginx:
    """One nginx with the example as its site, on a free port, with a certificate of its own."""

    def __init__(self, program: str, directory: Path, example: str, gateway: Gateway) -> None:
        self.directory = directory
        self.port = free_port()
        self.command = [program, "-p", str(directory), "-c", str(directory / "conf"), "-g", "daemon off;"]
        self.certificate = directory / f"{NAME}.pem"
        address = ADDRESS.removeprefix("http://")
        for there, in_test in (
            (address, f"127.0.0.1:{gateway.port}"), ("/etc/ssl", str(directory)),
            ("listen 443", f"listen 127.0.0.1:{self.port}"),
        ):  # fmt: skip
            assert there in example
            example = example.replace(there, in_test)
        user = "user root;" if os.geteuid() == 0 else ""
        text = AROUND.format(user=user, directory=directory, silence=SILENCE_SECONDS, example=example)
        (directory / "conf").write_text(text)

    async def start(self) -> Self:
        """Make the certificate, start, and wait until it takes connections."""
        await output(
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}",
            "-addext", f"subjectAltName=DNS:{NAME}",
            "-keyout", f"{NAME}.key", "-out", f"{NAME}.pem", cwd=self.directory,
        )  # fmt: skip
        self.process = spawn(self.command, self.directory / "log", {})
        await until(self._is_up, 30, "nginx listens")
        return self

    async def _is_up(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        with contextlib.suppress(OSError):
            leave(await self.connect())
            return True
        return False

    async def connect(self) -> Client:
        """A connection to it, inside TLS, by the example's name."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname=NAME))

    async def ask(self, task_id: str, *fields: Field, body: bytes = b"{}") -> Client:
        """A client that has sent a chat."""
        client = await self.connect()
        named = (b"X-Task-Id", task_id.encode())
        await client.send(request("POST", CHAT, named, *fields, body=body, host=NAME.encode()))
        return client


@pytest.fixture
async def behind(gateways: Launch, store: Store) -> Gateway:
    """The gateway behind it, which knows the name."""
    return await gateways(REDIS_URL=store.url, ALLOWED_HOSTS=NAME)


@pytest.fixture
async def front(behind: Gateway, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Front]:
    """Starts nginx with the example, or without one of its lines."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None and not os.environ.get("CI"):
        pytest.skip("there is no nginx; Debian has it as nginx-light")
    assert program is not None, "there is no nginx"
    running: list[Nginx] = []

    async def start(without: str = "", gateway: Gateway = behind) -> Nginx:
        example = re.sub(rf"^ *{without} .*\n", "", EXAMPLE, flags=re.MULTILINE) if without else EXAMPLE
        assert (example == EXAMPLE) == (not without)
        running.append(await Nginx(program, tmp_path_factory.mktemp("nginx"), example, gateway).start())
        return running[-1]

    yield start
    for nginx in running:
        await terminate(nginx.process, 30)


KINDS = pytest.mark.parametrize("kind", [EVENTS, JSON], ids=["events", "json"])


@KINDS
async def test_pieces_arrive_one_by_one(
    front: Front, behind: Gateway, upstream: Upstream, fresh_id: str, kind: Field
) -> None:
    """Each piece is with the client before the next one is sent, of an event stream and of any other answer."""
    stream = upstream.gated(kind)
    client = await (await front()).ask(fresh_id)
    stream.head()
    head = await within(30, client.head(), "the head, before any piece")
    assert head.task_id == fresh_id
    for number in range(5):
        piece = b"data: %d\n\n" % number
        stream.piece(piece)
        assert await within(30, client.up_to(chunk(piece)), f"piece {number}")
    stream.piece(END)
    stream.end()
    assert (await within(30, client.rest(head), "the end")).body.complete
    assert outcome(await behind.ended(fresh_id)) == DONE
    leave(client)


async def test_a_long_silence_is_waited_for(front: Front, behind: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A model that loads for longer than nginx waits by itself is answered all the same."""
    stream = upstream.gated()
    client = await (await front()).ask(fresh_id)
    await elapse(2.5 * SILENCE_SECONDS, time.monotonic(), "nginx's own limit is over")
    stream.head()
    stream.piece(END)
    stream.end()
    answer = await within(30, client.answer(), "the answer")
    assert (answer.status, answer.data) == (200, END)
    assert outcome(await behind.ended(fresh_id)) == DONE
    leave(client)


async def test_a_large_body_goes_up(front: Front, upstream: Upstream, fresh_id: str) -> None:
    """2 MB, of which nginx takes half by itself, arrive as they were."""
    client = await (await front()).ask(fresh_id, body=b"x" * 2_000_000)
    assert (await within(30, client.answer(), "the answer")).status == 200
    assert upstream.exchanges[0].body.size == 2_000_000
    leave(client)


@pytest.mark.parametrize("leaves_by", ["closing", "half-closing"])
async def test_who_leaves_stops_ollama(
    front: Front, behind: Gateway, upstream: Upstream, fresh_id: str, leaves_by: str
) -> None:
    """A client that closes, or only its sending side, ends its task through nginx, too."""
    stream = upstream.gated()
    client = await (await front()).ask(fresh_id)
    stream.head()
    await within(30, client.head(), "the head")
    if leaves_by == "closing":
        leave(client)
    else:
        client.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
    await within(30, upstream.exchanges[0].closed.wait(), "the upstream is closed")
    assert outcome(await behind.ended(fresh_id)) == CLIENT_LEFT


BROWSER = ((b"User-Agent", b"Mozilla/5.0"), (b"Origin", f"https://{NAME}".encode()))


async def test_browsers_come_in_by_the_name(front: Front, upstream: Upstream, fresh_id: str) -> None:
    """A page of the name itself may call: Host is passed on, and the gateway trusts it."""
    client = await (await front()).ask(fresh_id, *BROWSER)
    assert (await within(30, client.answer(), "the answer")).status == 200
    leave(client)


# -- what the page says of limits that were forgotten --


async def test_without_its_limit_a_silence_is_504(
    front: Front, behind: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """nginx gives up by itself, and the task's client has left."""
    upstream.then(Gated())
    client = await (await front("proxy_read_timeout")).ask(fresh_id)
    assert (await within(30, client.answer(), "nginx's page")).status == 504
    assert outcome(await behind.ended(fresh_id)) == CLIENT_LEFT
    leave(client)


async def test_without_its_limit_a_body_is_413(
    front: Front, behind: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """nginx refuses it by itself, and there is no task."""
    client = await (await front("client_max_body_size")).ask(fresh_id, body=b"x" * 2_000_000)
    assert (await within(30, client.answer(), "nginx's page")).status == 413
    assert (await behind.http.get(f"/tasks/status/{fresh_id}")).status_code == 404
    leave(client)


async def test_without_its_line_answers_are_gathered(front: Front, upstream: Upstream, fresh_id: str) -> None:
    """Not event streams, which the gateway marks, but any other answer comes at once at its end."""
    events, other = Gated(EVENTS), Gated(JSON)
    upstream.then(events, other)
    nginx = await front("proxy_buffering")
    for stream, is_passed in ((events, True), (other, False)):
        client = await nginx.ask(fresh_id + stream.fields[0][1].decode().replace("/", "-"))
        stream.head()
        stream.piece(b"data: 1\n\n")
        early = asyncio.create_task(client.up_to(b"data: 1\n\n"))
        done, _ = await asyncio.wait([early], timeout=30 if is_passed else 0.7 * SILENCE_SECONDS)
        assert bool(done) == is_passed
        stream.end()
        await within(30, early, "the piece, at the end at the latest")
        leave(client)


@pytest.mark.parametrize("forgotten", ["Host", "ALLOWED_HOSTS"])
async def test_without_the_name_browsers_are_refused(
    front: Front, tracked: Gateway, upstream: Upstream, fresh_id: str, forgotten: str
) -> None:
    """A page of the name is 403 `origin_not_allowed` where the gateway does not know the name, or is not told it."""
    nginx = await (front("proxy_set_header Host") if forgotten == "Host" else front(gateway=tracked))
    client = await nginx.ask(fresh_id, *BROWSER)
    answer = await within(30, client.answer(), "the refusal")
    assert (answer.status, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    leave(client)


async def test_the_page_names_what_was_forgotten() -> None:
    """The table's rows are those that are tried above, and kept connections, whose limit is below the gateway's."""
    rows = [row[1].split("`")[0] for row in table(PAGE, "| Seen | Is |")]
    assert rows == ["proxy_read_timeout", "client_max_body_size", "buffering", "kept connections", "ALLOWED_HOSTS"]
    assert "keepalive_timeout 30s;" in EXAMPLE
