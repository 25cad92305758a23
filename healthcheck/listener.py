"""supervisord's event listener: ends everything if a program cannot stay up, and leaves no orphans.

Owns the verdict "cannot stay up" (FATAL, or too many deaths in a short time) and its mark, which the launcher turns
into exit code 1. It kills the remaining process group of a dead program: Ollama's model servers hold GPU memory and
outlive it. If the launcher itself is killed, it kills all remaining processes and ends. It must not restart a program:
supervisord does that, and also starts this listener.
Protocol: READY, one event by header and payload, RESULT (supervisord's documentation, "Event Listeners").
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import TextIO

from healthcheck import family

DEATHS = 5  # of one program that had started, within WINDOW_SECONDS
WINDOW_SECONDS = 60
DYING_SECONDS = 1.0
ONE_SHOT = frozenset({"pull"})  # meant to end; its exit code does not matter


class Verdict:
    """Remembers when each program died after it had started."""

    def __init__(self) -> None:
        self.deaths: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=DEATHS))

    def cannot_stay_up(self, event: str, program: str, now: float) -> bool:
        """Whether this event (its name after PROCESS_STATE_) at `now` (seconds) is one too many."""
        if program in ONE_SHOT:
            return False
        if event == "FATAL":
            return True
        if event != "EXITED":
            return False
        deaths = self.deaths[program]
        deaths.append(now)
        return len(deaths) == DEATHS and now - deaths[0] <= WINDOW_SECONDS


def main() -> None:
    """Answer events until the pipe ends. It ends only if the launcher, which runs supervisord, was killed."""
    launcher = int(os.environ.get("LAUNCHER_PID") or os.getppid())
    try:
        answer_events(launcher)
    finally:  # also after an error, because the pipe for answers ends too
        directory = os.environ.get(family.DIRECTORY)
        if directory and is_dead(launcher):
            family.kill_all(directory)
            shutil.rmtree(directory, ignore_errors=True)


def is_dead(launcher: int) -> bool:
    """Whether the launcher ends within a moment. A dying process closes its pipes before it counts as dead."""
    end = time.monotonic() + DYING_SECONDS
    while os.getppid() == launcher and time.monotonic() < end:
        time.sleep(0.01)
    return os.getppid() != launcher


def answer_events(launcher: int) -> None:
    """Judge each event; `launcher` is the process to stop."""
    verdict = Verdict()
    while event := next_event(sys.stdin, sys.stdout):
        name, fields = event
        program, pid = fields["processname"], int(fields.get("pid", 0))
        if pid:
            kill_group(pid)
        if verdict.cannot_stay_up(name, program, time.monotonic()):
            end_everything(f"{program} cannot stay up ({name}): ending", launcher)
        sys.stdout.write("RESULT 2\nOK")
        sys.stdout.flush()


def next_event(source: TextIO, answers: TextIO) -> tuple[str, dict[str, str]] | None:
    """Ask for an event. Returns its name after PROCESS_STATE_ and its payload, or None at the end."""
    answers.write("READY\n")
    answers.flush()
    header = pairs(source.readline())
    if not header:
        return None
    return header["eventname"].removeprefix("PROCESS_STATE_"), pairs(source.read(int(header["len"])))


def pairs(line: str) -> dict[str, str]:
    """`key:value key:value` as a dictionary."""
    return dict(word.split(":", 1) for word in line.split())


def kill_group(leader: int) -> None:
    """Kill the rest of the process group of a dead program."""
    with contextlib.suppress(ProcessLookupError):  # nothing left, the usual case
        os.killpg(leader, signal.SIGKILL)
        print(f"killed what process {leader} left running", file=sys.stderr)


def end_everything(reason: str, launcher: int) -> None:
    """Leave the mark, and let supervisord stop all programs in order."""
    print(reason, file=sys.stderr)
    try:
        Path(os.environ["LAUNCHER_MARK"]).write_text(reason + "\n")
    finally:
        if os.getppid() == launcher:  # else the launcher is dead, and this pid is not its own any more
            os.kill(launcher, signal.SIGTERM)


if __name__ == "__main__":
    main()
