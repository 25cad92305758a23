"""Owns the promise that the pages tell the truth about routes, states, reasons and error codes."""

from __future__ import annotations

import json
import re
from typing import Any

from gateway import errors
from gateway.app import create_app
from gateway.settings import load
from gateway.tasks.document import complete_document, document_head
from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason, Task, failed_stage
from tests.support.process import ROOT

API = (ROOT / "docs" / "api.md").read_text()
BEHAVIOUR = (ROOT / "docs" / "behaviour.md").read_text()


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of each row of the table with this heading, backticks taken off."""
    _, found, rest = page.partition(heading + "\n")
    assert found, heading
    rows = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows]


def openapi() -> dict[str, Any]:
    """What /openapi.json answers."""
    return create_app(load({})).routes.build().openapi()


async def test_the_pages_routes_are_the_gateways() -> None:
    """docs/api.md has the routes of /openapi.json, that one itself, the page and the relay, and no other."""
    routes = {row[0] for row in table(API, "| Route | Does |")}
    paths = openapi()["paths"]
    described = {
        f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "parameters"
    }
    assert routes == described | {"GET /openapi.json", "GET /", "any method, `/v1/…"}


async def test_the_pages_list_parameters_are_the_gateways() -> None:
    """docs/api.md names each parameter of the list, and the real limits."""
    (does,) = [row[1] for row in table(API, "| Route | Does |") if row[0] == "GET /tasks/status"]
    known = openapi()["paths"]["/tasks/status"]["get"]["parameters"]
    parameters = {p["name"]: p["schema"] for p in known if p["in"] == "query"}
    assert set(re.findall(r"`(\w+)`", does)) - {"next_cursor", "skipped"} == set(parameters)
    limit = parameters["limit"]
    assert f"({limit['minimum']} to {limit['maximum']}, default {limit['default']})" in does


def test_the_pages_stages_are_the_gateways() -> None:
    """docs/api.md has every stage once, with its state."""
    rows = [(state, stage) for state, stage, _ in table(API, "| State | Stage | Means |")]
    assert rows == [(stage.state, stage) for stage in Stage]


def test_the_pages_reasons_are_the_gateways() -> None:
    """docs/api.md has every reason once, with the stage that it ends in."""
    rows = [(reason, stage) for reason, stage, _ in table(API, "| Reason | Stage | The task failed because |")]
    assert sorted(rows) == sorted((reason, failed_stage(reason)) for reason in Reason)


def test_reserved_reasons_are_used_nowhere() -> None:
    """What docs/api.md calls reserved is set by no code, and all else is."""
    rows = table(API, "| Reason | Stage | The task failed because |")
    reserved = {reason for reason, _, meaning in rows if meaning.startswith("reserved")}
    files = [path for path in (ROOT / "gateway").rglob("*.py") if path.name != "task.py"]
    code = "".join(path.read_text() for path in files)
    code += (ROOT / "gateway" / "tasks" / "task.py").read_text().partition("def lost_document")[2]
    assert {reason for reason in Reason if f"Reason.{reason.name}" not in code} == reserved


def test_the_pages_document_has_the_gateways_fields() -> None:
    """The sample in docs/api.md has the fields of a document, in their order, and values of their types."""
    sample = json.loads(re.findall(r"```json\n(.*?)```", API, re.DOTALL)[0])
    task = Task("sky-2", "POST", "/v1/chat/completions", "", created_ms=1)
    task.forward(2)
    task.answer(200, True, 3)
    task.finish(None, "complete", 4)
    head = document_head(task, algorithm_id="ollama-openai", instance="x", boot="y", now=1.5)
    real = json.loads(complete_document(head, 1))
    assert shape(sample) == shape(real)
    same = ("version", "event_type", "algorithm_id", "task_id", "state", "stage", "message")
    assert [sample[name] for name in same] == [real[name] for name in same]


def shape(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Names in their order, with the types of their values."""
    return [(name, shape(value) if isinstance(value, dict) else type(value)) for name, value in document.items()]


def test_the_error_codes_are_the_gateways() -> None:
    """behaviour.md has every code of ours once, with its HTTP status."""
    kinds = [errors.GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    rows = [(code, int(status)) for code, status, _ in table(BEHAVIOUR, "| Code | Status | When |")]
    assert sorted(rows) == sorted({(kind.code, kind.status) for kind in kinds})
