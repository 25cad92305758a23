"""The status document: its layout, how it is written of a task, its check, and what it says.

Pure. Any client of the store can write there, so no code uses a document before `fields_of` has checked all of it. That
is the only check, for reads, lists, orphans and the terminal alike. Documents of earlier versions pass: newer fields of
`extensions` may be missing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import orjson

from gateway.tasks.options import is_label
from gateway.tasks.stages import FINAL_RANK, MAX_ATTEMPT, PRESUMED_MS, Stage, State
from gateway.tasks.task import Reason, Task, is_valid_id, new_id

VERSION = "1.0"
EVENT_TYPE = "task.status.update"

MAX_CHARACTERS = 256 * 1024  # earlier versions stored targets of 64 KiB whole
MAX_MS = 9_999_999_999_999  # places in the lists have thirteen digits
_MAX_BYTES = 2**53  # JavaScript represents whole numbers exactly up to here

_STAGES = {str(stage): stage for stage in Stage}
_PRESUMED_TEXT = '"is_presumed":true'  # in each document of a presumed loss, as `lost_document` writes it
_EVENT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # safe in a header field (ETag)

_Check: TypeAlias = Callable[[Any], bool]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is(expected: str) -> _Check:
    return lambda value: value == expected


def _whole(most: int, least: int = 0) -> _Check:
    return lambda value: type(value) is int and least <= value <= most  # a bool is no number


def _or_null(check: _Check) -> _Check:
    return lambda value: value is None or check(value)


_is_ms, _is_size = _whole(MAX_MS), _whole(_MAX_BYTES)


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of the document. `source` is the expression that writes it: `_values` has the names in it."""

    name: str
    source: str
    check: _Check
    is_needed: bool = False  # in `extensions`: no version wrote documents without it


def _as_code(values: tuple[_Value, ...]) -> str:
    return "{" + ", ".join(f"{value.name!r}: {value.source}" for value in values) + "}"


# The layout of the document (README.md, "Routes"), in the order in which it is written.
_EXTENSIONS = (
    _Value("method", "task.method", _is_text, is_needed=True),
    _Value("path", "task.path", _is_text, is_needed=True),
    _Value("query", "task.query", _is_text, is_needed=True),
    _Value("stream", "task.is_stream", lambda value: isinstance(value, bool)),
    _Value("status_code", "task.status_code", _or_null(_whole(999))),
    _Value("reason", "task.reason", _or_null(_is_text)),  # a later version may have more reasons
    _Value("created_ms", "task.created_ms", _is_ms, is_needed=True),
    _Value("started_ms", "task.started_ms", _or_null(_is_ms)),
    _Value("first_byte_ms", "task.first_byte_ms", _or_null(_is_ms)),
    _Value("finished_ms", "task.finished_ms", _or_null(_is_ms)),
    _Value("request_bytes", "task.request_bytes", _is_size),
    _Value("response_bytes", "task.response_bytes", _is_size),
    _Value("is_detached", "task.is_detached", lambda value: isinstance(value, bool)),
    _Value("response", "task.response", _or_null(_is_text)),  # as `reason`
    _Value("is_presumed", "False", lambda value: isinstance(value, bool)),  # only `lost_document` writes another
    _Value("instance", "instance", _is_text),
    _Value("boot", "boot", _is_text),
    _Value("owner", "task.owner or None", _or_null(_is_text)),
    _Value("label", "task.label or None", _or_null(lambda value: isinstance(value, str) and is_label(value))),
    _Value("queue_position", "standing_in_queue[0]", _or_null(_is_size)),
    _Value("queue_length", "standing_in_queue[1]", _or_null(_is_size)),
    _Value("attempt", "0", _whole(MAX_ATTEMPT, 1), is_needed=True),  # the store writes this one and the next
    _Value("lost_after_ms", "None", _or_null(_is_ms)),
)
_STORES_TAIL = '0,"lost_after_ms":null}}'  # the text from the value of `attempt` on

_DOCUMENT = (
    _Value("version", "VERSION", _is(VERSION)),
    _Value("event_type", "EVENT_TYPE", _is(EVENT_TYPE)),
    _Value(
        "event_id", "task.event_id", lambda value: isinstance(value, str) and _EVENT_ID.fullmatch(value) is not None
    ),
    _Value("algorithm_id", "algorithm_id", _is_text),
    _Value("task_id", "task.task_id", lambda value: isinstance(value, str) and is_valid_id(value)),
    _Value("state", "task.stage.state", _is_text),  # has to match the stage, see is_document
    _Value("stage", "task.stage", lambda value: isinstance(value, str) and value in _STAGES),
    _Value("message", "task.message", _is_text),
    # A whole number: pollers in typed languages expect an integer. Earlier versions wrote a fraction.
    _Value("timestamp", "int(now)", lambda value: type(value) in (int, float) and 0 <= value <= MAX_MS / 1000),
    _Value("extensions", _as_code(_EXTENSIONS), lambda value: isinstance(value, dict)),
)

# Compiled once from the table: reading the values row by row, or by attrgetter, makes each write a third slower.
_values: Callable[..., dict[str, object]] = eval(  # noqa: S307 - of the table above alone
    f"lambda task, algorithm_id, instance, boot, now, standing_in_queue: {_as_code(_DOCUMENT)}"
)

