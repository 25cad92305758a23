"""The first process: runs supervisord in itself and makes its exit code honest.

Owns the environment that supervisord.conf expands, the output of all programs (on this process's stdout, each
line with its program's name in front) and the exit code: 1 when the listener left its mark, else 0. Alone,
supervisord exits with 0 in both cases. It must not start, watch or stop a program: that is for supervisord.
The image runs it as PID 1, `make run` in the foreground.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import selectors
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from supervisor import supervisord
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIGURATION = Path(__file__).resolve().parents[1] / "supervisord.conf"
SOURCES = ("supervisord", "ollama", "gateway", "pull", "listener")
OLLAMA_PORT = 11434
SERVICE_LINKS = ("tcp://", "udp://", "sctp://")  # set by Kubernetes: as good as unset
LOOPBACK = ("127.0.0.1", "localhost", "::1")
STOP_MARGIN_SECONDS = 5  # the gateway writes its last states after the drain
OPEN_FILES = 65536  # each relayed request takes two
LONGEST_LINE_BYTES = 1024 * 1024  # what is longer goes on in a line of its own
READ_BYTES = 64 * 1024


def main() -> int:
    """Run all programs until a signal or the listener ends them."""
    for ending in (signal.SIGTERM, signal.SIGINT):  # supervisord takes over as soon as it runs
        signal.signal(ending, lambda *_: sys.exit(0))
    raise_open_files()
    with tempfile.TemporaryDirectory(prefix="ollama-gateway-") as directory:
        mark = Path(directory) / "failed"
        output = Output(sys.stdout.fileno())
        os.environ.update(addresses(os.environ))
        os.environ.setdefault("HOME", directory)  # supervisord sets none, and Ollama does not start without
        os.environ.update(
            LAUNCHER_PYTHON=sys.executable,
            LAUNCHER_DIRECTORY=directory,
            LAUNCHER_MARK=str(mark),
            LAUNCHER_PULL=str(wants_models(os.environ)).lower(),
            LAUNCHER_GATEWAY_STOP_SECONDS=str(gateway_stop_seconds(os.environ)),
            **output.variables,
        )
        try:
            options = Options()
            options.realize(["--configuration", str(CONFIGURATION)])
            options.first, options.test = True, False
            supervisord.go(options)
        finally:
            output.close()
        return 1 if mark.exists() else 0


class Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    """supervisord's, but for SIGHUP: there it means to restart everything, here that the API keys are read again."""

    def setsignals(self) -> None:
        """Called by supervisord at its start."""
        super().setsignals()
        signal.signal(signal.SIGHUP, self.pass_on)

    def pass_on(self, number: int, _: object) -> None:
        """SIGHUP to the gateway, where it runs; from a terminal that was closed it means the end."""
        if os.isatty(sys.stdin.fileno()):
            self.signal_receiver.receive(signal.SIGTERM, None)
            return
        for pid, process in list(self.pidhistory.items()):
            if process.config.name == "gateway" and process.state == ProcessStates.RUNNING:
                os.kill(pid, number)


def addresses(environment: Mapping[str, str]) -> dict[str, str]:
    """OLLAMA_HOST and UPSTREAM_BASE, such that the gateway finds Ollama and nobody outside does.

    Of OLLAMA_HOST only the port counts; without it the port of an UPSTREAM_BASE on this machine does.
    UPSTREAM_BASE stays as it is where it is set, else it follows the port.
    """
    _, port = peer_of(environment, "OLLAMA_HOST")
    base = environment.get("UPSTREAM_BASE", "")
    base = "" if base.startswith(SERVICE_LINKS) else base
    if base and not environment.get("OLLAMA_HOST"):
        host, base_port = peer_of(environment, "UPSTREAM_BASE")
        port = base_port if host in LOOPBACK else None
    port = port or OLLAMA_PORT
    return {"OLLAMA_HOST": f"127.0.0.1:{port}", "UPSTREAM_BASE": base or f"http://127.0.0.1:{port}"}


