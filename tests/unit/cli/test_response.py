"""The reader of kept answers alone: when it reads on, when it gives up; the progress line; what a terminal gets."""

from __future__ import annotations

import io
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.cli import output, response
from gateway.cli.client import Away, Broken, Client, KeptAnswer
from gateway.cli.response import Reached, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Gateway:
    """Stands for a client of a gateway: each connection brings its pieces, and then its error."""

    def __init__(
        self, *connections: Sequence[bytes | Exception], state: str = "RUNNING", size: int = 0, silence: int = 0
    ) -> None:
        self.connections = list(connections)
        self.silence = silence  # the task is presumed lost in so many looks
        self.asked: list[tuple[int, str]] = []
        self.state = state
        self.size = size

    def document(self, task_id: str) -> dict[str, Any]:
        """The status of the task."""
        if self.silence:
            self.silence -= 1
            more = {"response_bytes": self.size, "is_presumed": True}
            return {"state": "FAILED", "extensions": more, "task_id": task_id}
        return {"state": self.state, "extensions": {"response_bytes": self.size}, "task_id": task_id}

    @contextmanager
    def response(self, _: str, offset: int, generation: str, __: float) -> Iterator[KeptAnswer | None]:
        """The next connection; the last one again, when no other is left."""
        self.asked.append((offset, generation))
        steps = self.connections.pop(0) if len(self.connections) > 1 else self.connections[0]
        if steps and isinstance(steps[0], Away):
            raise steps[0]
        yield None if steps is NOT_YET else KeptAnswer("1-a", self.pieces(steps))

    def pieces(self, steps: Sequence[bytes | Exception]) -> Iterator[bytes]:
        """What one connection brings."""
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step


NOT_YET: Sequence[bytes | Exception] = []  # the answer has not begun
CUT = Broken("cut")
SILENT = Broken("silent", is_silent=True)
GONE = Away("gone", is_short=True)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are no part of these tests."""
    monkeypatch.setattr(response, "AGAIN_SECONDS", 0.0)
    monkeypatch.setattr(response, "_PAUSE_SECONDS", 0.0)


def read(gateway: Gateway, *, to_end: bool = True) -> tuple[Reached, bytes, list[str]]:
    """Where a reader stops, what it has written, and what it has told people."""
    written, told = bytearray(), list[str]()
    reader = Reader(cast("Client", gateway), "one", written.extend, told.append)
    return reader.read(to_end=to_end), bytes(written), told


def test_it_reads_on_where_it_stopped() -> None:
    """Each further request names the next byte and the generation."""
    gateway = Gateway([b"ab", CUT], [GONE], [b"c", CUT], [b"d"])
    reached, written, told = read(gateway)
    assert (reached, written) == (Reached.END, b"abcd")
    assert gateway.asked == [(0, ""), (2, "1-a"), (2, "1-a"), (3, "1-a")]
    assert told == [f"the connection broke after {count} bytes (cut); reading on" for count in (2, 3)]


def test_it_gives_up_after_five_tries_without_a_byte() -> None:
    """New bytes begin the count again."""
    gateway = Gateway([b"ab", CUT], *[[GONE]] * 4, [b"c", CUT], [CUT])
    with pytest.raises(Away, match="gave up after 3 bytes and 5 tries: cut"):
        read(gateway)
    assert len(gateway.asked) == 11


def test_a_silent_task_is_no_failure() -> None:
    """A model may be silent for long: the command asks again as often as it takes."""
    reached, written, told = read(Gateway([b"ab", SILENT], *[[SILENT]] * 20, [b"c"]))
    assert (reached, written, told) == (Reached.END, b"abc", [])


def test_an_answer_that_has_not_begun_is_asked_for_every_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway may answer a `wait` at once. Then the command pauses; after a wait of two seconds it does not."""
    pauses = list[float]()
    now = iter([0.0, 0.5, 2.0, 32.0, 32.0])
    monkeypatch.setattr(response, "AGAIN_SECONDS", 2.0)
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    reached, written, _ = read(Gateway(NOT_YET, NOT_YET, [b"ab"]))
    assert (reached, written) == (Reached.END, b"ab")
    assert pauses == [1.5, 0.0]


def test_an_answer_that_was_broken_off_ends_there() -> None:
    """The task is FAILED and nothing more comes: that is the end of the answer."""
    reached, written, _ = read(Gateway([b"ab", CUT], [CUT], state="FAILED", size=2))
    assert (reached, written) == (Reached.BROKEN_END, b"ab")