_FIELDS = {value.name: value.check for value in _DOCUMENT}
_NEEDED = {value.name: value.check for value in _EXTENSIONS if value.is_needed}
_KNOWN = {value.name: value.check for value in _EXTENSIONS if not value.is_needed}


def document_head(
    task: Task,
    *,
    algorithm_id: str,
    instance: str,
    boot: str,
    now: float,
    standing_in_queue: tuple[int | None, int | None] = (None, None),
) -> str:
    """The status document of a task without its last two values, `attempt` and `lost_after_ms`.

    The store adds these; `complete_document` does it without Redis. `now` is in Unix seconds,
    `standing_in_queue` the task's position in the queue and its length.
    """
    task.event_id = task.event_id or new_id()
    document = _values(task, algorithm_id, instance, boot, now, standing_in_queue)
    return orjson.dumps(document)[: -len(_STORES_TAIL)].decode()


def complete_document(head: str, attempt: int) -> str:
    """The complete JSON document: `head` is from `document_head`, `attempt` the attempt's number."""
    return f'{head}{attempt},"lost_after_ms":null}}}}'


def is_document(fields: object) -> bool:
    """Whether `fields`, decoded JSON, has the shape of a status document."""
    if not isinstance(fields, dict) or fields.keys() != _FIELDS.keys():
        return False
    if not all(check(fields[name]) for name, check in _FIELDS.items()):
        return False
    extensions = fields["extensions"]
    return (
        fields["state"] == _STAGES[fields["stage"]].state
        and all(name in extensions and check(extensions[name]) for name, check in _NEEDED.items())
        and all(check(extensions[name]) for name, check in _KNOWN.items() if name in extensions)
        and not any(isinstance(value, dict | list) for value in extensions.values())
        and (not extensions.get("is_presumed") or _is_loss(fields))
    )


def _is_loss(fields: dict[str, Any]) -> bool:
    return fields["stage"] == Stage.LOST and fields["extensions"].get("finished_ms") is not None


def fields_of(document: str, task_id: str | None = None) -> dict[str, Any] | None:
    """The fields of a status document; None if the text has another shape, or is not of the task `task_id`."""
    if len(document) > MAX_CHARACTERS:
        return None
    try:
        fields = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    is_right = is_document(fields) and task_id in (None, fields["task_id"])
    return fields if is_right else None


def rank_of(fields: dict[str, Any]) -> int:
    """The rank of a document's stage. `fields` are checked ones."""
    return _STAGES[fields["stage"]].rank


def has_ended(document: str) -> bool:
    """Whether a document has an end that never changes: a final state, and not a presumed loss."""
    fields = fields_of(document)
    return fields is not None and rank_of(fields) == FINAL_RANK and not is_presumed(fields)


def is_id_free(document: str) -> bool:
    """Whether a newer request may take the id: the task of a document has ended, or is presumed lost."""
    fields = fields_of(document)
    return fields is not None and rank_of(fields) == FINAL_RANK


def is_presumed(fields: dict[str, Any]) -> bool:
    """Whether a document tells of a loss that is only presumed: the gateway is silent, but may still run the task.

    `fields` are checked ones. Earlier gateways do not write this value.
    """
    return fields["extensions"].get("is_presumed") is True


def presumed_in(document: str) -> dict[str, Any] | None:
    """The fields of a document that tells of a presumed loss; None for any other text.

    Searches the text first: that takes 1 µs instead of the 60 of parsing, and a page asks this of every document.
    """
    fields = fields_of(document) if _PRESUMED_TEXT in document else None
    return fields if fields is not None and is_presumed(fields) else None


def presumed_until_ms(fields: dict[str, Any]) -> int:
    """When the presumed loss becomes final, in Unix milliseconds by the store's clock."""
    finished_ms: int = fields["extensions"]["finished_ms"]
    return finished_ms + PRESUMED_MS


def is_visible(document: str, reader: str | None) -> bool:
    """Whether `reader`, the name of an API key, may see the task of a document; None may see all tasks."""
    if reader is None:
        return True
    fields = fields_of(document)
    return fields is not None and fields["extensions"].get("owner") == reader


_CERTAIN = "the gateway that ran it is gone"
_PRESUMED = "no word from the gateway that runs it; it may be cut off from the store"


def lost_document(fields: dict[str, Any], now: float, *, is_certain: bool = False) -> str:
    """The FAILED lost document of a task. `fields` are those of its last document, `now` is in Unix seconds.

    The loss is presumed, unless the death of its gateway `is_certain`: that gateway may only be cut off from the store.
    """
    extensions = fields["extensions"]
    known_ms = [extensions.get(name) or 0 for name in ("created_ms", "started_ms", "first_byte_ms")]
    finished_ms = max(int(now * 1000), *known_ms)  # an older gateway's clock may differ
    if is_presumed(fields):
        finished_ms = extensions["finished_ms"]
    ends = {"reason": Reason.LOST, "finished_ms": finished_ms, "lost_after_ms": None}
    ends["is_presumed"] = not is_certain
    ends |= {name: None for name in ("queue_position", "queue_length") if name in extensions}
    changed = {
        "event_id": new_id(),
        "state": State.FAILED,
        "stage": Stage.LOST,
        "message": _CERTAIN if is_certain else _PRESUMED,
        "timestamp": max(int(now), finished_ms // 1000),
        "extensions": extensions | ends,
    }
    return orjson.dumps(fields | changed).decode()
