"""Whose tasks go first where a bound is met: those of the owner that has the most. So a flood of one key displaces its
own statuses, and not the few of another key.

Pure. Counts only: each task takes about as much as another, as documents are bounded. Used by memory and outbox.
"""

from collections import defaultdict


class Shares:
    """How many tasks each owner has. All steps take the same time, however many owners there are."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._owners: defaultdict[int, dict[str, None]] = defaultdict(dict)  # by their count, longest there first
        self._most = 0

    @property
    def largest(self) -> str:
        """The owner with the most tasks; there has to be one."""
        return next(iter(self._owners[self._most]))

    def add(self, owner: str) -> None:
        """One task more."""
        self._move(owner, 1)
        self._most = max(self._most, self._count[owner])

    def remove(self, owner: str) -> None:
        """One task less."""
        self._move(owner, -1)
        if self._most not in self._owners:
            self._most -= 1

    def _move(self, owner: str, by: int) -> None:
        count = self._count.pop(owner, 0)
        if count:
            owners = self._owners[count]
            del owners[owner]
            if not owners:
                del self._owners[count]
        if count + by:
            self._count[owner] = count + by
            self._owners[count + by][owner] = None
