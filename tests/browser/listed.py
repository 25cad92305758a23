"""Lists with made-up tasks for the dashboard: a page asks for them as at a gateway, and a test says what there is."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from gateway.tasks.stages import Stage
from tests.support.forged import document

if TYPE_CHECKING:
    from playwright.async_api import Route

    from tests.browser.watched import Watched


def made(task_id: str, stage: Stage = Stage.DONE, *, age_seconds: float = 60, **extensions: Any) -> dict[str, Any]:
    """A status document of a task that began so long ago; it took 5 s, of which it waited one."""
    created_ms = int((time.time() - age_seconds) * 1000)
    found = document(task_id, stage, created_ms=created_ms)
    has_ended = stage not in (Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING)
    found["timestamp"] = int(created_ms / 1000)
    found["extensions"] |= {
        "method": "POST",
        "path": "/v1/chat/completions",
        "started_ms": None if stage is Stage.QUEUED else created_ms + 1000,
        "first_byte_ms": None if stage in (Stage.QUEUED, Stage.FORWARDING) else created_ms + 3000,
        "finished_ms": created_ms + 5000 if has_ended else None,
        "response_bytes": 2048,
    } | extensions
    return found


class Lists:
    """The tasks of a made-up store. `is_away` makes the lists 503, except for what the gateway knows itself (`own`)."""

    def __init__(self, *tasks: dict[str, Any]) -> None:
        self.tasks = list(tasks)
        self.own: list[dict[str, Any]] = []
        self.is_away = False
        self.why_away = "the status store is away"
        self.gate = asyncio.Event()  # no list is answered while it is not set
        self.gate.set()
        self.queries: list[dict[str, str]] = []

    async def serve(self, page: Watched) -> None:
        """Answers the lists of this page from now on."""
        await page.page.route("**/tasks/status?*", self._answer)

    async def _answer(self, route: Route) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(route.request.url).query).items()}
        self.queries.append(query)
        await self.gate.wait()
        is_own = query.get("scope") == "instance"
        if self.is_away and not is_own:
            await route.fulfill(status=503, json={"detail": self.why_away}, headers={"Retry-After": "2"})
            return
        await route.fulfill(json=self._page(query, self.own if is_own else self.tasks))

    def _page(self, query: dict[str, str], tasks: list[dict[str, Any]]) -> dict[str, Any]:
        found = sorted(tasks, key=lambda task: (task["extensions"]["created_ms"], task["task_id"]), reverse=True)
        found = [task for task in found if query.get("state") in (None, task["state"])]
        found = [task for task in found if query.get("label") in (None, task["extensions"].get("label"))]
        start = int(query.get("cursor", 0))
        end = start + int(query.get("limit", 50))
        cursor = str(end) if end < len(found) else None
        return {"items": found[start:end], "count": len(found[start:end]), "next_cursor": cursor}
