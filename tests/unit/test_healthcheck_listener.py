"""When the listener says that a program cannot stay up, and how it talks to supervisord."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from healthcheck import family
from healthcheck.listener import DEATHS, WINDOW_SECONDS, Verdict, next_event

ROOT = Path(__file__).parents[2]
LISTENER = [sys.executable, "-m", "healthcheck.listener"]


def event(name: str, program: str, pid: int) -> str:
    """An event as supervisord 4 writes it."""
    payload = f"processname:{program} groupname:{program} from_state:RUNNING expected:0 pid:{pid}"
    head = "ver:3.0 server:supervisor serial:1 pool:listener poolserial:1"
    return f"{head} eventname:PROCESS_STATE_{name} len:{len(payload)}\n{payload}"


def test_fatal_is_the_end_at_once() -> None:
    """A program that supervisord gave up starting cannot stay up."""
    assert Verdict().cannot_stay_up("FATAL", "ollama", 0.0)


def test_some_deaths_are_forgiven() -> None:
    """Fewer deaths than the limit, or deaths spread over a longer time, end nothing."""
    verdict = Verdict()
    assert not any(verdict.cannot_stay_up("EXITED", "gateway", float(n)) for n in range(DEATHS - 1))
    slow = [n * (WINDOW_SECONDS / (DEATHS - 1) + 1) for n in range(20)]
    assert not any(verdict.cannot_stay_up("EXITED", "ollama", now) for now in slow)


def test_the_limit_of_deaths_in_the_window_is_the_end() -> None:
    """The fifth death within a minute is one too many, also after a long good time."""
    verdict = Verdict()
    times = [0.0, *(10_000.0 + n * WINDOW_SECONDS / (DEATHS - 1) for n in range(DEATHS))]
    verdicts = [verdict.cannot_stay_up("EXITED", "ollama", now) for now in times]
    assert verdicts == [False] * DEATHS + [True]


def test_a_wanted_stop_is_no_death() -> None:
    """Programs that supervisord stopped itself are never counted."""
    verdict = Verdict()
    assert not any(verdict.cannot_stay_up("STOPPED", "ollama", float(n)) for n in range(3 * DEATHS))


@pytest.mark.parametrize("name", ["EXITED", "FATAL", "STOPPED"])
def test_a_program_that_is_meant_to_end_never_counts(name: str) -> None:
    """The pull program runs once; whatever becomes of it, both others stay up without it."""
    verdict = Verdict()
    assert not any(verdict.cannot_stay_up(name, "pull", float(n)) for n in range(3 * DEATHS))


def test_an_event_is_read_by_its_length() -> None:
    """The payload ends where its header says, for the next header follows without a line end."""
    source = io.StringIO(event("EXITED", "ollama", 7) + event("FATAL", "gateway", 8))
    answers = io.StringIO()
    first, second, end = (next_event(source, answers) for _ in range(3))
    assert first is not None
    assert (first[0], first[1]["processname"], first[1]["pid"]) == ("EXITED", "ollama", "7")
    assert second is not None
    assert second[0] == "FATAL"
    assert end is None
    assert answers.getvalue() == "READY\n" * 3


def test_the_listener_marks_and_ends_its_parent(tmp_path: Path) -> None:
    """At the verdict the mark is there before the parent gets SIGTERM, and the event is answered."""
    mark = tmp_path / "failed"
    script = "import signal, subprocess, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM});"
    script += "done = subprocess.run(sys.argv[1:], stdin=sys.stdin);"
    script += "print(signal.SIGTERM in signal.sigpending(), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", script, *LISTENER],
        cwd=ROOT,
        input=event("FATAL", "ollama", 0),
        env=os.environ | {"LAUNCHER_MARK": str(mark)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "READY\nRESULT 2\nOKREADY\nTrue\n"
    assert done.stderr == "ollama cannot stay up (FATAL): ending\n"
    assert mark.read_text() == done.stderr


@pytest.mark.parametrize("name", ["EXITED", "STOPPED"])
def test_what_a_dead_program_left_is_killed(name: str) -> None:
    """Children in the group of a program that ended are killed: they hold GPU memory."""
    with subprocess.Popen(
        ["sh", "-c", "sleep 1000 & echo $!; wait"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as leader:
        assert leader.stdout is not None
        child = int(leader.stdout.readline())
        leader.kill()
        leader.wait()
        assert Path(f"/proc/{child}").exists()
        listener = subprocess.run(
            LISTENER,
            cwd=ROOT,
            input=event(name, "ollama", leader.pid),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert listener.returncode == 0, listener.stderr
        assert leader.stdout.read() == "", "the pipe ends only when the last process that holds it is dead"


def test_a_listener_whose_launcher_lives_kills_nothing(tmp_path: Path) -> None:
    """The end of the events alone is no death: what belongs to the launcher is left alone while it lives."""
    mark = os.environ | {family.DIRECTORY: str(tmp_path), "LAUNCHER_PID": str(os.getpid())}
    with subprocess.Popen(["sleep", "1000"], env=mark) as program:
        subprocess.run(LISTENER, cwd=ROOT, input="", env=mark, capture_output=True, text=True, timeout=120, check=True)
        assert program.poll() is None
        program.kill()
    assert tmp_path.exists()


def test_a_verdict_after_the_launchers_death_hits_no_stranger(tmp_path: Path) -> None:
    """The process that takes in the listener of a dead launcher is not the one to stop: it gets no signal."""
    script = "import signal, subprocess, sys; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM});"
    script += "subprocess.run(sys.argv[1:], stdin=sys.stdin);"
    script += "print(signal.SIGTERM in signal.sigpending(), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", script, *LISTENER],
        cwd=ROOT,
        input=event("FATAL", "ollama", 0),
        env=os.environ | {"LAUNCHER_MARK": str(tmp_path / "failed"), "LAUNCHER_PID": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.endswith("False\n")


def test_what_belongs_to_a_launcher_is_found_by_its_directory(tmp_path: Path) -> None:
    """Processes in groups and sessions of their own, too; those of another launcher live on."""
    mine, others = ({family.DIRECTORY: str(tmp_path / name)} for name in ("mine", "others"))
    # Both have begun when the number is read: a process in the middle of its exec has no environment.
    start = ["sh", "-c", "sh -c 'echo $$; kill -STOP $$' & wait"]
    with (
        subprocess.Popen(
            start, env=os.environ | mine, stdout=subprocess.PIPE, text=True, start_new_session=True
        ) as one,
        subprocess.Popen(["sleep", "1000"], env=os.environ | others) as other,
    ):
        assert one.stdout is not None
        child = int(one.stdout.readline())
        assert child in family.members(str(tmp_path / "mine"))
        assert family.kill_all(str(tmp_path / "mine")) == 2
        assert one.stdout.read() == "", "the pipe ends only when the last process that holds it is dead"
        assert other.poll() is None
        other.kill()


def test_one_look_that_finds_nothing_is_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in the middle of its exec is not found by the first look, and is killed after the next."""
    look, looks = family.members, 0

    def first_one_finds_nothing(directory: str) -> list[int]:
        nonlocal looks
        looks += 1
        return [] if looks == 1 else look(directory)

    monkeypatch.setattr(family, "members", first_one_finds_nothing)
    command = ["sh", "-c", "echo; kill -STOP $$"]
    mark = os.environ | {family.DIRECTORY: str(tmp_path)}
    with subprocess.Popen(command, env=mark, stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        one.stdout.readline()
        killed = family.kill_all(str(tmp_path))
        one.kill()
    assert killed == 1
