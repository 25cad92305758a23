"""What the columns and lines about tasks and gateways say: texts from their documents. Pure.

The texts may hold characters that control a terminal. The module that prints them escapes them.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from gateway.cli.client import Document
from gateway.tasks.document import is_presumed

NONE = "-"
LOST = "lost?"  # in the place of the reason of a presumed loss
PRESUMED = "no word from the task's gateway, which may still run it"  # as on the dashboard
_DO = "Wait (status --wait), cancel it, or send its request again: that begins a new attempt."
_KEPT = {
    "kept": "yes: the answer is kept",
    "deleted": "no: the answer was deleted",
    "too_large": "no: the answer is too large",
    "no_room": "no: there was no room for the answer",
}
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")  # as on the dashboard
_DAYS_FROM_SECONDS = 172_800


class Column(NamedTuple):
    """A column: its name for `--columns`, and how much room it needs.

    `leaves_at` is its turn to leave a narrow window: the highest number leaves first, 0 never. If the reader chose the
    columns, the last one leaves first, but 0 still means never. `good` is the width from which on the column is worth
    its room. Without `least` no text of the column is cut.
    """

    name: str
    leaves_at: int = 9
    least: int = 0
    good: int = 0
    is_right: bool = False  # numbers
    is_id: bool = False  # is cut in the middle

    @property
    def heading(self) -> str:
        """The text above the column."""
        return self.name.upper().replace("-", " ")


# In the order in which a list without `--columns` shows them. The order of worth: what happened to which task, how old
# it is, what it is, how long it took, and the rest.
_DEFAULT = (
    Column("task", 0, least=9, good=16, is_id=True),
    Column("state", 0, least=7, good=7),
    Column("stage", 1, least=8, good=20),
    Column("request", 3, least=12, good=14),
    Column("label", 5, least=8, good=12, is_id=True),
    Column("owner", 8, least=6, good=10),
    Column("age", 2, is_right=True),
    Column("first-byte", 6, is_right=True),
    Column("took", 4, is_right=True),
    Column("bytes", 7, is_right=True),
)
_ON_DEMAND = (
    Column("waited", is_right=True),
    Column("created"),
    Column("attempt", is_right=True),
    Column("gateway", least=9, good=16),
    Column("reason", least=8, good=20),
    Column("status", is_right=True),
    Column("error", least=8, good=20),
    Column("trace", least=9, good=13, is_id=True),
)
TASK_COLUMNS = {column.name: column for column in (*_DEFAULT, *_ON_DEMAND)}

NODE_COLUMNS = (
    Column("gateway", 0, least=9, good=20),
    Column("state", 0, least=8, good=8),
    Column("store", 1, least=5, good=5),
    Column("running", 2, is_right=True),
    Column("waiting", 3, is_right=True),
    Column("last-word", 4, is_right=True),
    Column("models", 5, least=8, good=12),
)


def default_columns(tasks: list[Document]) -> list[Column]:
    """The columns of a list without `--columns`: a label if a task has one, an owner if there are several."""
    unwanted = set()
    if not any(_more(task)["label"] for task in tasks):
        unwanted.add("label")
    if len({_more(task)["owner"] for task in tasks}) < 2:
        unwanted.add("owner")
    return [column for column in _DEFAULT if column.name not in unwanted]


def task_cells(task: Document, columns: list[Column], now_ms: float) -> list[str]:
    """The texts of a task in these columns."""
    stage = _only_stage if any(column.name == "reason" for column in columns) else stage_or_reason
    texts = _TEXTS | {"stage": lambda task, *_: stage(task)}
    more = _more(task)
    return [texts[column.name](task, more, now_ms) or NONE for column in columns]


def node_cells(node: Document) -> list[str]:
    """The texts of a gateway, in the order of NODE_COLUMNS."""
    models, bound = node.get("models"), node.get("max_running")
    running = _number(node.get("running"))
    return [
        node["instance"],
        *(_word(node.get(name)) for name in ("state", "store")),
        f"{running} of {_number(bound)}" if bound else running,
        _number(node.get("waiting")),
        f"{_number(node.get('age_sec'))} s ago",
        ", ".join(map(str, models)) if isinstance(models, list) and models else NONE,
    ]


def _word(value: object) -> str:
    return value if isinstance(value, str) else NONE


def _number(value: object) -> str:
    return f"{value:.0f}" if type(value) in (int, float) else NONE


def facts(task: Document, now_ms: float) -> Iterator[tuple[str, str]]:
    """All that is known about a task, by name."""
    more = _more(task)
    query = f"?{more['query']}" if more["query"] else ""
    yield "task", task["task_id"]
    yield "state", task["state"]
    yield "stage", task["stage"]
    yield "queue", f"position {_position(more)}" if _position(more) else NONE
    yield "reason", _reason(task) or NONE
    yield "presumed", f"yes: {PRESUMED}. {_DO}" if is_presumed(task) else NONE
    yield "message", task["message"]
    if more["error_text"]:
        yield "error", more["error_text"]
    yield "request", f"{more['method']} {more['path']}{query}, {size(more['request_bytes'])}"
    yield "label", more["label"] or NONE
    yield "answer", f"status {more['status_code'] or NONE}, {size(more['response_bytes'])}"
    yield "kept", _KEPT.get(more["response"], more["response"]) if more["response"] else NONE
    yield "detached", "yes: it does not need its client any more" if more["is_detached"] else NONE
    yield "created", _moment(more["created_ms"])
    yield "waited", _waited(task, now_ms)
    yield "first byte", span(more["started_ms"], more["first_byte_ms"])
    yield "took", _took(task, now_ms)
    yield "ended", _moment(_end_ms(task))
    yield "heartbeat", _moment(task["timestamp"] * 1000)
    yield "attempt", str(more["attempt"])
    yield "gateway", more["instance"] or NONE
    if more["trace_id"]:
        yield "trace", more["trace_id"]


class _More(dict[str, Any]):
    """A document's extensions. A field that an older gateway does not have is None."""

    def __missing__(self, name: str) -> None:
        return None


