"""Prints tables and statuses to the terminal, for people. The only module of this package that knows rich.

A list has one line for each task or gateway: `columns` decides which columns fit into the window. Text from requests
(paths, queries) is printed with control characters escaped and is never read as markup: it must not control the
terminal. If the output is no terminal, there are no colours, and nothing is cut or left out.
"""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from gateway.cli.client import Document, Page
from gateway.cli.columns import GAP, Demand, cut_end, cut_middle, fit, rows_that_fit
from gateway.cli.fields import (
    LOST,
    NODE_COLUMNS,
    PRESUMED,
    TASK_COLUMNS,
    Column,
    default_columns,
    facts,
    node_cells,
    stage_or_reason,
    task_cells,
)
from gateway.logs import readable
from gateway.tasks.document import is_presumed

_STYLES = {
    "PENDING": "yellow", "RUNNING": "cyan", "SUCCESS": "green", "FAILED": "red",
    "up": "green", "draining": "yellow", "lost": "red", "down": "red",  # gateways, and their store
}  # fmt: skip
_WIDTH_OF_FILES = 1_000_000  # a file has no right edge
_SPINNER = 2  # cells that it takes before a text
_SHORT_ID = 9
TERMINATED = 143  # as in shells: 128 plus SIGTERM


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which is the code for FAILED


def _console() -> Console:
    is_terminal = sys.stdout.isatty()
    console = _Console(width=None if is_terminal else _WIDTH_OF_FILES, highlight=False, markup=False, emoji=False)
    if is_terminal and console.is_dumb_terminal:
        console.size = shutil.get_terminal_size()  # rich assumes 80 columns
    return console


def print_table(tasks: list[Document], left_out: int = 0, names: Sequence[str] = ()) -> None:
    """Prints the tasks, one per line, what marks in them mean, and how many records were left out.

    `names` are the chosen columns, in their order; without them the most worthy that fit are shown.
    """
    console = _console()
    if tasks:
        table = _of_tasks(tasks, names, console)
        _print(console, table.lines())
        _print(console, _notes(tasks, left_out))
        _print(console, table.notes())
    else:
        console.print("no tasks")
        _print(console, _notes(tasks, left_out))


def _print(console: Console, lines: Sequence[Text]) -> None:
    for line in lines:
        console.print(line)


def _notes(tasks: list[Document], left_out: int) -> list[Text]:
    notes = []
    if any(map(is_presumed, tasks)):
        notes.append(Text(f"{LOST}: {PRESUMED}", "yellow"))
    if left_out:
        notes.append(Text(f"left out: {left_out} malformed record{'s' if left_out > 1 else ''} in the store", "red"))
    return notes


def print_document(document: Document, page: str = "") -> None:
    """Prints all fields of one task, one per line. A long value goes on under itself.

    `page` is the task's address on the dashboard. A task that failed gets it, because the page says what to do.
    """
    console = _console()
    lines = [(name, Text(readable(value))) for name, value in facts(document, time.time() * 1000)]
    if page and document["state"] == "FAILED":
        lines.append(("what to do", Text(page)))
    indent = max(len(name) for name, _ in lines) + GAP
    for name, value in lines:
        if name == "state":
            value.style = _style_of_state(document)
        folded = value.wrap(console, max(console.width - indent, 1))
        for number, line in enumerate(folded or [Text()]):
            console.print(Text(("" if number else name).ljust(indent)).append_text(line), no_wrap=True)


def print_nodes(nodes: list[Document]) -> None:
    """Prints the gateways, one per line."""
    console = _console()
    if not nodes:
        console.print("no gateways")
        return
    rows = []
    for node in nodes:
        cells = [Text(readable(text)) for text in node_cells(node)]
        for cell in cells[1:3]:  # the state, and the store's
            cell.style = _STYLES.get(cell.plain, "")
        rows.append(cells)
    table = _Table(NODE_COLUMNS, rows, console, "--json has all")
    _print(console, [*table.lines(), *table.notes()])


class _Table:
    """One line for each row, in the columns that fit into the window. `hint` says how to see the other columns."""

    def __init__(
        self,
        columns: Sequence[Column],
        rows: Sequence[Sequence[Text]],
        console: Console,
        hint: str,
        *,
        is_chosen: bool = False,
    ) -> None:
        self._columns, self._rows, self._hint = columns, rows, hint
        self._width = console.width
        demands = []
        for number, column in enumerate(columns):
            whole = max(cell_len(column.heading), *(cell_len(row[number].plain) for row in rows), 0)
            leaves_at = number + 1 if is_chosen and column.leaves_at else column.leaves_at
            demands.append(Demand(column.name, leaves_at, column.least or whole, column.good or whole, whole))
        if sys.stdout.isatty():
            self._widths = fit(demands, self._width, is_chosen=is_chosen)
        else:
            self._widths = {demand.name: demand.whole for demand in demands}

    def lines(self) -> list[Text]:
        """The headings, and the rows."""
        return [self._line([Text(column.heading, "bold") for column in self._columns]), *map(self._line, self._rows)]

    def notes(self) -> list[Text]:
        """At most one line: the headings of the columns that do not fit."""
        missing = [column.heading for column in self._columns if column.name not in self._widths]
        if not missing:
            return []
        names = ", ".join(missing)
        hint = f"; {self._hint}" if self._hint else ""
        texts = [f"left out at this width: {names}{hint}", f"left out: {names}", f"left out: {len(missing)} columns"]
        fitting = [text for text in texts if len(text) <= self._width] or [cut_end(texts[-1], self._width, cell_len)]
        return [Text(fitting[0], "dim")]

    def _line(self, cells: Sequence[Text]) -> Text:
        line = Text(no_wrap=True, overflow="crop")
        for column, cell in zip(self._columns, cells, strict=True):
            if column.name not in self._widths:
                continue
            width = self._widths[column.name]
            text = (cut_middle if column.is_id else cut_end)(cell.plain, width, cell_len)
            padding = " " * (width - cell_len(text))
            line.append(padding if column.is_right else "").append(text, cell.style)
            line.append(" " * GAP if column.is_right else padding + " " * GAP)
        line.rstrip()
        return line


