"""How the view of one task looks: each state, wide and on a phone, in the light and the dark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason, failed_stage
from tests.browser.task_pages import lost, show, task
from tests.browser.test_dashboard_page import CONTRAST, PHONE

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.support.gateway import Gateway

ERROR = "model 'qwen3:0.6b' not found, try pulling it first"
SCENES = {
    "waiting": lambda: task(Stage.QUEUED, queue_position=2, queue_length=5, label="nightly"),
    "forwarding": lambda: task(Stage.FORWARDING, seconds=(20.5,)),
    "streaming": lambda: task(Stage.STREAMING, seconds=(4.2, 6.1), status_code=200, stream=True, response_bytes=41_000),
    "done": lambda: task(Stage.DONE, seconds=(4.2, 6.1, 18.1), status_code=200, stream=True, response_bytes=41_000),
    "second": lambda: task(
        Stage.DONE, seconds=(0, 0.002, 30), status_code=200, attempt=2, trace_id="4bf92f3577b34da6a3ce929d0e0e4736"
    ),
    "presumed": lambda: lost(is_presumed=True),
    "lost": lambda: lost(is_presumed=False),
    "status": lambda: failed(Reason.UPSTREAM_STATUS, (1, 1.2, 1.3), status_code=404, error_text=ERROR),
    "status-bare": lambda: failed(Reason.UPSTREAM_STATUS, (1, 1.2, 1.3), status_code=500, error_text=None),
    "timeout": lambda: failed(Reason.TIMEOUT, (0.01, None, 50)),
    "queue-full": lambda: failed(Reason.QUEUE_FULL, (None, None, 12)),
    "truncated": lambda: failed(Reason.UPSTREAM_TRUNCATED, (0.5, 8, 9), status_code=200, stream=True),
}


def failed(reason: Reason, seconds: tuple[float | None, ...], **more: Any) -> Any:
    """A task that failed for a reason."""
    return task(failed_stage(reason), seconds=seconds, reason=str(reason), **more)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["wide", "phone"])
@pytest.mark.parametrize("scene", SCENES)
async def test_it_looks_well(beating: Gateway, new_page: NewPage, scene: str, device: str, scheme: str) -> None:
    """Nothing scrolls sideways, and every text stands out from its ground."""
    page = await new_page(beating, color_scheme=scheme, **(PHONE if device == "phone" else {}))
    await show(page, SCENES[scene]())
    await page.shoot(f"task-{scene}-{device}-{scheme}")
    for selector in ("#task-badge", "#task-fields dt", "#stages li"):
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector
