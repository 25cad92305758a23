"""Writes what needs no table: JSON for scripts, the bytes of an answer, and how much of it has come."""

import codecs
import json
import sys
import time
from collections.abc import Callable
from typing import Self

from gateway.cli.client import Document, Page
from gateway.cli.fields import size, span
from gateway.logs import readable

_PROGRESS_SECONDS = 0.2


def print_json(content: Document) -> None:
    """Prints one line of JSON, with all but ASCII escaped."""
    print(json.dumps(content, separators=(",", ":")), flush=True)


class JsonLines:
    """Prints one line for each event of a task, oldest first, and none for heartbeats."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, page: Page, trouble: str) -> None:  # noqa: ARG002 (while there is trouble, scripts get no lines)
        """Prints the events that are new since the last call."""
        for task in reversed(page.tasks):
            if self._known.get(task["task_id"]) != task["event_id"]:
                print_json(task)
        self._known = {task["task_id"]: task["event_id"] for task in page.tasks}


def print_cancelled(count: int) -> None:
    """Prints how many tasks were asked to end."""
    print(f"asked {count} task{'' if count == 1 else 's'} to end")


class Progress:
    """How much of an answer has come: one line on standard error, written anew. Shows nothing if it is not wanted."""

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted
        self._began = self._shown = time.monotonic()
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leaves the last line where it is."""
        if self._bytes and self._is_wanted:
            self._show()
            print(file=sys.stderr)

    def count(self, more: int) -> None:
        """So many bytes more have come."""
        self._bytes += more
        if time.monotonic() - self._shown >= _PROGRESS_SECONDS:
            self._show()

    def say(self, text: str) -> None:
        """Prints a line for people on standard error."""
        _erase(is_wanted=self._is_wanted)
        print(f"ollama-gateway: {readable(text)}", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if not self._is_wanted:
            return
        self._shown = time.monotonic()
        seconds = max(self._shown - self._began, 0.001)
        _erase(is_wanted=True)
        text = f"{size(self._bytes)}, {span(0, seconds * 1000)}, {size(int(self._bytes / seconds))}/s"
        print(text, end="", file=sys.stderr, flush=True)


def _erase(*, is_wanted: bool) -> None:
    if is_wanted:
        print("\r\x1b[K", end="", file=sys.stderr)


def bytes_to_stdout() -> Callable[[bytes], None]:
    """Writes an answer's bytes to standard output, each piece at once.

    A terminal gets text, with control characters other than line ends and tabs escaped.
    """
    out = sys.stdout.buffer
    decode = codecs.getincrementaldecoder("utf-8")("backslashreplace").decode

    def write(piece: bytes) -> None:
        out.write(piece)
        out.flush()

    def write_text(piece: bytes) -> None:
        text = "".join(c if c in "\n\t" else readable(c) for c in decode(piece))
        write(text.encode(sys.stdout.encoding, "backslashreplace"))

    return write_text if sys.stdout.isatty() else write
