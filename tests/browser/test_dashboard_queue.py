"""What the dashboard shows of the queue: how many requests are with Ollama, who waits where, and for how long."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.support.served import Served
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

STAGE, AGE = 3, 4
IDS = [f"in-line-{number}" for number in range(4)]


@pytest.fixture
async def served(upstream: Upstream) -> Served:
    """An upstream that answers when the test says so."""
    upstream.default = Served()
    return upstream.default


@pytest.fixture
async def filled(launch: Launch, served: Served) -> Gateway:
    """A gateway with one request at Ollama and three that wait, each with a label."""
    gateway = await launch(HEARTBEAT_SEC="0.5", MAX_RUNNING="1")
    for number, task_id in enumerate(IDS):
        fields = [(b"X-Task-Id", task_id.encode()), (b"X-Task-Label", b"job:%d" % number)]
        await gateway.send("POST", "/v1/chat/completions", *fields, body=b"{}")
        await served.holds(1)
        if number:
            await has_position(gateway, task_id, number)
    return gateway


async def has_position(gateway: Gateway, task_id: str, position: int) -> None:
    """Waits until the task has this position."""

    async def is_there() -> bool:
        found = await gateway.http.get(f"/tasks/status/{task_id}")
        return found.status_code == 200 and found.json()["extensions"]["queue_position"] == position

    await until(is_there, what=f"{task_id} is at position {position}")


async def shows_queue(page: Watched, running: int, waiting: int) -> None:
    """Waits until the page counts so many with Ollama and so many that wait."""
    await expect(page["#queue-running"]).to_have_text(str(running))
    await expect(page["#queue-waiting"]).to_have_text(str(waiting))


async def test_positions_fall_while_the_queue_is_served(filled: Gateway, served: Served, new_page: NewPage) -> None:
    """The page counts who is with Ollama and who waits. Each waiting task shows its position, which falls."""
    page = await new_page(filled)
    await page.open()
    for done, task_id in enumerate(IDS):
        waiting = IDS[done + 1 :]
        await shows_queue(page, 1, len(waiting))
        stage = page.row("in-flight", task_id).locator("td").nth(STAGE)
        await expect(stage).to_have_text("forwarding")
        for position, other in enumerate(waiting, 1):
            stage = page.row("in-flight", other).locator("td").nth(STAGE)
            await expect(stage).to_have_text(f"queuedposition {position} of {len(waiting)}")
        if done == 0:
            await page.shoot("queue")
        served.finish()
        if waiting:
            await served.holds(1)
    await shows_queue(page, 0, 0)
    await expect(page["#queue-longest"]).to_have_text("\u2013")
    await page.shows("#in-flight-note", "Nothing runs")


async def test_the_longest_wait_is_that_of_the_oldest_that_waits(filled: Gateway, new_page: NewPage) -> None:
    """It grows by the second, and a screen reader finds the three numbers as one list with a name."""
    page = await new_page(filled)
    await page.open()
    await shows_queue(page, 1, 3)
    longest = page["#queue-longest"]
    await expect(longest).to_have_text(re.compile(r"^\d+ s$"))
    before = await longest.inner_text()
    await expect(longest).not_to_have_text(before)
    oldest = await page.row("in-flight", IDS[1]).locator("td").nth(AGE).element_handle()
    told = await page.evaluate(
        "(age) => [document.getElementById('queue-longest').textContent, age.textContent]", oldest
    )
    assert abs(seconds(told[0]) - seconds(told[1])) <= 1
    assert await page["#queue"].get_attribute("aria-label") == "Queue"
    assert await page["#queue dt"].all_text_contents() == ["With Ollama", "Waiting", "Longest wait"]


def seconds(text: str) -> int:
    """The seconds of an age below a minute."""
    return int(text.removesuffix(" s"))


async def test_a_waiting_task_tells_position_and_label_and_can_be_cancelled(filled: Gateway, new_page: NewPage) -> None:
    """By keyboard alone: the view has position, length and label; after a cancel those behind it move up."""
    page = await new_page(filled)
    await page.open()
    await page.shows("#in-flight", IDS[2])
    await expect(page.row("in-flight", IDS[2]).locator(".label")).to_have_text("job:2")
    await page.tab_to(IDS[2])
    await page.page.keyboard.press("Enter")
    await page.shows("#task-note", "waits for its turn")
    await page.shows("#task-fields", "PENDING, queued")
    await page.shows("#task-fields", "job:2")
    await page.shows("#task-fields", "position 2 of 3")
    await page.shows("#stages", re.compile(r"Waits: [\d.]+ m?s so far \(now\)"))
    await page.shoot("queue-detail")
    await page.page.keyboard.press("Escape")
    await expect(page["#view-task"]).to_be_hidden()
    await page.tab_to(f"Cancel the task {IDS[1]}")
    await page.page.keyboard.press("Enter")
    await page.page.keyboard.press("Enter")
    await page.shows("#news", "is cancelled")
    stage = page.row("in-flight", IDS[2]).locator("td").nth(STAGE)
    await expect(stage).to_have_text("queuedposition 1 of 2")
    await expect(page.row("recent", IDS[1]).locator(".label")).to_have_text("job:1")


async def test_the_queue_fits_a_phone(filled: Gateway, new_page: NewPage) -> None:
    """At 360 pixels nothing scrolls sideways."""
    page = await new_page(filled, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    await page.open()
    await shows_queue(page, 1, 3)
    await page.shoot("queue-phone")
