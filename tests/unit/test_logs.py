"""The format of log lines: text or one JSON object per line, on stdout, from the chosen level on."""

from __future__ import annotations

import json
import logging
import re
from typing import TYPE_CHECKING

import pytest

from gateway import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = "uvicorn.error"


@pytest.fixture(autouse=True)
def _own_root() -> Iterator[None]:
    """The root logger without the test runner's handlers, which `set_up` would close; restored afterwards."""
    root, server = logging.getLogger(), logging.getLogger(SERVER)
    handlers, level, server_level = root.handlers, root.level, server.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)
    server.setLevel(server_level)


def test_a_text_line_names_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    """UTC time with milliseconds, level, logger and message, in one line on stdout."""
    logs.set_up("info", "text")
    logging.getLogger("gateway.x").warning("three %s", "words")
    captured = capsys.readouterr()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING gateway\.x: three words\n", captured.out)
    assert captured.err == ""


def test_a_json_line_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    """Each message is one line of JSON, line breaks and quotes in it escaped."""
    logs.set_up("info", "json")
    logging.getLogger("gateway.x").info('a "quoted"\nmessage, é')
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found == {"level": "info", "logger": "gateway.x", "message": 'a "quoted"\nmessage, é'}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_tasks_id_is_a_field(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A line about a task has its id as a field of its own in JSON; the text names it in words."""
    logs.set_up("info", form)
    logging.getLogger("gateway.x").info("task %s failed", "a-1", extra={"task_id": "a-1"})
    out = capsys.readouterr().out
    assert out.endswith("gateway.x: task a-1 failed\n") if form == "text" else json.loads(out)["task_id"] == "a-1"


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_exception_is_logged_with_its_traceback(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`log.exception` shows what was raised and where; in JSON that is still one line."""
    logs.set_up("info", form)
    try:
        raise ValueError("wrong")
    except ValueError:
        logging.getLogger("gateway.x").exception("it failed")
    out = capsys.readouterr().out
    assert "ValueError: wrong" in out
    assert "test_logs.py" in out
    if form == "json":
        assert "Traceback" in json.loads(out)["exception"]
        assert len(out.splitlines()) == 1


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_the_least_that_is_logged(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Messages below the level are not logged, the others are."""
    logs.set_up(level, "text")
    names = ["debug", "info", "warning", "error"]
    for name in names:
        getattr(logging.getLogger("gateway.x"), name)("message of level %s", name)
    said = [line.rpartition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == names[names.index(level) :]


def test_the_servers_own_chatter_stays_out(capsys: pytest.CaptureFixture[str]) -> None:
    """uvicorn's start and stop lines are not logged; a real warning of it is."""
    logs.set_up("info", "text")
    server = logging.getLogger(SERVER)
    server.info("Started server process [%d]", 1)
    server.error("something else is wrong")
    assert [line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["something else is wrong"]


def test_setting_up_again_replaces_what_was_there(capsys: pytest.CaptureFixture[str]) -> None:
    """A second set-up does not double the lines."""
    logs.set_up("info", "text")
    logs.set_up("info", "text")
    logging.getLogger("gateway.x").info("once")
    assert len(capsys.readouterr().out.splitlines()) == 1
