"""How the gateway's own log lines look: to stdout, as text or one JSON object a line. Called by __main__ and pull.

A line never holds a body, a credential or a query; requests are logged when they fail, with their task id. A
caller that logs about a task also gives `extra={"task_id": …}`, which is a field in JSON.
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
    """`text` of others without what could drive a terminal or break a line: that is shown as an escape sequence."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up(level: str, form: str) -> None:
    """Sends everything from `level` up to stdout, as `text` or `json`."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of each start and stop in four lines of its own; the gateway says it in one.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
