"""Which trace a request belongs to (W3C Trace Context, level 1): the client's, if it names one, or a new one.

Only reads the fields: they pass to Ollama unchanged, like all others.
"""

import re
import secrets
from collections.abc import Callable, Mapping

from gateway.tasks.task import Trace

TRACEPARENT, TRACESTATE = b"traceparent", b"tracestate"

# Section 3.2: version, trace id, span id, flags. A later version may go on behind a further dash.
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_NO_VERSION = b"ff"
_KNOWN_VERSION = b"00"
_SAMPLED = 0x01
_MOST_STATE = 2048  # bytes; section 3.3.1.5 asks for 512


def trace_of(by_name: Mapping[bytes, bytes], values: Callable[[bytes], list[bytes]]) -> Trace:
    """The trace of a request. A malformed traceparent, or two of them, count as none.

    `by_name` has the request's fields by lower-case name; `values` gives all values of one name.
    """
    given = values(TRACEPARENT) if TRACEPARENT in by_name else []
    named = _named(given[0]) if len(given) == 1 else None
    if named is None:
        return Trace(secrets.token_hex(16))
    return named._replace(state=_state(values(TRACESTATE)))


def _named(text: bytes) -> Trace | None:
    """The trace that a traceparent names; None if it is not as the standard says."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _NO_VERSION or (version == _KNOWN_VERSION and more is not None):
        return None
    if not (trace_id.strip(b"0") and span_id.strip(b"0")):
        return None
    return Trace(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))


def _state(values: list[bytes]) -> str:
    """Several fields are one list (section 3.3.1.1). A long one counts as none, because it is kept in memory."""
    whole = b",".join(values)
    return whole.decode("latin-1") if len(whole) <= _MOST_STATE else ""
