"""What `make run` does once the packages are installed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shlex
import signal
import socket
import sys
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.support.ports import free_port
from tests.support.process import ROOT, environment, kill, spawn, terminate
from tests.support.scripted import JSON, answering
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.scripted import Upstream

RUN = [sys.executable, str(ROOT / "tools" / "run.py")]


async def refused(settings: dict[str, str], exit_code: int = 1) -> list[str]:
    """Start it where it cannot start; its lines."""
    process = await asyncio.create_subprocess_exec(
        *RUN, env=environment(settings), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == exit_code
    return output.decode().splitlines()


async def asked(command: str) -> tuple[int, str]:
    """Send what a printed curl line sends; status and body."""
    words = shlex.split(command)
    assert words[0] == "curl"
    fields = [words[n + 1].split(": ", 1) for n, word in enumerate(words) if word == "-H"]
    body = words[words.index("-d") + 1] if "-d" in words else None
    url = next(word for word in words if word.startswith("http://"))
    async with httpx.AsyncClient(trust_env=False, timeout=120) as http:
        method = "GET" if body is None else "POST"
        answer = await http.request(method, url, headers=dict(fields), content=body)
    return answer.status_code, answer.text


@pytest.mark.model
@pytest.mark.timeout(300)
async def test_the_printed_lines_work_as_they_stand(tmp_path: Path) -> None:
    """When all is ready the lines to try are printed; they stream from a real model and tell the task's state."""
    settings = {
        "PATH": os.pathsep.join([str(ROOT / "embedded"), os.environ["PATH"]]),
        "OLLAMA_HOST": f"127.0.0.1:{free_port()}",
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(free_port()),
        "TMPDIR": str(tmp_path),
    }
    log = tmp_path / "log"
    process = spawn(RUN, log, settings)
    try:
        ready = "Ctrl-C stops all of it."
        await until(lambda: ready in log.read_text() or process.poll() is not None, 60, "ready")
        chat, status = re.findall(r"^  (curl .*)$", log.read_text(), re.MULTILINE)
        code, text = await asked(chat)
        assert code == 200
        assert text.rstrip().endswith("data: [DONE]")
        code, text = await asked(status)
        assert (code, json.loads(text)["state"]) == (200, "SUCCESS")
        process.send_signal(signal.SIGINT)
        await until(lambda: process.poll() is not None, 45, "it stops")
        assert process.returncode == 0
        assert "Traceback" not in log.read_text()
    finally:
        if process.poll() is None:
            process.terminate()
            await until(lambda: process.poll() is not None, 45, "it stops")
            await kill(process)


async def test_a_link_of_kubernetes_is_no_port() -> None:
    """Where Kubernetes has set GATEWAY_PORT, the default port is looked at, as the gateway will listen there."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):  # another program may have it: as good
            taken.bind(("127.0.0.1", 11535))
            taken.listen()
        free = {"OLLAMA_HOST": f"127.0.0.1:{free_port()}", "PATH": os.defpath}
        [line] = await refused(free | dict.fromkeys(("GATEWAY_PORT", "GATEWAY_HOST"), "tcp://10.0.0.1:11535"))
    assert ":11535: Address already in use" in line
    assert "10.0.0.1" not in line


@pytest.mark.parametrize("variable", ["OLLAMA_HOST", "GATEWAY_PORT"])
async def test_a_taken_port_is_one_line(variable: str) -> None:
    """A port in use stops the start with one line that names the port and the variable to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        free = {"OLLAMA_HOST": f"127.0.0.1:{free_port()}", "GATEWAY_PORT": str(free_port())}
        value = f"127.0.0.1:{port}" if variable == "OLLAMA_HOST" else str(port)
        [line] = await refused(free | {variable: value, "PATH": os.defpath})
    assert str(port) in line
    assert f"make run {variable}=" in line
    assert (f"make run UPSTREAM_BASE=http://127.0.0.1:{port};" in line) is (variable == "OLLAMA_HOST")


async def test_an_address_of_another_machine_is_one_line() -> None:
    """A GATEWAY_HOST that is not here is called so; no other port is proposed."""
    [line] = await refused({"GATEWAY_HOST": "192.0.2.1", "OLLAMA_HOST": f"127.0.0.1:{free_port()}"})
    assert "GATEWAY_HOST is no address of this machine" in line
    assert "GATEWAY_PORT" not in line


@pytest.mark.parametrize("form", ["text", "json"])
async def test_wrong_settings_are_said_once_and_nothing_starts(form: str) -> None:
    """Exit code 2 and one line for each wrong setting, ahead of any look at the ports."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        wrong = {"LOG_LEVEL": "loud", "DRAIN_SEC": "soon"}
        taken_ports = {"OLLAMA_HOST": f"127.0.0.1:{port}", "GATEWAY_PORT": str(port)}
        lines = await refused(wrong | taken_ports | {"LOG_FORMAT": form}, exit_code=2)
    said = [json.loads(line)["message"] for line in lines] if form == "json" else lines
    assert [line.partition("=")[0].rpartition(" ")[2] for line in said] == ["DRAIN_SEC", "LOG_LEVEL"]


@pytest.mark.timeout(120)
async def test_an_ollama_that_runs_is_used_on_loopback_alone(tmp_path: Path, upstream: Upstream) -> None:
    """With UPSTREAM_BASE no other Ollama is started; without GATEWAY_HOST no other machine reaches the gateway."""
    upstream.models = answering(200, JSON, body=b'{"object": "list", "data": [{"id": "theirs"}]}')
    base = f"http://127.0.0.1:{upstream.port}"
    settings = {"UPSTREAM_BASE": base, "OLLAMA_HOST": "", "GATEWAY_PORT": str(free_port()), "TMPDIR": str(tmp_path)}
    log = tmp_path / "log"
    process = spawn(RUN, log, settings)
    try:
        ready = "Ctrl-C stops all of it."
        await until(lambda: ready in log.read_text() or process.poll() is not None, 60, "ready")
        assert '"model": "theirs"' in log.read_text()
        assert "spawned: 'ollama'" not in log.read_text()
        assert f"listens on http://127.0.0.1:{settings['GATEWAY_PORT']}\n" in log.read_text()
    finally:
        assert await terminate(process, 45) == 0
