"""supervisord, the launcher and the listener with real programs: start, stop, death, output."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_port
from tests.support.process import ROOT, environment, hears_sighup, is_alive, kill, spawn, terminate
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import AsyncIterator, Callable

    Start = Callable[..., "Running"]

LAUNCHER = [sys.executable, str(ROOT / "healthcheck" / "launcher.py")]
CHECK = [sys.executable, str(ROOT / "healthcheck" / "check.py")]
VENV = str(Path(sys.executable).parent)


class Running:
    """The launcher and all below it, on free ports, with its output in a file."""

    def __init__(self, directory: Path, ollama: str | None, settings: dict[str, str]) -> None:
        commands = ROOT / "embedded"
        if ollama is not None:  # a script in place of the model
            commands = directory / "bin"
            commands.mkdir()
            (commands / "ollama").write_text(f"#!/bin/sh\n{ollama}\n")
            (commands / "ollama").chmod(0o755)
        self.settings = {
            "PATH": os.pathsep.join([str(commands), VENV, os.environ["PATH"]]),
            "OLLAMA_HOST": f"127.0.0.1:{free_port()}",
            "GATEWAY_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(free_port()),
            "TMPDIR": str(directory),
            **settings,
        }
        self.log_path = directory / "log"
        self.process: subprocess.Popen[bytes] = spawn(LAUNCHER, self.log_path, self.settings)

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def pids(self, program: str) -> list[int]:
        """Every process that this program has been so far, oldest first."""
        return [int(pid) for pid in re.findall(rf"spawned: '{program}' with pid (\d+)", self.log)]

    async def said(self, words: str, seconds: float = 60) -> None:
        """Wait for words in the output; fail at once when the launcher has ended without them."""

        def heard() -> bool:
            ended = self.process.poll() is not None
            found = re.search(words, self.log) is not None
            assert found or not ended, f"ended with {self.process.returncode}:\n{self.log[-4000:]}"
            return found

        await until(heard, seconds, f"{words!r} in the output")

    async def healthy(self, seconds: float = 90) -> None:
        """Wait until the health check says so."""

        async def is_healthy() -> bool:
            assert self.process.poll() is None, self.log[-4000:]
            check = await asyncio.create_subprocess_exec(
                *CHECK, env=environment(self.settings), stdout=asyncio.subprocess.DEVNULL
            )
            return await check.wait() == 0

        await until(is_healthy, seconds, "the health check passes")

    async def ended(self, seconds: float) -> int:
        """Its exit code, when it ends by itself."""
        await until(lambda: self.process.poll() is not None, seconds, "the launcher ends")
        return int(self.process.returncode)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts everything once; whatever is left at the end is stopped and checked."""
    started: list[Running] = []

    def begin(ollama: str | None = None, **settings: str) -> Running:
        started.append(Running(tmp_path, ollama, settings))
        return started[-1]

    yield begin
    for running in started:
        if running.process.poll() is None and await terminate(running.process, 90) is None:
            for program in ("ollama", "gateway", "pull", "listener"):
                for pid in running.pids(program):
                    if is_alive(pid):
                        os.killpg(pid, signal.SIGKILL)
            await kill(running.process)
            raise AssertionError(f"did not stop:\n{running.log[-4000:]}")


