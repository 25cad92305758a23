"""Owns tasks that no gateway has, for the browser tests: the page gets the test's document when it asks."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from gateway.tasks.task import failed_stage
from tests.support.forged import document, lost_document

if TYPE_CHECKING:
    from playwright.async_api import Route

    from gateway.tasks.stages import Stage
    from gateway.tasks.task import Reason
    from tests.browser.watched import Watched

ID = "night-report-7"


def now_ms() -> int:
    """This machine's time, which is the gateway's, too."""
    return int(time.time() * 1000)


def task(stage: Stage, *, began_ms: int | None = None, seconds: tuple[float | None, ...] = (), **more: Any) -> Any:
    """A document of the task ID. `seconds`: when it was handed over, answered and ended, after its creation."""
    created_ms = now_ms() - 60_000 if began_ms is None else began_ms
    found = document(ID, stage, created_ms=created_ms) | {"timestamp": int(time.time())}
    names = ("started_ms", "first_byte_ms", "finished_ms")
    at = [None if second is None else created_ms + int(second * 1000) for second in seconds]
    found["extensions"] |= dict.fromkeys(names) | dict(zip(names, at, strict=False))
    found["extensions"] |= {"created_ms": created_ms, "attempt": 1} | more
    return found


def failed(reason: Reason, seconds: tuple[float | None, ...], **more: Any) -> Any:
    """A task that failed for a reason."""
    return task(failed_stage(reason), seconds=seconds, reason=str(reason), **more)


def lost(*, is_presumed: bool, **more: Any) -> Any:
    """A document of the task ID whose gateway is silent."""
    found = lost_document(ID, is_presumed=is_presumed, created_ms=now_ms() - 60_000)
    found["extensions"] |= {"started_ms": now_ms() - 59_000} | more
    return found


class Answers:
    """What the page hears when it asks for the task ID. A question that waits is answered with 304 after a while."""

    def __init__(self, found: Any) -> None:
        self.found = found

    async def __call__(self, route: Route) -> None:
        tag = f'"{self.found["event_id"]}"'
        asked = route.request
        if "wait=" in asked.url and (await asked.all_headers()).get("if-none-match") == tag:
            await route.fulfill(status=304, headers={"ETag": tag})
        else:
            await route.fulfill(status=200, body=json.dumps(self.found), headers={"ETag": tag})


async def show(page: Watched, found: Any, *expected: str) -> Answers:
    """Open the address of the task ID, which has this document."""
    answers = Answers(found)
    await page.page.route(f"**/tasks/status/{ID}*", answers)
    await page.open(f"/#/tasks/{ID}", *expected)
    await page.shows("#task-fields", f"{found['state']}, ")
    return answers
