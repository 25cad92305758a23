"""The beginning of an error answer, for the task's status (ERROR_TEXT_BYTES).

Pure. Takes the place of the watch for a stream's end, which an error answer does not need. So an answer that is no
error, or whose text is not to be kept, costs nothing.
"""

import re
from codecs import getincrementaldecoder

from gateway.tasks.task import Task

_DECODER = getincrementaldecoder("utf-8")
_SPACES = re.compile(r"\s+")


class ErrorText:
    """Collects the first `most_bytes` of one body, and writes them into `task` as text of at most as many bytes."""

    __slots__ = ("_bytes", "_most_bytes", "_task")

    def __init__(self, task: Task, most_bytes: int) -> None:
        self._task = task
        self._most_bytes = most_bytes
        self._bytes = b""

    def feed(self, piece: bytes) -> None:
        """Takes a piece of the body. Returns None: it is no end of a stream."""
        room = self._most_bytes - len(self._bytes)
        if room > 0 and piece:
            self._bytes += piece[:room]
            self._task.error_text = printable(self._bytes, self._most_bytes)

    def at_end(self) -> None:
        """The body is whole. Returns None, as `feed`."""


def printable(text: bytes, most_bytes: int) -> str | None:
    """The printable characters of UTF-8 text that may be cut; each run of others is one space. None if there are none.

    A byte that is no UTF-8 becomes U+FFFD, which has three bytes, so the result is cut again to `most_bytes` of UTF-8.
    """
    decoded = _DECODER("replace").decode(text)  # not final: it leaves out a character that is cut
    spaced = "".join(character if character.isprintable() else " " for character in decoded)
    whole = _SPACES.sub(" ", spaced).strip().encode()
    return whole[:most_bytes].decode(errors="ignore").rstrip() or None
