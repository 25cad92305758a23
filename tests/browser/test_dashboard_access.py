"""The dashboard where API keys are on: its shell is open and empty, its data needs a key, which stays in the tab."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


ALICE, BOB, ADMIN = "key-of-alice", "key-of-bob", "key-of-admin"
CHAT = "/v1/chat/completions"


@pytest.fixture
async def locked(launch: Launch) -> Gateway:
    """A gateway with three keys, and a task of Alice's and one of Bob's."""
    gateway = await launch(GATEWAY_API_KEYS=f"alice:{ALICE},bob:{BOB},admin:{ADMIN}")
    for name, key in (("alice", ALICE), ("bob", BOB)):
        await gateway.http.post(CHAT, headers={"X-Task-Id": f"task-of-{name}", "x-api-key": key}, json={})
    return gateway


@pytest.fixture
async def page(locked: Gateway, new_page: NewPage) -> Watched:
    """A page that looks at it."""
    return await new_page(locked)


async def enter(page: Watched, key: str) -> None:
    """Type a key and press Enter."""
    await page["#key"].fill(key)
    await page["#key"].press("Enter")


async def test_the_page_asks_for_a_key(page: Watched) -> None:
    """Without a key there is a form and no data; a wrong one is told to be wrong; the right one shows its tasks."""
    await page.open("/", "401")
    await expect(page["#key-form"]).to_be_visible()
    await expect(page["#view-dashboard"]).to_be_hidden()
    assert await page.evaluate("document.activeElement.id") == "key"
    await page.shoot("key")

    await enter(page, "not-a-key-of-anybody")
    await page.shows("#key-problem", "does not accept this key")
    await enter(page, "ключ")
    await page.shows("#key-problem", "printable ASCII")
    await enter(page, ALICE)
    await expect(page.row("recent", "task-of-alice")).to_be_visible()
    await expect(page["#key-form"]).to_be_hidden()
    await page.counts("#recent tbody tr", 1)


async def test_an_admins_key_shows_all_tasks(page: Watched) -> None:
    """The key named admin sees the tasks of all keys, and whose they are."""
    await page.open("/", "401")
    await enter(page, ADMIN)
    await page.counts("#recent tbody tr", 2)
    await page.row("recent", "task-of-bob").locator("a.id").click()
    await page.shows("#task-fields", re.compile(r"Owner\s*bob"))


async def test_the_key_stays_in_the_tab(page: Watched, upstream: Upstream) -> None:
    """It is in sessionStorage alone, goes out in one header field to this gateway, and is gone when forgotten."""
    await page.open("/", "401")
    await enter(page, ALICE)
    await expect(page.row("recent", "task-of-alice")).to_be_visible()
    assert ALICE in await page.evaluate("JSON.stringify(sessionStorage)")
    assert await page.evaluate("localStorage.length") == 0
    assert await page.page.context.cookies() == []
    assert ALICE not in await page.page.content()
    assert not [request.url for request in page.requests if ALICE in request.url]
    carriers = {name for r in page.requests for name, value in (await r.all_headers()).items() if ALICE in value}
    assert carriers == {"authorization"}

    await page.page.reload()
    await expect(page.row("recent", "task-of-alice")).to_be_visible()
    await page["#forget-key"].click()
    await expect(page["#key-form"]).to_be_visible()
    assert ALICE not in await page.evaluate("JSON.stringify(sessionStorage)")
    await page.counts("#recent tbody tr", 0)


async def test_the_shell_is_open_and_holds_no_data(locked: Gateway) -> None:
    """The page and its parts come without a key and are the same for everybody; all else is 401, /docs too."""
    page = await locked.http.get("/")
    assert page.status_code == 200
    parts = re.findall(r'(?:src|href)="(/dashboard/[^"]+)"', page.text)
    assert len(parts) == 2
    for path in ("/", *parts, "/dashboard/api.js"):
        anybody, alice = await locked.http.get(path), await locked.http.get(path, headers={"x-api-key": ALICE})
        assert (anybody.status_code, anybody.content) == (200, alice.content)
        assert b"task-of" not in anybody.content
    for path in (
        "/docs",
        "/openapi.json",
        "/tasks/status",
        "/models/loaded",
        "/dashboard/",
        "/dashboard/x",
        "/index.html",
    ):
        assert (await locked.http.get(path)).status_code == 401, path


async def test_the_api_page_needs_the_key_too(page: Watched) -> None:
    """The description of the routes is asked for with the key, and shown in the same page."""
    await page.open("/#api", "401")
    await expect(page["#key-form"]).to_be_visible()
    await enter(page, BOB)
    await page.shows("#view-api", "/tasks/status/{task_id}")
    await page["#to-dashboard"].click()
    await expect(page.row("recent", "task-of-bob")).to_be_visible()


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_key_that_is_taken_away_ends_the_view(
    launch: Launch, upstream: Upstream, new_page: NewPage, tmp_path: Path, is_running: bool
) -> None:
    """A key that stops working while the page is open leads back to the form; the next one sees nothing of it.

    The page asks no more for a task that has ended: there it is noticed when the user goes back to the list.
    """
    keys = tmp_path / "keys"
    keys.write_text(f"alice:{ALICE}\n")
    gateway = await launch(GATEWAY_API_KEYS_FILE=str(keys))
    fields = (b"X-Task-Id", b"task-of-alice"), (b"x-api-key", ALICE.encode())
    if is_running:
        gated = upstream.gated()
        await gateway.send("POST", CHAT, *fields, body=b"{}")
        gated.head()
    else:
        await gateway.ask("POST", CHAT, *fields, body=b"{}")
    page = await new_page(gateway)
    await page.open("/", "401", "404")
    await enter(page, ALICE)
    await page.row("recent", "task-of-alice").locator("a.id").click()
    await page.shows("#task-fields", "RUNNING, streaming" if is_running else "SUCCESS, done")
    keys.write_text(f"bob:{BOB}\n")
    if not is_running:
        await page.page.keyboard.press("Escape")
    await expect(page["#key-form"]).to_be_visible()
    await page.shows("#key-problem", "does not accept this key")
    await expect(page["#view-dashboard"]).to_be_hidden()
    await expect(page["#view-task"]).to_be_hidden()
    await expect(page.page).to_have_title("Ollama Gateway")
    await enter(page, BOB)
    if is_running:
        await page.shows("#task-problem", "There is no such task")  # the address still names it
        await page["#task-back"].click()
    await page.shows("#recent-note", "No task yet")
    assert "task-of-alice" not in await page.page.content()
    await page.shows("#plot-states-text", "none")
