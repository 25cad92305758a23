"""Owns the promise of docs/troubleshooting.md: every message it quotes is one that is said, and no warning is missing.

Most are looked for in the code's own texts. Those that come together at run time only, or from supervisord, are
provoked: wrong settings, the health check, a container's programs that cannot stay up. Docker's own words are tried in
tests/container/test_docs_docker.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from gateway import errors
from tests.support.gpu import FakeGpu
from tests.support.messages import patterns, stands_for, warnings
from tests.support.pages import output, page, table
from tests.support.ports import free_port, refusing_port
from tests.support.process import ROOT, environment, spawn, terminate
from tests.support.scripted import JSON, answering, sending
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


PAGE = page("docs/troubleshooting.md")
MESSAGE, CODE, STATUS = "| Message | Means | Do |", "| Code | Message | Do |", "| Status | Message | Means |"
TABLES = PAGE.split("\n## ")
CHECK = [sys.executable, str(ROOT / "healthcheck" / "check.py")]
LAUNCHER = [sys.executable, str(ROOT / "healthcheck" / "launcher.py")]
CONFIGURED = "GATEWAY_PORT='99999' is not valid; allowed: 1 to 65535"
DOCKERS = 'could not select device driver "nvidia" with capabilities: [[gpu]]'


def section(heading: str) -> str:
    """A part of the page by its heading."""
    (found,) = [part for part in TABLES if part.startswith(heading + "\n")]
    return found


START = [row[0] for row in table(section("It does not start"), MESSAGE)]
HEALTH = [row[0] for row in table(section("The container is unhealthy"), MESSAGE)]
FAILS = table(section("A request fails"), CODE)
REFUSED = table(section("A request fails"), STATUS)
STATUSES = [row[0] for row in table(section("A status request fails"), MESSAGE)]
LOG = [row[0] for row in table(section("What the log says"), MESSAGE)]
WRONG = f"gateway: {CONFIGURED}"
KILLED = "exited: ollama (terminated by SIGKILL; not expected)"
PROVOKED = {WRONG, KILLED, *[text for text in START if re.match("exited|gave up", text)], DOCKERS}
QUOTED = [
    *dict.fromkeys(text for text in START if text not in PROVOKED),
    *[row[1] for row in FAILS + REFUSED],
    *STATUSES,
    *LOG,
]


# -- in the code --


@pytest.mark.parametrize("message", QUOTED)
async def test_a_quoted_message_is_one_of_the_codes(message: str) -> None:
    """The message, whole, is a text of the code, with something in place of what is filled in."""
    assert [pattern.pattern for pattern in patterns() if stands_for(message, pattern)]


async def test_no_warning_is_missing() -> None:
    """Whatever the code logs as a warning or an error is quoted."""
    assert [w.pattern for w in warnings() if not any(stands_for(message, w) for message in LOG + START)] == []


async def test_each_error_code_has_its_message() -> None:
    """Every code of an error of ours is in the table, and no other."""
    kinds = [errors.GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    assert {row[0] for row in FAILS} == {kind.code for kind in kinds}


async def test_each_table_was_read() -> None:
    """The page has no other tables of messages than those that are looked at here."""
    headers = re.findall(r"^\| .*\bMessage\b.*\|$", PAGE, re.MULTILINE)
    assert headers == [MESSAGE, MESSAGE, CODE, STATUS, MESSAGE, MESSAGE]
    assert len(QUOTED) + len(PROVOKED) + len(HEALTH) > 60


# -- provoked --


@pytest.mark.alone  # supervisord gives up on what ends within two seconds, and a gateway's start is to be one of those
@pytest.mark.timeout(300)
async def test_what_is_said_when_the_gateway_cannot_start(tmp_path: Path) -> None:
    """Where its port is taken supervisord gives up, and the listener ends everything with exit code 1."""
    ollama = tmp_path / "bin" / "ollama"
    ollama.parent.mkdir()
    ollama.write_text("#!/bin/sh\nexec sleep 600\n")
    ollama.chmod(0o755)
    settings = environment({"GATEWAY_HOST": "127.0.0.1", "TMPDIR": str(tmp_path)})
    settings["PATH"] = f"{ollama.parent}:{settings['PATH']}"
    log = tmp_path / "log"
    with refusing_port() as taken:
        process = spawn(LAUNCHER, log, settings | {"GATEWAY_PORT": str(taken)})
        try:
            await until(lambda: process.poll() is not None, 40, "it ends")
        finally:
            await terminate(process, 90)
    assert process.returncode == 1
    said = log.read_text()
    assert [text for text in PROVOKED - {DOCKERS, WRONG, KILLED} if text not in said] == []
    assert "listener | gateway cannot stay up (FATAL): ending" in said
    assert "gateway cannot stay up (FATAL): ending" in START


@pytest.mark.timeout(120)
async def test_what_is_said_when_ollama_is_killed(tmp_path: Path) -> None:
    """The log names the signal, as for an Ollama that the kernel kills for want of memory."""
    ollama, pid = tmp_path / "bin" / "ollama", tmp_path / "pid"
    ollama.parent.mkdir()
    ollama.write_text(f"#!/bin/sh\necho $$ >{pid}.new && mv {pid}.new {pid}\nexec sleep 600\n")
    ollama.chmod(0o755)
    port, upstream = free_port(), free_port()
    settings = environment({"GATEWAY_HOST": "127.0.0.1", "TMPDIR": str(tmp_path), "GATEWAY_PORT": str(port)})
    settings |= {"PATH": f"{ollama.parent}:{settings['PATH']}", "OLLAMA_HOST": f"127.0.0.1:{upstream}"}
    log = tmp_path / "log"
    process = spawn(LAUNCHER, log, settings)
    try:
        await until(pid.exists, 40, "Ollama is started")
        os.kill(int(pid.read_text()), signal.SIGKILL)
        await until(lambda: KILLED in log.read_text(), 40, "the end is told")
    finally:
        await terminate(process, 90)
    assert KILLED in START


@pytest.mark.parametrize("command", [LAUNCHER, [sys.executable, "-m", "gateway"]])
async def test_what_is_said_of_a_wrong_setting(command: list[str], tmp_path: Path) -> None:
    """It is named, by the launcher and by the gateway alone, with exit code 2."""
    process = spawn(command, tmp_path / "log", environment({"GATEWAY_PORT": "99999", "TMPDIR": str(tmp_path)}))
    await until(lambda: process.poll() is not None, 40, "it ends")
    assert process.returncode == 2
    assert WRONG in (tmp_path / "log").read_text()


async def check(ollama: int, gateway: int) -> str:
    """What the health check prints, whatever its verdict."""
    settings = {
        "UPSTREAM_BASE": f"http://127.0.0.1:{ollama}",
        "GATEWAY_PORT": str(gateway),
        "GATEWAY_HOST": "127.0.0.1",
    }
    line = await output("sh", "-c", '"$@" || true', "sh", *CHECK, cwd=ROOT, settings=settings)
    return line.strip()


@pytest.mark.timeout(300)
async def test_what_the_health_check_says(
    launch: Launch, new_store: NewStore, upstream: Upstream, tmp_path: Path
) -> None:
    """Each line that the page quotes is printed in the condition that it explains."""
    store = await new_store()
    wants = {"OLLAMA_PULL_MODELS": "gpt-oss:20b", "READY_REQUIRES_MODELS": "true"}
    gateway = await launch(REDIS_URL=store.url)
    lines = [await check(upstream.port, gateway.port)]
    waiting = await launch(REDIS_URL=store.url, **wants)
    upstream.tags = answering(200, JSON, body=b'{"models":[]}')
    lines.append(await check(upstream.port, waiting.port))
    gpu = FakeGpu(tmp_path, "nvidia0")
    on_gpu = await launch(gpu.command, REDIS_URL=store.url, REQUIRE_GPU="true")
    gpu.remove("nvidia0")
    await until(lambda: "the GPU is lost" in on_gpu.log, 30, "the loss is noticed")
    lines.append(await check(upstream.port, on_gpu.port))
    with refusing_port() as port:
        cold = await launch(REDIS_URL=store.url, UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        lines.append(await check(port, cold.port))
        lines.append(await check(upstream.port, port))
    lines.append(await draining(gateway, upstream))
    upstream.models = sending(then="wait")
    lines.append(await check(upstream.port, (await launch(REDIS_URL=store.url)).port))
    upstream.models = answering(200, JSON, body=b'{"object":"list","data":[]}')
    degraded = await launch(REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")
    await degraded.ask("POST", "/v1/x", body=b"{}")
    lines.append(await check(upstream.port, degraded.port))
    assert sorted(lines) == sorted(HEALTH)


async def draining(gateway: Gateway, upstream: Upstream) -> str:
    """What it says of a gateway that was told to stop while a request runs."""
    upstream.then(sending(then="wait"))
    asking = asyncio.create_task(gateway.ask("POST", "/v1/x", body=b"{}"))
    exchange = await upstream.exchange()
    gateway.process.terminate()

    async def is_draining() -> bool:
        return bool((await gateway.http.get("/readyz")).json()["status"] == "draining")

    await until(is_draining, 30, "it drains")
    line = await check(upstream.port, gateway.port)
    exchange.drop()
    with contextlib.suppress(AssertionError):
        await within(30, asking, "the request ends")
    return line
