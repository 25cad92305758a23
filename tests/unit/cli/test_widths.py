"""How lists and statuses look at each width: one line for each task or gateway, whatever the window."""

from __future__ import annotations

import io
import re
import signal
import time
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

import pytest
from rich.cells import cell_len

from gateway.cli import main, show
from gateway.cli.client import Page
from gateway.cli.fields import TASK_COLUMNS
from gateway.tasks.stages import Stage
from tests.support.forged import document, lost_document
from tests.unit.cli.test_nodes import NODES
from tests.unit.cli.test_terminal import HOSTILE

if TYPE_CHECKING:
    from collections.abc import Callable

NOW_MS = 1_796_000_000_000


def task(task_id: str, stage: Stage, age_seconds: int, **more: Any) -> dict[str, Any]:
    """A task of this age. `more` are values of its extensions; `started`, `first_byte` and `finished` are ages, too."""
    found = document(task_id, stage, created_ms=NOW_MS - age_seconds * 1000)
    for name in ("started", "first_byte", "finished"):
        if name in more:
            found["extensions"][f"{name}_ms"] = int(NOW_MS - more.pop(name) * 1000)
    found["extensions"] |= {"path": "/v1/chat/completions"} | more
    return found


NIGHTLY = "nightly:2026-11-30"
TASKS = [
    task("batch-2026-11-30-evening-0042", Stage.QUEUED, 42, queue_position=3, queue_length=12, label=NIGHTLY),
    task("batch-2026-11-30-evening-0041", Stage.STREAMING, 65, started=60, first_byte=58.8, response_bytes=39_539,
         label=NIGHTLY),
    task("0198c2f4-7a51-7b3e-9d5c-0f4a2b9d41e7", Stage.FORWARDING, 5, started=4.9, path="/v1/embeddings"),
    task("batch-2026-11-30-evening-0040", Stage.ERROR, 754, started=754, finished=750,
         reason="upstream_unavailable", label=NIGHTLY, trace_id="4bf92f3577b34da6a3ce929d0e0e4736"),
    task("sky-2", Stage.DONE, 7384, started=7384, first_byte=7383, finished=7380, response_bytes=2_500_000),
    lost_document("translate-chapter-17-of-the-long-book", is_presumed=True, created_ms=NOW_MS - 300_000),
]  # fmt: skip

TASK_LISTS = {
    20: """
TASK         STATE
batch-…0042  PENDING
batch-…0041  RUNNING
0198c2…41e7  RUNNING
batch-…0040  FAILED
sky-2        SUCCESS
transl…book  FAILED
lost?: no word from
the task's gateway,
which may still run
it
left out: 7 columns
""",
    40: """
TASK              STATE    STAGE
batch-2026…-0042  PENDING  queued 3 of …
batch-2026…-0041  RUNNING  streaming
0198c2f4-7…d41e7  RUNNING  forwarding
batch-2026…-0040  FAILED   upstream_una…
sky-2             SUCCESS  done
translate-…-book  FAILED   lost?
lost?: no word from the task's gateway,
which may still run it
left out: 6 columns
""",
    60: """
TASK                  STATE    STAGE                     AGE
batch-2026-11…g-0042  PENDING  queued 3 of 12           42 s
batch-2026-11…g-0041  RUNNING  streaming                1:05
0198c2f4-7a51…9d41e7  RUNNING  forwarding                5 s
batch-2026-11…g-0040  FAILED   upstream_unavailable    12:34
sky-2                 SUCCESS  done                  2:03:04
translate-cha…g-book  FAILED   lost?                    5:00
lost?: no word from the task's gateway, which may still run
it
left out: REQUEST, LABEL, FIRST BYTE, TOOK, BYTES
""",
    80: """
TASK              STATE    STAGE                 REQUEST             AGE    TOOK
batch-2026…-0042  PENDING  queued 3 of 12        POST /v1/chat…     42 s       -
batch-2026…-0041  RUNNING  streaming             POST /v1/chat…     1:05    1:00
0198c2f4-7…d41e7  RUNNING  forwarding            POST /v1/embe…      5 s  4.90 s
batch-2026…-0040  FAILED   upstream_unavailable  POST /v1/chat…    12:34  4.00 s
sky-2             SUCCESS  done                  POST /v1/chat…  2:03:04  4.00 s
translate-…-book  FAILED   lost?                 POST /v1/x         5:00       -
lost?: no word from the task's gateway, which may still run it
left out at this width: LABEL, FIRST BYTE, BYTES; --columns chooses
""",
    100: """
TASK                STATE    STAGE                 REQUEST           LABEL               AGE    TOOK
batch-2026-1…-0042  PENDING  queued 3 of 12        POST /v1/chat/c…  nightly:2…1-30     42 s       -
batch-2026-1…-0041  RUNNING  streaming             POST /v1/chat/c…  nightly:2…1-30     1:05    1:00
0198c2f4-7a5…d41e7  RUNNING  forwarding            POST /v1/embedd…  -                   5 s  4.90 s
batch-2026-1…-0040  FAILED   upstream_unavailable  POST /v1/chat/c…  nightly:2…1-30    12:34  4.00 s
sky-2               SUCCESS  done                  POST /v1/chat/c…  -               2:03:04  4.00 s
translate-ch…-book  FAILED   lost?                 POST /v1/x        -                  5:00       -
lost?: no word from the task's gateway, which may still run it
left out at this width: FIRST BYTE, BYTES; --columns chooses
""",
    120: """
TASK                STATE    STAGE                 REQUEST          LABEL              AGE  FIRST BYTE    TOOK     BYTES
batch-2026-1…-0042  PENDING  queued 3 of 12        POST /v1/chat/…  nightly:…1-30     42 s           -       -       0 B
batch-2026-1…-0041  RUNNING  streaming             POST /v1/chat/…  nightly:…1-30     1:05      1.20 s    1:00  38.6 KiB
0198c2f4-7a5…d41e7  RUNNING  forwarding            POST /v1/embed…  -                  5 s           -  4.90 s       0 B
batch-2026-1…-0040  FAILED   upstream_unavailable  POST /v1/chat/…  nightly:…1-30    12:34           -  4.00 s       0 B
sky-2               SUCCESS  done                  POST /v1/chat/…  -              2:03:04      1.00 s  4.00 s   2.4 MiB
translate-ch…-book  FAILED   lost?                 POST /v1/x       -                 5:00           -       -       0 B
lost?: no word from the task's gateway, which may still run it
""",
}

