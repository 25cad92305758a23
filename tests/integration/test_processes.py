"""supervisord, the launcher and the listener with real programs: start, stop, death, output."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.launched import LAUNCHER, VENV, Running
from tests.support.ports import free_port
from tests.support.process import ROOT, environment, hears_sighup, is_alive, terminate
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.scripted import Upstream

    Start = Callable[..., Running]


def given_at_start(pid: int) -> list[str]:
    """The environment with which a process was started."""
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


def open_files(pid: int) -> list[str]:
    """What the file descriptors of a process lead to."""
    return [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]


SECRETS = {
    "REDIS_PASSWORD": "p%w",
    "REDIS_URL": "redis://:p%w@127.0.0.1:1/0",
    "GATEWAY_API_KEYS": "k%y-of-alice",
    "OLLAMA_GATEWAY_KEY": "k%z",  # for the commands of the terminal
}
LASTING = "echo up; exec sleep 1000"
PULLING = f'exec "{sys.executable}" "{ROOT / "tests" / "support" / "pulling_ollama.py"}"'


@pytest.mark.model
async def killed_and_back(running: Running, program: str) -> None:
    """A program dies, and runs again as another process."""
    [old] = running.pids(program)
    os.kill(old, signal.SIGKILL)
    await until(lambda: not is_alive(old), 30, f"{program} is dead")
    await until(lambda: len(running.pids(program)) == 2, 30, f"{program} is back")
    await running.healthy()
    assert is_alive(running.pids(program)[1])


@pytest.mark.timeout(300)
async def test_a_killed_program_comes_back_and_all_stop_in_order(start: Start) -> None:
    """Each program that dies is back as a younger process; at SIGTERM Ollama goes down last, exit code 0."""
    running = start()
    await running.healthy()
    assert running.pids("pull") == [], "without OLLAMA_PULL_MODELS there is no such process"
    for program in ("ollama", "gateway"):
        await killed_and_back(running, program)
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


async def test_wrong_settings_end_it_before_anything_starts(start: Start) -> None:
    """All that is wrong is said once, the launcher's own check among it; exit code 2, and no program was started."""
    running = start(LASTING, HEARTBEAT_SEC="often", DRAIN_SEC="soon", OLLAMA_HOST="127.0.0.1:http")
    assert await running.ended(30) == 2
    said = [line.partition("=")[0] for line in running.log.splitlines()]
    assert said == ["gateway | gateway: HEARTBEAT_SEC", "gateway | gateway: DRAIN_SEC", "launcher | OLLAMA_HOST"]


@pytest.mark.timeout(300)
async def test_an_ollama_that_runs_already_is_used(start: Start, upstream: Upstream) -> None:
    """With UPSTREAM_BASE no Ollama is started; the gateway and the health check ask the one that is named."""
    running = start("echo this must not run", UPSTREAM_BASE=f"http://127.0.0.1:{upstream.port}")
    await running.healthy()
    assert running.pids("ollama") == []
    assert "this must not run" not in running.log
    assert await terminate(running.process, 90) == 0


@pytest.mark.timeout(300)
async def test_every_line_is_a_json_object(start: Start, tmp_path: Path) -> None:
    """With LOG_FORMAT=json each line of each program is one object with `program`, the launcher's first words too."""
    models = str(tmp_path / "bin" / "ollama" / "models")  # below a file: the launcher has something to say about that
    running = start(LASTING, LOG_FORMAT="json", OLLAMA_PULL_MODELS="small", OLLAMA_MODELS=models)
    await running.said("waiting for Ollama")
    await running.said("listens on")
    [ollama] = running.pids("ollama")
    os.kill(ollama, signal.SIGKILL)
    await until(lambda: len(running.pids("ollama")) == 2, 20, "ollama is back")
    assert await terminate(running.process, 90) == 0
    found = [json.loads(line) for line in running.log.splitlines()]
    assert {line["program"] for line in found} >= {"launcher", "supervisord", "ollama", "gateway", "pull"}
    assert all(line["message"] for line in found)


@pytest.mark.parametrize("arguments", [["--help"], ["tasks"], ["status", "one", "--wait"]])
async def test_arguments_are_a_command_of_the_gateways(arguments: list[str], tmp_path: Path) -> None:
    """The image's entry point with arguments runs that command, from any directory, and starts no server."""
    settings = environment({"GATEWAY_PORT": str(free_port())})
    command = await asyncio.create_subprocess_exec(
        *LAUNCHER,
        *arguments,
        cwd=tmp_path,
        env=settings,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(command.communicate(), 30)
    assert command.returncode == (0 if arguments == ["--help"] else 5), output
    assert output.startswith(b"usage: ollama-gateway" if arguments == ["--help"] else b"ollama-gateway: http://")


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
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    port = free_port()
    running = start("env; echo that is all; exec sleep 1000", OLLAMA_HOST=f"0.0.0.0:{port}", **SECRETS, **proxies)
    await running.said(r"ollama \| that is all")
    lines = [line.removeprefix("ollama | ") for line in running.log.splitlines() if line.startswith("ollama | ")]
    seen = dict(line.split("=", 1) for line in lines if "=" in line)
    assert seen["OLLAMA_HOST"] == f"127.0.0.1:{port}"
    assert seen["HOME"]
    assert {name: seen[name] for name in proxies} == dict.fromkeys(proxies, "")
    assert [name for name in SECRETS if name in seen] == []


async def test_only_the_gateway_has_the_gateways_secrets(start: Start) -> None:
    """The listener and the pull program run without them, though the settings they read would refuse half of them."""
    running = start(LASTING, OLLAMA_PULL_MODELS="small", **SECRETS)
    await running.said(r"pull \| .* waiting for Ollama")
    await running.said(r"gateway \| .* listens on")
    for program in ("ollama", "listener", "pull", "gateway"):
        [pid] = running.pids(program)
        given = given_at_start(pid)
        held = {name for name, value in SECRETS.items() if f"{name}={value}" in given}
        assert held == (set(SECRETS) - {"OLLAMA_GATEWAY_KEY"} if program == "gateway" else set()), program
    assert await terminate(running.process, 45) == 0
