"""Owns what the parent of several workers does: it starts them, replaces them, passes signals on, and ends with them.

Each test runs a parent of its own whose workers tell what happens to them. Its death is a test in tests/chaos.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A worker takes signals one by one and tells of each; the first of all does what the test says instead.
PARENT = """
import os, signal, sys
from gateway.process.prefork import Workers
{setup}
def work(parent):
    try:
        os.mkdir(sys.argv[1])
    except FileExistsError:
        return serve()
    return {first}

def say(word):  # in one write, so that lines do not mix
    os.write(1, word.encode() + b"\\n")

def serve():
    say("up")
    while (number := signal.sigwait({{signal.SIGTERM, signal.SIGINT, signal.SIGHUP}})) == signal.SIGHUP:
        say("hup")
    say(signal.Signals(number).name)
    return 0

sys.exit(Workers(2, work, let_go=lambda: say("let go")).run())
"""

# The second process and the third cannot be made at first.
SCARCE = """
import errno
outcomes, fork = iter([True, False, True, False]), os.fork
def scarce():
    if next(outcomes, True):
        return fork()
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = scarce
"""


@contextmanager
def parent(directory: Path, first: str = "serve()", setup: str = "") -> Iterator[subprocess.Popen[str]]:
    """A parent of two workers, of which the first one does `first`, after `setup`; none of them is left at the end."""
    command = [sys.executable, "-c", PARENT.format(first=first, setup=setup), str(directory / "first")]
    pipe, both = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, cwd=ROOT, env=environment({}), stdout=pipe, stderr=both, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)


def heard(process: subprocess.Popen[str], count: int) -> list[str]:
    """The next lines that they write, in no order."""
    assert process.stdout is not None
    return sorted(process.stdout.readline().strip() for _ in range(count))


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """The exit code, and all that was written from now on."""
    assert process.stdout is not None
    lines = sorted(process.stdout.read().splitlines())
    return process.wait(20), lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_ends_all(tmp_path: Path, number: int) -> None:
    """Either signal reaches each worker as SIGTERM, the parent lets go of the port, and the exit code is 0."""
    with parent(tmp_path) as process:
        assert heard(process, 2) == ["up", "up"]
        process.send_signal(number)
        assert ended(process) == (0, ["SIGTERM", "SIGTERM", "let go"])


def test_sighup_is_passed_on(tmp_path: Path) -> None:
    """SIGHUP reaches each worker; what other servers take as a wish for more or fewer of them changes nothing."""
    with parent(tmp_path) as process:
        assert heard(process, 2) == ["up", "up"]
        for number in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGHUP):
            process.send_signal(number)
        assert heard(process, 2) == ["hup", "hup"]
        process.terminate()
        assert ended(process) == (0, ["SIGTERM", "SIGTERM", "let go"])


@pytest.mark.parametrize(("first", "how"), [
    ("0", "as it was told to"),
    ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ("os.kill(os.getpid(), 40)", "signal 40"),  # a real-time signal, which has no name
])  # fmt: skip
def test_who_ends_is_replaced(tmp_path: Path, first: str, how: str) -> None:
    """A worker that was killed, or that somebody told to stop, is replaced, and one line says so."""
    with parent(tmp_path, first) as process:
        line, *up = sorted(heard(process, 3), key=lambda line: line == "up")
        assert up == ["up", "up"]
        assert re.fullmatch(rf"worker \d+ ended \({how}\): another one takes its place", line)
        process.terminate()
        assert ended(process) == (0, ["SIGTERM", "SIGTERM", "let go"])


def test_no_room_for_a_process_is_waited_out(tmp_path: Path) -> None:
    """Where one cannot be made, at the start or in the place of one that died, the others go on until one can."""
    with parent(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", SCARCE) as process:
        lines = heard(process, 5)
        assert lines[:2] == ["cannot start a worker: Resource temporarily unavailable"] * 2
        assert lines[2:4] == ["up", "up"]
        assert "ended (SIGKILL)" in lines[4]
        process.terminate()
        assert ended(process) == (0, ["SIGTERM", "SIGTERM", "let go"])


def test_who_cannot_serve_ends_all(tmp_path: Path) -> None:
    """A worker that ends with an error is not started again and again: the others are stopped, the exit code is 1."""
    with parent(tmp_path, "3") as process:
        code, (told, let_go, up, line) = ended(process)
    assert (code, told, let_go, up) == (1, "SIGTERM", "let go", "up")
    assert re.fullmatch(r"worker \d+ cannot serve \(exit code 3\): stopping", line)