def open_files(pid: int) -> list[str]:
    """What the file descriptors of a process lead to."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]


LASTING = "echo up; exec sleep 1000"
PULLING = f'exec "{sys.executable}" "{ROOT / "tests" / "support" / "pulling_ollama.py"}"'


@pytest.mark.model
@pytest.mark.timeout(300)
async def test_a_killed_program_comes_back_and_all_stop_in_order(start: Start) -> None:
    """Each program that dies is back as a younger process; at SIGTERM Ollama goes down last, exit code 0."""
    running = start()
    await running.healthy()
    assert running.pids("pull") == [], "without OLLAMA_PULL_MODELS there is no such process"
    for program in ("ollama", "gateway"):
        [old] = running.pids(program)
        os.kill(old, signal.SIGKILL)
        await until(lambda old=old: not is_alive(old), 30, f"{program} is dead")
        await until(lambda program=program: len(running.pids(program)) == 2, 30, f"{program} is back")
        await running.healthy()
        assert is_alive(running.pids(program)[1])
    assert not [file for file in open_files(running.process.pid) if file.startswith("socket:")]

    assert await terminate(running.process, 90) == 0
    log = running.log
    assert log.index("stopped: gateway") < log.index("stopped: ollama")
    assert [line for line in log.splitlines() if not re.match(r"(supervisord|ollama|gateway) \| ", line)] == []
    pids = [pid for name in ("ollama", "gateway", "listener") for pid in running.pids(name)]
    assert [pid for pid in pids if is_alive(pid)] == []


@pytest.mark.timeout(300)
async def test_sighup_is_the_gateways(start: Start, tmp_path: Path) -> None:
    """SIGHUP to the first process has the API keys read again; nothing is restarted, and SIGTERM still ends all."""
    keys = tmp_path / "keys"
    keys.write_text("alice:key-of-alice\n")
    running = start(LASTING, GATEWAY_API_KEYS_FILE=str(keys))
    await running.said("success: gateway entered RUNNING state")
    await running.said("API keys in force")
    [gateway] = running.pids("gateway")
    await until(lambda: hears_sighup(gateway), what="the gateway has read the keys and listens for the signal")
    running.process.send_signal(signal.SIGHUP)
    await until(lambda: running.log.count("API keys in force") == 2, 30, "the keys are read again")
    for program in ("ollama", "gateway"):
        [pid] = running.pids(program)
        assert is_alive(pid)
    assert await terminate(running.process, 90) == 0


async def test_a_program_that_never_starts_ends_everything(start: Start) -> None:
    """An Ollama that cannot start ends the launcher with 1 within a minute, with the reason in the output."""
    running = start("echo no such luck; exit 3")
    assert await running.ended(60) == 1
    assert "ollama | no such luck\n" in running.log
    assert "listener | ollama cannot stay up (FATAL): ending\n" in running.log


@pytest.mark.timeout(300)
async def test_a_missing_program_ends_everything(start: Start) -> None:
    """Without any `ollama` on the PATH the launcher ends with 1 within a minute and says so."""
    running = start(LASTING, PATH=os.pathsep.join([VENV, "/usr/sbin"]))
    assert await running.ended(60) == 1
    assert "can't find command 'ollama'" in running.log


@pytest.mark.timeout(300)
async def test_wrong_settings_end_everything(start: Start) -> None:
    """A gateway that refuses its settings ends the launcher with 1 within a minute and is heard."""
    running = start(LASTING, HEARTBEAT_SEC="often")
    assert await running.ended(60) == 1
    assert re.search(r"^gateway \| .*HEARTBEAT_SEC", running.log, re.MULTILINE)


@pytest.mark.timeout(300)
async def test_a_program_that_dies_again_and_again_ends_everything(start: Start) -> None:
    """A program that comes up and dies each time ends the launcher with 1 within a minute."""
    running = start("sleep 2.5; exit 0")
    assert await running.ended(60) == 1
    assert "listener | ollama cannot stay up (EXITED): ending\n" in running.log


@pytest.mark.timeout(300)
async def test_models_are_pulled_beside_the_gateway(start: Start) -> None:
    """With OLLAMA_PULL_MODELS a third program pulls them, is heard and ends; all else stays up."""
    running = start(PULLING, OLLAMA_PULL_MODELS="small:1b", READY_REQUIRES_MODELS="true")
    await running.said(r"pull \| .* small:1b: .*the registry is away; trying again in 2 s")
    await running.said(r"pull \| .* small:1b: 0 % of 1000\.0 MB")
    await running.healthy()
    assert re.search(r"pull \| .* all models are there: small:1b", running.log)
    await running.said(r"exited: pull \(exit status 0; expected\)")
    assert [len(running.pids(program)) for program in ("ollama", "gateway", "pull")] == [1, 1, 1]
    assert await terminate(running.process, 90) == 0


@pytest.mark.timeout(300)
async def test_a_pull_program_that_dies_is_no_failure(start: Start) -> None:
    """However it ends, it is not started again and nothing else ends."""
    running = start(LASTING, OLLAMA_PULL_MODELS="small")
    await running.said(r"pull \| .* waiting for Ollama")
    [pull] = running.pids("pull")
    os.kill(pull, signal.SIGKILL)
    await running.said(r"exited: pull \(terminated by SIGKILL; not expected\)")
    await running.said(r"success: gateway entered RUNNING")
    assert running.pids("pull") == [pull]
    assert "cannot stay up" not in running.log
    assert await terminate(running.process, 90) == 0


async def test_a_pull_program_that_waits_stops_with_the_others(start: Start) -> None:
    """One that is not done when all is stopped goes first and holds nothing up."""
    running = start(LASTING, OLLAMA_PULL_MODELS="small")
    await running.said(r"pull \| .* waiting for Ollama")
    assert await terminate(running.process, 90) == 0
    assert running.log.index("stopped: pull") < running.log.index("stopped: gateway")


async def test_children_of_a_killed_program_die(start: Start) -> None:
    """What Ollama leaves behind when it is killed is killed too: it would hold GPU memory."""
    running = start('sleep 1000 & echo "child $!"; wait')
    await running.said(r"ollama entered RUNNING")
    found = re.search(r"ollama \| child (\d+)", running.log)
    assert found
    child = int(found[1])
    assert is_alive(child)
    os.kill(running.pids("ollama")[0], signal.SIGKILL)
    await until(lambda: not is_alive(child), 30, "the orphan is dead")
    await running.said("listener \\| killed what process")


async def test_a_burst_of_output_is_complete_and_unmixed(start: Start) -> None:
    """10,000 lines at once, on both streams, and a very long one come out whole, each with its name."""
    burst = (
        "import sys; [print('line', n, file=(sys.stdout, sys.stderr)[n % 2], flush=True) for n in range(10000)];"
        "print('x' * 300000); print('burst over')"
    )
    running = start(f'"{sys.executable}" -c "{burst}"; exec sleep 1000')
    await running.said(r"ollama \| burst over\n")
    numbers = re.findall(r"^ollama \| line (\d+)$", running.log, re.MULTILINE)
    assert numbers == [str(n) for n in range(10000)]
    assert f"\nollama | {'x' * 300000}\n" in running.log
    assert await terminate(running.process, 90) == 0


async def test_ollama_sees_no_proxy_no_secret_and_only_loopback(start: Start) -> None:
    """Ollama's environment: HOME is set, it listens on loopback, and what is meant for others is not there."""
    secrets = {"REDIS_PASSWORD": "p%w", "REDIS_URL": "redis://:p%w@127.0.0.1:1/0", "GATEWAY_API_KEYS": "k%y"}
    secrets["OLLAMA_GATEWAY_KEY"] = "k%z"  # for the commands of the terminal
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    port = free_port()
    running = start("env; echo that is all; exec sleep 1000", OLLAMA_HOST=f"0.0.0.0:{port}", **secrets, **proxies)
    await running.said(r"ollama \| that is all")
    lines = [line.removeprefix("ollama | ") for line in running.log.splitlines() if line.startswith("ollama | ")]
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["OLLAMA_HOST"] == f"127.0.0.1:{port}"
    assert seen["HOME"]
    assert {name: seen[name] for name in (*secrets, *proxies)} == dict.fromkeys((*secrets, *proxies), "")