NODE_LISTS = {
    20: """
GATEWAY     STATE
gateway-0…  up
gateway-1…  draining
a-very-lo…  lost
left out: 5 columns
""",
    40: """
GATEWAY                  STATE     STORE
gateway-0.gateway:11535  up        up
gateway-1.gateway:11535  draining  down
a-very-long-host-name.…  lost      up
left out: 4 columns
""",
    60: """
GATEWAY                    STATE     STORE  RUNNING  WAITING
gateway-0.gateway:11535    up        up      3 of 4       12
gateway-1.gateway:11535    draining  down         0        0
a-very-long-host-name.ra…  lost      up      3 of 4       12
left out at this width: LAST WORD, MODELS; --json has all
""",
    80: """
GATEWAY               STATE     STORE  RUNNING  WAITING  LAST WORD  MODELS
gateway-0.gateway:1…  up        up      3 of 4       12    2 s ago  llama3.2:3b…
gateway-1.gateway:1…  draining  down         0        0    2 s ago  -
a-very-long-host-na…  lost      up      3 of 4       12  432 s ago  llama3.2:3b…
""",
    100: """
GATEWAY                         STATE     STORE  RUNNING  WAITING  LAST WORD  MODELS
gateway-0.gateway:11535         up        up      3 of 4       12    2 s ago  llama3.2:3b, qwen2.5-…
gateway-1.gateway:11535         draining  down         0        0    2 s ago  -
a-very-long-host-name.rack-12…  lost      up      3 of 4       12  432 s ago  llama3.2:3b, qwen2.5-…
""",
    120: """
GATEWAY                                   STATE     STORE  RUNNING  WAITING  LAST WORD  MODELS
gateway-0.gateway:11535                   up        up      3 of 4       12    2 s ago  llama3.2:3b, qwen2.5-coder:32b-…
gateway-1.gateway:11535                   draining  down         0        0    2 s ago  -
a-very-long-host-name.rack-12.example.i…  lost      up      3 of 4       12  432 s ago  llama3.2:3b, qwen2.5-coder:32b-…
""",
}

