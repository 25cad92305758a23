"""Owns the compose stack under test: its commands, its containers, and what can be seen of them from outside.

Knows nothing of the gateway's insides. The fixtures start it; the tests ask it and do it harm.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ollama": "ollama serve", "gateway": "-m gateway"}
# Runs inside the container, which has no ps: every process but this one, with its /proc/<pid>/status.
LIST_PROCESSES = """
import json, os, pathlib
found = []
for place in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        command = (place / "cmdline").read_bytes().replace(bytes(1), b" ").decode().strip()
        started = int((place / "stat").read_text().rpartition(")")[2].split()[19])
        status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    except OSError:
        continue
    if int(place.name) != os.getpid() and command:
        status = {name: value.strip() for name, value in status.items()}
        found.append({"pid": int(place.name), "started": started, "command": command, "status": status})
print(json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Process:
    """One process in the gateway's container; `started` in clock ticks, `status` from /proc/<pid>/status."""

    pid: int
    started: int
    command: str
    status: dict[str, str]


def run(*command: str, seconds: float = 60, check: bool = True, environment: dict[str, str] | None = None) -> str:
    """A command's output, with nothing of this machine's settings; AssertionError when it fails."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_HOST") if name in os.environ}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=inherited | (environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if check and done.returncode:
        tail = (done.stdout + done.stderr)[-6000:]
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{tail}")
    return done.stdout


def every(seconds: float, probe: Callable[[], Any]) -> Callable[[], Any]:
    """The probe, asked at most once in so many seconds, and false in between: a docker command is dear."""
    next_time = 0.0

    def paced() -> Any:
        nonlocal next_time
        if time.monotonic() < next_time:
            return None
        value = probe()
        next_time = time.monotonic() + seconds
        return value

    return paced


@dataclass(slots=True)
class Stack:
    """compose.yaml or another file, perhaps with overrides, as one project of its own, on a port of its own."""

    project: str
    images: dict[str, str]
    port: int = field(default_factory=free_port)
    ports: str = ""  # a range, for several gateways
    file: str = "compose.yaml"
    overrides: tuple[str, ...] = ()

    def compose(self, *words: str, seconds: float = 120) -> str:
        settings = self.images | {"GATEWAY_PUBLISH_PORT": self.ports or str(self.port)}
        files = [word for file in (self.file, *self.overrides) for word in ("-f", file)]
        command = ("docker", "compose", "--env-file", os.devnull, *files, "-p", self.project)
        return run(*command, *words, seconds=seconds, environment=settings)

    def up(self, *words: str, seconds: float = 180) -> None:
        """`docker compose up --wait`: back when all that it starts is healthy, an error when that fails."""
        self.compose("up", "--detach", "--wait", *words, seconds=seconds)

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def client(self) -> httpx.AsyncClient:
        base = f"http://127.0.0.1:{self.port}"
        return httpx.AsyncClient(base_url=base, timeout=60, trust_env=False)

    def container(self, service: str = "gateway") -> dict[str, Any]:
        """The engine's view of a service's container, running or not."""
        name = self.compose("ps", "--all", "--quiet", service).strip()
        [seen] = json.loads(run("docker", "inspect", name))
        return dict(seen)

    def all_healthy(self) -> bool:
        return self.compose("ps", "--format", "{{.Health}}").split() == ["healthy", "healthy"]

    def health(self) -> str:
        """The gateway container's health; AssertionError when it has ended: waiting is then in vain."""
        state = self.container()["State"]
        assert state["Running"], f"the container ended with {state['ExitCode']}:\n{self.logs()[-4000:]}"
        return str(state["Health"]["Status"])

    def logs(self) -> str:
        return run("docker", "logs", self.container()["Id"])

    def sh(self, script: str, service: str = "gateway", check: bool = True) -> str:
        """The output (both streams) of a shell script inside a service's container, as its own user."""
        command = ("docker", "exec", self.container(service)["Id"], "sh", "-c", f"exec 2>&1; {script}")
        return run(*command, check=check)

    def redis(self, *words: str) -> str:
        return self.sh(f"redis-cli {' '.join(words)}", "redis").strip()

    def processes(self) -> list[Process]:
        found = run("docker", "exec", self.container()["Id"], "python", "-c", LIST_PROCESSES)
        return [Process(**process) for process in json.loads(found)]

    def program(self, name: str, younger_than: int = -1) -> Process | None:
        """The main process of one of our two programs, if it was started after that many clock ticks."""
        mine = [process for process in self.processes() if process.command.endswith(PROGRAMS[name])]
        oldest = min(mine, key=lambda process: process.started, default=None)
        return oldest if oldest and oldest.started > younger_than else None

    def signal(self, program: str, name: str) -> Process:
        """Send a signal to a program's main process, which is returned."""
        process = self.program(program)
        assert process, f"{program} does not run"
        self.sh(f"kill -{name} {process.pid}")
        return process
