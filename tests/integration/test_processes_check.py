"""The health check against peers that answer, refuse, freeze and drip."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from typing import TYPE_CHECKING

import pytest

from healthcheck.check import gateway_base
from tests.support.ports import refusing_port
from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter, asyncio.Event], Awaitable[None]]

ALONE = pytest.mark.alone  # the start of Python has one of the five seconds
MODELS = b'{"object": "list", "data": []}'
READY = b'{"status": "degraded", "upstream": "up", "store": "down"}'
PULLING = (
    b'{"status": "not_ready", "upstream": "up", "store": "off", "models": {"wanted": ["m"], "missing": ["m", "n:1b"]}}'
)
NO_GPU = (
    b'{"status": "not_ready", "upstream": "up", "store": "off", '
    b'"gpu": {"devices": ["nvidia0"], "problem": "GPU devices are lost: nvidia0 (gone)"}}'
)
NOT_READY = b'{"status": "not_ready", "upstream": "down", "store": "off"}'


def answering(status: int, body: bytes) -> Answer:
    """A peer that answers at once."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
        writer.write(b"HTTP/1.1 %d Any\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()

    return answer


async def frozen(_: asyncio.StreamReader, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
    """A peer that takes the request and says nothing."""
    await over.wait()


async def dripping(_: asyncio.StreamReader, writer: asyncio.StreamWriter, over: asyncio.Event) -> None:
    """A peer whose answer never ends: another byte ten times a second."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while not over.is_set():
        writer.write(b" ")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), 0.1)


@contextlib.asynccontextmanager
async def peer(answer: Answer) -> AsyncIterator[int]:
    """The port of a peer that reads a request's head and then does as told."""
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # the check may leave any time
            await reader.readuntil(b"\r\n\r\n")
            await answer(reader, writer, over)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        over.set()


async def check(ollama: int, gateway: int, **more: str) -> tuple[int, str, float]:
    """Run the check against two ports: exit code, what it printed, and how long it took."""
    settings = {
        "UPSTREAM_BASE": f"http://127.0.0.1:{ollama}",
        "GATEWAY_PORT": str(gateway),
        "http_proxy": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "healthcheck" / "check.py"),
        env=environment(settings | more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, output.decode(), time.monotonic() - began


@pytest.mark.parametrize(
    ("variables", "base"),
    [({}, "http://127.0.0.1:11535"), ({"GATEWAY_PORT": "tcp://10.0.0.1:80"}, "http://127.0.0.1:11535"),
     ({"GATEWAY_HOST": "udp://10.0.0.1:80", "GATEWAY_PORT": "7"}, "http://127.0.0.1:7"),
     ({"GATEWAY_HOST": "[::]"}, "http://[::1]:11535")],
)  # fmt: skip
def test_the_gateway_is_asked_where_it_listens(
    variables: dict[str, str], base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check takes the gateway's variables as the gateway does: a link of Kubernetes counts as unset."""
    for name in ("GATEWAY_HOST", "GATEWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert gateway_base() == base


async def test_a_link_is_no_upstream() -> None:
    """UPSTREAM_BASE from Kubernetes counts as unset for the check, too."""
    async with peer(answering(200, MODELS)) as ollama, peer(answering(200, READY)) as gateway:
        link = {"UPSTREAM_BASE": "tcp://10.0.0.1:80", "OLLAMA_HOST": f":{ollama}"}
        code, output, _ = await check(1, gateway, **link)
    assert (code, "ollama: up" in output) == (0, True), output


async def test_healthy_when_both_are_whatever_the_store_does() -> None:
    """Exit 0 with Ollama's 200 and a ready gateway; the store is only reported, proxies are not heeded."""
    async with peer(answering(200, MODELS)) as ollama, peer(answering(200, READY)) as gateway:
        code, output, _ = await check(ollama, gateway)
    assert (code, output) == (0, "healthy: ollama: up; gateway: degraded, upstream up, store down\n")


async def test_ollamas_port_follows_ollama_host() -> None:
    """Without UPSTREAM_BASE the check finds Ollama where the launcher has put it."""
    async with peer(answering(200, MODELS)) as ollama, peer(answering(200, READY)) as gateway:
        code, output, _ = await check(1, gateway, UPSTREAM_BASE="", OLLAMA_HOST=f"0.0.0.0:{ollama}")
    assert (code, output[:8]) == (0, "healthy:")


@pytest.mark.parametrize("status", [204, 403, 500, 503])
async def test_only_200_of_ollama_counts(status: int) -> None:
    """Any other status of /v1/models is unhealthy and named."""
    async with peer(answering(status, b"")) as ollama, peer(answering(200, READY)) as gateway:
        code, output, _ = await check(ollama, gateway)
    assert code == 1
    assert f"/v1/models answers {status}" in output


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (503, NOT_READY, "not_ready, upstream down"),
        (200, NOT_READY, "not_ready"),
        (503, PULLING, "not_ready, upstream up, store off, without m n:1b\n"),
        (503, NO_GPU, "not_ready, upstream up, store off, GPU devices are lost: nvidia0 (gone)\n"),
        (503, READY, "degraded"),
        (200, b"hello\nthere", "JSONDecodeError"),
        (200, b"[]", "TypeError"),
        (200, b"", "JSONDecodeError"),
    ],
)
async def test_only_a_ready_gateway_counts(status: int, body: bytes, said: str) -> None:
    """The gateway has to answer 200 and to call itself ready; one line tells what it said instead."""
    async with peer(answering(200, MODELS)) as ollama, peer(answering(status, body)) as gateway:
        code, output, _ = await check(ollama, gateway)
    assert code == 1
    assert said in output
    assert output.startswith("UNHEALTHY: ollama: up; gateway: ")
    assert output.count("\n") == 1


@ALONE
async def test_nobody_there_is_said_at_once() -> None:
    """Refused connections are unhealthy without any wait."""
    with refusing_port() as ollama, refusing_port() as gateway:
        code, output, seconds = await check(ollama, gateway)
    assert code == 1
    assert output.count("ConnectionRefusedError") == 2
    assert seconds < 3


@ALONE
@pytest.mark.parametrize("bad", [frozen, dripping])
@pytest.mark.parametrize("who", ["ollama", "gateway", "both"])
async def test_the_answer_comes_within_five_seconds(bad: Answer, who: str) -> None:
    """Peers that freeze, or drip so that no single read times out, are unhealthy within five seconds."""
    ollama_answer = answering(200, MODELS) if who == "gateway" else bad
    gateway_answer = answering(200, READY) if who == "ollama" else bad
    async with peer(ollama_answer) as ollama, peer(gateway_answer) as gateway:
        code, output, seconds = await check(ollama, gateway)
    assert code == 1
    assert output.count("no answer within 4 s") + output.count("TimeoutError") == (2 if who == "both" else 1)
    assert output.count("\n") == 1
    assert seconds < 5