STATUS = """
task        batch-2026-11-30-evening-004
            0-of-the-rack-12
state       FAILED
stage       error
queue       -
reason      upstream_status
presumed    -
message     Ollama answered HTTP 404
error       model 'llama3.2:3b' not
            found
request     POST /v1/chat/completions, 0
            B
label       nightly:2026-11-30
answer      status 404, 0 B
kept        -
detached    -
created     DATE TIME
waited      0.00 s
first byte  -
took        4.00 s
ended       DATE TIME
heartbeat   DATE TIME
attempt     2
gateway     i
trace       4bf92f3577b34da6a3ce929d0e0e
            4736
"""


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    def isatty(self) -> bool:
        """It always does."""
        return True


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], str]:
    """What a function prints to a terminal of this width. Colours and the spaces at the ends of lines are left out."""
    monkeypatch.setattr(time, "time", lambda: NOW_MS / 1000)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("LINES", "40")

    def printed(width: int, write: Callable[[], object]) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        with redirect_stdout(Terminal()) as out:
            write()
        text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
        return "\n".join(line.rstrip() for line in text.splitlines())

    return printed


@pytest.mark.parametrize("width", TASK_LISTS)
def test_the_list_of_tasks(at: Callable[..., str], width: int) -> None:
    """Columns of least worth leave first, ids are cut in the middle, one task is one line."""
    assert at(width, lambda: show.print_table(TASKS)) == TASK_LISTS[width].strip("\n")


@pytest.mark.parametrize("width", NODE_LISTS)
def test_the_list_of_gateways(at: Callable[..., str], width: int) -> None:
    """One gateway is one line, and its state is always there."""
    assert at(width, lambda: show.print_nodes(NODES)) == NODE_LISTS[width].strip("\n")


ODD = [
    task("漢字" * 30, Stage.STREAMING, 3, started=2, path="/v1/" + "漢字" * 40, label="🚀" * 40),
    task("x" * 200, Stage.QUEUED, 10**7, queue_position=10**9, queue_length=10**9, path="/" + "\x1b[31m\u202e" * 40),
    task("y", Stage.LOST, 1, reason="a-reason-of-a-later-version" * 9, owner="o" * 99, path="/e\u0301\ufe0f" * 40),
    *(task("z", Stage.DONE, 5, finished=1, path=text, label=text) | {"task_id": text} for text in HOSTILE),
]


@pytest.mark.parametrize("names", [(), tuple(TASK_COLUMNS)])
def test_no_line_is_wider_than_the_window(at: Callable[..., str], names: tuple[str, ...]) -> None:
    """At any width from 20 on: one task is one line that fits, with its state; wide characters count as two cells."""
    for width in (*range(20, 131), 200, 300):
        head, *lines = at(width, lambda: show.print_table(ODD, names=names)).splitlines()
        assert head.startswith("TASK ")
        assert_fits(lines, ODD, width)


def assert_fits(lines: list[str], items: list[dict[str, Any]], width: int) -> None:
    """One line for each item, with its state, and at most one line that tells what is left out."""
    assert len(lines) == len(items) + (1 if lines[-1].startswith("left out") else 0)
    assert all(line.isprintable() and cell_len(line) <= width for line in lines)
    for found, line in zip(items, lines, strict=False):
        assert f" {found['state']}" in line


def test_no_line_of_a_gateway_is_wider_than_the_window(at: Callable[..., str]) -> None:
    """So it is with gateways."""
    nodes = [
        *NODES,
        *(node | {"instance": text, "models": [text] * 9} for node, text in zip(NODES, HOSTILE, strict=False)),
    ]
    for width in range(20, 131):
        head, *lines = at(width, lambda: show.print_nodes(nodes)).splitlines()
        assert head.split()[:2] == ["GATEWAY", "STATE"]
        assert_fits(lines, nodes, width)


def test_a_file_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal nothing is cut or left out, however long it is."""
    show.print_table([*TASKS, task("z", Stage.DONE, 1, path="/" + "p" * 9000)])
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == [
        "TASK", "STATE", "STAGE", "REQUEST", "LABEL", "AGE", "FIRST", "BYTE", "TOOK", "BYTES"
    ]  # fmt: skip
    assert all(found["task_id"] in out for found in TASKS)
    assert "p" * 9000 in out
    assert "…" not in out
    assert "left out" not in out


# -- which columns --


def test_owners_are_shown_if_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that sees its own tasks alone gets no column for it; the key `admin` does."""
    show.print_table([task("a", Stage.DONE, 1, owner="alice")])
    assert "OWNER" not in capsys.readouterr().out
    show.print_table([task("a", Stage.DONE, 1, owner="alice"), task("b", Stage.DONE, 1, owner="bob")])
    heading, *rows = capsys.readouterr().out.splitlines()
    assert "OWNER" in heading
    assert ["alice" in rows[0], "bob" in rows[1]] == [True, True]


