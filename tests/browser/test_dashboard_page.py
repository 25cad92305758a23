"""The page itself: how it is sent, that nothing comes from elsewhere, how it looks, and how often it asks."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from tests.support.process import ROOT
from tests.support.scripted import Gated
from tests.support.waiting import GUARD_SECONDS, until
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

FILES = sorted((ROOT / "gateway" / "dashboard").iterdir())
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
# What the page asked for, with the times by its clock, and how many answers have not come whole yet.
RECORD = """
window.asked = [];
window.awaited = 0;
const real = window.fetch;
const whole = async (answer) => { await answer.clone().arrayBuffer(); return answer; };
window.fetch = (path, options) => {
  asked.push([path, Date.now()]);
  awaited += 1;
  return real(path, options).then(whole).finally(() => { awaited -= 1; });
};
"""


@pytest.mark.parametrize("path", ["/", "/docs", *(f"/dashboard/{file.name}" for file in FILES)])
async def test_every_file_carries_the_policy(beating: Gateway, path: str) -> None:
    """Each file says what it is, lets nothing in from elsewhere, and is not sent again while it is the same."""
    answer = await beating.http.get(path)
    assert answer.status_code == 200
    policy = dict(rule.strip().split(" ", 1) for rule in answer.headers["Content-Security-Policy"].split(";"))
    assert policy == POLICY
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
    expected = kinds.get(path.rpartition(".")[2], "text/html")
    assert answer.headers["Content-Type"] == f"{expected}; charset=utf-8"
    again = await beating.http.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    changed = await beating.http.get(path, headers={"If-None-Match": '"of-another-version"'})
    assert changed.status_code == 200


@pytest.mark.parametrize("path", ["/dashboard/", "/dashboard/x.js", "/dashboard/..%2fapp.py", "/dashboard/__init__.py"])
async def test_nothing_else_is_sent(beating: Gateway, path: str) -> None:
    """What is no file of the page is 404 (or 400), wherever it may be on the disk."""
    assert (await beating.http.get(path)).status_code in (400, 404)


def test_no_text_becomes_markup() -> None:
    """No script makes elements from text, runs text, or names another host; no file has inline code or styles."""
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|setHTML|srcdoc"
    for file in FILES:
        text = file.read_text()
        assert re.findall(forbidden, text) == [], file.name
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], file.name
        assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", text) == [], file.name


async def test_the_browser_refuses_markup_from_text(page: Watched) -> None:
    """Even a mistake of ours could not turn text into markup: the policy makes the browser throw."""
    page.provoked += ["policy:", "This document requires 'TrustedHTML'"]
    await page.open()
    script = "(() => { try { document.body.innerHTML = '<b>x</b>'; return 'done' } catch (e) { return e.name } })()"
    assert await page.evaluate(script) == "TypeError"


async def test_it_looks_well_in_the_dark(
    beating: Gateway, upstream: Upstream, new_page: NewPage, fresh_id: str
) -> None:
    """With a dark colour scheme the page is dark, and texts stand out from it."""
    page = await new_page(beating, color_scheme="dark")
    await show_a_stream(page, beating, upstream, fresh_id)
    await page.shoot("dark")
    for selector in ("h1", ".muted", ".id", ".badge", "th"):
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector


async def test_texts_stand_out_in_the_light(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """In the light, too, every kind of text has the contrast that WCAG asks for."""
    await show_a_stream(page, beating, upstream, fresh_id)
    for selector in ("h1", ".muted", ".id", ".badge", "th"):
        assert await page.evaluate(CONTRAST, selector) >= 4.5, selector


# The contrast of an element's text with the panel it stands on (WCAG 2.2, section 1.4.3).
CONTRAST = """
(selector) => {
  const light = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [r, g, b] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const text = light(getComputedStyle(document.querySelector(selector)).color);
  const grounds = [".panel", "body"].map((place) => getComputedStyle(document.querySelector(place)).backgroundColor);
  const contrast = (ground) => (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
  return Math.min(...grounds.map(light).map(contrast));
}
"""


async def show_a_stream(page: Watched, gateway: Gateway, upstream: Upstream, task_id: str) -> None:
    """A page that shows a running stream and an ended task."""
    await gateway.ask("POST", "/v1/embeddings", body=b"{}")
    gated = upstream.gated()
    await gateway.send("POST", "/v1/chat/completions", (b"X-Task-Id", task_id.encode()), body=b"{}")
    gated.head()
    gated.piece(b"data: " + b"x" * 70_000)
    await page.open()
    await page.shows("#in-flight", "68.4 KiB")


async def test_it_fits_a_phone(beating: Gateway, upstream: Upstream, new_page: NewPage, fresh_id: str) -> None:
    """At 360 pixels nothing scrolls sideways, rows say what their values are, and cancelling works by touch."""
    page = await new_page(beating, **PHONE)
    await show_a_stream(page, beating, upstream, fresh_id)
    row = page.row("in-flight", fresh_id)
    label = await row.locator("td").nth(5).evaluate("(cell) => getComputedStyle(cell, '::before').content")
    assert label == '"First byte" ": "' or label == '"First byte: "'
    await row.get_by_text("Cancel", exact=True).tap()
    await page.shoot("phone")
    await row.get_by_text("Really cancel").tap()
    await page.shows("#news", "is cancelled")


async def test_rows_that_come_do_not_move_the_columns(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """The head of a table and its columns stay where they are when rows come."""
    await page.open()
    await page.shows("#problems", "All is well.")
    await page.shows("#in-flight-note", "Nothing runs")
    before = await page.evaluate(COLUMNS)
    upstream.then(Gated())
    client = await beating.connect()
    target = "/v1/" + "long/" * 60
    await client.send(request("POST", target, (b"X-Task-Id", (fresh_id + "x" * 80).encode()), body=b"{}"))
    await page.shows("#in-flight", fresh_id)
    assert await page.evaluate(COLUMNS) == before


COLUMNS = """
[...document.querySelectorAll("#in-flight th")].map((cell) => {
  const { left, top, width } = cell.getBoundingClientRect();
  return [left, top, width].map(Math.round);
})
"""


async def test_it_does_not_hammer(page: Watched, upstream: Upstream) -> None:
    """While it is seen, a page asks for a list at most every two seconds, and names the ETag of what it knows."""
    await page.stop_clock()
    await page.page.add_init_script(RECORD)
    await page.open(turns_clock=True)
    times = await list_times(page, 6)
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert 2000 <= min(waits) <= max(waits) < 4000
    lists = page.asked("/tasks/status")
    assert all([(await request.all_headers()).get("if-none-match") for request in lists[1:]])
    answers = [await request.response() for request in lists[1:5]]
    assert {answer.status for answer in answers if answer} <= {200, 304}


async def list_times(page: Watched, number: int, without: str = "nothing") -> list[int]:
    """When lists without this text in their path were requested, in ms of the clock, turned until there are enough."""

    async def enough() -> list[int]:
        await turn(page, 500)
        asked: list[list[Any]] = await page.evaluate("window.asked")
        times = [at for path, at in asked if path.startswith("/tasks/status?") and without not in path]
        return times if len(times) >= number else []

    times: list[int] = await until(enough, 2 * GUARD_SECONDS, "the page asks for lists")
    return times


async def turn(page: Watched, ms: int) -> None:
    """Turns the page's clock, except while an answer is on its way: how long that takes says nothing of the page."""
    if not await page.evaluate("window.awaited"):
        await page.page.clock.run_for(ms)


async def test_a_hidden_page_asks_for_nothing(page: Watched, upstream: Upstream) -> None:
    """In a tab that is not seen nothing is asked for, for minutes; when it is seen again, at once."""
    await page.page.clock.install()
    await page.page.add_init_script(RECORD)
    await page.open(turns_clock=True)
    await list_times(page, 2)
    await page.evaluate(SEEN, False)
    await page.page.clock.run_for(500)
    before = await page.evaluate("window.asked.length")
    for _ in range(10):
        await page.page.clock.run_for(30_000)
    assert await page.evaluate("window.asked.length") == before
    await page.evaluate(SEEN, True)
    await page.page.clock.run_for(1)
    assert await page.evaluate("window.asked.length") >= before + 3


SEEN = """
(isSeen) => {
  Object.defineProperty(document, "hidden", { value: !isSeen, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


async def test_it_backs_off_while_it_fails(page: Watched, upstream: Upstream) -> None:
    """Where lists fail, each wait is twice the one before, up to half a minute. A try asks for the own tasks, too."""
    await page.stop_clock()
    await page.page.add_init_script(RECORD)
    await page.page.route("**/tasks/status?*", lambda route: route.fulfill(status=503, json={"detail": "away"}))
    await page.open("/", "503", turns_clock=True)
    times = await list_times(page, 6, without="scope=instance")
    waits = [round((later - earlier) / 1000) for earlier, later in pairwise(times)]
    assert waits[:5] == pytest.approx([4, 8, 16, 30, 30], abs=1)
    await page.shows("#problems", "Tasks cannot be listed: away")


async def test_the_docs_describe_every_route(page: Watched, beating: Gateway) -> None:
    """/docs shows each route of /openapi.json with its parameters and answers, and each document with its fields."""
    schema = (await beating.http.get("/openapi.json")).json()
    await page.open("/docs")
    await page.shows("#view-api", schema["info"]["title"])
    text = await page["#view-api"].inner_text()
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            section = page.page.locator(
                "#view-api section", has=page.page.get_by_role("heading", name=f"{method.upper()} {path}", exact=True)
            )
            await expect(section).to_have_count(1)
            for name in [p["name"] for p in route.get("parameters", [])] + list(route["responses"]):
                await expect(section).to_contain_text(name)
    for name, document in schema["components"]["schemas"].items():
        if "ValidationError" not in name:
            assert name in text
            assert all(field in text for field in document.get("properties", {}))
    assert page.asked("/tasks/status") == []
    await page.shoot("docs")
