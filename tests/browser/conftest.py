"""Owns the fixtures of the browser tests: one Chromium, its pages, and the gateways that they look at.

Chromium is the machine's own (Debian's `chromium`), named by CHROMIUM or found on the PATH: skipped at home without
one, a failure in CI. Each test has a page of its own, with nothing stored. If SCREENSHOTS names a
directory, pictures of the states go there; else none is taken, for a browser on a busy machine may fail to.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import async_playwright, expect

from tests.browser.watched import Watched
from tests.support.waiting import GUARD_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from playwright.async_api import Browser

    from tests.conftest import Launch
    from tests.support.gateway import Gateway

    NewPage = Callable[..., Awaitable[Watched]]

DESKTOP = {"width": 1280, "height": 900}
expect.set_options(timeout=GUARD_SECONDS * 1000)


@pytest.fixture(scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The browser; as root it runs without its sandbox, which root cannot have."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium; Debian has it as a package")
        pytest.skip("there is no chromium; Debian has it as a package")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def screenshots() -> Path | None:
    """Where the pictures go, if they are wanted."""
    named = os.environ.get("SCREENSHOTS")
    if not named:
        return None
    directory = Path(named)
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
async def new_page(chromium: Browser, screenshots: Path | None) -> AsyncIterator[NewPage]:
    """Makes pages that look at a gateway; each is checked at the end."""
    pages: list[Watched] = []

    async def make(gateway: Gateway, **options: Any) -> Watched:
        context = await chromium.new_context(
            **({"viewport": DESKTOP, "locale": "en-GB", "reduced_motion": "reduce"} | options)
        )
        context.set_default_timeout(GUARD_SECONDS * 1000)
        pages.append(Watched(await context.new_page(), gateway, screenshots))
        return pages[-1]

    yield make
    for page in pages:
        await page.page.context.close()
    for page in pages:
        page.check()


@pytest.fixture
async def beating(gateways: Launch) -> Gateway:
    """A gateway without a store, whose tasks renew their status often; tests share it."""
    return await gateways(HEARTBEAT_SEC="0.5")


@pytest.fixture
async def page(beating: Gateway, new_page: NewPage) -> Watched:
    """A page that looks at it, not loaded yet."""
    return await new_page(beating)