def test_chosen_columns_come_in_the_chosen_order(at: Callable[..., str]) -> None:
    """Nothing chosen is left out while its least width fits; ids are cut harder before."""
    names = ("age", "state", "task", "reason", "trace", "waited", "attempt")
    lines = at(80, lambda: show.print_table(TASKS[3:4], names=names)).splitlines()
    assert lines[0].split() == [name.upper() for name in names]
    assert re.fullmatch(r"12:34  FAILED  batch-2026…-0040 +upstream_un\S+ +4bf9\S+ +0.00 s +1", lines[1])
    assert len(lines) == 2
    narrow = at(64, lambda: show.print_table(TASKS[3:4], names=names)).splitlines()
    assert narrow[0].split() == lines[0].split()
    assert narrow[1].split()[2] == "batch-…0040"


def test_what_was_chosen_and_does_not_fit_is_told(at: Callable[..., str]) -> None:
    """The last of the chosen columns leave first; TASK and STATE stay, wherever they stand."""
    lines = at(30, lambda: show.print_table(TASKS, names=("age", "created", "reason", "task", "state"))).splitlines()
    assert lines[0].split() == ["AGE", "TASK", "STATE"]
    assert lines[-1] == "left out: CREATED, REASON"


def test_every_column_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A task with all values has each of them in its column. Beside the reason, the stage is only the stage."""
    whole = task("one", Stage.ERROR, 754, started=750, first_byte=749, finished=740, reason="upstream_status",
                 status_code=404, error_text="no such model", label="l", owner="alice", response_bytes=2048,
                 trace_id="a" * 32, instance="gateway-1:11535")  # fmt: skip
    for name, column in TASK_COLUMNS.items():
        show.print_table([whole], names=(name, "reason"))
        head, row = capsys.readouterr().out.splitlines()
        assert head.strip().startswith(column.heading)
        assert row.strip().split("  ")[0] not in ("", "-")
    show.print_table([whole], names=("stage", "reason", "status", "error"))
    assert capsys.readouterr().out.splitlines()[1].split("  ")[0] == "error"


@pytest.mark.parametrize("text", ["", "task,", "task,size", "TASK STATE", "\x1b[31m"])
def test_a_wrong_column_is_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names all columns that there are, and no gateway is asked."""
    with pytest.raises(SystemExit) as ended:
        main(["tasks", "--url", "http://127.0.0.1:1", "--columns", text])
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"allowed: {', '.join(TASK_COLUMNS)}" in error
    assert error.isprintable()


def test_columns_and_json_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON is the gateway's answer, with all fields: 2."""
    with pytest.raises(SystemExit) as ended:
        main(["tasks", "--url", "http://127.0.0.1:1", "--json", "--columns", "task"])
    assert ended.value.code == 2
    assert "--columns" in capsys.readouterr().err


# -- one task --


def test_a_status_at_40_columns(at: Callable[..., str]) -> None:
    """Long values go on under themselves, never under the names."""
    failed = task("batch-2026-11-30-evening-0040-of-the-rack-12", Stage.ERROR, 754, started=754, finished=750,
                  reason="upstream_status", status_code=404, label=NIGHTLY, owner="alice", attempt=2,
                  error_text="model 'llama3.2:3b' not found", trace_id="4bf92f3577b34da6a3ce929d0e0e4736")  # fmt: skip
    failed["message"] = "Ollama answered HTTP 404"
    text = at(40, lambda: show.print_document(failed))
    assert re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[-+]\d\d:\d\d", "DATE TIME", text) == STATUS.strip("\n")
    assert len(re.findall(r"DATE TIME|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", text)) == 3


def test_a_status_without_error_and_trace_has_no_line_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    """A document without these fields is shown like one in which they are null: without their lines."""
    found = task("one", Stage.DONE, 5, finished=1)
    show.print_document(found)
    before = capsys.readouterr().out
    found["extensions"] |= {"error_text": None, "trace_id": None}
    show.print_document(found)
    assert capsys.readouterr().out == before
    assert not re.search(r"^(error|trace) ", before, re.MULTILINE)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_an_error_text_cannot_drive_the_terminal(at: Callable[..., str], hostile: str) -> None:
    """It comes from Ollama: control characters are escaped, in the detail and in the column."""
    found = task("one", Stage.ERROR, 5, finished=1, error_text=hostile, trace_id=hostile)
    text = at(400, lambda: show.print_document(found)) + "\n"
    text += at(400, lambda: show.print_table([found], names=("error", "trace")))
    assert all(line.isprintable() for line in text.splitlines())
    assert text.count(HOSTILE[hostile]) == 4


