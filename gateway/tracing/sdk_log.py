"""What OpenTelemetry's SDK logs, thinned out. Knows the names of its loggers, and imports nothing of it."""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext

# What the library says while it is loaded, in clearer words.
_CLEARER = {
    "Failed to load context: %s, falling back to contextvars_context": (
        "the value of OTEL_PYTHON_CONTEXT is not known, and has no effect; unset the variable"
    )
}


class SparseHandler(logging.Handler):
    """Passes a library's warnings on to `log`: at most one line per minute, for trouble that lasts, and one at the end.

    The arguments of such a record may be an address, a header or what a client sent. So a line has the library's text
    with numbers and names of errors in it; other arguments are shown as `…`. A text that the library has put together
    itself has no arguments, and is shown as it is. Warnings of the library's part that reads what clients send
    (`opentelemetry.trace`) are dropped, because they are such texts, too. May be used by several threads.
    """

    _SECONDS = 60.0
    _LIBRARIES = ("opentelemetry", "urllib3")
    _CLIENTS = ("opentelemetry.trace",)
    _PLAIN = re.compile(r"[A-Za-z ]{1,40}")  # of an exporter: what it exports, a phrase of HTTP

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._next_at = 0.0  # by the monotonic clock
        self._held_back = 0
        self._last_held_back = ""
        self._is_closed = False

    def attach(self) -> None:
        """Takes the place of all other handlers for the libraries' records."""
        for logger in map(logging.getLogger, self._LIBRARIES):
            logger.addHandler(self)
            logger.propagate = False

    def detach(self) -> None:
        """Leaves the libraries' loggers as they were before `attach`."""
        for logger in map(logging.getLogger, self._LIBRARIES):
            logger.removeHandler(self)
            logger.propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(self._CLIENTS):
            self.warn(self._text(record))

    def warn(self, text: str, *, comes_again: bool = False) -> bool:
        """Logs a line of our own, unless there was one within the last minute. Whether it did.

        `comes_again`: the caller says it again until it is logged, so it does not count as held back.
        """
        with self.lock or nullcontext():
            now = time.monotonic()
            if self._is_closed or now < self._next_at:
                if not comes_again:
                    self._held_back += 1
                    self._last_held_back = text
                return False
            self._next_at = now + self._SECONDS
            self._write(text)
            return True

    def end(self, *texts: str) -> None:
        """Logs one last line, also within the minute: `texts`, else the last line that was held back, if there is one.

        Nothing is logged after it.
        """
        with self.lock or nullcontext():
            if not texts and self._held_back:
                texts = (self._last_held_back,)
                self._held_back -= 1
            if texts and not self._is_closed:
                self._write("; ".join(texts))
            self._is_closed = True

    def _write(self, text: str) -> None:
        more = f" (and {self._held_back} such lines that were held back)" if self._held_back else ""
        self._held_back = 0
        self._log.warning("traces: %s%s", text, more)

    def _text(self, record: logging.LogRecord) -> str:
        is_exporters = record.name.startswith("opentelemetry.exporter")
        if record.msg in _CLEARER:
            return _CLEARER[record.msg]
        unknown = f"a warning of {record.name}"
        if isinstance(record.args, Mapping):
            return unknown
        shown = tuple(self._shown(value, is_exporters=is_exporters) for value in record.args or ())
        try:
            return str(record.msg) % shown if shown else str(record.msg)
        except (TypeError, ValueError):  # it wanted a number where a text was left out
            return unknown

    def _shown(self, value: object, *, is_exporters: bool) -> object:
        if isinstance(value, BaseException):
            return type(value).__name__
        is_plain = is_exporters and isinstance(value, str) and self._PLAIN.fullmatch(value) is not None
        return value if value is None or is_plain or isinstance(value, int | float) else "\u2026"
