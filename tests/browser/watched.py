"""Owns a browser's page as the tests use it: the gateway's, with an eye on all that it asks for and complains about.

`check` is called at the end of every test: nothing was asked of anybody else, the content policy was never broken, and
the console holds no error that the test did not expect. The fixtures in tests/browser/conftest.py build it.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.async_api import expect

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import ConsoleMessage, Locator, Page, Request

    from tests.support.gateway import Gateway

# What the page tells the console of what it should never have tried.
WATCH = """
addEventListener("securitypolicyviolation", (event) => console.error(`policy: ${event.violatedDirective}`));
addEventListener("unhandledrejection", (event) => console.error(`unhandled: ${event.reason}`));
"""
# The page's own waits, four times as short: what they are is tested with the clock that Playwright turns.
HURRY = "const wait = window.setTimeout; window.setTimeout = (act, ms, ...more) => wait(act, ms / 4, ...more);"
# A browser logs every answer of 4xx and 5xx, and every connection that failed, as an error.
FAILED_ANSWER = re.compile(r"Failed to load resource: (?:the server responded with a status of (\d+)|(net::\w+))")


def _may_not_see(message: ConsoleMessage) -> bool:
    """Whether the gateways were asked for, which keys other than admin's may not see, and earlier ones do not tell."""
    return urlsplit(message.location["url"]).path == "/nodes" and re.search(r"\b40[34]\b", message.text) is not None


class Watched:
    """One page of the gateway's dashboard."""

    def __init__(self, page: Page, gateway: Gateway, screenshots: Path | None) -> None:
        self.page = page
        self.origin = f"http://127.0.0.1:{gateway.port}"
        self.screenshots = screenshots
        self.requests: list[Request] = []
        self.complaints: list[str] = []
        self.expected: set[str] = set()  # statuses and network errors
        self.provoked: list[str] = []  # beginnings of what else the test makes the console say
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))

    def _hear(self, message: ConsoleMessage) -> None:
        failed = FAILED_ANSWER.match(message.text)
        is_expected = failed is not None and ((failed[1] or failed[2]) in self.expected or _may_not_see(message))
        if (
            message.type in ("error", "warning")
            and not is_expected
            and not message.text.startswith(tuple(self.provoked))
        ):
            self.complaints.append(message.text)

    async def stop_clock(self) -> None:
        """Before it is loaded: the page's time stands still and goes on by `clock.run_for` alone."""
        now = time.time()
        await self.page.clock.install(time=now)
        await self.page.clock.pause_at(now + 60)  # it must lie ahead

    async def open(self, path: str = "/", *expected: str, turns_clock: bool = False) -> None:
        """Load a page; `expected` are the statuses and network errors that the test provokes."""
        self.expected.update(expected)
        await self.page.add_init_script(WATCH if turns_clock else WATCH + HURRY)
        await self.page.goto(self.origin + path)

    def __getitem__(self, selector: str) -> Locator:
        return self.page.locator(selector)

    async def go(self, task_id: str) -> None:
        """Go to the address of a task, as a link does."""
        await self.page.evaluate("(id) => { location.hash = `#/tasks/${encodeURIComponent(id)}`; }", task_id)

    def row(self, table: str, task_id: str) -> Locator:
        """The row of a task in `in-flight` or `recent`."""
        return self.page.locator(f"#{table} tbody tr", has=self.page.get_by_role("link", name=task_id, exact=True))

    async def shows(self, selector: str, text: str | re.Pattern[str]) -> None:
        """Wait until the element holds this text."""
        await expect(self.page.locator(selector)).to_contain_text(text)

    async def counts(self, selector: str, number: int) -> None:
        """Wait until there are so many elements."""
        await expect(self.page.locator(selector)).to_have_count(number)

    async def focused(self) -> str:
        """The name of what has the keyboard: its label, text or id."""
        script = "(e => e.ariaLabel || e.textContent.trim().slice(0, 200) || e.id)(document.activeElement)"
        name: str = await self.page.evaluate(script)
        return name

    async def tab_to(self, name: str, most: int = 40) -> list[str]:
        """Press Tab until `name` has the keyboard; all that had it on the way."""
        passed: list[str] = []
        for _ in range(most):
            await self.page.keyboard.press("Tab")
            passed.append(await self.focused())
            if passed[-1] == name:
                return passed
        raise AssertionError(f"{name!r} is not reached by Tab: {passed}")

    def asked(self, path: str) -> list[Request]:
        """The requests for paths that begin so."""
        return [request for request in self.requests if urlsplit(request.url).path.startswith(path)]

    async def shoot(self, name: str, *, is_whole: bool = True) -> None:
        """Keep a picture where pictures are wanted; nothing on it is wider than the screen."""
        if self.screenshots is not None:
            await self.page.screenshot(path=self.screenshots / f"{name}.png", full_page=is_whole)
        widths = await self.page.evaluate(
            "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert widths[0] <= widths[1], f"{name} scrolls sideways: {widths}"

    async def evaluate(self, script: str, argument: Any = None) -> Any:
        """What a script of the test finds in the page."""
        return await self.page.evaluate(script, argument)

    def check(self) -> None:
        """Nothing was asked of anybody else, and nothing went wrong."""
        elsewhere = [r.url for r in self.requests if not r.url.startswith((self.origin + "/", "data:"))]
        assert elsewhere == [], elsewhere
        assert self.complaints == [], self.complaints
