"""A presumed loss on the dashboard: told apart from a certain one, waited for, and ended by the word of its gateway."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.test_dashboard_page import CONTRAST, PHONE
from tests.support.forged import document, forge_document, lost_document
from tests.support.store import DOCUMENTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch, NewStore
    from tests.support.store import Store

    Opened = Callable[..., Awaitable[Watched]]

CREATED_MS = int(time.time() * 1000) - 60_000
NO_WORD = "no word from the task's gateway, which may still run it"
HEARTBEAT, TOOK = 7, 6
HISTORY = "import('/dashboard/history.js')"


lost = partial(lost_document, created_ms=CREATED_MS)


def other(task_id: str, stage: Stage) -> dict[str, Any]:
    """The same task at another stage, in the word of its own gateway."""
    found = document(task_id, stage, created_ms=CREATED_MS) | {"timestamp": int(time.time()) + 1}
    found["extensions"]["lost_after_ms"] = None
    return found


@pytest.fixture
async def store(new_store: NewStore) -> Store:
    """A store with a presumed loss, a certain one, and one of an earlier gateway."""
    store = await new_store()
    for found in (
        lost("maybe", is_presumed=True),
        lost("surely", is_presumed=False),
        lost("earlier", is_presumed=None),
    ):
        found["extensions"]["started_ms"] = CREATED_MS + 1000
        await put(store, found)
    return store


async def put(store: Store, found: dict[str, Any]) -> None:
    """Writes a document as a gateway does."""
    await forge_document(store.client, found["task_id"], json.dumps(found, separators=(",", ":")), CREATED_MS)


@pytest.fixture
async def opened(launch: Launch, store: Store, new_page: NewPage) -> Opened:
    """Opens pages that look at a gateway with that store."""
    gateway = await launch(REDIS_URL=store.url)

    async def open_one(**options: Any) -> Watched:
        page = await new_page(gateway, **options)
        await page.open()
        await page.shows("#recent", "maybe")
        return page

    return open_one


async def cells(page: Watched, table: str, task_id: str) -> list[str]:
    """What the cells of a task's row say."""
    return await page.row(table, task_id).locator("td").all_inner_texts()


async def test_it_is_told_apart_in_the_lists(opened: Opened) -> None:
    """`lost?` in words, among the tasks in flight and in the list; a loss that is certain has ended and is `lost`.

    The time of the presumption is neither the task's last heartbeat nor its end.
    """
    page = await opened()
    await page.counts("#in-flight tbody tr", 1)
    assert (await cells(page, "in-flight", "maybe"))[3].split("\n") == ["lost?", NO_WORD]
    assert (await cells(page, "recent", "maybe"))[3:5] == ["FAILED?", f"lost? {NO_WORD}"]
    assert (await cells(page, "in-flight", "maybe"))[HEARTBEAT] == "\u2013"
    assert (await cells(page, "recent", "maybe"))[TOOK] == "\u2013"
    assert (await cells(page, "recent", "surely"))[TOOK] != "\u2013"
    for task_id in ("surely", "earlier"):
        assert (await cells(page, "recent", task_id))[3:5] == ["FAILED", "lost"]
    await page.shows("#presumed-note", "Wait, cancel it, or send its request again: that begins a new attempt.")
    await page.shoot("presumed")


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, PHONE, PHONE | {"color_scheme": "dark"}])
async def test_it_is_readable_everywhere(opened: Opened, options: dict[str, Any]) -> None:
    """In the dark and on a phone nothing scrolls sideways, and its mark stands out."""
    page = await opened(**options)
    await page.counts("#in-flight tbody tr", 1)
    name = f"presumed-{'phone' if 'viewport' in options else 'wide'}-{options.get('color_scheme', 'light')}"
    await page.shoot(name)
    for selector in (".badge.presumed", "#presumed-note", "#in-flight .position"):
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector
    await page.row("in-flight", "maybe").get_by_role("link", name="maybe", exact=True).click()
    await page.shows("#task-next", "You can wait")
    await page.shoot(f"{name}-detail")


