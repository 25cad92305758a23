"""Owns the terminal's commands as tests run them: a process of its own, to its end or watched while it goes on."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import os
import pty
import signal
import sys
import termios
from typing import Any

from tests.support.process import ROOT, environment
from tests.support.waiting import until, within

COMMAND = [sys.executable, "-m", "gateway"]


class Said:
    """What a command wrote, and its exit code."""

    def __init__(self, code: int | None, out: bytes, error: bytes) -> None:
        self.code = code
        self.out = out.decode()
        self.error = error.decode()
        assert "Traceback" not in self.error, self.error

    @property
    def json(self) -> Any:
        """The one line of JSON."""
        (line,) = self.out.splitlines()
        return json.loads(line)


async def said(*words: str, **settings: str) -> Said:
    """Run a command to its end."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *words, cwd=ROOT, env=environment(settings),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await within(30, process.communicate(), " ".join(words))
    return Said(process.returncode, out, error)


class Live:
    """A command that goes on for a while, on a terminal or not."""

    def __init__(
        self, port: int, *words: str, is_terminal: bool, size: tuple[int, int] | None = None, term: str = "xterm"
    ) -> None:
        """`size`: columns and rows that the terminal itself has. Without it the environment tells 150 and 40."""
        self.ours, theirs = pty.openpty() if is_terminal else os.pipe()
        os.set_blocking(self.ours, False)
        if size:
            termios.tcsetwinsize(self.ours, size[::-1])
        told = {} if size else {"COLUMNS": "150", "LINES": "40"}
        settings = environment({"GATEWAY_PORT": str(port), "TERM": term, **told})
        command = asyncio.create_subprocess_exec(
            *COMMAND, *words, cwd=ROOT, env=settings, stdin=asyncio.subprocess.DEVNULL,
            stdout=theirs, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.theirs, self.command, self.out = theirs, command, ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end inside a character
        self.process: asyncio.subprocess.Process

    async def __aenter__(self) -> Live:
        self.process = await self.command
        os.close(self.theirs)
        return self

    async def __aexit__(self, *error: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        _, complaint = await self.process.communicate()
        os.close(self.ours)
        assert b"Traceback" not in complaint, complaint

    def read(self) -> str:
        """All that it has written so far."""
        with contextlib.suppress(OSError):  # nothing there, or a terminal whose other end is gone
            self.out += self._decoder.decode(os.read(self.ours, 1_000_000))
        return self.out

    async def shows(self, *words: str) -> None:
        """Wait until it has written these words."""
        await until(lambda: all(word in self.read() for word in words), 30, f"{words} in the output")

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size. The signal is the one that a terminal sends to its foreground process."""
        termios.tcsetwinsize(self.ours, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    async def ended(self) -> int | None:
        """Its exit code. What it writes is read meanwhile: a terminal holds only a few KiB."""

        def has_ended() -> bool:
            self.read()
            return self.process.returncode is not None

        await until(has_ended, 30, "the command has ended")
        return self.process.returncode

    async def interrupted(self) -> int | None:
        """Its exit code after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return await self.ended()
