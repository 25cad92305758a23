"""The gateway's own errors: stable codes, statuses, and a body that OpenAI clients understand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.errors import GatewayError

# What the contract promises: code and status. The names of the classes are not promised.
PROMISED = {
    "upstream_unavailable": 503,
    "upstream_error": 502,
    "upstream_timeout": 504,
    "invalid_task_id": 400,
    "invalid_header": 400,
    "task_id_in_use": 409,
    "queue_full": 429,
    "start_timeout": 504,
    "task_timeout": 504,
    "invalid_path": 400,
    "not_found": 404,
    "forbidden": 403,
    "unauthorized": 401,
    "origin_not_allowed": 403,
    "body_too_large": 413,
    "shutting_down": 503,
    "too_many_connections": 503,
    "cancelled": 499,
    "response_too_large": 500,
    "task_id_reused": 422,
    "keep_unavailable": 503,
    "invalid_parameter": 422,
    "response_not_kept": 404,
    "response_gone": 410,
    "generation_changed": 412,
    "offset_not_satisfiable": 416,
    "store_unavailable": 503,
}
UNPROMISED = {"gateway_error", "method_not_allowed"}


def family(kind: type[GatewayError]) -> list[type[GatewayError]]:
    """`kind` and all its subclasses."""
    return [kind, *(found for derived in kind.__subclasses__() for found in family(derived))]


KINDS = family(GatewayError)


def with_message(kind: type[GatewayError], message: str) -> GatewayError:
    """An error of this kind with another message, whatever arguments the kind takes."""
    return kind.__new__(kind, message)


def test_every_promised_code_has_its_status() -> None:
    """Each code of the contract exists with the contract's status, and no code has two statuses."""
    found = {(kind.code, kind.status) for kind in KINDS}
    assert len({code for code, _ in found}) == len(found)
    assert {(code, status) for code, status in found if code not in UNPROMISED} == set(PROMISED.items())


@pytest.mark.parametrize("kind", KINDS)
def test_the_body_is_openais_shape(kind: type[GatewayError]) -> None:
    """`error` with message, type, param and code, as compact UTF-8 JSON."""
    body = with_message(kind, "what went wrong").body()
    assert json.loads(body) == {
        "error": {"message": "what went wrong", "type": "gateway_error", "param": None, "code": kind.code}
    }
    assert b": " not in body


@given(st.text())
def test_any_message_makes_a_body(message: str) -> None:
    """Quotes, line breaks and non-ASCII in a message never break the JSON."""
    assert json.loads(GatewayError(message).body())["error"]["message"] == message


@pytest.mark.parametrize("kind", KINDS)
def test_what_passes_by_itself_says_when_to_come_back(kind: type[GatewayError]) -> None:
    """Every 503 carries Retry-After seconds, and no other kind does; a full queue has its own with each error."""
    assert (kind.retry_after_seconds is not None) == (kind.status == 503)
    assert kind.retry_after_seconds is None or kind.retry_after_seconds > 0
    assert errors.QueueFull(7).retry_after_seconds == 7


def test_upstream_failures_are_one_family() -> None:
    """Code that catches UpstreamFailure catches all of its kinds, and no error of a client."""
    kinds = {kind for kind in KINDS if kind.code.startswith("upstream_")}
    assert kinds == set(family(errors.UpstreamFailure))
    assert all(kind.status >= 500 for kind in kinds)


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_becomes_markup(kind: type[GatewayError]) -> None:
    """The page for a person shows status and message as text."""
    page = with_message(kind, "<script>alert('x')</script> & \"more\"").page().decode()
    assert f"<p>{kind.status}: &lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;more&quot;.</p>" in page
    assert "<script" not in page
