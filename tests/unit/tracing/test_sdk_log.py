"""What OpenTelemetry's SDK logs: few lines, and none that quotes what may be secret."""

from __future__ import annotations

import logging
import time

import pytest

from gateway.tracing.sdk_log import SparseHandler


class Library:
    """A library whose warnings are thinned out, and what the gateway's log gets of them."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.caplog = caplog
        self.handler = SparseHandler(logging.getLogger("gateway.x"))

    def logs(self, text: str, *values: object, name: str = "opentelemetry.sdk", level: int = logging.WARNING) -> None:
        """The library logs a line."""
        if level >= self.handler.level:
            self.handler.handle(logging.LogRecord(name, level, "file.py", 1, text, values, None))

    @property
    def lines(self) -> list[str]:
        """What has come through."""
        return [record.getMessage() for record in self.caplog.records if record.name == "gateway.x"]


@pytest.fixture
def library(caplog: pytest.LogCaptureFixture) -> Library:
    """One that has not logged yet."""
    logging.getLogger().addHandler(caplog.handler)
    return Library(caplog)


def test_a_librarys_warnings_are_few(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line a minute, and the next one says how many were held back; what is below a warning is none."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    library.logs("too quiet", level=logging.INFO)
    library.logs("first")
    library.logs("second")
    assert library.handler.warn("third") is False
    now[0] += 59.9
    library.logs("fourth")
    assert library.lines == ["traces: first"]
    now[0] += 0.1
    assert library.handler.warn("fifth") is True
    assert library.lines == ["traces: first", "traces: fifth (and 3 such lines that were held back)"]


@pytest.mark.parametrize(
    ("name", "text", "values", "line"),
    [
        ("opentelemetry.exporter.x", "code: %s, reason: %s", (503, "Service Unavailable"),
         "code: 503, reason: Service Unavailable"),
        ("opentelemetry.exporter.x", "%s while sending %s, again in %.2fs", (OSError("http://u:p@h"), "spans", 1.5),
         "OSError while sending spans, again in 1.50s"),
        ("opentelemetry.exporter.x", "reason: %s, %s", ("token=hidden", None), "reason: …, None"),
        ("opentelemetry.util.re", "Header format invalid: %s", ("hidden",), "Header format invalid: …"),
        ("urllib3.connectionpool", "Retrying %(n)s", ({"n": "hidden"},), "a warning of urllib3.connectionpool"),
        ("opentelemetry.sdk", "100% wrong", (), "100% wrong"),
        ("opentelemetry.context", "Failed to load context: %s, falling back to contextvars_context", ("hidden",),
         "the value of OTEL_PYTHON_CONTEXT is not known, and has no effect; unset the variable"),
    ],
)  # fmt: skip
def test_a_librarys_warning_quotes_nothing(
    library: Library, name: str, text: str, values: tuple[object, ...], line: str
) -> None:
    """Its words, numbers, names of errors and phrases of HTTP are shown; other values may be secrets."""
    library.logs(text, *values, name=name)
    assert library.lines == [f"traces: {line}"]


def test_what_a_client_sent_is_no_warning(library: Library) -> None:
    """Any client could fill the log."""
    library.logs("Member doesn't match the format %s", "hidden", name="opentelemetry.trace.span")
    assert library.lines == []


def test_what_was_held_back_is_told_at_the_end(library: Library) -> None:
    """The last line of those, and how many more there were; nothing if none was held back."""
    for text in ("first", "second", "third"):
        library.logs(text)
    library.handler.end()
    assert library.lines == ["traces: first", "traces: third (and 1 such lines that were held back)"]
    library.handler.end()
    assert len(library.lines) == 2


def test_the_end_has_lines_of_its_own(library: Library) -> None:
    """They are logged within the minute, too, as one line."""
    library.logs("first")
    library.logs("second")
    library.handler.warn("again and again", comes_again=True)
    library.handler.end("this is lost", "that, too")
    assert library.lines == [
        "traces: first", "traces: this is lost; that, too (and 1 such lines that were held back)",
    ]  # fmt: skip


def test_nothing_is_logged_after_the_end(library: Library) -> None:
    """A thread that writes to stdout while the process ends would end it with an error."""
    library.handler.end()
    library.logs("late")
    library.handler.end("later")
    assert library.lines == []


def test_the_loggers_are_as_they_were_after_all(library: Library) -> None:
    """While the handler is attached, the libraries' records go to it alone."""
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    before = [(logger.propagate, list(logger.handlers)) for logger in loggers]
    library.handler.attach()
    logging.getLogger("urllib3.connectionpool").warning("once")
    assert [(record.name, record.getMessage()) for record in library.caplog.records] == [("gateway.x", "traces: once")]
    library.handler.detach()
    assert [(logger.propagate, list(logger.handlers)) for logger in loggers] == before
