"""CPU time and memory of processes, from Linux.

Owns how the figures of a process and its workers are added up. Starts nothing and decides nothing.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PARENT = 4 - 3  # in /proc/<pid>/stat behind the command's closing parenthesis (proc(5) counts from 3)


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds used so far by each party and by the whole machine, and the clock when they were read."""

    at_seconds: float
    proxy: float
    store: float
    upstream: float
    load: float
    machine: float

    def __sub__(self, earlier: "Usage") -> "Usage":
        return Usage(
            self.at_seconds - earlier.at_seconds,
            self.proxy - earlier.proxy,
            self.store - earlier.store,
            self.upstream - earlier.upstream,
            self.load - earlier.load,
            self.machine - earlier.machine,
        )


@dataclass(frozen=True, slots=True)
class Meter:
    """The processes to watch, by pid, workers included."""

    proxy: list[int]
    store: list[int]
    upstream: list[int]

    def read(self) -> Usage:
        """Read all parties now; the load is this process itself."""
        return Usage(
            time.perf_counter(),
            sum(map(_seconds, self.proxy)),
            sum(map(_seconds, self.store)),
            sum(map(_seconds, self.upstream)),
            time.process_time(),
            _machine_seconds(),
        )

    def resident_bytes(self) -> int:
        """The memory of the proxy and its workers; shared memory counts once for each."""
        return sum(map(_resident_bytes, self.proxy))


def tree(root: int) -> list[int]:
    """`root` and all its descendants, by pid."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _parent(entry: Path) -> int | None:
    try:
        text = (entry / "stat").read_text()
    except OSError:
        return None  # it ended between the listing and the reading
    return int(text.rpartition(")")[2].split()[_PARENT])


def _seconds(pid: int) -> float:
    """CPU of all threads of a process to the nanosecond; /proc has it in steps of 10 ms only.

    The clock's number is what clock_getcpuclockid(3) gives on Linux, a function that Python lacks.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # it has ended


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _machine_seconds() -> float:
    """The busy time of all CPUs, without idling and waiting for disks. User time already contains guest time."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_SECONDS
