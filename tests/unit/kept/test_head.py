"""Owns what is known of a kept answer beside its body: its text in the store, which fields it has, and the digest."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.kept.head import End, KeptHead, Refusal, digest_of, head_in, kept_fields

REFUSAL = Refusal(503, "upstream_unavailable", "Ollama is starting", 2)
HEAD = KeptHead(
    name="boot:1:mine",
    method="POST",
    digest="0a" * 32,
    request_bytes=7,
    status=200,
    fields=(("content-type", "text/plain"), ("x-a", "\xe9"), ("x-a", "")),
    length=3,
    end=End.WHOLE,
    total=3,
)
REFUSED = replace(HEAD, status=0, fields=(), length=None, end=End.BROKEN, total=0, refusal=REFUSAL)

values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 2**60) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PATHS = [(name,) for name in orjson.loads(HEAD.as_text())] + [
    ("refusal", name) for name in ("status", "code", "message", "retry_after_seconds")
]


def changed(path: tuple[str, ...], value: Any) -> str:
    """The text of a head with another value at one place."""
    found: dict[str, Any] = orjson.loads(REFUSED.as_text())
    inner = found
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return orjson.dumps(found).decode()


def is_usable(head: KeptHead) -> bool:
    """Whether an answer can be made of it, whatever wrote it."""
    sizes = (head.request_bytes, head.total, head.status, *(() if head.length is None else (head.length,)))
    assert all(type(size) is int and size >= 0 for size in sizes)
    assert head.status == 0 or 200 <= head.status <= 599
    assert isinstance(head.digest + head.name + head.method, str)
    for name, value in head.wire_fields:
        assert name == name.lower().strip(b" \t:")
        assert not {*b"\r\n\0"} & {*name, *value}
    if head.refusal is not None:
        assert 400 <= head.refusal.status <= 599
        assert b"%d" % (head.refusal.retry_after_seconds or 0)
        assert isinstance(head.refusal.code + head.refusal.message, str)
    return True


@pytest.mark.parametrize("head", [HEAD, REFUSED, KeptHead("", "GET"), replace(HEAD, end=None, length=None)])
def test_a_head_comes_back_as_it_was_written(head: KeptHead) -> None:
    """What `as_text` writes, `head_in` reads."""
    assert head_in(head.as_text()) == head


@given(st.sampled_from(PATHS), values)
def test_another_value_makes_no_head_that_harms(path: tuple[str, ...], value: Any) -> None:
    """Whatever stands in the place of one value: there is no head, or one of which an answer can be made."""
    head = head_in(changed(path, value))
    assert head is None or is_usable(head)


@given(values.map(lambda value: orjson.dumps(value).decode()) | st.text(max_size=40))
def test_another_text_is_no_head(text: str) -> None:
    """A text that no gateway has written is None, and no error."""
    assert head_in(text) is None


@given(st.integers(0, len(HEAD.as_text()) - 1))
def test_a_text_that_was_cut_is_no_head(size: int) -> None:
    """A part of a head is none."""
    assert head_in(HEAD.as_text()[:size]) is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("fields",), [["x-a", "b\r\nx-c: d"]]),
        (("fields",), [["x-a\r\nx-c", "d"]]),
        (("fields",), [["x-a: b", "c"]]),
        (("fields",), [["X-A", "c"]]),
        (("fields",), [["", "c"]]),
        (("fields",), [["x-a", "\u0100"]]),
        (("fields",), [["x-a"]]),
        (("fields",), [["content-length", "5"]]),
        (("fields",), [["transfer-encoding", "chunked"]]),
        (("fields",), [["connection", "close"]]),
        (("fields",), [["set-cookie", "a=b"]]),
        (("fields",), [["access-control-allow-origin", "*"]]),
        (("status",), 101),
        (("status",), 600),
        (("status",), True),
        (("length",), ""),
        (("length",), False),
        (("length",), -1),
        (("total",), 2**54),
        (("digest",), "0A" * 32),
        (("digest",), "0a" * 31),
        (("end",), "over"),
        (("refusal",), []),
        (("refusal", "status"), 200),
        (("refusal", "retry_after_seconds"), ""),
        (("refusal", "retry_after_seconds"), False),
        (("refusal", "code"), None),
        (("refusal", "more"), 1),
        (("more",), 1),
    ],
)
def test_what_could_harm_a_reader_is_no_head(path: tuple[str, ...], value: Any) -> None:
    """No field that ends another, frames a message or is CORS's, no size below 0, nothing that is not known."""
    assert head_in(changed(path, value)) is None


def test_some_fields_are_not_kept() -> None:
    """Those for one client alone, and those that each answer has of its own. Order and duplicates stay."""
    given_fields = [
        (b"content-type", b"text/plain"),
        (b"set-cookie", b"a=b"),
        (b"set-cookie2", b"a=b"),
        (b"authentication-info", b"x"),
        (b"proxy-authenticate", b"Basic"),
        (b"x-b", b"2"),
        (b"content-length", b"5"),
        (b"date", b"today"),
        (b"x-task-id", b"mine"),
        (b"x-b", b"\xff"),
    ]
    assert kept_fields(given_fields) == (("content-type", "text/plain"), ("x-b", "2"), ("x-b", "\xff"))


def test_the_digest_is_of_id_method_target_and_body() -> None:
    """It is SHA-256, and the same however the body is cut."""
    whole = digest_of("mine", "POST", b"/v1/x?a")
    whole.update(b"body")
    cut = digest_of("mine", "POST", b"/v1/x?a")
    cut.update(b"bo")
    cut.update(b"dy")
    assert whole.hexdigest() == cut.hexdigest() == hashlib.sha256(b"mine\nPOST /v1/x?a\nbody").hexdigest()


ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,5}", fullmatch=True)
targets = st.from_regex(rb"/v1/[a-z?=%/]{0,5}", fullmatch=True)
requests = st.tuples(ids, st.sampled_from(["POST", "PUT", "GET"]), targets)


@given(requests, requests)
def test_no_two_requests_without_a_body_have_one_digest(first: Any, second: Any) -> None:
    """Another id, method or target is another digest: nothing of one can be taken for a part of another."""
    digests = {digest_of(*request).digest() for request in (first, second)}
    assert len(digests) == len({first, second})
