"""The terminal's commands alone: arguments, output of foreign text, and which libraries each half loads."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any

import httpx
import pytest

from gateway.cli import (
    AWAY,
    BROKEN_PIPE,
    DONE,
    FAILED,
    INTERRUPTED,
    NOT_ENDED,
    TERMINATED,
    UNKNOWN,
    USAGE,
    fields,
    main,
    output,
    show,
)
from gateway.logs import readable
from gateway.tasks.document import complete_document, document_head
from gateway.tasks.task import Task
from tests.support.ports import refusing_port
from tests.support.process import ROOT, environment

HOSTILE = {
    "\x1b]0;owned\x07\x1b[31m": r"\x1b]0;owned\x07\x1b[31m",
    "\x9b31m\x90": r"\x9b31m\x90",
    "a\r\nb\tc\x08\x7f": r"a\r\nb\tc\x08\x7f",
    "\u202eltr\u200b\u2028": r"\u202eltr\u200b\u2028",
    "[red]x[/red] :smile: [link=http://h]": "[red]x[/red] :smile: [link=http://h]",
    "\udc80": r"\udc80",
    "é 漢": "é 漢",
}


def document(path: str = "/v1/models", query: str = "", message: str = "m") -> dict[str, Any]:
    """A task's document with these texts."""
    task = Task("one", "GET", "", "", created_ms=1)
    head = document_head(task, algorithm_id="a", instance="i", boot="b", now=1.5)
    found: dict[str, Any] = json.loads(complete_document(head, 1))
    return found | {"message": message, "extensions": found["extensions"] | {"path": path, "query": query}}


@pytest.fixture(params=["file", "terminal"])
def shown(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Replaces standard output: a file, or an object that says that it is a terminal."""
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: request.param == "terminal")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return out


def without_colours(text: str) -> str:
    """The output without the escape codes that the commands themselves use."""
    for code in ("\x1b[0m", "\x1b[1m", "\x1b[33m", "\x1b[2m"):
        text = text.replace(code, "")
    return text


@pytest.mark.parametrize("state", ["DONE", "SUCCESS\x1b]0;owned\x07", None, ["SUCCESS"]])
def test_a_state_that_is_none_is_no_exit_code(
    state: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that answers with an unknown state is no gateway: scripts must not take that for a task's end."""
    answer = httpx.Response(200, json=document() | {"state": state})
    monkeypatch.setattr(httpx.Client, "request", lambda *_, **__: answer)
    for command in ("status", "cancel"):
        assert main([command, "one"]) == AWAY
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.replace("\n", "").isprintable()


@pytest.mark.parametrize(("hostile", "harmless"), HOSTILE.items(), ids=range(len(HOSTILE)))
def test_text_of_others_cannot_drive_the_terminal(shown: io.StringIO, hostile: str, harmless: str) -> None:
    """Whatever path, query or message contain: no control character gets through, and no text is read as markup.

    The same holds for the state, in an answer or a store that is not a gateway's.
    """
    task = document(path=f"/v1/{hostile}", query=hostile, message=hostile) | {"state": hostile}
    with redirect_stdout(shown):
        show.print_table([task])
        show.print_document(task)
    text = without_colours(shown.getvalue())
    assert all(line.isprintable() for line in text.splitlines()), ascii(text)
    assert text.count(harmless) == 6, text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_json_is_ascii_on_one_line(capsys: pytest.CaptureFixture[str], hostile: str) -> None:
    """For scripts everything is printed, escaped."""
    task = document(path=hostile)
    output.print_json(task)
    line = capsys.readouterr().out
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line) == task


def waiting(label: str | None = None) -> dict[str, Any]:
    """A task in the queue."""
    task = document()
    return task | {"extensions": task["extensions"] | {"queue_position": 3, "queue_length": 12, "label": label}}


