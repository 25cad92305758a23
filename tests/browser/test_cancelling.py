"""The question before a cancel: it goes after a success, and after a failure it stays and says what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.listed import Lists, made
from tests.browser.test_dashboard_page import PHONE
from tests.support.scripted import Gated
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, within

if TYPE_CHECKING:
    from playwright.async_api import Route

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

JOB = "job-of-many"


async def asked(page: Watched, *tasks: dict[str, Any]) -> None:
    """A list of these tasks; `Cancel` of the task `one` is pressed."""
    await Lists(*tasks).serve(page)
    await page.open("/", "503", "net::ERR_CONNECTION_REFUSED")
    await page.row("in-flight", "one").get_by_text("Cancel", exact=True).click()


async def test_after_a_cancel_the_question_is_gone(page: Watched) -> None:
    """The task may take a while to end: its row has the first button again, with the focus."""
    task = made("one", Stage.STREAMING)
    await page.page.route("**/tasks/one/cancel", lambda route: route.fulfill(status=202, json=task))
    await asked(page, task)
    row = page.row("in-flight", "one")
    await row.get_by_text("Really cancel").click()
    await page.shows("#news", "The task one was told to stop.")
    await expect(row.get_by_text("Really cancel")).to_be_hidden()
    await expect(row.get_by_text("Cancel", exact=True)).to_be_focused()


@pytest.mark.parametrize("options", [{}, PHONE])
async def test_a_failure_stands_where_the_question_was(
    beating: Gateway, new_page: NewPage, options: dict[str, Any]
) -> None:
    """It can be seen and heard, it moves nothing else, and the same button tries again. `Keep` takes it away."""
    page = await new_page(beating, **options)
    failures = ["refused", "away"]

    async def fail(route: Route) -> None:
        if failures.pop(0) == "away":
            await route.abort("connectionrefused")
        else:
            await route.fulfill(status=503, json={"detail": "the store is down"})

    await page.page.route("**/tasks/one/cancel", fail)
    await asked(page, made("one", Stage.STREAMING), made("two", Stage.STREAMING, age_seconds=90))
    row, next_row = page.row("in-flight", "one"), page.row("in-flight", "two")
    place = await next_row.bounding_box()
    for cause in ("the store is down", "the gateway does not answer"):
        await row.get_by_text("Really cancel").click()
        words = f"The task one was not cancelled: {cause}"
        await expect(row.get_by_text(words)).to_be_visible()
        await page.shows("#news", words)
        await expect(row.get_by_text("Really cancel")).to_be_focused()
    assert await next_row.bounding_box() == place
    await page.shoot(f"cancel-failed-{'phone' if options else 'wide'}")
    await row.get_by_text("Keep").click()
    await row.get_by_text("Cancel", exact=True).click()
    await expect(row.get_by_text("was not cancelled")).to_be_hidden()


async def test_the_last_task_of_a_label_leaves_the_focus_near(page: Watched) -> None:
    """When all tasks of the label have ended, their button is gone; the list's heading gets its focus."""
    lists = Lists(made("one", Stage.STREAMING, label=JOB))
    await lists.serve(page)
    await page.open(f"/#/?label={JOB}")
    await page["#cancel-label"].get_by_text("Cancel the 1 in flight").click()
    await expect(page["#cancel-label"].get_by_text("Really cancel")).to_be_focused()
    lists.tasks = [made("one", label=JOB)]
    await expect(page["#cancel-label"]).to_be_hidden()
    await expect(page["#h-recent"]).to_be_focused()


async def test_a_label_is_cancelled_at_all_gateways(
    launch: Launch, new_store: NewStore, new_page: NewPage, upstream: Upstream
) -> None:
    """One press at one gateway ends the tasks of the label there and at the other gateway of the store."""
    store = await new_store()
    one, other = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    upstream.then(Gated(), Gated())
    for number, gateway in enumerate((one, other)):
        fields = ((b"X-Task-Id", b"of-a-job-%d" % number), (b"X-Task-Label", JOB.encode()))
        await gateway.send("POST", CHAT, *fields, body=BODY)
        await gateway.at(f"of-a-job-{number}", "forwarding")
    exchanges = [await upstream.exchange(number) for number in range(2)]
    page = await new_page(one)
    await page.open(f"/#/?label={JOB}")
    await page["#cancel-label"].get_by_text("Cancel the 2 in flight with this label").click()
    await page["#cancel-label"].get_by_text("Really cancel").click()
    for exchange in exchanges:
        await within(GUARD_SECONDS, exchange.closed.wait(), "the connection to Ollama is closed")
    await page.shows("#news", "2 tasks were asked to stop.")
    for number in range(2):
        await expect(page.row("recent", f"of-a-job-{number}")).to_contain_text("cancelled")
