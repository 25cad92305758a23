"""How lines of output look: whole, with their program's name, harmless to a terminal, or one JSON object each."""

from __future__ import annotations

import itertools
import json
import os
import re
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck import output
from healthcheck.output import SOURCES, Lines, Output, as_json, as_text, readable

# What a terminal takes as more than a letter: control characters, line breaks, turned writing.
DRIVES_A_TERMINAL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Lines such as programs write them, and any others.
CUT = st.lists(st.integers(0, 200), max_size=6)
OBJECTS = st.dictionaries(
    st.text(max_size=5), st.none() | st.integers() | st.floats() | st.text(max_size=9), max_size=3
)
LINES = (
    st.binary(max_size=200)
    | st.text(max_size=60).map(str.encode)
    | OBJECTS.map(lambda fields: json.dumps(fields).encode())
)


@given(st.binary(max_size=200), CUT)
def test_pieces_make_the_same_lines_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    """What goes out is every line once, as it is shown, wherever the pieces were cut."""
    lines = Lines(partial(as_text, "ollama"))
    edges = [0, *sorted(cuts), len(data)]
    out = b"".join(lines.feed(data[a:b]) for a, b in itertools.pairwise(edges)) + lines.end()
    *whole, begun = data.split(b"\n")
    expected = [*whole, *([begun] if begun else [])]
    assert out == b"".join(as_text("ollama", line) + b"\n" for line in expected)


@given(LINES)
def test_no_line_drives_a_terminal(line: bytes) -> None:
    """Whatever a program writes, what goes out is readable UTF-8 with no control character but tabs."""
    line = line.replace(b"\n", b"")
    shown = as_text("ollama", line).decode()
    assert shown.startswith("ollama | ")
    assert not DRIVES_A_TERMINAL.search(shown)


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"a\ttab", "a\ttab"),
        ("é 漢".encode(), "é 漢"),
        (b"\x1b[1;31mred\x1b[0m", "red"),
        (b"\x1b[38:5:1mred\x1b[m", "red"),
        (b"\x1b[2J", r"\x1b[2J"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (b"\xc2\x9b2J", r"\x9b2J"),
        (b"\x9b2J", r"\x9b2J"),
        (b"windows\r", "windows"),
        (b"50 %\r60 %", r"50 %\r60 %"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
    ],
)
def test_control_characters_are_shown_and_colours_left_out(line: bytes, shown: str) -> None:
    """A tab and every letter stay as they are, a colour goes, any other control character can be seen."""
    assert readable(line) == shown


@given(st.sampled_from(SOURCES), LINES)
def test_every_line_is_one_json_object(program: str, line: bytes) -> None:
    """As JSON each line of each program is one object of strict JSON that says whose it is."""
    line = line.replace(b"\n", b"")
    out = as_json(program, line)
    assert b"\n" not in out
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert found["program"] == program
    assert next(iter(found)) == "program"


@pytest.mark.parametrize("program", ["gateway", "pull"])
def test_the_gateways_objects_keep_their_fields(program: str) -> None:
    """An object of the gateway's own stays one, its `task_id` a field; it cannot speak for another program."""
    line = b'{"time": "t", "level": "info", "message": "m", "task_id": "a-1", "program": "ollama"}'
    assert json.loads(as_json(program, line)) == {
        "program": program,
        "time": "t",
        "level": "info",
        "message": "m",
        "task_id": "a-1",
    }


@pytest.mark.parametrize(
    ("program", "line", "level"),
    [
        ("ollama", 'time=2026-11-29T06:00:00Z level=WARN source=sched.go:1 msg="slow"', "warning"),
        ("ollama", "[GIN] 2026/11/29 - 06:00:00 | 200 |", None),
        ("ollama", '{"task_id": "forged"}', None),
        ("supervisord", "2026-11-29 06:00:00,000 INFO spawned: 'ollama' with pid 7", "info"),
        ("supervisord", "2026-11-29 06:00:00,000 CRIT Supervisor is running as root.", "error"),
        ("gateway", "Fatal Python error: none of its own lines", None),
        ("gateway", '{"number": 1e999}', None),
        ("gateway", '{"number": NaN}', None),
        ("gateway", '{"a":' * 5000, None),
        ("gateway", "[1]", None),
    ],
)
def test_any_other_line_is_the_message_of_an_object(program: str, line: str, level: str | None) -> None:
    """With the time, and the level where the line says one."""
    found = json.loads(as_json(program, line.encode()))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.pop("time"))
    assert found.pop("level", None) == level
    assert found == {"program": program, "message": line}


def test_a_line_without_end_is_cut_but_not_lost() -> None:
    """A line longer than the limit goes on in lines of its own; no byte is lost or kept back for ever."""
    lines = Lines(partial(as_text, "gateway"))
    piece = b"x" * 65536
    out = b"".join(lines.feed(piece) for _ in range(40)) + lines.end()
    assert out.count(b"x") == 40 * len(piece)
    assert out.count(b"gateway | ") == out.count(b"\n") == 3
    assert max(map(len, out.split(b"\n"))) <= output.LONGEST_LINE_BYTES + len(b"gateway | ")


def test_output_is_complete_when_close_returns() -> None:
    """What was written before `close` is out when it returns, the line without an end too."""
    reader, target = os.pipe()
    reading = Output(target)
    with open(reading.variables["LAUNCHER_OUTPUT_OLLAMA"], "wb", buffering=0) as program:
        program.write(b"first\nlast words")
    reading.close()
    os.close(target)
    with open(reader, "rb") as read:
        assert read.read() == b"ollama | first\nollama | last words\n"


def test_a_target_that_is_gone_stops_no_program() -> None:
    """When no one reads our output any more, programs can still write without waiting."""
    reader, target = os.pipe()
    os.close(reader)
    reading = Output(target)
    with open(reading.variables["LAUNCHER_OUTPUT_GATEWAY"], "wb", buffering=0) as program:
        for _ in range(100):
            program.write(b"no one hears this\n" * 1000)
    reading.close()
    os.close(target)
    assert not reading.thread.is_alive()