def _of_tasks(tasks: list[Document], names: Sequence[str], console: Console) -> _Table:
    columns = [TASK_COLUMNS[name] for name in names] or default_columns(tasks)
    now_ms = time.time() * 1000
    rows = []
    for task in tasks:
        cells = [Text(readable(text)) for text in task_cells(task, columns, now_ms)]
        for column, cell in zip(columns, cells, strict=True):
            if column.name == "state":
                cell.style = _style_of_state(task)
        rows.append(cells)
    return _Table(columns, rows, console, "" if names else "--columns chooses", is_chosen=bool(names))


def _style_of_state(task: Document) -> str:
    return "yellow" if is_presumed(task) else _STYLES.get(task["state"], "")


@contextmanager
def waiting(task_id: str, *, is_wanted: bool) -> Iterator[Callable[[Document], None]]:
    """Shows a task's stage on a terminal while the command waits for its end. Yields a function that takes each status.

    With `is_wanted` false, or without a terminal, it shows nothing.
    """
    if not is_wanted:
        yield lambda _: None
        return
    console = _console()
    with console.status(Text(task_id, no_wrap=True)) as status:
        yield lambda document: status.update(_waiting_for(document, console.width - _SPINNER))


def _waiting_for(document: Document, width: int) -> Text:
    """One line: the task's id, cut if need be, and its stage."""
    what = readable(f": {document['state']} {stage_or_reason(document)}")
    task_id = cut_middle(readable(document["task_id"]), max(width - cell_len(what), _SHORT_ID), cell_len)
    return Text(cut_end(task_id + what, width, cell_len), no_wrap=True, overflow="crop")


class LiveTable:
    """A table that is updated in place, on the terminal's second screen: the first one stays as it is.

    It never has more lines than the window, and is painted anew when the size of the window changes.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._console = _console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._names = names
        self._page, self._trouble = Page({}, [], 0), ""
        self._is_painting = self._is_stale = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> None:
        for number, handle in ((signal.SIGWINCH, self._resized), (signal.SIGTERM, _terminated)):
            self._handlers[number] = signal.signal(number, handle)
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()
        for number, handle in self._handlers.items():
            signal.signal(number, handle)

    def show(self, page: Page, trouble: str) -> None:
        """Replaces the table."""
        self._page, self._trouble = page, trouble
        self._paint()

    def _resized(self, *_: object) -> None:
        """The signal can come in the middle of painting: that is then done once more, at the new size."""
        self._is_stale = True
        if not self._is_painting:
            self._paint()

    def _paint(self) -> None:
        self._is_painting = self._is_stale = True
        try:
            while self._is_stale:
                self._is_stale = False
                lines = _window(self._page, self._trouble, self._names, self._console, self._console.height)
                self._live.update(Group(*lines), refresh=True)
        finally:
            self._is_painting = False


def _terminated(*_: object) -> None:
    sys.exit(TERMINATED)  # in place of an end that leaves the second screen on and the cursor hidden


class PlainTable:
    """A table that is printed again for each change, for a terminal that cannot move its cursor (TERM=dumb)."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._console = _console()
        self._names = names
        self._known: object = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def show(self, page: Page, trouble: str) -> None:
        """Prints the table if there is another event since the last one."""
        known = [task["event_id"] for task in page.tasks], page.left_out, trouble
        if known != self._known:
            self._known = known
            height = self._console.height - 1
            _print(self._console, [*_window(page, trouble, self._names, self._console, height), Text()])


def watched(names: Sequence[str] = ()) -> LiveTable | PlainTable:
    """The table of `tasks --watch` for this terminal."""
    return PlainTable(names) if _console().is_dumb_terminal else LiveTable(names)


def _window(page: Page, trouble: str, names: Sequence[str], console: Console, height: int) -> list[Text]:
    """The lines of a watched list: at most `height`, unless that is less than 3."""
    in_flight = sum(task["state"] in ("PENDING", "RUNNING") for task in page.tasks)
    what = Text(readable(trouble), "red") if trouble else Text(f"{in_flight} of {len(page.tasks)} in flight", "dim")
    table = _of_tasks(page.tasks, names, console)
    notes = [line for note in (what, *_notes(page.tasks, page.left_out)) for line in note.wrap(console, console.width)]
    notes = [*notes, *table.notes()][: max(height - 2, 1)]
    heading, *rows = table.lines()
    shown = rows_that_fit(len(rows), height, 1 + len(notes))
    beyond = [Text(f"and {len(rows) - shown} more", "dim")] if shown < len(rows) else []
    return [heading, *rows[:shown], *beyond, *notes]