def peer_of(environment: Mapping[str, str], name: str) -> tuple[str | None, int | None]:
    """What host, host:port, :port or a URL names; the process ends where that is nothing."""
    value = environment.get(name, "")
    try:
        parts = urlsplit(value if "://" in value else f"//{value}")
        return parts.hostname, parts.port
    except ValueError:
        shown = "***" if "@" in value else value  # which may be a password
        sys.exit(f"launcher: {name}={shown} is not valid; give host:port")


def gateway_stop_seconds(environment: Mapping[str, str]) -> int:
    """How long the gateway may take to stop: notice, drain and its own end."""
    waits = (seconds_of(environment, "DRAIN_NOTICE_SEC", 0), seconds_of(environment, "DRAIN_SEC", 30))
    return math.ceil(sum(waits)) + STOP_MARGIN_SECONDS


def seconds_of(environment: Mapping[str, str], name: str, default: float) -> float:
    """A duration, or its default where it is unset. A wrong one is the gateway's to name."""
    try:
        seconds = float(environment.get(name) or default)
    except ValueError:
        return default
    return max(0, seconds) if math.isfinite(seconds) else default


def wants_models(environment: Mapping[str, str]) -> bool:
    """Whether there is work for the pull program. Wrong names are the gateway's to name."""
    names = environment.get("OLLAMA_PULL_MODELS", "").strip(" \t\r\n,")
    return bool(names) and not names.startswith(SERVICE_LINKS)


def raise_open_files() -> None:
    """Raise the soft limit as far as the hard one allows; supervisord's `minfds` would rather not start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Lines:
    """One program's output: it comes in pieces and goes out in whole lines, the name in front."""

    def __init__(self, name: str) -> None:
        self.prefix = f"{name} | ".encode()
        self.begun = bytearray()  # a line whose end has not come yet

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return the lines that are complete now."""
        head, newline, tail = piece.rpartition(b"\n")
        if not newline:
            self.begun += tail
            return self.end() if len(self.begun) >= LONGEST_LINE_BYTES else b""
        lines = (bytes(self.begun) + head).split(b"\n")
        self.begun = bytearray(tail)
        return b"".join(self.prefix + line + b"\n" for line in lines)

    def end(self) -> bytes:
        """The line that has begun, ended here."""
        line, self.begun = bytes(self.begun), bytearray()
        return self.prefix + line + b"\n" if line else b""


class Output:
    """A pipe for each source and the one thread that reads them all and writes to `target`.

    supervisord opens the pipes by the paths in `variables`. They are read until `close`, so no writer waits
    longer than `target` makes it wait; a target that is gone loses the output and stops nobody.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.variables: dict[str, str] = {}
        self.selector = selectors.DefaultSelector()
        for name in SOURCES:
            self.variables[f"LAUNCHER_OUTPUT_{name.upper()}"] = f"/dev/fd/{self.add(Lines(name))}"
        self.wake = self.add(None)
        self.thread = threading.Thread(target=self.run, name="output", daemon=True)
        self.thread.start()

    def add(self, lines: Lines | None) -> int:
        """Make a pipe whose data goes to `lines` (None: its end stops the thread); return its writing end."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.selector.register(reader, selectors.EVENT_READ, lines)
        return writer

    def run(self) -> None:
        """Pass everything on until `close`; then what is left in the pipes, and lines that had only begun."""
        while True:
            keys = [key for key, _ in self.selector.select()]
            for key in keys:
                if key.data:
                    self.pass_on(key.fd, key.data)
            if any(key.data is None for key in keys):
                break
        for key in self.selector.get_map().values():
            if key.data:
                while self.pass_on(key.fd, key.data):
                    pass
                self.write(key.data.end())

    def pass_on(self, reader: int, lines: Lines) -> bool:
        """Read once and write what became complete; False when there is nothing to read."""
        try:
            piece = os.read(reader, READ_BYTES)
        except BlockingIOError:
            return False
        self.write(lines.feed(piece))
        return bool(piece)

    def write(self, data: bytes) -> None:
        """Write all of it; a target that nobody reads any more takes nothing."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.target, view) :]
            except BlockingIOError:
                select.select([], [self.target], [])
            except OSError:  # closed by its reader: the programs go on without being heard
                return

    def close(self) -> None:
        """Let the thread finish; every writer has ended by now."""
        os.close(self.wake)
        self.thread.join(timeout=5)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
