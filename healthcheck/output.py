"""The form of each line of output: it names its program and cannot control a terminal.

Owns the pipes of all programs and the one thread that reads them. As text, a line begins with the name of its program.
As JSON, it is one object with `program`: the gateway's own objects keep their fields, and any other line becomes
`message`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import selectors
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SOURCES = ("supervisord", "ollama", "gateway", "pull", "listener", "launcher")
WRITE_JSON = frozenset({"gateway", "pull"})  # with LOG_FORMAT=json
LONGEST_LINE_BYTES = 1024 * 1024  # a longer line continues in another line
READ_BYTES = 64 * 1024
LEVEL_WITHIN = 300  # characters of a line

_PLAIN = re.compile(rb"[\t -~]*")
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
# C0 and C1 control characters except the tab, and characters that break a line or turn the direction of text.
_UNSAFE = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_LEVEL = re.compile(r"\blevel=([A-Z]{4,5})\b|^\d{4}-\d\d-\d\d [0-9:,]+ ([A-Z]{4}) ")  # Ollama's, supervisord's
_LEVELS = {"DEBUG": "debug", "DEBG": "debug", "INFO": "info", "WARN": "warning", "ERROR": "error", "ERRO": "error"}
_LEVELS["CRIT"] = "error"


def readable(line: bytes) -> str:
    """A line without colours. Other control characters, and bytes that are not UTF-8, become escapes."""
    if _PLAIN.fullmatch(line):
        return line.decode("ascii")
    text = _COLOUR.sub("", line.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_text(program: str, line: bytes) -> bytes:
    """The line to write, without its end."""
    return f"{program} | {readable(line)}".encode()


def as_json(program: str, line: bytes, level: str | None = None) -> bytes:
    """The same as one JSON object. Without `level`, takes it from the line."""
    if program in WRITE_JSON and line.startswith(b"{"):
        with contextlib.suppress(ValueError, RecursionError):  # it is not JSON, or has numbers that JSON does not allow
            return _object(program, json.loads(line))
    text = readable(line)
    level = level or _level_of(text)
    return _object(program, {"time": _now()} | ({"level": level} if level else {}) | {"message": text})


def _object(program: str, fields: dict[str, Any]) -> bytes:
    fields.pop("program", None)  # the line must not set it
    return json.dumps({"program": program} | fields, allow_nan=False).encode()


def _level_of(text: str) -> str | None:
    found = _LEVEL.search(text, 0, LEVEL_WITHIN)
    return _LEVELS.get(found[1] or found[2]) if found else None


def _now() -> str:
    """The time, in the format of the gateway's own lines."""
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"


class Lines:
    """One program's output: takes pieces and returns whole lines, each formatted by `show`."""

    def __init__(self, show: Callable[[bytes], bytes]) -> None:
        self.show = show
        self.begun = bytearray()  # a line whose end has not arrived yet

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return the lines that are complete now."""
        head, newline, tail = piece.rpartition(b"\n")
        if not newline:
            self.begun += tail
            return self.end() if len(self.begun) >= LONGEST_LINE_BYTES else b""
        lines = (bytes(self.begun) + head).split(b"\n")
        self.begun = bytearray(tail)
        return b"".join(self.show(line) + b"\n" for line in lines)

    def end(self) -> bytes:
        """End the line that has begun, and return it."""
        line, self.begun = bytes(self.begun), bytearray()
        return self.show(line) + b"\n" if line else b""


class Output:
    """A pipe for each source and the one thread that reads them all and writes to `target`.

    supervisord opens the pipes by the paths in `variables`. They are read until `close`, so a writer
    waits only as long as `target` blocks. If the target is gone, the output is lost and the programs go on.
    """

    def __init__(self, target: int, *, is_json: bool = False) -> None:
        self.target = target
        self.is_json = is_json
        self.variables: dict[str, str] = {}
        self.selector = selectors.DefaultSelector()
        show = as_json if is_json else as_text
        for name in SOURCES:
            self.variables[f"LAUNCHER_OUTPUT_{name.upper()}"] = f"/dev/fd/{self.add(Lines(partial(show, name)))}"
        self.wake = self.add(None)
        self.thread = threading.Thread(target=self.run, name="output", daemon=True)
        self.thread.start()

    def add(self, lines: Lines | None) -> int:
        """Make a pipe whose data goes to `lines` (None: its end stops the thread). Returns its writing end."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self.selector.register(reader, selectors.EVENT_READ, lines)
        return writer

    def run(self) -> None:
        """Pass on everything until `close`; then the rest of the pipes, and lines without an end."""
        while True:
            keys = [key for key, _ in self.selector.select()]
            for key in keys:
                if key.data:
                    self.pass_on(key.fd, key.data)
            if any(key.data is None for key in keys):
                break
        for key in self.selector.get_map().values():
            if key.data:
                while self.pass_on(key.fd, key.data):
                    pass
                self.write(key.data.end())

    def pass_on(self, reader: int, lines: Lines) -> bool:
        """Read once and write the complete lines. False if there is nothing to read."""
        try:
            piece = os.read(reader, READ_BYTES)
        except BlockingIOError:
            return False
        self.write(lines.feed(piece))
        return bool(piece)

    def say(self, level: str, program: str, text: str) -> None:
        """Write a line of the launcher, or of a program in its name. Only while no program runs."""
        line = text.encode(errors="backslashreplace")
        self.write((as_json(program, line, level) if self.is_json else as_text(program, line)) + b"\n")

    def write(self, data: bytes) -> None:
        """Write all of it. If the target has no reader any more, drop it."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self.target, view) :]
            except BlockingIOError:
                select.select([], [self.target], [])
            except OSError:  # its reader closed it: the programs go on without output
                return

    def close(self) -> None:
        """Let the thread finish; every writer has ended before."""
        os.close(self.wake)
        self.thread.join(timeout=5)
