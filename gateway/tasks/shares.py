"""Finds the owner with the most tasks: at a bound, that owner loses tasks first. So a flood from one API key displaces
its own statuses, and not the few of another key.

Pure. It counts tasks, not bytes: documents are bounded, so tasks take about the same memory.
"""

from collections import defaultdict


class Shares:
    """Counts the tasks of each owner. Every method takes constant time, however many owners there are."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._owners: defaultdict[int, dict[str, None]] = defaultdict(dict)  # by count, in order of arrival
        self._most = 0

    @property
    def largest(self) -> str:
        """The owner with the most tasks. At least one owner must have a task."""
        return next(iter(self._owners[self._most]))

    def add(self, owner: str) -> None:
        """Counts one more task of `owner`."""
        self._move(owner, 1)
        self._most = max(self._most, self._count[owner])

    def remove(self, owner: str) -> None:
        """Counts one task of `owner` less."""
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
