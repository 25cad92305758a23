"""What a client asks for its task by header fields of the gateway's own. Pure.

These fields are for the gateway alone; Ollama does not get them. Other fields that begin with `X-Task-` are the
client's own, and pass (docs/behaviour.md, "Relay: requests").
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.errors import InvalidHeader

LABEL, PRIORITY, KEEP = b"x-task-label", b"x-task-priority", b"x-task-keep"
START_TIMEOUT, TIMEOUT = b"x-task-start-timeout", b"x-task-timeout"
OPTION_FIELDS = frozenset({LABEL, PRIORITY, START_TIMEOUT, TIMEOUT, KEEP})
PREFER = b"prefer"  # RFC 7240; not ours alone, so it passes unless it is honoured

MAX_LABEL = 128
LABEL_PATTERN = "^[!-~]+$"  # beside its length
_LABEL = re.compile(rb"[!-~]{1,%d}" % MAX_LABEL)
_IS_LOW = {b"normal": False, b"low": True}
_IS_KEPT = {b"true": True, b"false": False}
_RESPOND_ASYNC = b"respond-async"
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"')
_SECONDS = re.compile(rb"0*([1-9][0-9]{0,4})")
_MOST_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The values of one request's fields, or what holds without them. Times are in seconds, None without a limit."""

    label: str = ""
    is_low: bool = False
    start_timeout: int | None = None  # from the request's head until it is sent to Ollama
    timeout: int | None = None  # from the request's head until the end of its answer
    is_kept: bool = False  # the answer is kept, and outlives its client
    is_async: bool = False  # the client gets 202, and fetches the kept answer later


_NONE = TaskOptions()


def options_of(by_name: Mapping[bytes, bytes], values: Callable[[bytes], list[bytes]]) -> TaskOptions:
    """The options of a request. `by_name` has its fields by lower-case name; `values` gives all values of one name.

    Raises InvalidHeader. Whether answers can be kept, and whether a preference is honoured, is for the relay to say.
    """
    if OPTION_FIELDS.isdisjoint(by_name) and PREFER not in by_name:
        return _NONE
    is_async = PREFER in by_name and prefers_async(values(PREFER))
    return TaskOptions(
        label=_label(_only(LABEL, values)),
        is_low=_flag(PRIORITY, _IS_LOW, values),
        start_timeout=_seconds(START_TIMEOUT, values),
        timeout=_seconds(TIMEOUT, values),
        is_kept=_flag(KEEP, _IS_KEPT, values),
        is_async=is_async,
    )


def prefers_async(values: list[bytes]) -> bool:
    """Whether a request with these Prefer fields asks for `respond-async` (RFC 7240 section 4.1)."""
    preferences = b",".join(_QUOTED.sub(b"", value) for value in values).split(b",")
    return any(preference.partition(b";")[0].strip(b" \t").lower() == _RESPOND_ASYNC for preference in preferences)


def is_label(text: str) -> bool:
    """Whether `text` is valid as a label."""
    return text.isascii() and _LABEL.fullmatch(text.encode()) is not None


def _only(name: bytes, values: Callable[[bytes], list[bytes]]) -> bytes | None:
    found = values(name)
    if len(found) > 1:
        raise InvalidHeader(f"{_shown(name)} was sent more than once; allowed: one")
    return found[0] if found else None


def _label(value: bytes | None) -> str:
    if not value:
        return ""
    if _LABEL.fullmatch(value) is None:
        raise InvalidHeader(f"{_shown(LABEL)} is not valid; allowed: 1 to {MAX_LABEL} characters from '!' to '~'")
    return value.decode("ascii")


def _flag(name: bytes, meanings: Mapping[bytes, bool], values: Callable[[bytes], list[bytes]]) -> bool:
    """What the value of a field means; False without the field."""
    value = _only(name, values)
    if value is None:
        return False
    if value not in meanings:
        allowed = ", ".join(word.decode() for word in meanings)
        raise InvalidHeader(f"{_shown(name)} is not valid; allowed: {allowed}")
    return meanings[value]


def _seconds(name: bytes, values: Callable[[bytes], list[bytes]]) -> int | None:
    value = _only(name, values)
    if value is None:
        return None
    digits = _SECONDS.fullmatch(value)
    if digits is None or int(digits[1]) > _MOST_SECONDS:
        raise InvalidHeader(f"{_shown(name)} is not valid; allowed: whole seconds from 1 to {_MOST_SECONDS}")
    return int(digits[1])


def _shown(name: bytes) -> str:
    return name.decode("ascii").title()
