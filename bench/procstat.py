"""CPU time of processes, read from Linux's /proc.

Owns how a process and its workers are added up. It starts nothing and decides nothing; `load` calls it at
both ends of a measured window.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat after the command's closing parenthesis (proc(5) counts them from 3).
_PARENT, _UTIME, _STIME = 4 - 3, 14 - 3, 15 - 3


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
    """The processes to watch by pid; None where a variant has none of that kind."""

    proxy: int | None
    store: int | None
    upstream: int

    def read(self) -> Usage:
        """Read all parties now; the load is this process itself."""
        stats = _all_stats()
        return Usage(
            time.perf_counter(),
            _tree_seconds(self.proxy, stats),
            _tree_seconds(self.store, stats),
            _tree_seconds(self.upstream, stats),
            time.process_time(),
            _machine_seconds(),
        )


def _machine_seconds() -> float:
    """Everything that any CPU did but idling and waiting for disks; guests' time is in user's already."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) * _TICK_SECONDS


def _all_stats() -> dict[int, list[str]]:
    """The stat fields of every process, from the parent's pid on, by pid."""
    stats = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text()
            except OSError:
                continue  # it ended between the listing and the reading
            stats[int(entry.name)] = text.rpartition(")")[2].split()
    return stats


def _tree_seconds(root: int | None, stats: dict[int, list[str]]) -> float:
    """utime + stime of `root` and all its descendants, in seconds."""
    if root is None:
        return 0.0
    fields = stats[root]
    own = (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_SECONDS
    children = [pid for pid, child in stats.items() if int(child[_PARENT]) == root]
    return own + sum(_tree_seconds(pid, stats) for pid in children)
