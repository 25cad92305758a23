"""The format of the gateway's log lines: on stdout, as text or as one JSON object per line.

A line never holds a body, a credential or a query. Failed requests are logged, with their task id. Code that logs about
a task also passes `extra={"task_id": …}`, which becomes a field in JSON.
"""

import json
import logging
import sys
import time


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime


class _JsonFormatter(_TextFormatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        task_id = getattr(record, "task_id", None)
        if task_id is not None:
            line["task_id"] = task_id
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def readable(text: str) -> str:
    """Foreign `text` with non-printable characters escaped, so that it cannot control a terminal or break a line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up(level: str, form: str) -> None:
    """Logs everything from `level` up to stdout. `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn logs each start and stop in four lines; the gateway has one line of its own.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
