"""supervisord's event listener: ends everything when a program cannot stay up, and leaves no orphans.

Owns the verdict "cannot stay up" (FATAL, or too many deaths in a short time) and its mark, which the launcher
turns into exit code 1. It kills what a dead program left in its process group: Ollama's model servers hold
GPU memory and outlive it. Should the launcher itself be killed, it kills all that is left and ends. It must not
restart anything: that is supervisord's work, which also starts this.
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

DEATHS = 5  # of one program that had come up, within
WINDOW_SECONDS = 60
DYING_SECONDS = 1.0
ONE_SHOT = frozenset({"pull"})  # meant to end; nothing depends on how


class Verdict:
    """Remembers when each program died after it had come up."""

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
    """Answer events until the pipe ends. supervisord never closes it: the launcher, in which it runs, was killed."""
    launcher = int(os.environ.get("LAUNCHER_PID") or os.getppid())
    try:
        answer_events(launcher)
    finally:  # also where that failed, for the pipe of the answers has ended, too
        directory = os.environ.get(family.DIRECTORY)
        if directory and is_dead(launcher):
            family.kill_all(directory)
            shutil.rmtree(directory, ignore_errors=True)


def is_dead(launcher: int) -> bool:
    """Whether it has gone, or goes within a moment: a dying process closes its pipes before it counts as dead."""
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
    """Ask for an event; its name after PROCESS_STATE_ and its payload, None at the end."""
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
    """Kill what is left of the process group of a program that is dead itself."""
    with contextlib.suppress(ProcessLookupError):  # nothing left, the usual case
        os.killpg(leader, signal.SIGKILL)
        print(f"killed what process {leader} left running", file=sys.stderr)


def end_everything(reason: str, launcher: int) -> None:
    """Leave the mark and have supervisord stop all programs in their order."""
    print(reason, file=sys.stderr)
    try:
        Path(os.environ["LAUNCHER_MARK"]).write_text(reason + "\n")
    finally:
        if os.getppid() == launcher:  # else it is dead, and the parent is a stranger
            os.kill(launcher, signal.SIGTERM)


if __name__ == "__main__":
    main()
