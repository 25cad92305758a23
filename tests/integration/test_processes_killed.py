"""What dies with the launcher: everything, also where it was killed, whenever that happens."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.process import is_alive, kill
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.launched import Running

    Start = Callable[..., Running]

# As Ollama does it, and worse: one model server in its process group, one in a session of its own, one of an orphan's.
BREEDING = """
sleep 1000 & echo "child $!"
setsid sh -c 'echo "child $$"; sh -c "echo child \\$\\$; exec sleep 1000" & exec sleep 1000' &
setsid sh -c 'sleep 1000 & echo "child $!"'
echo bred
exec sleep 1000"""


def family(directory: Path) -> list[int]:
    """All processes that were started with this TMPDIR, as the launcher was and what it starts is."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            given = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"TMPDIR={directory}".encode() in given:
            found.append(int(place.name))
    return [pid for pid in found if is_alive(pid)]


def directories(place: Path) -> list[Path]:
    """What launchers have made there for their time."""
    return list(place.glob("ollama-gateway-*"))


async def test_all_die_with_a_killed_launcher(start: Start, tmp_path: Path) -> None:
    """SIGKILL of the launcher leaves no Ollama, no process that Ollama started, in whatever group, and no gateway."""
    running = start(BREEDING)
    await running.said("ollama \\| bred")
    await running.healthy_gateway()
    await until(lambda: running.log.count("ollama | child ") == 4, what="each has told its number")
    children = [int(pid) for pid in re.findall(r"ollama \| child (\d+)", running.log)]
    assert set(children) < set(family(tmp_path))
    await kill(running.process)
    await until(lambda: not family(tmp_path), 20, "all are dead")
    assert [pid for pid in children if is_alive(pid)] == []
    await until(lambda: not directories(tmp_path), 10, "the launcher's directory is gone, too")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", int(running.settings["GATEWAY_PORT"])))
        probe.listen()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment", ["", "supervisord started", "'listener' with pid", "'ollama' with pid", "ollama | up"]
)
async def test_all_die_with_a_launcher_that_starts(
    start: Start, tmp_path: Path, moment: str, number: signal.Signals
) -> None:
    """However early it is stopped, and however: nothing that it had started by then is left."""
    running = start("echo up; sleep 1000 & exec sleep 1000")
    await until(lambda: moment in running.log and family(tmp_path), 60, moment or "it runs")
    running.process.send_signal(number)
    await running.ended(40)
    await until(lambda: not family(tmp_path), 20, "all are dead")


async def test_all_die_where_the_listener_was_killed_first(start: Start, tmp_path: Path) -> None:
    """The kernel kills the programs themselves: that needs no other process."""
    running = start("echo up; exec sleep 1000")
    await running.said("ollama \\| up")
    await running.said("'gateway' with pid")
    [listener] = running.pids("listener")
    os.kill(running.process.pid, signal.SIGSTOP)  # so that it starts no other
    os.kill(listener, signal.SIGKILL)
    await kill(running.process)
    await until(lambda: not family(tmp_path), 20, "all are dead")


async def test_what_hides_from_its_group_dies_at_a_clean_stop(start: Start, tmp_path: Path) -> None:
    """At SIGTERM, too, the launcher ends only when nothing is left of what its programs started."""
    running = start(BREEDING)
    await running.said("ollama \\| bred")
    running.process.send_signal(signal.SIGTERM)
    assert await running.ended(45) == 0
    assert family(tmp_path) == []
