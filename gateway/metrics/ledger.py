"""The rows that the workers of one gateway count in, and what they add up to.

With one worker that is an array, and no file. With several, their parent makes one file, in memory, which all of them
map; each locks a row of its own for as long as it lives. The kernel lets go of a killed worker's lock, and whoever
replaces it counts on in that row: nothing that was counted is lost, and no counter ever falls. Called by app.
"""

import fcntl
import mmap
import os
from pathlib import Path

from gateway.metrics.counts import FAMILIES, SIZE, Counts, Row

# More than there can be workers, for some are started before those that they replace have ended.
_ROWS = 128
_ROW_BYTES = -(-8 * SIZE // mmap.PAGESIZE) * mmap.PAGESIZE


class Ledger:
    """The rows of all workers; `counts` is this one's. `path` is an empty file at first, None where nobody shares."""

    def __init__(self, path: Path | None = None) -> None:
        self._rows: list[Row] = [] if path is None else _mapped(path)
        # Stays open: closing any descriptor of a file gives up all locks that a process has on it.
        self._file = -1 if path is None else os.open(path, os.O_RDWR)
        self._own = 0 if path is None else self._take_row()
        self.counts = Counts(self._rows[self._own] if self._rows else None)

    @property
    def is_shared(self) -> bool:
        return bool(self._rows)

    def _take_row(self) -> int:
        """Locks the first row that nobody living counts in."""
        for number in range(_ROWS):
            if self._try_lock(number, fcntl.LOCK_EX):
                return number
        raise RuntimeError(f"more than {_ROWS} workers count at once")

    def _try_lock(self, number: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, number)
        except OSError:
            return False
        return True

    def _is_alive(self, number: int) -> bool:
        """Whether a worker counts in a row. To its own process a lock is no obstacle, and trying would give it up."""
        if number == self._own:
            return True
        if not self._try_lock(number, fcntl.LOCK_SH):
            return True
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)
        return False

    def totals(self) -> list[float]:
        """One row for all: counters and histograms of all that ever counted, gauges of those that live."""
        if not self._rows:
            return list(self.counts.row)
        used = [number for number, row in enumerate(self._rows) if row[0]]
        living = [self._rows[number] for number in used if self._is_alive(number)]
        totals = [sum(numbers) for numbers in zip(*(self._rows[number] for number in used), strict=True)]
        for family in FAMILIES:
            if family.is_gauge:
                combined = sum if family.kind == "sum" else min
                for at in range(family.start, family.end):
                    totals[at] = combined(row[at] for row in living)
        return totals


def _mapped(path: Path) -> list[Row]:
    with path.open("r+b") as file:
        file.truncate(_ROWS * _ROW_BYTES)  # whoever is first makes the room; then it changes nothing
        numbers = memoryview(mmap.mmap(file.fileno(), _ROWS * _ROW_BYTES)).cast("d")
    step = _ROW_BYTES // 8
    return [numbers[start : start + SIZE] for start in range(0, _ROWS * step, step)]
