"""Owns the promise that the test of docs/ci.md passes in front of the real model, and that its label finds its task."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import ADDRESS, output, page, the_block

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

PAGE = page("docs/ci.md")


async def test_the_pages_test_passes(live: Gateway, model: EmbeddedModel, tmp_path: Path) -> None:
    """pytest runs it as it stands, at the address of the variable; the label names the task of the test."""
    example = the_block(PAGE, "python", "from openai")
    assert model.name in example
    assert ADDRESS in example
    (tmp_path / "test_model.py").write_text(example)
    address = {"GATEWAY_URL": f"http://127.0.0.1:{live.port}"}
    written = await output(
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_model.py", cwd=tmp_path, settings=address
    )
    assert "1 passed" in written
    found = await live.ask("GET", "/tasks/status?label=test_the_model_answers")
    (task,) = found.json()["items"]
    assert task["state"] == "SUCCESS"


async def test_the_report_names_the_test_of_a_failed_task(tmp_path: Path) -> None:
    """The page's command prints one line for each task that is no success."""
    ended = {"label": None, "reason": None}
    failed = {"label": "test_x", "reason": "upstream_status", "error_text": "no such model"}
    (tmp_path / "gateway-report").mkdir()
    items = [
        {"state": "SUCCESS", "stage": "done", "extensions": ended},
        {"state": "FAILED", "stage": "error", "extensions": failed},
    ]
    (tmp_path / "gateway-report" / "tasks.json").write_text(json.dumps({"items": items}))
    written = await output("bash", "-ec", the_block(PAGE, "sh", "tasks.json"), cwd=tmp_path)
    assert written == "test_x FAILED error upstream_status no such model\n"
