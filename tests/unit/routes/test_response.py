"""Owns what a request for a kept answer asks for: its path, its parameters and its header fields."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import InvalidParameter
from gateway.http.request import Request
from gateway.kept.reading import Wish
from gateway.routes.response import _wish, task_id_in

if TYPE_CHECKING:
    from gateway.http.head import Fields
    from gateway.http.wire import Wire


def wish(query: bytes = b"", *fields: tuple[bytes, bytes]) -> Wish:
    """What a reader asks for."""
    wire: Any = SimpleNamespace(is_writable=True, is_read_paused=False, send=len)
    named: Fields = [(b"host", b"h"), *fields]
    request = Request(cast("Wire", wire), "GET", b"/", named, is_http_10=False, is_keep_alive=True)
    return _wish(request, "mine", query)


@pytest.mark.parametrize(
    ("path", "task_id"),
    [
        (b"/tasks/mine/response", b"mine"),
        (b"/tasks/a%40b/response", b"a@b"),
        (b"/tasks/a%2Fb/response", b"a/b"),
        (b"/tasks/status/response", None),
        (b"/tasks//response", None),
        (b"/tasks/a/b/response", None),
        (b"/tasks/mine/response/", None),
        (b"/tasks/mine", None),
    ],
)
def test_the_path_names_the_task(path: bytes, task_id: bytes | None) -> None:
    """One segment, decoded once; `status` is the id of no kept answer."""
    assert task_id_in(path) == task_id


def test_without_parameters_a_reader_waits_for_all_of_any_generation() -> None:
    """From the first byte on, as long as the task runs."""
    found = wish()
    assert (found.task_id, found.offset, found.wait_seconds) == ("mine", 0, None)
    assert (found.range_from, found.if_range, found.is_joined) == (None, None, False)
    assert not found.generations


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        (b"from=0", "offset", 0),
        (b"from=%31%30", "offset", 10),
        (b"from=0009", "offset", 9),
        (b"wait=0", "wait_seconds", 0.0),
        (b"wait=60", "wait_seconds", 60.0),
        (b"wait=0.25", "wait_seconds", 0.25),
        (b"generation=1-ab", "generations", {"1-ab"}),
        (b"other=1&from=2&", "offset", 2),
    ],
)
def test_a_parameter_is_read(query: bytes, name: str, value: object) -> None:
    """Other parameters do not matter."""
    assert getattr(wish(query), name) == value


@pytest.mark.parametrize(
    "query",
    [
        b"from=", b"from=-1", b"from=+1", b"from=1.0", b"from=0x1", b"from=1&from=1", b"from=%C2%B2",
        b"from=12345678901234567",
        b"wait=", b"wait=-1", b"wait=61", b"wait=60.1", b"wait=5.", b"wait=1e1", b"wait=nan", b"wait=1&wait=2",
        b"generation=", b"generation=a%20b", b"generation=a&generation=b",
    ],
)  # fmt: skip
def test_a_value_that_is_not_valid_is_refused(query: bytes) -> None:
    """422, never a guess: a wrong offset would glue two parts wrongly."""
    with pytest.raises(InvalidParameter):
        wish(query)


@given(st.binary(max_size=60))
def test_any_query_is_read_or_refused(query: bytes) -> None:
    """No other error, and never an offset or a wait out of bounds."""
    try:
        found = wish(query)
    except InvalidParameter:
        return
    assert 0 <= found.offset < 10**16
    assert found.wait_seconds is None or 0 <= found.wait_seconds <= 60


@pytest.mark.parametrize(
    ("tags", "generations"),
    [
        ([b'"1-ab"'], {"1-ab"}),
        ([b'"1-ab", "2-cd"'], {"1-ab", "2-cd"}),
        ([b'"1-ab"', b'"2-cd"'], {"1-ab", "2-cd"}),
        ([b"*"], None),
        ([b'W/"1-ab"'], set()),
        ([b'W/"1-ab", "2-cd"'], {"2-cd"}),
        ([b"1-ab"], set()),
        ([b""], set()),
    ],
)
def test_if_match_names_generations(tags: list[bytes], generations: set[str] | None) -> None:
    """`*` allows any. A weak or malformed tag allows none, so two generations are never glued together."""
    assert wish(b"", *[(b"if-match", tag) for tag in tags]).generations == generations


def test_a_generation_in_the_query_wins() -> None:
    """It counts more than If-Match, `*` too."""
    assert wish(b"generation=1-ab", (b"if-match", b"*")).generations == frozenset({"1-ab"})


@pytest.mark.parametrize(
    ("value", "first"),
    [
        (b"bytes=0-", 0),
        (b"bytes=10-", 10),
        (b"bytes = 10 -", 10),
        (b"bytes=10-20", None),
        (b"bytes=-10", None),
        (b"bytes=1-,3-", None),
        (b"items=1-", None),
        (b"", None),
    ],
)
def test_a_range_counts_only_if_it_is_open(value: bytes, first: int | None) -> None:
    """Any other Range field is ignored."""
    assert wish(b"", (b"range", value)).range_from == first


def test_if_range_names_one_generation() -> None:
    """A date or a weak tag is the name of none, so the Range does not count."""
    assert wish(b"", (b"if-range", b'"1-ab"')).if_range == "1-ab"
    assert wish(b"", (b"if-range", b'W/"1-ab"')).if_range != "1-ab"
