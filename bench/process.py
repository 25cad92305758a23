"""Child processes of a bench: starts them with a clean environment, waits for them, and always ends them by pid.

Measures nothing and knows no peer.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import tools

START_SECONDS = 20.0
STOP_SECONDS = 10.0
_ANSWER_SECONDS = 15.0
_LOG_BYTES = 1500  # of a log that is shown then


class StartFailedError(Exception):
    """A process of the bench did not start. The text names it; its output goes to stderr."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running process, the loopback port it listens on, and how long it took until it was ready."""

    pid: int
    port: int
    start_seconds: float = 0.0


@contextmanager
def running(
    folder: Path,
    name: str,
    argv: Sequence[str],
    port: int,
    env: Mapping[str, str] | None = None,
    *,
    cwd: Path = tools.ROOT,
    is_ready: Callable[[int], bool] | None = None,
    limit_seconds: float = START_SECONDS,
) -> Iterator[Process]:
    """Run `argv` in `cwd` until the block ends. Its environment inherits only PATH and HOME."""
    base = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    log = folder / f"{name}-{port}.log"
    begun = time.perf_counter()
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**base, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(child, lambda: (is_ready or listens)(port), limit_seconds, f"{name} did not start", log)
        yield Process(child.pid, port, time.perf_counter() - begun)
    finally:
        child.terminate()
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextmanager
def frozen(process: Process) -> Iterator[None]:
    """Freezes a process, and lets it go on at the end."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def _wait(
    child: "subprocess.Popen[bytes]", is_ready: Callable[[], bool], limit_seconds: float, what: str, log: Path
) -> None:
    deadline = time.monotonic() + limit_seconds
    while child.poll() is None and time.monotonic() < deadline:
        if is_ready():
            return
        time.sleep(0.005)
    print(log.read_text(errors="replace")[-_LOG_BYTES:], file=sys.stderr)  # it may name this machine
    raise StartFailedError(what)


def listens(port: int) -> bool:
    """Whether a process accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def answers(request: bytes) -> Callable[[int], bool]:
    """Asks a port whether it answers `request` with 200."""

    def ask(port: int) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS) as connection:
                connection.sendall(request)
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    return ask


def free_port() -> int:
    """A free port on 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
