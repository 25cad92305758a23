"""The status document: its layout, how it is written of a task, its check, and what it says.

Pure. Any client of the store can write there, so no code uses a document before `fields_of` has checked all of it. That
is the only check, for reads, lists, orphans and the terminal alike. Documents of earlier versions pass: newer fields of
`extensions` may be missing.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, TypeAlias

import orjson

from gateway.tasks.options import is_label
from gateway.tasks.stages import FINAL_RANK, MAX_ATTEMPT, PRESUMED_MS, Stage, State
from gateway.tasks.task import Reason, Task, is_valid_id, new_id

VERSION = "1.0"
EVENT_TYPE = "task.status.update"

MAX_CHARACTERS = 256 * 1024  # earlier versions stored targets of 64 KiB whole
_CACHED_BYTES = 4096  # summaries of longer documents are not cached
MAX_MS = 9_999_999_999_999  # places in the lists have thirteen digits
_MAX_BYTES = 2**53  # JavaScript represents whole numbers exactly up to here

_STAGES = {str(stage): stage for stage in Stage}
_PRESUMED_TEXT = '"is_presumed":true'  # in each document of a presumed loss, as `lost_document` writes it
_EVENT_ID = re.compile(r"[0-9A-Za-z-]{1,64}")  # safe in a header field (ETag)
_TRACE_ID = re.compile(r"[0-9a-f]{32}")  # W3C Trace Context, section 3.2.2.3

# A check of one value, as an expression over `value`. Compiled once from the table below: a check by calls takes five
# times as long, and each status that is read is checked.
_Check: TypeAlias = str
_TEXT: _Check = "type(value) is str"
_FLAG: _Check = "type(value) is bool"


def _whole(most: int, least: int = 0) -> _Check:
    return f"(type(value) is int and {least} <= value <= {most})"  # a bool is no number


def _or_null(check: _Check) -> _Check:
    return f"(value is None or {check})"


_MS, _SIZE = _whole(MAX_MS), _whole(_MAX_BYTES)


@dataclass(frozen=True, slots=True)
class _Value:
    """One value of the document. `source` is the expression that writes it: `_values` has the names in it."""

    name: str
    source: str
    check: _Check
    is_needed: bool = False  # in `extensions`: no version wrote documents without it
    is_optional: bool = False  # left out where it is None, so that a feature that is off adds nothing to a document


def _as_code(values: tuple[_Value, ...]) -> str:
    return "{" + ", ".join(map(_item, values)) + "}"


def _item(value: _Value) -> str:
    pair = f"{value.name!r}: {value.source}"
    return f"**({{{pair}}} if {value.source} is not None else NOTHING)" if value.is_optional else pair


# The layout of the document (docs/api.md, "The status"), in the order in which it is written.
_EXTENSIONS = (
    _Value("method", "task.method", _TEXT, is_needed=True),
    _Value("path", "task.path", _TEXT, is_needed=True),
    _Value("query", "task.query", _TEXT, is_needed=True),
    _Value("stream", "task.is_stream", _FLAG),
    _Value("status_code", "task.status_code", _or_null(_whole(999))),
    _Value("reason", "task.reason", _or_null(_TEXT)),  # a later version may have more reasons
    _Value("error_text", "task.error_text", _or_null(_TEXT), is_optional=True),
    _Value("created_ms", "task.created_ms", _MS, is_needed=True),
    _Value("started_ms", "task.started_ms", _or_null(_MS)),
    _Value("first_byte_ms", "task.first_byte_ms", _or_null(_MS)),
    _Value("finished_ms", "task.finished_ms", _or_null(_MS)),
    _Value("request_bytes", "task.request_bytes", _SIZE),
    _Value("response_bytes", "task.response_bytes", _SIZE),
    _Value("is_detached", "task.is_detached", _FLAG),
    _Value("response", "task.response", _or_null(_TEXT)),  # as `reason`
    _Value(
        "trace_id",
        "(task.trace and task.trace.trace_id)",
        _or_null(f"({_TEXT} and is_trace_id(value))"),
        is_optional=True,
    ),
    _Value("is_presumed", "False", _FLAG),  # only `lost_document` writes another
    _Value("instance", "instance", _TEXT),
    _Value("boot", "boot", _TEXT),
    _Value("owner", "task.owner or None", _or_null(_TEXT)),
    _Value("label", "task.label or None", _or_null(f"({_TEXT} and is_label(value))")),
    _Value("queue_position", "standing_in_queue[0]", _or_null(_SIZE)),
    _Value("queue_length", "standing_in_queue[1]", _or_null(_SIZE)),
    _Value("attempt", "0", _whole(MAX_ATTEMPT, 1), is_needed=True),  # the store writes this one and the next
    _Value("lost_after_ms", "None", _or_null(_MS)),
)
_STORES_TAIL = '0,"lost_after_ms":null}}'  # the text from the value of `attempt` on

_DOCUMENT = (
    _Value("version", "VERSION", f"value == {VERSION!r}"),
    _Value("event_type", "EVENT_TYPE", f"value == {EVENT_TYPE!r}"),
    _Value("event_id", "task.event_id", f"{_TEXT} and is_event_id(value)"),
    _Value("algorithm_id", "algorithm_id", _TEXT),
    _Value("task_id", "task.task_id", f"{_TEXT} and is_valid_id(value)"),
    _Value("state", "task.stage.state", _TEXT),  # has to match the stage, see is_document
    _Value("stage", "task.stage", f"{_TEXT} and value in STAGES"),
    _Value("message", "task.message", _TEXT),
    # A whole number: pollers in typed languages expect an integer. Earlier versions wrote a fraction.
    _Value("timestamp", "int(now)", f"type(value) in (int, float) and 0 <= value <= {MAX_MS / 1000}"),
    _Value("extensions", _as_code(_EXTENSIONS), "type(value) is dict"),
)

# Compiled once from the table: reading the values row by row, or by attrgetter, makes each write a third slower.
_values: Callable[..., dict[str, object]] = eval(  # noqa: S307 - of the table above alone
    f"lambda task, algorithm_id, instance, boot, now, standing_in_queue: {_as_code(_DOCUMENT)}",
    {"VERSION": VERSION, "EVENT_TYPE": EVENT_TYPE, "NOTHING": {}},
)


def _checked(value: _Value, source: str, *, may_lack: bool = False) -> _Check:
    """The check of `source`, which is the value itself, or ABSENT where the document has none."""
    check = f"(value is ABSENT or {value.check})" if may_lack else f"({value.check})"
    return f"((value := {source}), {check})[1]"


_has_right_fields: Callable[[dict[str, Any]], bool] = eval(  # noqa: S307 - of the tables above alone
    "lambda fields: " + " and ".join(_checked(value, f"fields[{value.name!r}]") for value in _DOCUMENT),
    {"is_event_id": _EVENT_ID.fullmatch, "is_valid_id": is_valid_id, "STAGES": _STAGES},
)
_has_right_extensions: Callable[[dict[str, Any]], bool] = eval(  # noqa: S307 - of the tables above alone
    "lambda extensions: "
    + " and ".join(
        _checked(value, f"extensions.get({value.name!r}, ABSENT)", may_lack=not value.is_needed)
        for value in _EXTENSIONS
    ),
    {"is_label": is_label, "is_trace_id": _TRACE_ID.fullmatch, "ABSENT": object()},
)
_FIELDS = {value.name for value in _DOCUMENT}
_KNOWN = {value.name for value in _EXTENSIONS}


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
    if not isinstance(fields, dict) or fields.keys() != _FIELDS or not _has_right_fields(fields):
        return False
    extensions = fields["extensions"]
    return (
        fields["state"] == _STAGES[fields["stage"]].state
        and _has_right_extensions(extensions)
        and (extensions.keys() <= _KNOWN or not any(isinstance(value, dict | list) for value in extensions.values()))
        and (not extensions.get("is_presumed") or _is_loss(fields))
    )


def _is_loss(fields: dict[str, Any]) -> bool:
    return fields["stage"] == Stage.LOST and fields["extensions"].get("finished_ms") is not None


def fields_of(document: str | bytes, task_id: str | None = None) -> dict[str, Any] | None:
    """The fields of a status document; None if the text has another shape, or is not of the task `task_id`."""
    if len(document) > MAX_CHARACTERS:
        return None
    try:
        fields = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    is_right = is_document(fields) and task_id in (None, fields["task_id"])
    return fields if is_right else None


class Summary(NamedTuple):
    """What decides about the answer to a poller, of one checked document."""

    task_id: str
    event_id: str
    created_ms: int
    state: str
    owner: str | None
    label: str | None
    boot: str | None
    has_ended: bool  # for good: see `has_ended`
    due_ms: int | None  # when the task may be called lost, or its presumed loss is final; by the store's clock
    digest: bytes  # of the whole document, 12 bytes


Found: TypeAlias = tuple[bytes, Summary]  # a checked document, and what it says


def found_in(document: str) -> Found:
    """A document that this process has made, as pollers get it."""
    encoded = document.encode()
    summary = summary_of(encoded)
    if summary is None:
        raise ValueError(f"not a status document: {document:.200}")
    return encoded, summary


def summary_of(document: bytes) -> Summary | None:
    """The summary of a status document; None if the text has another shape."""
    return _summary_cached(document) if len(document) <= _CACHED_BYTES else _summary(document)


def _summary(document: bytes) -> Summary | None:
    fields = fields_of(document)
    if fields is None:
        return None
    extensions, is_final = fields["extensions"], rank_of(fields) == FINAL_RANK
    is_open_loss = is_final and is_presumed(fields)
    return Summary(
        fields["task_id"],
        fields["event_id"],
        extensions["created_ms"],
        fields["state"],
        extensions.get("owner"),
        extensions.get("label"),
        extensions.get("boot"),
        is_final and not is_open_loss,
        presumed_until_ms(fields) if is_open_loss else extensions.get("lost_after_ms"),
        blake2b(document, digest_size=12).digest(),
    )


# Pages of a list repeat mostly the same documents: 0.5 us each instead of 9.
_summary_cached = lru_cache(maxsize=1024)(_summary)


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
