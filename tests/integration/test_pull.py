"""Owns the promises of models at start: what is missing is pulled, whatever fails on the way, and /readyz tells.

`python -m gateway.pull` is a process of its own; Ollama is scripted here, and a small program under supervisord.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gateway.pull.puller import Ollama, Puller
from tests.support.ports import free_port
from tests.support.process import ROOT, environment, kill, spawn, terminate
from tests.support.scripted import CHUNKED, JSON, Gated, Upstream, answering, head, sending
from tests.support.waiting import until, within
from tests.support.wire import chunk

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway

    Pull = Callable[..., "Pulling"]


COMMAND = [sys.executable, "-m", "gateway.pull"]
KEY = "a-key-that-stays-secret"


def tags(*names: str) -> Any:
    """Ollama's answer with these models."""
    return answering(200, JSON, body=json.dumps({"models": [{"name": name} for name in names]}).encode())


def event(**fields: object) -> bytes:
    """One line of Ollama's answer to a pull."""
    return json.dumps(fields).encode() + b"\n"


PULLED = answering(200, body=event(status="pulling manifest") + event(status="success"))
UNKNOWN = answering(200, body=event(error="pull model manifest: file does not exist"))


class Pulling:
    """The pull program as a process, its output in a file."""

    def __init__(self, directory: Path, port: int, models: str) -> None:
        self.log_path = directory / "pull.log"
        self.settings = {
            "UPSTREAM_BASE": f"http://127.0.0.1:{port}",
            "OLLAMA_PULL_MODELS": models,
            "LAUNCHER_DIRECTORY": str(directory),
            "GATEWAY_API_KEYS": KEY,
        }
        self.process: subprocess.Popen[bytes] = spawn(COMMAND, self.log_path, self.settings)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    async def said(self, words: str) -> None:
        """Wait for words in its output."""
        await until(lambda: words in self.log, 30, words)

    async def ended(self) -> int:
        """Its exit code, when it ends by itself."""
        await until(lambda: self.process.poll() is not None, 30, "the pull program ends")
        return int(self.process.returncode)


@pytest.fixture
async def pull(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Pull]:
    """Starts the pull program; at the end its log holds no traceback and no key."""
    started: list[Pulling] = []

    def start(models: str, port: int = upstream.port) -> Pulling:
        started.append(Pulling(tmp_path, port, models))
        return started[-1]

    yield start
    for pulling in started:
        if pulling.process.poll() is None:
            await kill(pulling.process)
        assert "Traceback" not in pulling.log, pulling.log
        assert KEY not in pulling.log


async def ready(gateway: Gateway) -> dict[str, Any]:
    """The body of /readyz, with its HTTP status."""
    answer = await gateway.http.get("/readyz")
    return {"code": answer.status_code, **answer.json()}


async def until_models(gateway: Gateway, **wanted: object) -> dict[str, Any]:
    """Wait until /readyz tells this of the models; all that it says then."""

    async def told() -> dict[str, Any] | None:
        found = await ready(gateway)
        return found if found["models"] | wanted == found["models"] else None

    found: dict[str, Any] = await until(told, 30, f"/readyz tells {wanted}")
    return found


