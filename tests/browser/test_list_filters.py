"""The filters of the dashboard's list: in the address, at the store or over what is loaded, and one click away."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.listed import Lists, made
from tests.browser.test_dashboard_page import PHONE

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.support.gateway import Gateway


def nightly() -> list[dict[str, object]]:
    """Forty tasks: every fourth failed, every second one is of the label `nightly`, some are GETs."""
    stages = [Stage.ERROR, Stage.DONE, Stage.DONE, Stage.DONE]
    return [
        made(
            f"job-{number:03}-of-the-night",
            stages[number % 4],
            age_seconds=60 + number * 10,
            label="nightly" if number % 2 == 0 else "a-longer-label:build-20261130-0001",
            reason="timeout" if number % 8 == 0 else "upstream_status" if number % 4 == 0 else None,
            path="/v1/embeddings" if number % 5 == 0 else "/v1/chat/completions",
            status_code=504 if number % 8 == 0 else 500 if number % 4 == 0 else 200,
        )
        for number in range(40)
    ]


async def test_filters_are_in_the_address(page: Watched) -> None:
    """Each change is an entry of the browser's history. Reload and Back restore it; `Clear all` ends the filters."""
    lists = Lists(*nightly())
    await lists.serve(page)
    await page.open()
    await page.counts("#recent tbody tr", 40)
    await page["#state"].select_option("FAILED")
    await page.counts("#recent tbody tr", 10)
    await page["#more-filters summary"].click()
    await page["#filter-reason"].select_option("timeout")
    await page.counts("#recent tbody tr", 5)
    assert await page.evaluate("location.hash") == "#/?state=FAILED&reason=timeout"
    await page.shows("#found-note", "5 of all 10 FAILED tasks.")
    await page.shoot("list-filtered")
    await page.page.reload()
    await page.counts("#recent tbody tr", 5)
    await expect(page["#filter-reason"]).to_have_value("timeout")
    await page.page.go_back()
    await page.counts("#recent tbody tr", 10)
    await page.page.go_back()
    await page.counts("#recent tbody tr", 40)
    await page.page.go_forward()
    await page.counts("#chips li", 1)
    await page["#clear-filters"].click()
    await page.counts("#recent tbody tr", 40)
    assert await page.evaluate("location.hash") == "#/"


async def test_state_or_label_is_asked_of_the_store(page: Watched) -> None:
    """A label, or a state without one, goes to the store; the page filters the state of a label, and says so."""
    lists = Lists(*nightly())
    await lists.serve(page)
    await page.open("/#/?label=nightly")
    await page.counts("#recent tbody tr", 20)
    assert {"label": "nightly", "limit": "50"} in lists.queries
    await expect(page["#found-note"]).to_have_text("")
    await page["#state"].select_option("FAILED")
    await page.counts("#recent tbody tr", 10)
    await page.shows("#found-note", "10 of all 20 tasks with this label.")
    assert not [query for query in lists.queries if "state" in query and "label" in query]


async def test_older_tasks_are_searched_on_demand(page: Watched) -> None:
    """A filter of the page looks through the 500 newest tasks and says how far; a button, through 500 more."""
    tasks = [
        made(f"task-{n:04}", age_seconds=1000 + n * 60, path="/v1/rare" if n % 400 == 3 else "/v1/chat")
        for n in range(1400)
    ]
    lists = Lists(*tasks)
    await lists.serve(page)
    await page.open("/#/?path=rare")
    await page.shows("#found-note", re.compile(r"2 of the 500 newest tasks, back to .*\d\d:\d\d:\d\d\."))
    await page.shoot("list-searched")
    await page["#search-older"].click()
    await page.shows("#found-note", "3 of the 1,000 newest tasks")
    await page["#search-older"].click()
    await page.shows("#found-note", "4 of all 1,400 tasks.")
    await expect(page["#search-older"]).to_be_hidden()
    assert max(int(query["limit"]) for query in lists.queries) <= 1000


async def test_a_time_of_the_filter_ends_the_search(page: Watched) -> None:
    """With `from`, nothing older is requested; `until` takes its whole minute."""
    tasks = [made(f"task-{n:04}", age_seconds=60 + n * 60) for n in range(300)]
    lists = Lists(*tasks)
    await lists.serve(page)
    moment = time.strftime("%Y-%m-%dT%H:%M", time.localtime(tasks[20]["extensions"]["created_ms"] / 1000))
    zone = await page.evaluate("new Date().getTimezoneOffset()")
    assert zone == -time.localtime().tm_gmtoff // 60
    await page.open(f"/#/?from={moment}")
    await page.counts("#recent tbody tr", 21)
    await expect(page["#search-older"]).to_be_hidden()
    await page.open(f"/#/?from={moment}&until={moment}")
    await page.counts("#recent tbody tr", 1)
    await expect(page.row("recent", "task-0020")).to_be_visible()


@pytest.mark.parametrize(
    "query",
    [
        "state=success",
        "label=a%20b",
        "from=yesterday",
        "from=2026-02-31T10:00",
        "until=2026-11-30T24:00",
        "reason=TIMEOUT",
        "what=ever",
        "until=",
    ],
)
async def test_a_wrong_value_is_no_filter(page: Watched, query: str) -> None:
    """What an address names wrongly is ignored, and no filter is shown as active."""
    lists = Lists(*nightly())
    await lists.serve(page)
    await page.open(f"/#/?{query}")
    await page.counts("#recent tbody tr", 40)
    await expect(page["#active"]).to_be_hidden()