def test_a_lost_tasks_answer_ends_after_the_tries() -> None:
    """A lost task's size may be more than was kept."""
    gateway = Gateway([b"ab", CUT], [CUT], state="FAILED", size=9)
    assert read(gateway)[:2] == (Reached.BROKEN_END, b"ab")
    assert len(gateway.asked) == 6


NEVER_CAME = Away("the task ended before its answer began", "upstream_error")


def test_a_presumed_loss_is_waited_for() -> None:
    """`--follow` stays where the answer of a presumed loss breaks off, and reads on when the task runs again."""
    gateway = Gateway([b"ab", CUT], [CUT], [b"cd", CUT], [CUT], [b"ef"], silence=20)
    reached, written, told = read(gateway)
    assert (reached, written) == (Reached.END, b"abcdef")
    assert gateway.asked == [(0, ""), (2, "1-a"), (2, "1-a"), (4, "1-a"), (4, "1-a")]
    assert [line for line in told if "no word" in line] == [
        "no word from the task's gateway after 2 bytes; it may still run the task: waiting"
    ]


def test_a_presumed_loss_that_becomes_certain_ends_the_answer() -> None:
    """Then nothing more can come: what is kept was all of it."""
    assert read(Gateway([b"ab", CUT], [CUT], state="FAILED", size=2, silence=9))[:2] == (Reached.BROKEN_END, b"ab")
    gateway = Gateway([NEVER_CAME], state="FAILED", silence=9)
    assert read(gateway)[:2] == (Reached.NO_ANSWER, b"")
    assert len(gateway.asked) == 2


def test_what_is_kept_of_a_presumed_loss_is_read() -> None:
    """Without `to_end` it stops where nothing more is kept, even if the task was further: the task may go on."""
    assert read(Gateway([b"ab", CUT], [CUT], size=9, silence=99), to_end=False)[:2] == (Reached.PRESENT, b"ab")
    assert read(Gateway([NEVER_CAME], size=9, silence=99), to_end=False) == (Reached.PRESENT, b"", [])


def test_a_gateway_that_is_away_is_no_end() -> None:
    """Without a connection to the answer nothing is known of its end, whatever the status says."""
    with pytest.raises(Away, match="gave up after 0 bytes and 5 tries: gone"):
        read(Gateway([GONE], state="SUCCESS"))


def test_the_present_end_is_that_of_the_status() -> None:
    """Without `to_end` it stops at the size that the status tells, and not in the middle of a piece."""
    assert read(Gateway([b"ab", b"cd", b"ef", CUT], size=3), to_end=False)[:2] == (Reached.PRESENT, b"abcd")
    assert read(Gateway([b"ab", SILENT], size=3), to_end=False)[:2] == (Reached.PRESENT, b"ab")


def test_a_refusal_is_not_tried_again() -> None:
    """What the gateway refuses, it refuses again."""
    gateway = Gateway([b"ab", CUT], [Away("no", "unauthorized")], state="FAILED")
    with pytest.raises(Away, match="no"):
        read(gateway)
    assert len(gateway.asked) == 2


@pytest.mark.parametrize("is_wanted", [True, False])
def test_progress_tells_bytes_seconds_and_rate(
    is_wanted: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, written anew; other lines take its place. Without a terminal there is none."""
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with output.Progress(is_wanted=is_wanted) as progress:
        now += 2
        progress.count(3 * 2**20)
        progress.say("a line\x1b[31m")
        now += 2
        progress.count(2**20)
    out, error = capsys.readouterr()
    line = "ollama-gateway: a line\\x1b[31m\n"
    start, last = "\r\x1b[K", "4.0 MiB, 4.00 s, 1.0 MiB/s"
    assert out == ""
    assert error == (
        f"{start}3.0 MiB, 2.00 s, 1.5 MiB/s{start}{line}{start}{last}{start}{last}\n" if is_wanted else line
    )


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_gets_text_others_get_bytes(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A character that is split between two pieces stays one. A file gets the bytes as they are."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, "utf-8")
    monkeypatch.setattr(out, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stdout", out)
    write = output.bytes_to_stdout()
    pieces = [b"a\n\t\xc3", b"\xa9\x1b[31m\r", b"\xff\x9b"]
    for piece in pieces:
        write(piece)
    text = "a\n\té\\x1b[31m\\r\\xff\\x9b".encode()
    assert raw.getvalue() == (text if is_terminal else b"".join(pieces))
