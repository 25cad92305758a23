"""Owns the real model of the tests: `embedded/ollama serve` as a process on a free port.

The `model` fixture starts it once per session; nothing else may.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from tests.support.ports import free_port
from tests.support.process import ROOT, spawn, terminate
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess


class EmbeddedModel:
    """The stand-in `ollama` with its one small model."""

    def __init__(self, log: Path) -> None:
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.log_path = log
        self.name = ""
        self.process: subprocess.Popen[bytes]

    async def start(self) -> None:
        """Start it and wait until it names its model."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        settings = {"PATH": path, "OLLAMA_HOST": f"127.0.0.1:{self.port}"}
        self.process = spawn([str(ROOT / "embedded" / "ollama"), "serve"], self.log_path, settings)
        self.name = await until(self._first_model, 50, "the embedded model is loaded")

    async def _first_model(self) -> str:
        log = self.log_path.read_text(errors="replace")
        assert self.process.poll() is None, f"the embedded ollama died at start:\n{log[-4000:]}"
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False) as http:
                answer = await http.get(self.base + "/v1/models")
            if answer.status_code == 200:
                return str(answer.json()["data"][0]["id"])
        return ""

    async def stop(self) -> None:
        """End it; a process that does not end is killed."""
        await terminate(self.process, 30)
