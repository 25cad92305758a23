"""A presumed loss on the command line: it is shown as one, and it is no end. Its task may run again."""

from __future__ import annotations

import io
import re
import time
from contextlib import redirect_stdout
from typing import Any

import httpx
import pytest

from gateway.cli import DONE, FAILED, NOT_ENDED, fields, main, show
from gateway.cli.client import Page, has_ended
from gateway.tasks.stages import Stage
from tests.support.forged import document
from tests.support.process import ROOT


def task(stage: Stage = Stage.LOST, *, is_presumed: object = False, **more: Any) -> dict[str, Any]:
    """A status. `is_presumed` None: one of an earlier gateway, without the field."""
    found = document("one", stage)
    found["extensions"] |= more | {"reason": {Stage.LOST: "lost"}.get(stage)}
    found["extensions"].pop("is_presumed", None)
    if is_presumed is not None:
        found["extensions"]["is_presumed"] = is_presumed
    return found


PRESUMED = task(is_presumed=True)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long a command has paused; no pause takes time."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    return pauses


def answers(monkeypatch: pytest.MonkeyPatch, *contents: dict[str, Any]) -> None:
    """The answers to a command's requests, one after the other; the last one again and again."""
    left = list(contents)
    monkeypatch.setattr(
        httpx.Client,
        "request",
        lambda *_, **__: httpx.Response(200, json=left.pop(0) if len(left) > 1 else left[0]),
    )


@pytest.mark.parametrize(
    ("status", "is_end"),
    [
        (PRESUMED, False),
        (task(is_presumed=False), True),
        (task(is_presumed=None), True),
        (task(Stage.DONE), True),
        (task(Stage.STREAMING), False),
    ],
)
def test_a_presumed_loss_is_no_end(status: dict[str, Any], is_end: bool) -> None:
    """A loss is an end if its death is certain, and if an earlier gateway, which did not tell, wrote it."""
    assert has_ended(status) is is_end


@pytest.mark.parametrize(
    ("status", "code"), [(PRESUMED, NOT_ENDED), (task(is_presumed=False), FAILED), (task(is_presumed=None), FAILED)]
)
def test_its_code_is_3(status: dict[str, Any], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` tells scripts that the task has not ended; a loss that is certain is FAILED. So does `cancel`."""
    answers(monkeypatch, status)
    assert main(["status", "one"]) == code
    assert main(["cancel", "one"]) == (DONE if code == FAILED else NOT_ENDED)


@pytest.mark.parametrize(
    ("later", "code"), [(task(Stage.DONE), DONE), (task(is_presumed=False), FAILED), (task(Stage.CANCELLED), FAILED)]
)
def test_a_wait_goes_on(
    later: dict[str, Any], code: int, hurried: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status --wait` waits until the task has its real end, or its loss is certain.

    If a gateway answers at once, the command asks every two seconds.
    """
    answers(monkeypatch, PRESUMED, PRESUMED, PRESUMED, PRESUMED, task(Stage.STREAMING), PRESUMED, later)
    monkeypatch.setattr(time, "monotonic", lambda: sum(hurried))
    assert main(["status", "one", "--wait"]) == code
    assert hurried == [2.0, 2.0, 2.0]


def test_a_wait_ends_with_its_time(
    hurried: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After its seconds a wait returns 3, and says that the loss is only presumed."""
    answers(monkeypatch, PRESUMED)
    monkeypatch.setattr(time, "monotonic", lambda: sum(hurried))
    assert main(["status", "one", "--wait", "5"]) == NOT_ENDED
    assert hurried == [2.0, 2.0, 1.0]
    out = capsys.readouterr().out
    assert re.search(r"^reason +lost\? *$", out, re.MULTILINE)
    assert re.search(r"^presumed +yes: no word from the task's gateway, which may still run it\. ", out, re.MULTILINE)


def test_the_list_marks_it(capsys: pytest.CaptureFixture[str]) -> None:
    """`lost?` in the place of `lost`, and a line below the table says what that means."""
    show.print_table([task()])
    assert "lost?" not in capsys.readouterr().out
    show.print_table([PRESUMED, task()])
    _, presumed, lost, note = capsys.readouterr().out.splitlines()
    assert re.search(r"FAILED +lost\? +", presumed)
    assert re.search(r"FAILED +lost +", lost)
    assert note.startswith("lost?: no word from the task's gateway")


def test_the_watched_list_marks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So does `tasks --watch`."""
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with redirect_stdout(out):
        table = show.LiveTable()
        with table:
            table.show(Page({}, [PRESUMED], 0), "")
    assert "lost?: no word from the task's gateway, which may still run it" in out.getvalue()


@pytest.mark.parametrize("status", [task(), task(is_presumed=None), task(Stage.DONE)])
def test_others_are_not_presumed(status: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """A loss that is certain is `lost`, without a question mark."""
    show.print_document(status)
    out = capsys.readouterr().out
    assert re.search(r"^presumed +- *$", out, re.MULTILINE)
    assert "lost?" not in out


TIMES: dict[str, Any] = {"created_ms": 1_000, "started_ms": 3_000, "finished_ms": 9_000}


@pytest.mark.parametrize(
    ("found", "waited", "took", "has_end"),
    [
        (task(Stage.DONE, **TIMES), "2.00 s", "6.00 s", True),
        (task(Stage.CANCELLED, **TIMES | {"started_ms": None}), "8.00 s", "-", True),
        (task(is_presumed=True, **TIMES), "2.00 s", "-", False),
        (task(is_presumed=True, **TIMES | {"started_ms": None}), "-", "-", False),
        (task(Stage.STREAMING, **TIMES | {"finished_ms": None}), "2.00 s", "10.0 s", False),
    ],
)
def test_a_time_without_an_end_is_not_shown(found: dict[str, Any], waited: str, took: str, has_end: bool) -> None:
    """What a task took begins at its hand-over. When a presumed loss was written is no end of it."""
    texts = dict(fields.facts(found, 13_000))
    assert (texts["waited"], texts["took"]) == (waited, took)
    assert (texts["ended"] != "-") is has_end
    columns = [fields.TASK_COLUMNS[name] for name in ("waited", "took")]
    assert fields.task_cells(found, columns, 13_000) == [waited, took]


def test_the_dashboard_has_the_same_words() -> None:
    """A presumed loss has one wording on the page and on the command line."""
    page = (ROOT / "gateway" / "dashboard" / "fields.js").read_text()
    assert f'NO_WORD = "{fields.PRESUMED}"' in page
