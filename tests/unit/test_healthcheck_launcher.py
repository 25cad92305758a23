"""The launcher's own decisions: addresses, stop limits, and whole lines with a name in front."""

from __future__ import annotations

import itertools
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from healthcheck import launcher
from healthcheck.launcher import Lines, Output, addresses, gateway_stop_seconds, wants_models

DEFAULT = {"OLLAMA_HOST": "127.0.0.1:11434", "UPSTREAM_BASE": "http://127.0.0.1:11434"}
MOVED = {"OLLAMA_HOST": "127.0.0.1:11500", "UPSTREAM_BASE": "http://127.0.0.1:11500"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, DEFAULT),
        ({"OLLAMA_HOST": "", "UPSTREAM_BASE": ""}, DEFAULT),
        ({"OLLAMA_HOST": "0.0.0.0"}, DEFAULT),
        ({"OLLAMA_HOST": "0.0.0.0:11500"}, MOVED),
        ({"OLLAMA_HOST": ":11500"}, MOVED),
        ({"OLLAMA_HOST": "http://[::1]:11500/"}, MOVED),
        ({"UPSTREAM_BASE": "http://127.0.0.1:11500"}, MOVED),
        ({"UPSTREAM_BASE": "tcp://10.0.0.1:80", "OLLAMA_HOST": ":11500"}, MOVED),
        ({"UPSTREAM_BASE": "tcp://10.0.0.1:80"}, DEFAULT),
    ],
)
def test_addresses_agree_and_ollama_stays_on_loopback(environment: dict[str, str], expected: dict[str, str]) -> None:
    """Ollama listens on loopback only, and the gateway looks for it at the same port."""
    assert addresses(environment) == expected


def test_an_upstream_elsewhere_does_not_move_ollama() -> None:
    """An UPSTREAM_BASE on another machine stays as it is and says nothing about Ollama's port here."""
    found = addresses({"UPSTREAM_BASE": "http://gpu.internal:8000"})
    assert found == {"OLLAMA_HOST": "127.0.0.1:11434", "UPSTREAM_BASE": "http://gpu.internal:8000"}


@pytest.mark.parametrize("value", ["127.0.0.1:http", "127.0.0.1:99999"])
def test_a_wrong_port_ends_the_start_with_one_line(value: str) -> None:
    """A port that is none is refused in one line that names variable and value."""
    with pytest.raises(SystemExit) as ended:
        addresses({"OLLAMA_HOST": value})
    assert f"OLLAMA_HOST={value}" in str(ended.value)
    assert "\n" not in str(ended.value)


@pytest.mark.parametrize("value", ["http://user:hunter2@127.0.0.1:99999", "http://user:hunter2@[::1", "http://[::1"])
def test_a_wrong_upstream_ends_the_start_and_shows_no_password(value: str) -> None:
    """So does an address that is none, and what may be a password in it is not shown."""
    with pytest.raises(SystemExit) as ended:
        addresses({"UPSTREAM_BASE": value})
    assert "UPSTREAM_BASE=" in str(ended.value)
    assert "hunter2" not in str(ended.value)


@pytest.mark.parametrize(
    ("drain", "seconds"),
    [(None, 35), ("", 35), ("0", 5), ("12.5", 18), ("soon", 35), ("tcp://10.0.0.1:80", 35), ("inf", 35), ("-4", 5)],
)
def test_the_gateway_may_stop_longer_than_it_drains(drain: str | None, seconds: int) -> None:
    """The stop wait is notice, drain and five seconds more; a wrong duration is the gateway's to refuse."""
    drains = {} if drain is None else {"DRAIN_SEC": drain}
    assert gateway_stop_seconds(drains) == seconds
    assert gateway_stop_seconds({**drains, "DRAIN_NOTICE_SEC": "20"}) == seconds + 20
    assert gateway_stop_seconds({**drains, "DRAIN_NOTICE_SEC": "later"}) == seconds


def test_parts_of_seconds_count_for_the_stop_wait() -> None:
    """Notice and drain are added up before they are rounded, and never down."""
    assert gateway_stop_seconds({"DRAIN_SEC": "0.4", "DRAIN_NOTICE_SEC": "0.4"}) == 6
    assert gateway_stop_seconds({"DRAIN_SEC": "0.6", "DRAIN_NOTICE_SEC": "0.6"}) == 7


@pytest.mark.parametrize(
    ("models", "expected"),
    [(None, False), ("", False), (" ,\n", False), ("m", True), ("?", True), ("tcp://10.0.0.1:80", False)],
)
def test_models_are_pulled_only_where_some_are_named(models: str | None, expected: bool) -> None:
    """No names, no program; a wrong name is the gateway's to refuse. A link of Kubernetes is no name."""
    assert wants_models({} if models is None else {"OLLAMA_PULL_MODELS": models}) is expected


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_pieces_make_the_same_lines_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    """What goes out is every line once, with the name in front, wherever the pieces were cut."""
    lines = Lines("ollama")
    edges = [0, *sorted(cuts), len(data)]
    out = b"".join(lines.feed(data[a:b]) for a, b in itertools.pairwise(edges)) + lines.end()
    *whole, begun = data.split(b"\n")
    expected = [*whole, *([begun] if begun else [])]
    assert out == b"".join(b"ollama | " + line + b"\n" for line in expected)


def test_a_line_without_end_is_cut_but_not_lost() -> None:
    """A line longer than the limit goes on in lines of its own; no byte is lost or kept back for ever."""
    lines = Lines("gateway")
    piece = b"x" * 65536
    out = b"".join(lines.feed(piece) for _ in range(40)) + lines.end()
    assert out.count(b"x") == 40 * len(piece)
    assert out.count(b"gateway | ") == out.count(b"\n") == 3
    assert max(map(len, out.split(b"\n"))) <= launcher.LONGEST_LINE_BYTES + len(b"gateway | ")


def test_output_is_complete_when_close_returns() -> None:
    """What was written before `close` is out when it returns, the line without an end too."""
    reader, target = os.pipe()
    output = Output(target)
    with open(output.variables["LAUNCHER_OUTPUT_OLLAMA"], "wb", buffering=0) as program:
        program.write(b"first\nlast words")
    output.close()
    os.close(target)
    with open(reader, "rb") as read:
        assert read.read() == b"ollama | first\nollama | last words\n"


def test_a_target_that_is_gone_stops_no_program() -> None:
    """When nobody reads our output any more, programs can still write without waiting."""
    reader, target = os.pipe()
    os.close(reader)
    output = Output(target)
    with open(output.variables["LAUNCHER_OUTPUT_GATEWAY"], "wb", buffering=0) as program:
        for _ in range(100):
            program.write(b"nobody hears this\n" * 1000)
    output.close()
    os.close(target)
    assert not output.thread.is_alive()
