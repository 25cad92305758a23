"""Owns the promise that /openapi.json tells the truth: whatever is asked of a route, the answer is one it describes.

schemathesis makes the requests, good ones and bad ones, the same ones in every run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks

if TYPE_CHECKING:
    from tests.support.gateway import Gateway

pytestmark = pytest.mark.timeout(300)

Seen = Counter[tuple[str, int]]
DESCRIBED = [checks.status_code_conformance, checks.content_type_conformance, checks.response_schema_conformance]
EXAMPLES = settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def ask_everything(gateway: Gateway, known_ids: list[str]) -> Seen:
    """Asks each operation of /openapi.json for good and for bad things; how often which status came of it.

    Runs beside the event loop, which serves the upstream meanwhile.
    """
    seen: Seen = Counter()
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{gateway.port}/openapi.json")
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        ask(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), known_ids, seen)
        if operation.query:  # in a path alone anything is a text, so that nothing bad can be said there
            ask(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), known_ids, seen)
    return seen


def ask(cases: st.SearchStrategy[Any], known_ids: list[str], seen: Seen) -> None:
    """Makes requests of one operation, now and then for a task that there is, and checks each answer."""
    with requests.Session() as session:
        session.trust_env = False

        @EXAMPLES
        @seed(1)
        @given(cases, st.sampled_from([None, None, *known_ids]))
        def check(case: Any, known_id: str | None) -> None:
            if known_id and "task_id" in (case.path_parameters or {}):
                case.path_parameters["task_id"] = known_id
            answer = case.call(session=session)
            seen[case.operation.label, answer.status_code] += 1
            case.validate_response(answer, checks=DESCRIBED)

        check()


async def test_every_answer_is_a_described_one(tracked: Gateway, fresh_id: str) -> None:
    """No 5xx, no status, content type or body that the description does not name, for good and for bad requests."""
    known_ids = [f"{fresh_id}-{number}" for number in range(3)]
    for known_id in known_ids:
        answer = await tracked.ask("POST", "/v1/chat/completions", (b"X-Task-Id", known_id.encode()), body=b"{}")
        assert answer.status == 200
    seen = await asyncio.to_thread(ask_everything, tracked, known_ids)
    for route, statuses in {"/tasks/status/{task_id}": (200, 400, 404, 422), "/tasks/status": (200, 422)}.items():
        assert {status for label, status in seen if label == f"GET {route}"} >= {*statuses}
    assert min(seen["GET /livez", 200], seen["GET /readyz", 200]) > 0
