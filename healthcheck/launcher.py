"""The first process: runs supervisord in itself and returns a correct exit code.

Owns the environment that supervisord.conf expands, and the exit code: 2 for wrong settings, before anything starts; 1
if the listener left its mark; else 0. (supervisord by itself always exits with 0.) It must not start, watch or stop a
program: supervisord does that. But all programs end with it, however it ends.
The image runs it as PID 1, `make run` in the foreground. With arguments it becomes that command of the gateway.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from supervisor import supervisord
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":  # started by its path, whatever the working directory
    sys.path.insert(0, str(ROOT))

from healthcheck import family, programs  # noqa: E402
from healthcheck.output import Output  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIGURATION = ROOT / "supervisord.conf"
OPEN_FILES = 65536  # each relayed request takes two


def main(arguments: list[str]) -> int:
    """Run all programs until a signal or the listener ends them. With arguments, run that command once."""
    if arguments:
        become_command(arguments)
    for ending in (signal.SIGTERM, signal.SIGINT):  # supervisord takes over as soon as it runs
        signal.signal(ending, lambda *_: sys.exit(0))
    raise_open_files()
    output = Output(sys.stdout.fileno(), is_json=programs.wants_json(os.environ))
    try:
        code, problems = programs.wrong_settings(os.environ)
        for program, problem in problems:
            output.say("error", program, problem)
        return code or run(output)
    finally:
        output.close()


def become_command(arguments: list[str]) -> NoReturn:
    """Make `docker run IMAGE tasks` the same as `docker exec ... ollama-gateway tasks`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    os.execve(sys.executable, [sys.executable, "-P", "-m", "gateway", *arguments], environment)  # noqa: S606


def run(output: Output) -> int:
    """Run supervisord from its start to its end. Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="ollama-gateway-") as directory:
        mark = Path(directory) / "failed"
        os.environ.setdefault("HOME", directory)  # supervisord sets none, and Ollama does not start without one
        is_ollama_ours = programs.starts_ollama(os.environ)
        os.environ.update(programs.addresses(os.environ))
        if is_ollama_ours and (warning := programs.unwritable(os.environ)):
            output.say("warning", "launcher", warning)
        os.environ.update(
            LAUNCHER_PYTHON=sys.executable,
            LAUNCHER_PID=str(os.getpid()),
            LAUNCHER_DIRECTORY=directory,
            LAUNCHER_MARK=str(mark),
            LAUNCHER_OLLAMA=str(is_ollama_ours).lower(),
            LAUNCHER_PULL=str(programs.wants_models(os.environ)).lower(),
            LAUNCHER_GATEWAY_STOP_SECONDS=str(programs.gateway_stop_seconds(os.environ)),
            **output.variables,
        )
        try:
            options = Options()
            options.realize(["--configuration", str(CONFIGURATION)])
            options.first, options.test = True, False
            supervisord.go(options)
        finally:
            family.kill_all(directory)
        return 1 if mark.exists() else 0


class Options(ServerOptions):  # type: ignore[misc]  # supervisor has no types
    """supervisord's options, with two changes: the environment of a program, and SIGHUP.

    In supervisord SIGHUP restarts everything. Here it makes the gateway read the API keys again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launcher = os.getpid()

    def execve(self, filename: str, argv: list[str], env: Mapping[str, str]) -> None:
        """supervisord calls this last in the new process.

        The listener outlives the launcher for a moment, to kill the children of the others.
        """
        program = env["SUPERVISOR_PROCESS_NAME"]
        if program != "listener":
            family.die_with(self.launcher)
        super().execve(filename, argv, programs.given_to(program, env))

    def setsignals(self) -> None:
        """supervisord calls this at its start."""
        super().setsignals()
        signal.signal(signal.SIGHUP, self.pass_on)

    def pass_on(self, number: int, _: object) -> None:
        """Pass SIGHUP on to a running gateway. If it comes from a closed terminal, end everything."""
        if os.isatty(sys.stdin.fileno()):
            self.signal_receiver.receive(signal.SIGTERM, None)
            return
        for pid, process in list(self.pidhistory.items()):
            if process.config.name == "gateway" and process.state == ProcessStates.RUNNING:
                os.kill(pid, number)


def raise_open_files() -> None:
    """Raise the soft limit as far as the hard one allows. With `minfds` supervisord would refuse to start instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
