"""Prints to the terminal: tables for people, JSON for scripts. The only module of this package that knows rich.

Text from requests (paths, queries) is printed with control characters escaped and is never read as markup: it must not
control the terminal. If the output is no terminal, there are no colours.
"""

import codecs
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.cli.client import Document, Page
from gateway.logs import readable
from gateway.tasks.document import is_presumed

_STYLES = {"PENDING": "yellow", "RUNNING": "cyan", "SUCCESS": "green", "FAILED": "red"}
_PROGRESS_SECONDS = 0.2
_KEPT = {
    "kept": "yes: the answer is kept",
    "deleted": "no: the answer was deleted",
    "too_large": "no: the answer is too large",
    "no_room": "no: there was no room for the answer",
}
_NODE_STYLES = {"up": "green", "draining": "yellow", "lost": "red", "down": "red"}  # of states, and of the store
_LOST = "lost?"  # in the place of the reason of a presumed loss
_PRESUMED = "no word from the task's gateway, which may still run it"
_DO = "Wait (status --wait), cancel the task, or send its request again: that begins a new attempt."
_WIDTH_OF_FILES = 400  # wide enough that no column wraps; a file has no right edge


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which is the code for FAILED


def _console() -> Console:
    return _Console(width=None if sys.stdout.isatty() else _WIDTH_OF_FILES, highlight=False, markup=False, emoji=False)


def print_json(content: Document) -> None:
    """Prints one line of JSON, with all but ASCII escaped."""
    print(json.dumps(content, separators=(",", ":")), flush=True)


def print_table(tasks: list[Document], left_out: int = 0) -> None:
    """Prints the tasks, one per line, what marks in them mean, and how many records were left out."""
    _console().print(_table(tasks) if tasks else "no tasks")
    if any(map(is_presumed, tasks)):
        _console().print(_presumed())
    if left_out:
        _console().print(_left_out(left_out))


def _presumed() -> Text:
    return Text(f"{_LOST}: {_PRESUMED}", "yellow")


def _left_out(count: int) -> Text:
    return Text(f"left out: {count} malformed record{'s' if count > 1 else ''} in the store", "red")


def print_document(document: Document) -> None:
    """Prints all fields of one task, one per line."""
    grid = Table.grid(padding=(0, 2))
    for name, value in _facts(document):
        grid.add_row(name, value if isinstance(value, Text) else Text(readable(value)))
    _console().print(grid)


