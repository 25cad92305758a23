"""One task has an address and a view of its own: how users come to it and back, and what it says if it shows none."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.task_pages import ID, Answers, show, task
from tests.browser.test_dashboard_page import PHONE
from tests.support.scripted import answering
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.async_api import Route

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

CHAT = "/v1/chat/completions"
UNKNOWN = "There is no such task, or its status has expired."
FOCUSED = "document.activeElement.id"


async def run(gateway: Gateway, task_id: str) -> None:
    """A request from its start to its end."""
    await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")


async def test_an_address_shows_its_task(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """A task's address, and its reload, show it: the title names state and id, the heading has the focus."""
    await run(beating, fresh_id)
    await page.open(f"/#/tasks/{fresh_id}")
    for _ in range(2):
        await expect(page["#h-task"]).to_have_text(f"SUCCESS {fresh_id}")
        await expect(page["#view-dashboard"]).to_be_hidden()
        await expect(page.page).to_have_title(f"SUCCESS · {fresh_id} · Ollama Gateway")
        assert await page.evaluate(FOCUSED) == "h-task"
        await page.page.reload()


async def test_lists_models_and_nodes_are_not_asked(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """While a task is open, the page asks for it and for the gateway's condition; opening only reads."""
    await run(beating, fresh_id)
    await page.open(f"/#/tasks/{fresh_id}")
    await page.shows("#task-fields", "SUCCESS")
    await until(lambda: len(page.asked("/readyz")) >= 3, what="the condition is asked for")
    asked = {urlsplit(request.url).path for request in page.requests if not request.url.startswith("data:")}
    data = {path for path in asked if not path.startswith("/dashboard/")} - {"/"}
    assert data == {"/readyz", f"/tasks/status/{fresh_id}"}
    assert {request.method for request in page.requests} == {"GET"}


async def test_a_name_in_a_list_is_a_link(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """Its address is that of the task, so a browser can open it in another tab; Back, Forward and Escape work."""
    await run(beating, fresh_id)
    await page.open()
    link = page.row("recent", fresh_id).get_by_role("link", name=fresh_id, exact=True)
    assert await link.get_attribute("href") == f"#/tasks/{fresh_id}"
    await link.click()
    await page.shows("#task-fields", "SUCCESS")
    await page.page.go_back()
    await expect(page["#view-task"]).to_be_hidden()
    assert await page.focused() == fresh_id
    await expect(page.page).to_have_title("Ollama Gateway")
    await page.page.go_forward()
    await page.shows("#task-fields", "SUCCESS")
    await page.page.keyboard.press("Escape")
    await expect(link).to_be_focused()


async def test_a_long_id_shows_its_end(beating: Gateway, new_page: NewPage, fresh_id: str) -> None:
    """On a phone a long id loses its middle, not its end; the link's name is the whole id."""
    page = await new_page(beating, **PHONE)
    task_id = f"{fresh_id}-{'x' * 60}-part-017"
    await run(beating, task_id)
    await page.open()
    parts = page.row("recent", task_id).locator("a.id span")
    await expect(parts).to_have_count(2)
    start, end = await parts.all()
    assert await end.inner_text() == "part-017"
    assert await end.evaluate("(e) => e.getBoundingClientRect().right <= e.closest('td').getBoundingClientRect().right")
    assert await start.evaluate("(e) => e.scrollWidth > e.clientWidth")


async def test_the_way_back_keeps_the_filters(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """`Back to the tasks` leads to the list that was shown before."""
    upstream.then(answering(500))
    await run(beating, fresh_id)
    await page.open("/#/?state=FAILED")
    await page.row("recent", fresh_id).locator("a.id").click()
    await page.shows("#task-fields", "FAILED")
    await page["#task-back"].click()
    await expect(page["#state"]).to_have_value("FAILED")
    assert await page.evaluate("location.hash") == "#/?state=FAILED"


async def test_without_a_row_the_lists_heading_gets_the_focus(page: Watched, beating: Gateway, fresh_id: str) -> None:
    """A user who came by an address returns to a list that has not come yet."""
    await run(beating, fresh_id)
    await page.open(f"/#/tasks/{fresh_id}")
    await page.shows("#task-fields", "SUCCESS")
    await page.page.keyboard.press("Escape")
    await expect(page.row("recent", fresh_id)).to_be_visible()
    assert await page.evaluate(FOCUSED) == "h-recent"


@pytest.mark.parametrize("path", ["unknown", "%2e%2e%2fx", "a%20b", "%00", "%", "x" * 200, "<img src=x>"])
async def test_an_id_without_a_task_is_told(page: Watched, path: str) -> None:
    """An unknown id is told to be unknown, a malformed one in the gateway's own words. Neither is asked for again."""
    await page.open(f"/#/tasks/{path}", "404", "400")
    words = UNKNOWN if path == "unknown" else re.compile("not a task id|must not contain")
    await expect(page["#task-problem"]).to_have_text(words)
    await expect(page["#task-found"]).to_be_hidden()
    await expect(page["#task-actions"]).to_be_hidden()
    await until(lambda: len(page.asked("/readyz")) >= 2, what="the condition is asked for")
    assert len(page.asked("/tasks/status/")) == 1
    await page.shoot("task-unknown")


@pytest.mark.parametrize("path", [".", "..", "%2e", "%2E%2e"])
async def test_an_id_of_dots_is_told(page: Watched, path: str) -> None:
    """A browser would take it out of the path of a request, so the page asks for nothing, and says that it is no id."""
    await page.open(f"/#/tasks/{path}")
    await page.shows("#task-problem", "not a task id: .")
    await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    await until(lambda: len(page.asked("/readyz")) >= 2, what="the condition is asked for")
    assert page.asked("/tasks/") == []
    await page.go("unknown")
    page.expected.add("404")
    await expect(page["#task-problem"]).to_have_text(UNKNOWN)


async def test_an_address_that_fails_is_asked_for_again(page: Watched) -> None:
    """The view shows the error, says that it tries again, and then shows the task."""
    fates: asyncio.Queue[str] = asyncio.Queue()  # a question waits for its fate, so what the page says stays till then

    async def failing(route: Route) -> None:
        fate = await fates.get()
        if fate == "away":
            await route.abort("connectionrefused")
        elif fate == "refused":
            await route.fulfill(status=503, body=json.dumps({"detail": "the store is down"}))
        else:
            await Answers(task(Stage.DONE, seconds=(1, 2, 3)))(route)

    await page.page.route(f"**/tasks/status/{ID}", failing)
    await page.open(f"/#/tasks/{ID}", "503", "net::ERR_CONNECTION_REFUSED")
    fates.put_nowait("away")
    await page.shows("#task-problem", "The gateway does not answer. This page tries again.")
    fates.put_nowait("refused")
    await page.shows("#task-problem", "the store is down. This page tries again.")
    await page.shoot("task-away")
    fates.put_nowait("found")
    await page.shows("#task-fields", "SUCCESS, done")
    await expect(page["#task-problem"]).to_have_text("")


async def test_with_keys_the_address_asks_for_one(launch: Launch, new_page: NewPage) -> None:
    """The page asks for the key and then shows the task; another's task is as unknown as none."""
    gateway = await launch(GATEWAY_API_KEYS="alice:key-of-alice,bob:key-of-bob")
    await gateway.http.post(CHAT, headers={"X-Task-Id": ID, "x-api-key": "key-of-alice"}, json={})
    for key, selector, words in (("alice", "#task-fields", "SUCCESS"), ("bob", "#task-problem", UNKNOWN)):
        page = await new_page(gateway)
        await page.open(f"/#/tasks/{ID}", "401", "404")
        await expect(page["#view-task"]).to_be_hidden()
        await page["#key"].fill(f"key-of-{key}")
        await page["#key"].press("Enter")
        await page.shows(selector, words)
        assert page.asked("/tasks/status?") == []


async def test_the_keyboard_reaches_all_of_it(page: Watched) -> None:
    """Tab goes through the view in its order, and names each part."""
    await show(page, task(Stage.STREAMING, seconds=(1, 2), trace_id="4bf92f3577b34da6a3ce929d0e0e4736"))
    passed = await page.tab_to("The document")
    names = ["Copy id", "Copy address", f"Cancel the task {ID}", "Copy: Trace", "The document"]
    assert [name for name in passed if name in names] == names
