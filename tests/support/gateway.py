"""Owns the gateway as the tests run it: `python -m gateway`, a real process on a free port.

It is configured by the environment alone, its log is kept in a file, and it has to end with 0 on SIGTERM. The
fixtures call it; nothing here imports the package under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx

from tests.support.outcome import has_ended
from tests.support.ports import free_port
from tests.support.process import ROOT, environment, spawn, terminate
from tests.support.waiting import GUARD_SECONDS, until
from tests.support.wire import Client, request

if TYPE_CHECKING:
    from tests.support.wire import Field, Response

COMMAND = [sys.executable, "-m", "gateway"]


class Gateway:
    """One gateway process."""

    host = "127.0.0.1"  # where clients reach it

    def __init__(self, log: Path, **settings: str) -> None:
        self.port = int(settings.get("GATEWAY_PORT") or free_port())
        self.log_path = log
        self.command = COMMAND
        self.directory = ROOT  # of the code that runs
        self.settings = {"GATEWAY_HOST": self.host, "GATEWAY_PORT": str(self.port), **settings}
        self.http = self._http_client()
        self.process: subprocess.Popen[bytes]
        self.clients: list[Client] = []
        self.log_seen = 0

    def _http_client(self) -> httpx.AsyncClient:
        base = f"http://{self.host}:{self.port}"
        return httpx.AsyncClient(base_url=base, trust_env=False, timeout=2 * GUARD_SECONDS)

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        return f"http://{self.host}:{self.port}/v1"

    @property
    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def resident_bytes(self) -> int:
        """The memory the process holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) * 1024

    async def start(self) -> Self:
        """Start the process and wait until it answers; fail at once when it died."""
        self.process = self._spawn()
        await until(self.is_serving, 30, "the gateway answers /livez")
        return self

    def _spawn(self) -> subprocess.Popen[bytes]:
        return spawn(self.command, self.log_path, self.settings, self.directory)

    async def is_serving(self) -> bool:
        """Whether it answers /livez; AssertionError when it died."""
        assert self.process.poll() is None, f"the gateway died at start:\n{self.log}"
        with contextlib.suppress(httpx.TransportError):
            return (await self.http.get("/livez")).status_code == 200
        return False

    async def is_saved(self) -> bool:
        """Whether its store is up and has all of its statuses, so that it writes none of them again."""
        told = (await self.http.get("/readyz")).json()
        return (told["store"], told["unsaved"]) == ("up", 0)

    async def is_closed(self) -> bool:
        """Whether new connections are refused. A listener that closes meanwhile resets those not yet accepted."""
        try:
            _, writer = await asyncio.open_connection(self.host, self.port)
        except (ConnectionRefusedError, ConnectionResetError):
            return True
        writer.close()
        return False

    async def stop(self) -> None:
        """End it with SIGTERM: it exits with 0 and leaves no traceback."""
        await self.http.aclose()
        await self.close_clients()
        code = await terminate(self.process, 2 * GUARD_SECONDS)
        assert code == 0, f"exit code {code}:\n{self.log[-4000:]}"
        self.check_log()

    async def close_clients(self) -> None:
        """Close the raw connections that tests left open."""
        while self.clients:
            await self.clients.pop().close()

    def check_log(self) -> None:
        """Nothing unforeseen happened since the last look: no traceback in the log."""
        log = self.log[self.log_seen :]
        self.log_seen += len(log)
        assert "Traceback" not in log, log[-6000:]
        assert "never retrieved" not in log, log[-6000:]

    async def connect(self, receive_buffer: int | None = None) -> Client:
        """A raw connection to it."""
        self.clients.append(await Client.connect(self.port, receive_buffer, self.host))
        return self.clients[-1]

    async def send(self, method: str, target: bytes | str, *fields: Field, **more: Any) -> Client:
        """A connection of its own on which a request was sent."""
        client = await self.connect()
        await client.send(request(method, target, *fields, **more))
        return client

    async def ask(self, method: str, target: bytes | str, *fields: Field, **more: Any) -> Response:
        """One request on a connection of its own, and its whole answer."""
        client = await self.connect()
        try:
            return await client.ask(method, target, *fields, **more)
        finally:
            await client.close()

    async def status(self, task_id: str) -> dict[str, Any]:
        """The status document of a task, by the status route."""
        answer = await self.http.get(f"/tasks/status/{task_id}")
        assert answer.status_code == 200, (answer.status_code, answer.text)
        document: dict[str, Any] = answer.json()
        return document

    async def at(self, task_id: str, stage: str, seconds: float = GUARD_SECONDS) -> dict[str, Any]:
        """The document of a task as soon as it is at this stage."""

        async def there() -> dict[str, Any] | None:
            document: dict[str, Any] = (await self.http.get(f"/tasks/status/{task_id}")).json()
            return document if document.get("stage") == stage else None

        found: dict[str, Any] = await until(there, seconds, f"task {task_id} is {stage}")
        return found

    async def ended(self, task_id: str, seconds: float = GUARD_SECONDS, attempt: int = 1) -> dict[str, Any]:
        """The document of a task as soon as its state is final, of this attempt or a later one.

        A task of another gateway may be unknown here for a moment.
        """

        async def final() -> dict[str, Any] | None:
            document: dict[str, Any] = (await self.http.get(f"/tasks/status/{task_id}")).json()
            return document if has_ended(document, attempt) else None

        found: dict[str, Any] = await until(final, seconds, f"task {task_id} ends")
        return found


async def refused_start(**settings: str) -> tuple[int, str]:
    """Start the gateway with settings that must stop it; its exit code and all it wrote."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        cwd=ROOT,
        env=environment(settings),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), GUARD_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError("the gateway started with wrong settings") from None
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")
