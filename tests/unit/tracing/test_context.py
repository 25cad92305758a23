"""Which trace a request belongs to (W3C Trace Context, level 1)."""

from __future__ import annotations

import re

import pytest

from gateway.http.head import RequestHead
from gateway.tasks.task import Trace
from gateway.tracing.context import trace_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{SPAN}-01"


def trace(*fields: tuple[str, str]) -> Trace:
    """The trace of a request with these fields."""
    found = [(name.encode(), value.encode("latin-1")) for name, value in fields]
    head = RequestHead("POST", b"/v1/x", found, is_http_10=False)
    return trace_of(head.by_name, head.values)


def is_new(found: Trace) -> bool:
    """Whether the trace begins here."""
    return re.fullmatch("[0-9a-f]{32}", found.trace_id) is not None and found == Trace(found.trace_id, None, True, "")


@pytest.mark.parametrize(
    ("text", "is_sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-follows", True),
        (f"01-{TRACE}-{SPAN}-00-", False),
    ],
)
def test_a_valid_traceparent_names_the_parent(text: str, is_sampled: bool) -> None:
    """Trace id and span id are taken as they are; of the flags only `sampled` counts; later versions may go on."""
    assert trace(("traceparent", text)) == Trace(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "text",
    [
        "", "00", GOOD.upper(), f"{GOOD} ", f"ff-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{GOOD}-", f"{GOOD}-00", f"{GOOD}0", f"cc-{TRACE}-{SPAN}-01.more", f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN[1:]}-01", f"0-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-1", f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE[:-1]}\xff-{SPAN}-01", f"00_{TRACE}_{SPAN}_01", f"{GOOD},{GOOD}",
    ],
)  # fmt: skip
def test_a_malformed_traceparent_counts_as_none(text: str) -> None:
    """A span must not name a parent that does not exist."""
    assert is_new(trace(("traceparent", text)))


def test_two_of_them_count_as_none() -> None:
    """Even if they are the same: which proxy doubled it is not known. None at all is none."""
    assert is_new(trace(("traceparent", GOOD), ("traceparent", GOOD)))
    assert is_new(trace(("tracestate", "a=b")))
    first, second = trace(), trace()
    assert is_new(first)
    assert first.trace_id != second.trace_id


def test_the_state_is_kept_as_one_list() -> None:
    """Several tracestate fields are joined in their order; one of more than 2 KiB counts as none."""
    named = ("traceparent", GOOD)
    assert trace(named, ("tracestate", "a=1,b=2"), ("tracestate", "c=3")) == Trace(TRACE, SPAN, True, "a=1,b=2,c=3")
    assert trace(named, ("tracestate", f"a={'x' * 2046}")) == Trace(TRACE, SPAN, True, f"a={'x' * 2046}")
    assert trace(named, ("tracestate", f"a={'x' * 2047}")) == Trace(TRACE, SPAN, True)