async def test_one_click_filters(page: Watched) -> None:
    """A label, a reason and a path in a row, and a number in the legend, are links that set that filter too."""
    lists = Lists(*nightly())
    await lists.serve(page)
    await page.open()
    await page["#recent a.label[aria-label=nightly]"].first.click()
    await page.counts("#recent tbody tr", 20)
    await page["#recent a.filter"].filter(has_text="timeout").first.click()
    await page.counts("#recent tbody tr", 5)
    await page["#recent a.target"].filter(has_text="/v1/embeddings").first.click()
    await page.counts("#recent tbody tr", 1)
    hash = await page.evaluate("location.hash")
    assert hash == "#/?label=nightly&reason=timeout&path=%2Fv1%2Fembeddings"
    await page["#clear-filters"].click()
    await page["#plot-states-text a"].filter(has_text="10 failed").click()
    await page.counts("#recent tbody tr", 10)
    assert await page.evaluate("location.hash") == "#/?state=FAILED"
    await page["#chips a"].click()
    await page.counts("#recent tbody tr", 40)


async def test_where_nothing_passes_it_says_so(page: Watched) -> None:
    """A filter without a match offers to clear it; a gateway without a task offers a first call."""
    lists = Lists(*nightly())
    await lists.serve(page)
    await page.open("/#/?path=nothing-of-this")
    await page.shows("#recent-note", "No task matches these filters.")
    await expect(page["#first-call"]).to_be_hidden()
    await page.shoot("list-nothing-found")
    await page["#clear-here"].click()
    await page.counts("#recent tbody tr", 40)
    assert (await page.focused()).startswith("Recent tasks")


async def test_get_requests_are_hidden(page: Watched) -> None:
    """They are neither in the lists nor in the plots, notes count them, and the switch in the address shows them."""
    gets = [made(f"get-{n}", age_seconds=30 + n, method="GET", path="/v1/models") for n in range(120)]
    running = made("get-running", Stage.STREAMING, age_seconds=5, method="GET")
    posts = [made(f"post-{n}", age_seconds=200 + n) for n in range(60)]
    lists = Lists(*gets, running, *posts)
    await lists.serve(page)
    await page.open()
    await page.counts("#recent tbody tr", 50)  # behind two pages of GETs
    await page.counts("#in-flight tbody tr", 0)
    await page.shows("#in-flight-note", "1 GET request is hidden.")
    await page.shows("#recent-note", "121 GET requests are hidden.")
    await page.shows("#plots-note", "121 GET requests are hidden.")
    await page.shows("#plot-states-text", "60 ended well")
    await page["#older"].click()
    await page.counts("#recent tbody tr", 10)
    await page["#gets"].click()
    await expect(page["#gets"]).to_have_attribute("aria-pressed", "true")
    await expect(page.row("recent", "get-0")).to_be_visible()
    await page.counts("#in-flight tbody tr", 1)
    await page.shows("#plot-states-text", "180 ended well, 1 running")
    assert await page.evaluate("location.hash") == "#/?gets=shown"
    await page.page.reload()
    await expect(page.row("recent", "get-0")).to_be_visible()


async def test_a_page_of_gets_alone_is_bounded(page: Watched) -> None:
    """Where hundreds of GET requests hide all else, the page stops after 500 tasks and says so."""
    lists = Lists(*[made(f"get-{n}", age_seconds=1000 + n, method="GET") for n in range(900)])
    await lists.serve(page)
    await page.open()
    await page.shows("#found-note", "0 of the 500 newest tasks, back to")
    await page.shows("#recent-note", "Only GET requests so far. 500 GET requests are hidden.")
    await expect(page["#search-older"]).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE, {"viewport": {"width": 640, "height": 450}}])
async def test_it_fits_every_screen(
    beating: Gateway, new_page: NewPage, scheme: str, options: dict[str, object]
) -> None:
    """Wide, on a phone and at 200 % nothing scrolls sideways, and the last eight characters of an id are to be seen."""
    page = await new_page(beating, color_scheme=scheme, **options)
    long = made("a-very-long-id-" * 7 + "endofid8", age_seconds=90_000, label="label" * 20 + "endlabel", owner="team-a")
    running = made("running-" * 8 + "runningx", Stage.STREAMING, age_seconds=50, label="nightly")
    lists = Lists(*nightly()[:12], long, running)
    await lists.serve(page)
    await page.open("/#/?label=nightly&state=FAILED")
    await page.counts("#recent tbody tr", 3)
    name = f"{'phone' if 'is_mobile' in options else 'zoomed' if options else 'wide'}-{scheme}"
    await page.shoot(f"list-filters-{name}")
    await page["#clear-filters"].click()
    await page.counts("#recent tbody tr", 14)
    await page.shoot(f"list-{name}")
    row = page.row("recent", long["task_id"])
    for end in ("endofid8", "endlabel"):
        assert await row.locator(".end", has_text=end).evaluate(SHOWS), end
    await expect(row).to_contain_text(re.compile(r"[A-Z][a-z]{2}"))  # the day, because it is not today


SHOWS = "(e) => e.getBoundingClientRect().width > 20 && e.getBoundingClientRect().right <= innerWidth"
