"""How the view of one task looks in each state: wide and on a phone, light and dark, zoomed, in forced colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason
from tests.browser.task_pages import failed, lost, show, task
from tests.browser.test_dashboard_page import CONTRAST, PHONE

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.support.gateway import Gateway

ERROR = "model 'qwen3:0.6b' not found, try pulling it first"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
STREAM: dict[str, Any] = {"status_code": 200, "stream": True, "response_bytes": 41_165}
LONG: dict[str, Any] = {"path": "/v1/" + "long" * 100, "label": "x" * 128, "owner": "o" * 64, "instance": "i" * 200}
SCENES = {
    "waiting": lambda: task(Stage.QUEUED, queue_position=2, queue_length=5, label="nightly"),
    "forwarding": lambda: task(Stage.FORWARDING, seconds=(20.5,)),
    "streaming": lambda: task(Stage.STREAMING, seconds=(4.2, 6.1), **STREAM),
    "done": lambda: task(Stage.DONE, seconds=(4.2, 6.1, 18.1), **STREAM, response="kept"),
    "second": lambda: task(Stage.DONE, seconds=(0, 0.002, 30), attempt=2, trace_id=TRACE, **LONG),
    "presumed": lambda: lost(is_presumed=True),
    "lost": lambda: lost(is_presumed=False),
    "status": lambda: failed(Reason.UPSTREAM_STATUS, (1, 1.2, 1.3), status_code=404, error_text=ERROR),
    "status-bare": lambda: failed(Reason.UPSTREAM_STATUS, (1, 1.2, 1.3), status_code=500, error_text=None),
    "timeout": lambda: failed(Reason.TIMEOUT, (0.01, None, 50)),
    "queue-full": lambda: failed(Reason.QUEUE_FULL, (None, None, 12)),
    "truncated": lambda: failed(Reason.UPSTREAM_TRUNCATED, (0.5, 8, 9), **STREAM),
}
DEVICES: dict[str, dict[str, Any]] = {
    "wide-light": {},
    "wide-dark": {"color_scheme": "dark"},
    "phone-light": PHONE,
    "phone-dark": PHONE | {"color_scheme": "dark"},
}
TEXTS = ("#h-task", "#task-badge", "#task-fields dt", "#stages li", ".moment", "#task-back")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scene", SCENES)
async def test_it_looks_well(beating: Gateway, new_page: NewPage, scene: str, device: str) -> None:
    """Nothing scrolls sideways, and every text stands out from its ground."""
    page = await new_page(beating, **DEVICES[device])
    await show(page, SCENES[scene]())
    await page.shoot(f"task-{scene}-{device}")
    for selector in TEXTS:
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector


@pytest.mark.parametrize("scene", ["streaming", "second", "status"])
@pytest.mark.parametrize("how", ["zoomed", "forced"])
async def test_zoomed_and_in_forced_colours(beating: Gateway, new_page: NewPage, scene: str, how: str) -> None:
    """At 200 % (half as many pixels) nothing scrolls sideways; with the user's own colours the bar is still seen."""
    options: dict[str, Any] = {"viewport": {"width": 640, "height": 450}, "device_scale_factor": 2}
    page = await new_page(beating, **(options if how == "zoomed" else {"forced_colors": "active"}))
    await show(page, SCENES[scene]())
    await page.shoot(f"task-{scene}-{how}")
    fills = await page.evaluate("[...document.querySelectorAll('.part')].map((part) => getComputedStyle(part).fill)")
    assert len(set(fills)) == 3


async def test_a_phones_buttons_are_large_enough(beating: Gateway, new_page: NewPage) -> None:
    """44 pixels high: a finger hits them."""
    page = await new_page(beating, **PHONE)
    await show(page, task(Stage.STREAMING, seconds=(1, 2)))
    script = "[...document.querySelectorAll('#task-actions button')].map((b) => b.offsetHeight).filter(Boolean)"
    heights = await page.evaluate(script)
    assert len(heights) == 3
    assert min(heights) >= 44