async def test_a_pull_that_fails_twice_and_then_works(
    pull: Pull, launch: Launch, upstream: Upstream, tmp_path: Path
) -> None:
    """Reset, then refused, then done: its progress is seen in /readyz and in the log, and it ends ready, with 0."""
    upstream.tags = tags()
    layers = Gated(JSON)
    refusing = answering(200, body=event(error="the registry is away"))
    upstream.then(sending(then="reset"), refusing, layers)
    wanted = {"OLLAMA_PULL_MODELS": "small:1b", "READY_REQUIRES_MODELS": "true", "LAUNCHER_DIRECTORY": str(tmp_path)}
    gateway = await launch(**wanted, GATEWAY_API_KEYS=KEY)
    before = await ready(gateway)
    assert (before["code"], before["status"], before["upstream"]) == (503, "not_ready", "up")
    assert before["models"] == {"wanted": ["small:1b"], "missing": ["small:1b"], "pulling": None, "percent": None}

    pulling = pull("small:1b")
    layers.head()
    layers.piece(event(status="pulling manifest"))
    layers.piece(event(status="pulling aa", digest="sha256:aa", total=1000, completed=424))
    during = await until_models(gateway, pulling="small:1b", percent=42)
    assert (during["code"], during["models"]["missing"]) == (503, ["small:1b"])
    await pulling.said("small:1b: 42 %")

    upstream.tags = tags("small:1b")
    layers.piece(event(status="success"))
    layers.end()
    assert await pulling.ended() == 0
    after = await until_models(gateway, missing=[], pulling=None, percent=None)
    assert (after["code"], after["status"]) == (200, "ready")
    assert re.findall(r"small:1b: .*trying again in (\d) s", pulling.log) == ["1", "2"]
    assert "small:1b: the registry is away" in pulling.log
    asked = [(exchange.head.line, json.loads(exchange.body.data)) for exchange in upstream.exchanges]
    assert asked == [(b"POST /api/pull HTTP/1.1", {"model": "small:1b", "stream": True})] * 3


async def test_readiness_waits_for_models_only_where_told_to(launch: Launch, upstream: Upstream) -> None:
    """Missing models are told and alone change nothing; where none are wanted, none are told."""
    upstream.tags = tags("other")
    gateway = await launch(OLLAMA_PULL_MODELS="small")
    found = await ready(gateway)
    assert (found["code"], found["status"], found["models"]["missing"]) == (200, "ready", ["small"])
    plain = await launch(READY_REQUIRES_MODELS="true")
    found = await ready(plain)
    assert (found["code"], found["status"], found["models"]) == (200, "ready", None)


async def test_readiness_knows_after_a_restart(launch: Launch, upstream: Upstream) -> None:
    """Ollama's own list is the truth: with the models there, no pull program is needed to be ready."""
    upstream.tags = tags("small:latest", "other:1b")
    gateway = await launch(OLLAMA_PULL_MODELS="other:1b small", READY_REQUIRES_MODELS="true")
    found = await ready(gateway)
    assert (found["code"], found["models"]["missing"]) == (200, [])


@pytest.mark.parametrize("script", [answering(404), answering(200, body=b"no list"), sending(then="drop")])
async def test_without_a_list_every_model_counts_as_missing(launch: Launch, upstream: Upstream, script: Any) -> None:
    """An upstream that is no Ollama, or hides its list, leaves the wish open, and /readyz answers."""
    upstream.tags = script
    gateway = await launch(OLLAMA_PULL_MODELS="small")
    found = await ready(gateway)
    assert (found["code"], found["models"]["missing"]) == (200, ["small"])


async def test_nothing_is_pulled_that_is_there(pull: Pull, upstream: Upstream) -> None:
    """Models that Ollama has, in whatever spelling, are not asked for, and the program ends with 0."""
    upstream.tags = tags("small:latest", "hf.co/me/Big:Q4")
    pulling = pull("small hf.co/me/big:q4")
    assert await pulling.ended() == 0
    assert upstream.exchanges == []


async def test_without_models_it_ends_at_once(pull: Pull, upstream: Upstream) -> None:
    """Nothing to do, nothing said."""
    pulling = pull("")
    assert await pulling.ended() == 0
    assert pulling.log == ""


async def test_a_model_that_does_not_exist_stops_no_other(pull: Pull, upstream: Upstream) -> None:
    """It is named with the registry's reason and put off for an hour; the next one is pulled; a signal ends it."""
    upstream.tags = tags()
    upstream.then(UNKNOWN, PULLED)
    pulling = pull("no-such-model small")
    await pulling.said("small: pulled")
    assert "no-such-model: pull model manifest: file does not exist; trying again in 3600 s" in pulling.log
    assert pulling.process.poll() is None
    assert await terminate(pulling.process, 5) == -signal.SIGTERM


async def test_it_waits_for_ollama(pull: Pull) -> None:
    """While Ollama is not up it waits, says so once, and begins as soon as it is."""
    upstream = Upstream()
    port = free_port()
    pulling = pull("small", port)
    await pulling.said("waiting for Ollama")
    upstream.tags = tags()
    upstream.then(PULLED)
    await upstream.start(port)
    assert await pulling.ended() == 0
    await upstream.stop()
    assert pulling.log.count("waiting for Ollama") == 1
    assert "all models are there: small" in pulling.log


async def test_a_server_that_is_no_ollama_is_named_once(pull: Pull) -> None:
    """A server without /api/tags cannot pull. One line says so, and the program goes on asking."""
    upstream = Upstream()
    port = free_port()
    pulling = pull("small", port)
    await pulling.said("waiting for Ollama")
    asked: list[object] = []

    async def none(*arguments: Any) -> None:
        asked.append(arguments)
        await answering(404)(*arguments)

    upstream.tags = none
    await upstream.start(port)
    await until(lambda: len(asked) >= 2, 30, "it asks again")
    upstream.tags = tags("small")
    assert await pulling.ended() == 0
    await upstream.stop()
    said = f"the server at 127.0.0.1:{port} has no /api/tags (404): it is no Ollama and cannot pull"
    assert (pulling.log.count(said), pulling.log.count("waiting for Ollama")) == (1, 1)
    assert "all models are there: small" in pulling.log


FAILURES = {
    "no words": (answering(500), "ended before"),
    "an error status": (answering(404, body=b'{"error": "model not found"}'), "model not found"),
    "an error of another shape": (answering(500, body=b'{"oops": 1}'), "/api/pull answers 500"),
    "no JSON": (answering(200, body=b"<html>\n"), "JSONDecodeError"),
    "no object": (answering(200, body=b"[1]\n"), "not a message of /api/pull"),
    "an end too soon": (answering(200, body=event(status="pulling manifest")), "ended before"),
    "an end inside a chunk": (sending(head(200, CHUNKED), b"ff\r\n" + event(status="x"), then="drop"), ""),
    "a drop after progress": (sending(head(200, CHUNKED), chunk(event(status="x")), then="drop"), ""),
    "a reset": (sending(then="reset"), "ConnectionResetError"),
    "codes for a terminal": (answering(200, body=event(error="\x1b[31mred\r\nline")), r"\x1b[31mred\r\nline"),
}


@pytest.mark.parametrize(("script", "words"), FAILURES.values(), ids=FAILURES)
async def test_whatever_fails_is_tried_again(
    upstream: Upstream, caplog: pytest.LogCaptureFixture, script: Any, words: str
) -> None:
    """Each way to fail costs a second, is said in one line that cannot drive a terminal, and is forgotten after."""
    upstream.tags = tags()
    upstream.then(script, PULLED)
    pauses: list[float] = []
    caplog.set_level("INFO", "gateway.pull")
    puller = Puller(Ollama("127.0.0.1", upstream.port), ("small",), sleep=pauses.append)
    await within(30, asyncio.to_thread(puller.run))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 5, said
    assert words in said[1]
    assert said[1].startswith("small: ")
    assert said[1].isprintable()
    assert said[1].endswith("; trying again in 1 s")
    assert said[3:] == ["small: pulled", "all models are there: small"]
    assert [round(pause, 1) for pause in pauses] == [0.0, 1.0]


async def test_a_terminal_sees_a_bar(upstream: Upstream, tmp_path: Path) -> None:
    """By hand on a terminal the progress is a bar with the model's name, in place of lines."""
    upstream.tags = tags()
    size = {"digest": "sha256:aa", "total": 1_000_000_000, "completed": 1_000_000_000}
    upstream.then(answering(200, body=event(status="pulling aa", **size) + event(status="success")))
    ours, theirs = pty.openpty()
    settings = {"UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}", "OLLAMA_PULL_MODELS": "small", "TERM": "xterm"}
    process = await asyncio.create_subprocess_exec(*COMMAND, cwd=ROOT, env=environment(settings), stdout=theirs)
    assert await within(30, process.wait()) == 0
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "\x1b[" in shown
    assert "1.0/1.0 GB" in shown
    assert "100 % of" not in shown