def _more(task: Document) -> _More:
    return _More(task["extensions"])


def _reason(task: Document) -> str:
    return LOST if is_presumed(task) else _more(task)["reason"] or ""


def stage_or_reason(task: Document) -> str:
    """The stage, with the position in the queue; or a failed task's reason, which says more."""
    return _reason(task) or _only_stage(task)


def _only_stage(task: Document) -> str:
    return f"{task['stage']} {_position(_more(task))}".rstrip()


def _position(more: _More) -> str:
    """Position and length, "3 of 12". Empty if the task is not in the queue."""
    return "" if more["queue_position"] is None else f"{more['queue_position']} of {more['queue_length']}"


def _end_ms(task: Document) -> float | None:
    """When the task ended. None without an end: when a presumed loss was written says nothing of its task."""
    finished_ms: float | None = _more(task)["finished_ms"]
    return None if is_presumed(task) else finished_ms


def _end_or_now(task: Document, now_ms: float) -> float | None:
    return None if is_presumed(task) else _end_ms(task) or now_ms


def _waited(task: Document, now_ms: float) -> str:
    more = _more(task)
    return span(more["created_ms"], more["started_ms"] or _end_or_now(task, now_ms))


def _took(task: Document, now_ms: float) -> str:
    """From the hand-over to Ollama on: "-" if the task never got there. The dashboard has the same rule."""
    return span(_more(task)["started_ms"], _end_or_now(task, now_ms))


_TEXTS: dict[str, Callable[[Document, _More, float], str | None]] = {
    "task": lambda task, *_: task["task_id"],
    "state": lambda task, *_: task["state"],
    "request": lambda _, more, __: f"{more['method']} {more['path']}",
    "label": lambda _, more, __: more["label"],
    "owner": lambda _, more, __: more["owner"],
    "age": lambda _, more, now_ms: span(more["created_ms"], now_ms, is_whole=True),
    "first-byte": lambda _, more, __: span(more["started_ms"], more["first_byte_ms"]),
    "took": lambda task, _, now_ms: _took(task, now_ms),
    "bytes": lambda _, more, __: size(more["response_bytes"]),
    "waited": lambda task, _, now_ms: _waited(task, now_ms),
    "created": lambda _, more, __: _moment(more["created_ms"])[:19],  # without the zone
    "attempt": lambda _, more, __: str(more["attempt"]),
    "gateway": lambda _, more, __: more["instance"],
    "reason": lambda task, *_: _reason(task),
    "status": lambda _, more, __: str(more["status_code"] or NONE),
    "error": lambda _, more, __: more["error_text"],
    "trace": lambda _, more, __: more["trace_id"],
}


def _moment(unix_ms: float | None) -> str:
    """Date and time of this machine, with its zone. "-" if it is not known."""
    return datetime.fromtimestamp(unix_ms / 1000).astimezone().isoformat(" ", "seconds") if unix_ms else NONE


def span(from_ms: float | None, to_ms: float | None, *, is_whole: bool = False) -> str:
    """A duration, rounded by its size: 0.12 s, 34.5 s, 12:34, 2:03:04, 3 days. "-" if an end is not known.

    `is_whole`: whole seconds.
    """
    if from_ms is None or to_ms is None:
        return NONE
    seconds = max(0.0, (to_ms - from_ms) / 1000)
    if seconds < 60:
        return f"{int(seconds)} s" if is_whole else f"{seconds:.{2 if seconds < 10 else 1}f} s"
    if seconds >= _DAYS_FROM_SECONDS:
        return f"{seconds // 86_400:.0f} days"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def size(count: int | None) -> str:
    """`count` bytes as the dashboard writes them: 999 B, 38.6 KiB, 512 MiB."""
    value, units = float(count or 0), iter(_UNITS)
    unit = next(units)
    while value >= 1024 and unit != _UNITS[-1]:
        value, unit = value / 1024, next(units)
    if unit == "B" or value >= 100:
        return f"{int(value + 0.5)} {unit}"
    return f"{int(value * 10 + 0.5) / 10:.1f} {unit}"  # a half is rounded up, as in JavaScript