async def test_its_details_say_what_to_do(opened: Opened, store: Store) -> None:
    """Wait, cancel, or begin a new attempt. When its gateway speaks, the open view shows its word."""
    page = await opened()
    await page.row("recent", "maybe").locator("a.id").click()
    await page.shows("#task-fields", f"FAILED, lost? {NO_WORD}")
    await page.shows("#task-means", f"There is {NO_WORD}.")
    for words in ("You can wait", "You can cancel the task", "a new attempt begins"):
        await page.shows("#task-next", words)
    await put(store, other("maybe", Stage.STREAMING))
    await page.shows("#task-fields", "RUNNING, streaming")
    await page.shows("#task-note", "The task is running.")


async def test_a_certain_loss_says_nothing_of_that(opened: Opened) -> None:
    """Its details say that its gateway was killed, or silent for too long: which of the two is not known."""
    page = await opened()
    for task_id in ("surely", "earlier"):
        await page.row("recent", task_id).locator("a.id").click()
        await page.shows("#task-means", "Its gateway was killed, or has been silent for too long.")
        await expect(page["#task-note"]).to_have_text("")
        await page.page.keyboard.press("Escape")


@pytest.mark.parametrize("stage", [Stage.STREAMING, Stage.DONE, Stage.LOST])
async def test_the_word_of_its_gateway_takes_its_place(opened: Opened, store: Store, stage: Stage) -> None:
    """RUNNING again, its real end, or a loss that is certain: the lists follow."""
    page = await opened()
    await page.counts("#in-flight tbody tr", 1)
    await put(store, lost("maybe", is_presumed=False) if stage is Stage.LOST else other("maybe", stage))
    words = {Stage.STREAMING: ["RUNNING", "streaming"], Stage.DONE: ["SUCCESS", "done"], Stage.LOST: ["FAILED", "lost"]}
    state = page.row("recent", "maybe").locator("td").nth(3)
    await expect(state).to_have_text(words[stage][0])
    assert (await cells(page, "recent", "maybe"))[3:5] == words[stage]
    await page.counts("#in-flight tbody tr", 1 if stage is Stage.STREAMING else 0)
    await expect(page["#presumed-note"]).to_be_hidden()


async def test_it_can_be_cancelled(opened: Opened) -> None:
    """Cancel is offered as for a running task. The page says that its gateway has to speak first."""
    page = await opened()
    await page.page.route(
        "**/tasks/maybe/cancel", lambda route: route.fulfill(status=202, json=lost("maybe", is_presumed=True))
    )
    buttons = page.row("in-flight", "maybe")
    await buttons.get_by_text("Cancel", exact=True).click()
    await buttons.get_by_text("Really cancel").click()
    await page.shows("#news", "will be cancelled if its gateway speaks within a minute")
    await expect(page.row("in-flight", "maybe")).to_be_visible()


VERSIONS = {
    "running": (Stage.STREAMING, False, 100),
    "presumed": (Stage.LOST, True, 130),
    "again": (Stage.STREAMING, False, 160),
    "again in the same second": (Stage.STREAMING, False, 130),
    "ended in the cut": (Stage.DONE, False, 110),
    "certain": (Stage.LOST, False, 130),
    "next attempt": (Stage.QUEUED, False, 131),
}


@pytest.mark.parametrize(
    ("one", "later"),
    [
        ("running", "presumed"),
        ("presumed", "again"),
        ("presumed", "again in the same second"),
        ("presumed", "ended in the cut"),
        ("presumed", "certain"),
        ("presumed", "next attempt"),
    ],
)
async def test_the_later_version_is_known(page: Watched, one: str, later: str) -> None:
    """Answers may come in another order. A presumption is later than what was said before it; an end is later."""

    def version(name: str) -> dict[str, Any]:
        stage, is_presumed, timestamp = VERSIONS[name]
        found = document("one", stage, created_ms=CREATED_MS + (name == "next attempt")) | {"timestamp": timestamp}
        found["extensions"]["is_presumed"] = is_presumed
        return found

    await page.open()
    script = f"async ([a, b]) => {{ const {{ later }} = await {HISTORY}; return [later(a, b), later(b, a)]; }}"
    expected = version(later)
    found = await page.evaluate(script, [version(one), expected])
    assert [(f["state"], f["timestamp"]) for f in found] == [(expected["state"], expected["timestamp"])] * 2


async def test_the_store_is_left_as_it_was(opened: Opened, store: Store) -> None:
    """To look at a presumed loss changes nothing."""
    before = await store.client.get(DOCUMENTS + "maybe")
    page = await opened()
    await page.counts("#in-flight tbody tr", 1)
    assert await store.client.get(DOCUMENTS + "maybe") == before
