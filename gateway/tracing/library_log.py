"""What OpenTelemetry's SDK logs, thinned out. Knows the names of its loggers, and imports nothing of it."""

import logging
import re
import time
from collections.abc import Mapping
from contextlib import nullcontext


class SparseHandler(logging.Handler):
    """Passes a library's warnings on to `log`: at most one line per minute, for trouble that lasts.

    Such a record may quote an address, a header or what a client sent. So a line has the words of the library, numbers,
    and the names of errors; other values are left out. Warnings of the library's part that reads what clients send
    (`opentelemetry.trace`) are dropped. May be used by several threads.
    """

    _SECONDS = 60.0
    _CLIENTS = ("opentelemetry.trace",)
    _PLAIN = re.compile(r"[A-Za-z ]{1,40}")  # of an exporter: what it exports, a phrase of HTTP

    def __init__(self, log: logging.Logger) -> None:
        super().__init__(logging.WARNING)
        self._log = log
        self._next_at = 0.0  # by the monotonic clock
        self._held_back = 0
        self._is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(self._CLIENTS):
            self.warn(self._text(record))

    def warn(self, text: str) -> bool:
        """Logs a line of our own, unless there was one within the last minute. Whether it did."""
        with self.lock or nullcontext():
            now = time.monotonic()
            if self._is_closed or now < self._next_at:
                self._held_back += 1
                return False
            more = f" (and {self._held_back} such lines that were held back)" if self._held_back else ""
            self._next_at, self._held_back = now + self._SECONDS, 0
            self._log.warning("traces: %s%s", text, more)
            return True

    def close(self) -> None:
        """Nothing is logged any more."""
        with self.lock or nullcontext():
            self._is_closed = True
        super().close()

    def _text(self, record: logging.LogRecord) -> str:
        is_exporters = record.name.startswith("opentelemetry.exporter")
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
