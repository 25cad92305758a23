"""The gateways on the dashboard: each with its state in words, and only for those who may see them."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from tests.browser.test_dashboard_page import CONTRAST, PHONE, RECORD, SEEN
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.async_api import Route

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.store import Store

LONG = "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M"


def node(instance: str, **more: Any) -> dict[str, Any]:
    """A gateway as `GET /nodes` tells of it."""
    return {
        "instance": instance, "version": "1.0.0", "started_ms": int(time.time() * 1000) - 90_000, "running": 3,
        "waiting": 12, "max_running": 4, "models": ["llama3.2:3b", LONG], "store": "up", "state": "up", "age_sec": 2,
        **more,
    }  # fmt: skip


ONE = node("gateway-0.gateway:11535")
THREE = [
    ONE,
    node("gateway-1.gateway:11535", running=0, waiting=0, max_running=0, models=[], store="down", state="draining"),
    node("a-very-long-host-name.rack-12.example.internal:11535", state="lost", age_sec=432, max_running=8),
]


class Nodes:
    """Answers `GET /nodes` in the place of a gateway."""

    def __init__(self, *items: dict[str, Any]) -> None:
        self.items = list(items)
        self.status = 200

    async def answer(self, route: Route) -> None:
        """The gateways, or a refusal."""
        content = {"items": self.items} if self.status == 200 else {"detail": "no"}
        await route.fulfill(status=self.status, json=content)


async def opened(page: Watched, *items: dict[str, Any]) -> Nodes:
    """A page that is told of these gateways."""
    nodes = Nodes(*items)
    await page.page.route("**/nodes", nodes.answer)
    await page.open()
    await page.shows("#problems", "All is well.")
    return nodes


async def row(page: Watched, number: int) -> list[str]:
    """What the cells of a row say."""
    return await page["#nodes tbody tr"].nth(number).locator("td").all_inner_texts()


async def test_each_gateway_has_a_row(page: Watched) -> None:
    """Instance, state, requests with their bound, store, models and last word, in words, and what the states mean."""
    await opened(page, *THREE)
    await page.counts("#nodes tbody tr", 3)
    await expect(page["#nodes"]).to_be_visible()
    name, *first = await row(page, 0)
    assert name.startswith("gateway-0.gateway:11535")
    assert "1.0.0, since" in name
    assert first[:5] == ["up", "3 of 4", "12", "up", f"llama3.2:3b, {LONG}"]
    assert re.fullmatch(r"\d+ s ago", first[5])
    assert (await row(page, 1))[1:6] == ["draining", "0, no bound", "0", "down", "\u2013"]
    assert (await row(page, 2))[1:3] == ["lost", "3 of 8"]
    assert (await row(page, 2))[6].startswith("7 min ")
    await page.shows("#nodes-count", "3: 1 up, 1 draining, 1 lost")
    await page.shows("#nodes-note", "draining: it finishes its requests")
    await page.shows("#nodes-note", "lost: no word from it for three heartbeats")
    await page.shoot("nodes")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_they_fit_a_phone(beating: Gateway, new_page: NewPage, scheme: str) -> None:
    """Rows become cards that say what their values are. Nothing scrolls sideways, and texts stand out."""
    page = await new_page(beating, **PHONE, color_scheme=scheme)
    await opened(page, *THREE)
    await page.counts("#nodes tbody tr", 3)
    label = (
        await page["#nodes tbody tr"]
        .nth(0)
        .locator("td")
        .nth(2)
        .evaluate("(cell) => getComputedStyle(cell, '::before').content")
    )
    assert "With Ollama" in label
    await page.shoot(f"nodes-phone-{scheme}")
    for selector in ("#nodes .badge.success", "#nodes .badge.pending", "#nodes .badge.failed", "#nodes-note"):
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector


async def test_one_alone_is_shown_on_a_click(page: Watched) -> None:
    """While there is one gateway, its row is behind a line; the keyboard opens it. A second one opens it by itself."""
    nodes = await opened(page, ONE)
    await expect(page["#nodes-count"]).to_have_text("1")
    await expect(page["#nodes"]).to_be_hidden()
    await page["#nodes-summary"].focus()
    await page.page.keyboard.press("Enter")
    await expect(page["#nodes"]).to_be_visible()
    await page.page.keyboard.press("Enter")
    await expect(page["#nodes"]).to_be_hidden()
    nodes.items = THREE
    await expect(page["#nodes"]).to_be_visible()


async def test_what_the_user_closed_stays_closed(page: Watched) -> None:
    """The next answer does not open it again; the line still says if one is lost."""
    nodes = await opened(page, *THREE[:2])
    await expect(page["#nodes"]).to_be_visible()
    await page["#nodes-summary"].click()
    nodes.items = THREE
    await page.shows("#nodes-count", "1 lost")
    await expect(page["#nodes"]).to_be_hidden()


@pytest.mark.parametrize("status", [403, 404])
async def test_where_they_may_not_be_seen_there_is_nothing(page: Watched, status: int) -> None:
    """A key that is not admin's, or an earlier gateway: no part, no problem, and the page asks no more."""
    nodes = await opened(page, *THREE)
    await expect(page["#nodes-panel"]).to_be_visible()
    nodes.status = status
    await expect(page["#nodes-panel"]).to_be_hidden()
    asked = len(page.asked("/nodes"))
    lists = len(page.asked("/tasks/status"))
    await until(lambda: len(page.asked("/tasks/status")) > lists + 8, what="the page goes on")
    assert len(page.asked("/nodes")) == asked
    await page.shows("#problems", "All is well.")


