"""Reads a status document from the store: checks its shape, and says what it means.

Pure. Any client of the store can write there, so no code uses a document before `fields_of` has checked all of it. That
is the only check, for reads, lists, orphans and the terminal alike. Documents of earlier versions pass: newer fields of
`extensions` may be missing. Task.document_head makes documents.
"""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

import orjson

from gateway.tasks.options import is_label
from gateway.tasks.stages import FINAL_RANK, MAX_ATTEMPT, Stage, State
from gateway.tasks.task import EVENT_TYPE, VERSION, Reason, is_valid_id, new_id

MAX_CHARACTERS = 256 * 1024  # earlier versions stored targets of 64 KiB whole
MAX_MS = 9_999_999_999_999  # places in the lists have thirteen digits
_MAX_BYTES = 2**53  # JavaScript represents whole numbers exactly up to here

_STAGES = {str(stage): stage for stage in Stage}
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

# Earlier versions wrote a fraction as timestamp.
_FIELDS: dict[str, _Check] = {
    "version": _is(VERSION),
    "event_type": _is(EVENT_TYPE),
    "event_id": lambda value: isinstance(value, str) and _EVENT_ID.fullmatch(value) is not None,
    "algorithm_id": _is_text,
    "task_id": lambda value: isinstance(value, str) and is_valid_id(value),
    "state": _is_text,  # has to match the stage, see is_document
    "stage": lambda value: isinstance(value, str) and value in _STAGES,
    "message": _is_text,
    "timestamp": lambda value: type(value) in (int, float) and 0 <= value <= MAX_MS / 1000,
    "extensions": lambda value: isinstance(value, dict),
}
_NEEDED: dict[str, _Check] = {
    "method": _is_text,
    "path": _is_text,
    "query": _is_text,
    "created_ms": _is_ms,
    "attempt": _whole(MAX_ATTEMPT, 1),
}
_KNOWN: dict[str, _Check] = {
    "stream": lambda value: isinstance(value, bool),
    "status_code": _or_null(_whole(999)),
    "reason": _or_null(_is_text),  # a later version may have more reasons
    "started_ms": _or_null(_is_ms),
    "first_byte_ms": _or_null(_is_ms),
    "finished_ms": _or_null(_is_ms),
    "request_bytes": _is_size,
    "response_bytes": _is_size,
    "instance": _is_text,
    "boot": _is_text,
    "owner": _or_null(_is_text),
    "label": _or_null(lambda value: isinstance(value, str) and is_label(value)),
    "queue_position": _or_null(_is_size),
    "queue_length": _or_null(_is_size),
    "lost_after_ms": _or_null(_is_ms),
}


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
    )


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
    """Whether a document has a final state."""
    fields = fields_of(document)
    return fields is not None and rank_of(fields) == FINAL_RANK


def is_visible(document: str, reader: str | None) -> bool:
    """Whether `reader`, the name of an API key, may see the task of a document; None may see all tasks."""
    if reader is None:
        return True
    fields = fields_of(document)
    return fields is not None and fields["extensions"].get("owner") == reader


def lost_document(fields: dict[str, Any], now: float) -> str:
    """The FAILED lost document of a task. `fields` are those of its last document, `now` is in Unix seconds."""
    extensions = fields["extensions"]
    known_ms = [extensions.get(name) or 0 for name in ("created_ms", "started_ms", "first_byte_ms")]
    finished_ms = max(int(now * 1000), *known_ms)  # gateways' clocks differ
    ends = {"reason": Reason.LOST, "finished_ms": finished_ms, "lost_after_ms": None}
    ends |= {name: None for name in ("queue_position", "queue_length") if name in extensions}
    changed = {
        "event_id": new_id(),
        "state": State.FAILED,
        "stage": Stage.LOST,
        "message": "the gateway that ran it is gone",
        "timestamp": finished_ms // 1000,
        "extensions": extensions | ends,
    }
    return orjson.dumps(fields | changed).decode()