def print_nodes(nodes: list[Document]) -> None:
    """Prints the gateways, one per line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("GATEWAY", overflow="fold", min_width=12)
    for name in ("STATE", "STORE"):
        table.add_column(name, no_wrap=True)
    for name in ("RUNNING", "WAITING", "LAST WORD"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("MODELS", overflow="fold")
    for node in nodes:
        table.add_row(*_node(node))
    _console().print(table if nodes else "no gateways")


def _node(node: Document) -> list[Text]:
    models = node.get("models")
    bound = node.get("max_running")
    return [
        Text(readable(node["instance"])),
        *(_word(node.get(name)) for name in ("state", "store")),
        Text(f"{_number(node.get('running'))} of {_number(bound)}" if bound else _number(node.get("running"))),
        Text(_number(node.get("waiting"))),
        Text(f"{_number(node.get('age_sec'))} s ago"),
        Text("\n".join(readable(str(name)) for name in models) if isinstance(models, list) and models else "-"),
    ]


def _word(value: object) -> Text:
    word = readable(value) if isinstance(value, str) else "-"
    return Text(word, _NODE_STYLES.get(word, ""))


def _number(value: object) -> str:
    return f"{value:.0f}" if type(value) in (int, float) else "-"


def print_cancelled(count: int) -> None:
    """Prints how many tasks were asked to end."""
    _console().print(f"asked {count} task{'' if count == 1 else 's'} to end")


@contextmanager
def waiting(task_id: str, *, is_wanted: bool) -> Iterator[Callable[[Document], None]]:
    """Shows a task's stage on a terminal while the command waits for its end. Yields a function that takes each status.

    With `is_wanted` false, or without a terminal, it shows nothing.
    """
    if not is_wanted:
        yield lambda _: None
        return
    with _console().status(Text(task_id)) as status:
        yield lambda document: status.update(Text(readable(f"{task_id}: {document['state']} {_stage(document)}")))


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

    def count(self, size: int) -> None:
        """So many bytes more have come."""
        self._bytes += size
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
        text = f"{_size(self._bytes)}, {_span(0, seconds * 1000)}, {_size(int(self._bytes / seconds))}/s"
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


class LiveTable:
    """A table that is updated in place on the terminal."""

    def __init__(self) -> None:
        self._live = Live(console=_console(), auto_refresh=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, page: Page, trouble: str) -> None:
        """Replaces the table."""
        in_flight = sum(task["state"] in ("PENDING", "RUNNING") for task in page.tasks)
        lines = [
            Text(readable(trouble), "red") if trouble else Text(f"{in_flight} of {len(page.tasks)} in flight", "dim")
        ]
        if any(map(is_presumed, page.tasks)):
            lines.append(_presumed())
        if page.left_out:
            lines.append(_left_out(page.left_out))
        self._live.update(Group(_table(page.tasks), *lines), refresh=True)


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


def _table(tasks: list[Document]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, is_whole in (("TASK", False), ("STATE", True), ("STAGE", True), ("REQUEST", False)):
        table.add_column(name, overflow="fold", no_wrap=is_whole)
    has_labels = any(_more(task)["label"] for task in tasks)
    if has_labels:
        table.add_column("LABEL", overflow="fold")
    for name in ("AGE", "FIRST BYTE", "TOOK", "BYTES"):
        table.add_column(name, justify="right", no_wrap=True)
    now_ms = time.time() * 1000
    for task in tasks:
        table.add_row(*_row(task, now_ms, has_labels=has_labels))
    return table


def _row(task: Document, now_ms: float, *, has_labels: bool) -> list[Text]:
    more = _more(task)
    label = [Text(readable(more["label"] or ""))] if has_labels else []
    return [
        Text(readable(task["task_id"])),
        _state(task),
        Text(_stage(task)),
        Text(readable(f"{more['method']} {more['path']}")),
        *label,
        Text(_span(more["created_ms"], now_ms)),
        Text(_span(more["started_ms"], more["first_byte_ms"])),
        Text(_span(more["started_ms"], more["finished_ms"] or now_ms)),
        Text(_size(more["response_bytes"])),
    ]


def _facts(task: Document) -> Iterator[tuple[str, str | Text]]:
    more = _more(task)
    query = f"?{more['query']}" if more["query"] else ""
    yield "task", task["task_id"]
    yield "state", _state(task)
    yield "stage", task["stage"]
    yield "queue", f"position {_position(more)}" if _position(more) else "-"
    yield "reason", _reason(task) or "-"
    yield "presumed", f"yes: {_PRESUMED}. {_DO}" if is_presumed(task) else "-"
    yield "message", task["message"]
    yield "request", f"{more['method']} {more['path']}{query}, {_size(more['request_bytes'])}"
    yield "label", more["label"] or "-"
    yield "answer", f"status {more['status_code'] or '-'}, {_size(more['response_bytes'])}"
    yield "kept", _KEPT.get(more["response"], more["response"]) if more["response"] else "-"
    yield "detached", "yes: it does not need its client any more" if more["is_detached"] else "-"
    yield "created", _moment(more["created_ms"])
    yield "waited", _span(more["created_ms"], more["started_ms"] or more["finished_ms"] or time.time() * 1000)
    yield "first byte", _span(more["started_ms"], more["first_byte_ms"])
    yield "took", _span(more["started_ms"], more["finished_ms"] or time.time() * 1000)
    yield "heartbeat", _moment(task["timestamp"] * 1000)
    yield "attempt", str(more["attempt"])
    yield "gateway", more["instance"] or "-"


class _More(dict[str, Any]):
    """A document's extensions. A field that an older gateway does not have is None."""

    def __missing__(self, name: str) -> None:
        return None


def _more(task: Document) -> _More:
    return _More(task["extensions"])


def _state(task: Document) -> Text:
    state = readable(task["state"])
    return Text(state, "yellow" if is_presumed(task) else _STYLES.get(state, ""))


def _reason(task: Document) -> str:
    return _LOST if is_presumed(task) else _more(task)["reason"] or ""


def _stage(task: Document) -> str:
    """The stage, with the position in the queue; or a failed task's reason, which says more."""
    more = _more(task)
    return readable(_reason(task) or f"{task['stage']} {_position(more)}".rstrip())


def _position(more: _More) -> str:
    """Position and length, "3 of 12". Empty if the task is not in the queue."""
    return "" if more["queue_position"] is None else f"{more['queue_position']} of {more['queue_length']}"


def _moment(unix_ms: float | None) -> str:
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(" ", "seconds") if unix_ms else "-"


def _span(from_ms: float | None, to_ms: float | None) -> str:
    """A duration, rounded by its size: 0.12 s, 34.5 s, 12:34, 2:03:04. "-" if an end is not known."""
    if from_ms is None or to_ms is None:
        return "-"
    seconds = max(0.0, (to_ms - from_ms) / 1000)
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _size(count: int | None) -> str:
    """`count` bytes as text, in decimal units."""
    size, units = float(count or 0), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 1000 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