async def test_it_asks_every_five_seconds_and_not_before_an_answer(page: Watched) -> None:
    """A slow gateway is not asked again before it has answered; a page that is not seen asks for nothing."""
    held: list[Route] = []
    await page.page.clock.install()
    await page.page.add_init_script(RECORD)
    await page.page.route("**/nodes", lambda route: held.append(route))
    await page.open(turns_clock=True)
    await until(lambda: held, what="the page asks")
    await page.page.clock.run_for(12_000)
    assert len(held) == 1
    await held[0].fulfill(json={"items": THREE})
    await page.counts("#nodes tbody tr", 3)
    await turned(page, held, 2)
    await held[1].fulfill(json={"items": THREE})
    await turned(page, held, 3)
    asked: list[list[Any]] = await page.evaluate("window.asked")
    _, second, third = [at for path, at in asked if path == "/nodes"]
    assert third - second >= 5000
    await held[2].fulfill(json={"items": THREE})
    await page.evaluate(SEEN, False)
    await page.page.clock.run_for(60_000)
    assert len(held) == 3


async def turned(page: Watched, held: list[Route], number: int) -> None:
    """Turns the page's clock until it has asked so many times."""

    async def has_asked() -> bool:
        await page.page.clock.run_for(500)
        return len(held) >= number

    await until(has_asked, what="the page asks again")


async def test_names_are_text(page: Watched) -> None:
    """Any client of the store can pretend to be a gateway: its names are text, with control characters escaped."""
    odd = "<b>\x1b]0;owned\x07\u202eabc"
    await opened(page, ONE, node(odd, models=[odd], version=odd, state=odd, store=odd), node("x", models=None))
    await page.counts("#nodes tbody tr", 3)
    text = await page["#nodes"].inner_text()
    assert text.count("<b>\\u001b]0;owned\\u0007\\u202eabc") == 5
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    await page.counts("#nodes b", 0)


# -- with real gateways --


async def test_gateways_of_one_store_are_seen(launch: Launch, store: Store, new_page: NewPage) -> None:
    """Each gateway shows all of them. One that stops is gone from the page."""
    names = [f"gateway-{number}.test:11535" for number in range(2)]
    first, second = [await launch(REDIS_URL=store.url, GATEWAY_INSTANCE=name, HEARTBEAT_SEC="0.5") for name in names]
    page = await new_page(first)
    await page.open()
    for name in names:
        await page.shows("#nodes", name)
    assert (await row(page, 0))[1:5] == ["up", "0, no bound", "0", "up"]
    await second.stop()
    await expect(page["#nodes"]).not_to_contain_text(names[1])
    await page.shows("#nodes", names[0])


async def test_only_admin_sees_the_gateways(launch: Launch, new_page: NewPage) -> None:
    """With API keys: the part is there for `admin`, and not for another key, which gets no word of it."""
    gateway = await launch(GATEWAY_API_KEYS="alice:key-of-alice,admin:key-of-admin")
    for key, is_seen in (("key-of-admin", True), ("key-of-alice", False)):
        page = await new_page(gateway)
        await page.open("/", "401")
        await page["#key"].fill(key)
        await page["#key"].press("Enter")
        await page.shows("#recent-note", "No task yet")
        await until(partial(has_asked_twice, page), what="the page asks with the key")
        await expect(page["#nodes-panel"]).to_be_visible(visible=is_seen)
        await page.shows("#problems", "All is well.")


def has_asked_twice(page: Watched) -> bool:
    """Whether the page has asked for the gateways without its key and with it."""
    return len(page.asked("/nodes")) > 1