def test_a_waiting_task_shows_its_position(capsys: pytest.CaptureFixture[str]) -> None:
    """In the list behind the stage, in the detail on a line of its own. A task that does not wait has none."""
    show.print_table([waiting(), document()])
    rows = capsys.readouterr().out.splitlines()
    assert re.search(r"PENDING +queued 3 of 12 +GET", rows[1])
    assert re.search(r"PENDING +queued +GET", rows[2])
    show.print_document(waiting())
    assert re.search(r"^queue +position 3 of 12 *$", capsys.readouterr().out, re.MULTILINE)
    show.print_document(document())
    assert re.search(r"^queue +- *$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_labels_have_a_column_if_there_are_any(shown: io.StringIO, hostile: str) -> None:
    """Labels are escaped like all text of others."""
    with redirect_stdout(shown):
        show.print_table([document()])
        assert "LABEL" not in shown.getvalue()
        show.print_table([waiting(hostile), document()])
        assert "LABEL" in shown.getvalue()
        show.print_document(waiting(hostile))
    text = without_colours(shown.getvalue())
    assert all(line.isprintable() for line in text.splitlines()), ascii(text)
    assert text.count(HOSTILE[hostile]) == 2


def test_a_task_of_an_older_gateway_has_no_position(capsys: pytest.CaptureFixture[str]) -> None:
    """A document without the fields of the queue is shown like one whose fields are null."""
    task = document()
    for name in ("queue_position", "queue_length", "label"):
        del task["extensions"][name]
    show.print_table([task])
    show.print_document(task)
    assert re.search(r"PENDING +queued +GET", capsys.readouterr().out)


def test_colours_are_for_terminals(shown: io.StringIO) -> None:
    """A file gets no escape codes, a terminal does."""
    with redirect_stdout(shown):
        show.print_table([document()])
    assert ("\x1b" in shown.getvalue()) == shown.isatty()


def test_readable_text_stays_as_it_is() -> None:
    """Only non-printable characters are escaped, a backslash is not."""
    assert readable("a b\\x1b é[]") == "a b\\x1b é[]"


SPANS = {0: "0.00 s", 120: "0.12 s", 9994: "9.99 s", 34_500: "34.5 s", 60_000: "1:00", 754_000: "12:34",
         7_384_000: "2:03:04", 172_799_000: "47:59:59", 172_800_000: "2 days", -5: "0.00 s"}  # fmt: skip
SIZES = {None: "0 B", 0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1280: "1.3 KiB", 39_539: "38.6 KiB",
         102_912: "101 KiB", 2_500_000: "2.4 MiB", 2**50: "1024 TiB"}  # fmt: skip


@pytest.mark.parametrize(("milliseconds", "text"), SPANS.items())
def test_spans_are_short(milliseconds: int, text: str) -> None:
    """Durations are shown as precisely as matters; a slow clock makes none negative."""
    assert fields.span(1000, 1000 + milliseconds) == text
    assert fields.span(None, 1000) == fields.span(1000, None) == "-"


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_sizes_are_those_of_the_dashboard(count: int | None, text: str) -> None:
    """Bytes are shown in units of 1024, with one digit after the point below 100, and a half is rounded up."""
    assert fields.size(count) == text


WRONG = [
    ["frob"], ["status"], ["status", "no id"], ["status", "-x"], ["status", "../x"], ["cancel"], ["cancel", "a/b"],
    ["tasks", "--limit", "0"], ["tasks", "--limit", "1001"], ["tasks", "--limit", "x"], ["tasks", "--state", "DONE"],
    ["tasks", "extra"], ["status", "one", "--wait", "soon"], ["status", "one", "--wait", "-1"],
    ["status", "one", "--wait", "nan"], ["tasks", "--url", "ftp://h"], ["tasks", "--url", "h:1"],
    ["tasks", "--url", "http://"], ["tasks", "--url", "http://h:x"], ["tasks", "--key-file", "/no/such/file"],
    ["tasks", "--key-file", "/"], ["--json"], ["nodes", "one"], ["nodes", "--watch"],
    ["response"], ["response", "one", "--json"], ["response", "one", "--from", "-1"],
    ["response", "one", "--from", "x"], ["response", "one", "--generation", "1 2"],
    ["response", "one", "-o"], ["response", "one", "--delete", "--follow"],
    ["response", "one", "--delete", "--from", "0"], ["response", "one", "--delete", "-o", "file"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Invalid arguments are refused on standard error, before any gateway is asked."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "usage: ollama-gateway" in error


def test_a_malformed_key_is_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with characters that no key has is refused, and the message does not show it."""
    monkeypatch.setenv("OLLAMA_GATEWAY_KEY", "secret\r\nX: y")
    with pytest.raises(SystemExit) as ended:
        main(["tasks", "--url", "http://127.0.0.1:1"])
    assert ended.value.code == 2
    assert "secret" not in "".join(capsys.readouterr())


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` ends with 0 and names the commands."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "3 not ended, or only presumed lost, 4 no such task" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("module", "unwanted"), [
    ("gateway.process.server", {"httpx", "httpcore", "rich", "pygments", "gateway.cli", "gateway.pull.puller",
                                "fastapi", "pydantic", "starlette", "prometheus_client", "statistics", "html"}),
    ("gateway.process.start",
     {"uvicorn", "fastapi", "redis", "asyncio", "ssl", "gateway.app", "gateway.cli", "gateway.pull.puller"}),
    ("gateway.pull.puller", {"httpx", "rich", "uvicorn", "fastapi", "redis", "asyncio"}),
    ("gateway.cli", {"uvicorn", "fastapi", "redis", "prometheus_client", "gateway.app"}),
    ("gateway.__main__", {"httpx", "rich", "uvicorn", "fastapi"}),
])  # fmt: skip
def test_each_half_loads_only_its_own(module: str, unwanted: set[str]) -> None:
    """The server loads none of the terminal's libraries, and a command loads none of the server's."""
    script = f"import {module}, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert loaded & unwanted == set()


WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"markdown_it", "mdurl", "pygments"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import gateway.pull.puller
from gateway.cli import show
from rich.console import Console
from rich.live import Live
from rich.progress import Progress
console = Console(force_terminal=True, file=sys.stderr)
with Live(show.Text("text"), console=console, screen=True) as live:
    live.update(show.Group(show.Text("text"), show.Text("other")))
with Progress(console=console) as progress:
    progress.advance(progress.add_task("pull", total=2))
console.print({"a": [1]}, "[red]red[/red]")
print("shown")
"""


def test_what_the_image_leaves_out_is_not_needed() -> None:
    """Tables, live views and the pull's bar work without the packages that the Containerfile takes out again."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, env=environment({}), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "shown\n"), done.stderr


# -- the page --

PAGE = (ROOT / "docs" / "terminal.md").read_text()


def test_the_page_has_the_exit_codes() -> None:
    """docs/terminal.md explains each code once, and no other."""
    codes = [int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.MULTILINE) for code in row.split(", ")]
    ours = [DONE, FAILED, USAGE, NOT_ENDED, UNKNOWN, AWAY, INTERRUPTED, BROKEN_PIPE, TERMINATED]
    assert codes == ours


def test_the_page_has_the_columns() -> None:
    """docs/terminal.md explains each column of `--columns`, in the order in which the help names them."""
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.MULTILINE) == list(fields.TASK_COLUMNS)


@pytest.mark.parametrize(
    "command", re.findall(r"ollama-gateway ((?:tasks|status|nodes|response|cancel)[^`|;>\n]*)", PAGE)
)
def test_the_pages_commands_are_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command on the page is accepted: it fails only because there is no gateway, terminal or file."""
    words = shlex.split(command.replace("$job", "job"))
    with refusing_port() as port:
        codes = {2, 5} if {"--watch", "-o"} & set(words) else {5}
        assert main([*words, "--url", f"http://127.0.0.1:{port}"]) in codes
    assert "usage:" not in capsys.readouterr().err
