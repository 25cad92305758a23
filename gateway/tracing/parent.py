"""The span of the client that a task's span belongs to, as the request names it (W3C Trace Context, level 1).

Pure. Only reads the fields: they pass to Ollama unchanged, like all others.
"""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"

# Section 3.2: version, trace id, span id, flags. A later version may go on behind a further dash.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NO_VERSION = b"ff"
_KNOWN_VERSION = b"00"
_SAMPLED = 0x01
_MOST_STATE = 2048  # bytes; section 3.3.1.5 asks for 512


class Parent(NamedTuple):
    """The client's span. Ids are lower-case hexadecimal; `state` is its tracestate, "" without one."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""


def parent_of(by_name: Mapping[bytes, bytes], values: Callable[[bytes], list[bytes]]) -> Parent | None:
    """The parent that a request names; None if it names none, or not as the standard says.

    `by_name` has the request's fields by lower-case name; `values` gives all values of one name.
    """
    if TRACEPARENT not in by_name:
        return None
    given = values(TRACEPARENT)
    found = _TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NO_VERSION or (version == _KNOWN_VERSION and more is not None):
        return None
    if not (trace_id.strip(b"0") and span_id.strip(b"0")):
        return None
    is_sampled = bool(int(flags, 16) & _SAMPLED)
    return Parent(trace_id.decode(), span_id.decode(), is_sampled, _state(values(TRACESTATE)))


def _state(values: list[bytes]) -> str:
    """Several fields are one list (section 3.3.1.1). A long one counts as none, because it is kept in memory."""
    whole = b",".join(values)
    return whole.decode("latin-1") if len(whole) <= _MOST_STATE else ""
