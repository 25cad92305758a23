"""What a client asks for its task by header fields of the gateway's own. Pure.

These fields are for the gateway alone; Ollama does not get them. Other fields that begin with `X-Task-` are the
client's own, and pass (docs/behaviour.md, "Relay: requests").
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.errors import InvalidHeader

LABEL, PRIORITY = b"x-task-label", b"x-task-priority"
START_TIMEOUT, TIMEOUT = b"x-task-start-timeout", b"x-task-timeout"
OPTION_FIELDS = frozenset({LABEL, PRIORITY, START_TIMEOUT, TIMEOUT})

MAX_LABEL = 128
LABEL_PATTERN = "^[!-~]+$"  # beside its length
_LABEL = re.compile(rb"[!-~]{1,%d}" % MAX_LABEL)
_IS_LOW = {b"normal": False, b"low": True}
_SECONDS = re.compile(rb"0*([1-9][0-9]{0,4})")
_MOST_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The values of one request's fields, or what holds without them. Times are in seconds, None without a limit."""

    label: str = ""
    is_low: bool = False
    start_timeout: int | None = None  # from the request's head until it is sent to Ollama
    timeout: int | None = None  # from the request's head until the end of its answer


_NONE = TaskOptions()


def options_of(by_name: Mapping[bytes, bytes], values: Callable[[bytes], list[bytes]]) -> TaskOptions:
    """The options of a request. `by_name` has its fields by lower-case name; `values` gives all values of one name.

    Raises InvalidHeader.
    """
    if OPTION_FIELDS.isdisjoint(by_name):
        return _NONE
    return TaskOptions(
        label=_label(_only(LABEL, values)),
        is_low=_priority(_only(PRIORITY, values)),
        start_timeout=_seconds(START_TIMEOUT, values),
        timeout=_seconds(TIMEOUT, values),
    )


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


def _priority(value: bytes | None) -> bool:
    if value is None:
        return False
    if value not in _IS_LOW:
        raise InvalidHeader(f"{_shown(PRIORITY)} is not valid; allowed: normal, low")
    return _IS_LOW[value]


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
