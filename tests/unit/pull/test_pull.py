"""What the pull program decides: how far a model is, and when to try again."""

from __future__ import annotations

import pytest

from gateway.pull.puller import Meter, PullFailed, pause_seconds


def test_layers_add_up() -> None:
    """The percentage is that of all layers so far; a layer's later message replaces its earlier one."""
    messages: list[tuple[dict[str, object], tuple[int, int, int | None]]] = [
        ({}, (0, 0, None)),
        ({"status": "pulling manifest"}, (0, 0, None)),
        ({"status": "pulling a", "digest": "a", "total": 300}, (0, 300, 0)),
        ({"status": "pulling a", "digest": "a", "total": 300, "completed": 150}, (150, 300, 50)),
        ({"status": "pulling b", "digest": "b", "total": 100, "completed": 100}, (250, 400, 62)),
    ]
    meter = Meter()
    assert meter.percent is None
    for message, known in messages:
        meter.feed(message)
        assert (meter.completed_bytes, meter.total_bytes, meter.percent) == known


def test_a_hundred_percent_is_all() -> None:
    """It is never 100 before the last byte, and never more than 100."""
    meter = Meter()
    meter.feed({"digest": "a", "total": 1000, "completed": 999})
    assert meter.percent == 99
    meter.feed({"digest": "a", "total": 1000, "completed": 1001})
    assert meter.percent == 100


@pytest.mark.parametrize("event", [{"digest": 1, "total": 1}, {"digest": "a", "total": "1"}, {"digest": "a"}, {}])
def test_what_tells_no_size_changes_nothing(event: dict[str, object]) -> None:
    """The meter ignores messages of another shape."""
    meter = Meter()
    meter.feed(event)
    assert meter.percent is None


def test_the_pauses_double_up_to_a_minute() -> None:
    """1, 2, 4 seconds and so on, at most 60, however many failures there are."""
    assert [pause_seconds(failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert pause_seconds(1_000_000) == 60


@pytest.mark.parametrize(
    "error", ["pull model manifest: file does not exist", "412: requires a newer version of Ollama"]
)
def test_what_will_not_mend_itself_is_tried_rarely(error: str) -> None:
    """A name that does not exist, or a model for a newer Ollama, is tried once an hour, from the first failure on."""
    assert PullFailed(error).is_lasting
    assert pause_seconds(1, is_lasting=True) == 3600


@pytest.mark.parametrize("error", ["dial tcp: no such host", "max retries exceeded: EOF", "no space left on device"])
def test_what_may_mend_itself_is_tried_soon(error: str) -> None:
    """A network failure or a full disk can end, so the retry comes soon."""
    assert not PullFailed(error).is_lasting


@pytest.mark.parametrize("odd", ["x", 1e400, None, [], {}])
def test_an_odd_number_is_no_progress(odd: object) -> None:
    """A message with nonsense about its progress does not end the program."""
    meter = Meter()
    meter.feed({"digest": "a", "total": 10, "completed": 5})
    meter.feed({"digest": "b", "total": 10, "completed": odd})
    meter.feed({"digest": "c", "total": odd, "completed": 1})
    assert (meter.completed_bytes, meter.total_bytes) == (5, 20)
