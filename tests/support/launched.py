"""Owns the launcher as the tests run it: all programs for real, on free ports, with a script in Ollama's place or none.

The fixture `start` of the integration tests starts and stops it.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.ports import free_port
from tests.support.process import ROOT, environment, spawn
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    import subprocess

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

    async def said(self, words: str, seconds: float = 2 * GUARD_SECONDS) -> None:
        """Wait for words in the output; fail at once when the launcher has ended without them."""

        def heard() -> bool:
            ended = self.process.poll() is not None
            found = re.search(words, self.log) is not None
            assert found or not ended, f"ended with {self.process.returncode}:\n{self.log[-4000:]}"
            return found

        await until(heard, seconds, f"{words!r} in the output")

    async def healthy(self, seconds: float = 2 * GUARD_SECONDS) -> None:
        """Wait until the health check says so."""

        async def is_healthy() -> bool:
            assert self.process.poll() is None, self.log[-4000:]
            check = await asyncio.create_subprocess_exec(
                *CHECK, env=environment(self.settings), stdout=asyncio.subprocess.DEVNULL
            )
            return await check.wait() == 0

        await until(is_healthy, seconds, "the health check passes")

    async def healthy_gateway(self, seconds: float = 2 * GUARD_SECONDS) -> None:
        """Wait until the gateway answers, whatever Ollama does."""
        await self.said(r"success: gateway entered RUNNING", seconds)
        await self.said(r"gateway \| .* listens on", seconds)

    async def ended(self, seconds: float) -> int:
        """Its exit code, when it ends by itself."""
        await until(lambda: self.process.poll() is not None, seconds, "the launcher ends")
        return int(self.process.returncode)