def test_a_wait_is_one_line_with_the_state(at: Callable[..., str]) -> None:
    """`status --wait` in a narrow window: the id is cut, not the state."""

    def wait() -> None:
        with show.waiting(TASKS[0]["task_id"], is_wanted=True) as tell:
            tell(TASKS[0])

    assert re.search(r". batch-2…0042: PENDING queued 3 of 12(\r|$)", at(38, wait), re.MULTILINE)
    assert re.search(r". batc…0042: PENDING …(\r|$)", at(22, wait), re.MULTILINE)


# -- a watched list --


def window(tasks: list[dict[str, Any]], height: int, trouble: str = "", left_out: int = 0) -> list[str]:
    """The lines that a watched list shows at the end, without the empty ones below."""
    with redirect_stdout(Terminal()) as out:
        table = show.LiveTable()
        with table:
            table.show(Page({}, tasks, left_out), trouble)
    screen = out.getvalue().rpartition("\x1b[H")[2].partition("\x1b[?")[0]
    lines = re.sub(r"\x1b\[[0-9;]*m", "", screen).split("\n")
    assert len(lines) == height
    return [line.rstrip() for line in lines if line.rstrip()]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_a_watched_list_is_never_longer_than_the_window(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """At any height from 3 on: the newest tasks are shown, and how many there are more."""
    for height in range(3, 30):
        for name, value in {"TERM": "xterm", "COLUMNS": width, "LINES": height}.items():
            monkeypatch.setenv(name, str(value))
        lines = window(TASKS * 3, height, left_out=2)
        rows = [line for line in lines if re.search(r" (PENDING|RUNNING|SUCCESS|FAILED)", line)]
        beyond = [line for line in lines if re.fullmatch(r"and \d+ more", line)]
        assert beyond == ([] if len(rows) == 18 else [f"and {18 - len(rows)} more"])
        assert any("in flight" in line for line in lines)
    assert len(rows) == 18


class Resized(Terminal):
    """A terminal whose size changes while the command writes to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.monkeypatch, self.is_armed = monkeypatch, False

    def write(self, text: str) -> int:
        """The first text after the arming comes with the signal."""
        if self.is_armed:
            self.is_armed = False
            self.resize(30, 6)
        return super().write(text)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size and send the signal."""
        self.monkeypatch.setenv("COLUMNS", str(columns))
        self.monkeypatch.setenv("LINES", str(lines))
        signal.raise_signal(signal.SIGWINCH)

    def size(self) -> tuple[int, int]:
        """Columns and lines of what was painted last."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", self.getvalue().rpartition("\x1b[H")[2]).split("\n")
        return max(map(len, lines)), len(lines)


def test_a_resize_is_painted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list does not wait for the next answer of the gateway; also if the signal comes while it is painted.

    After the watch the signals do what they did before.
    """
    monkeypatch.setenv("TERM", "xterm")
    for name in ("COLUMNS", "LINES"):  # set from the start, they would fix the size
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGWINCH), signal.getsignal(signal.SIGTERM)
    with redirect_stdout(Resized(monkeypatch)) as out:
        table = show.LiveTable()
        with table:
            out.resize(80, 12)
            table.show(Page({}, TASKS, 0), "")
            assert out.size() == (80, 12)
            out.resize(60, 9)
            assert out.size() == (60, 9)
            out.is_armed = True
            table.show(Page({}, TASKS, 0), "")
            assert out.size() == (30, 6)
    assert (signal.getsignal(signal.SIGWINCH), signal.getsignal(signal.SIGTERM)) == before


def test_a_dumb_terminal_gets_the_list_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """TERM=dumb: plain text without escape codes at its real width, once for each change."""
    for name, value in {"TERM": "dumb", "COLUMNS": "60", "LINES": "12"}.items():
        monkeypatch.setenv(name, value)
    with redirect_stdout(Terminal()) as out:
        table = show.watched(("task", "state"))
        with table:
            for page in (Page({}, TASKS * 3, 0), Page({}, TASKS * 3, 0), Page({}, TASKS[:2], 0)):
                table.show(page, "")
    first, second, rest = out.getvalue().split("\n\n")
    assert out.getvalue().replace("\n", "").isprintable()
    assert rest == ""
    assert max(map(cell_len, first.splitlines())) <= 60
    assert len(first.splitlines()) == 11
    assert "and " in first.splitlines()[-4] + first.splitlines()[-3]
    assert len(second.splitlines()) == 4
