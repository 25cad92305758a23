"""The dashboard's plots: their ranges, throughput, waiting times, the numbers as a table, and earlier attempts."""

from __future__ import annotations

import re
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


LOADED = re.compile(r"Drawn from [\d,]+ tasks\.( The bytes are also those of 1 task that began before\.)?$")


def day(number: int = 1200) -> list[dict[str, object]]:
    """Tasks of the last twenty hours, some of which failed, with waiting times that differ."""
    tasks = [
        made(f"task-{n}", Stage.ERROR if n % 9 == 0 else Stage.DONE, age_seconds=20 + n * 60) for n in range(number)
    ]
    for n, task in enumerate(tasks):
        created_ms = task["extensions"]["created_ms"]
        task["extensions"] |= {"started_ms": created_ms + 100 * (n % 10), "response_bytes": 600_000 + n}
    return tasks


@pytest.mark.parametrize(
    ("name", "heading", "bars", "number"),
    [("15m", "The last 15 minutes", 15, 15), ("1h", "The last hour", 20, 60), ("24h", "The last 24 hours", 24, 1200)],
)
async def test_the_range_is_chosen(page: Watched, name: str, heading: str, bars: int, number: int) -> None:
    """Buttons choose it, the address has it, and older tasks are loaded for it, one list every two seconds."""
    lists = Lists(*day())
    await lists.serve(page)
    await page.open()
    await page[f"#ranges [data-range='{name}']"].click()
    await page.shows("#h-plots", heading)
    await page.counts("#numbers tbody tr", bars)
    await expect(page["#plots-note"]).to_contain_text(LOADED)
    counts = [
        int(text.replace(",", ""))
        for text in re.findall(r"([\d,]+) (?:ended well|failed)", await page["#plot-states-text"].inner_text())
    ]
    assert number * 0.93 <= sum(counts) <= number + 3  # the first bar begins at a round time
    await page.shoot(f"list-range-{name}")
    assert await page.evaluate("location.hash") == ("#/" if name == "15m" else f"#/?range={name}")
    await page.page.reload()
    await expect(page[f"#ranges [data-range='{name}']"]).to_have_attribute("aria-pressed", "true")
    await page["#plot-states-text a"].first.click()
    assert await page.evaluate("location.hash") == ("#/?state=SUCCESS" + ("" if name == "15m" else f"&range={name}"))


async def test_times_and_throughput_are_told(page: Watched) -> None:
    """The captions have bytes a second, and median, p95 and slowest of waiting times and times to first byte."""
    tasks = []
    for n in range(100):
        task = made(f"task-{n}", age_seconds=100 + n)
        created_ms = task["extensions"]["created_ms"]
        task["extensions"] |= {
            "started_ms": created_ms + 10 * (n + 1),
            "first_byte_ms": created_ms + 10 * (n + 1) + 2000,
        }
        tasks.append(task)
    await Lists(*tasks).serve(page)
    await page.open()
    await page.shows("#plot-wait-text", "median 500 ms, p95 950 ms, slowest 1.0 s")
    await page.shows("#plot-first-byte-text", "median 2.0 s, p95 2.0 s, slowest 2.0 s")
    await page.shows("#plot-bytes-text", re.compile(r"[\d.]+ K?i?B/s on average, [\d.]+ K?i?B/s at most"))
    assert await page["#plot-wait svg"].get_attribute("aria-label") == (
        "Waiting time: median 500 ms, p95 950 ms, slowest 1.0 s"
    )


async def test_the_numbers_are_a_table(page: Watched) -> None:
    """For keyboard and screen reader each bar is a row with a header; its sums are those of the legend."""
    await Lists(*day(30)).serve(page)
    await page.open()
    await page["#numbers-details summary"].focus()
    await page.page.keyboard.press("Enter")
    await expect(page["#numbers"]).to_be_visible()
    await page.shows("#plot-states-text", "ended well")
    legend, wells = await page.evaluate(NUMBERS)
    assert f"{sum(map(int, wells))} ended well" in legend
    await page.counts("#numbers tbody th[scope=row]", 15)
    await page.shoot("list-numbers")


NUMBERS = """
() => [
  document.getElementById("plot-states-text").textContent,
  [...document.querySelectorAll("#numbers tbody td:nth-of-type(1)")].map((cell) => cell.textContent),
]
"""


async def test_a_stream_that_began_before_counts(page: Watched) -> None:
    """The bytes of a stream count in each bar that it crosses, also if it began before the first one."""
    size = 120 * 1024 * 1024
    await Lists(made("long", Stage.STREAMING, age_seconds=1203, response_bytes=size)).serve(page)
    await page.open()
    await page.shows("#plot-bytes-text", re.compile(r"10\d KiB/s on average, 10\d KiB/s at most"))
    await page.shows("#plots-note", "Drawn from 0 tasks. The bytes are also those of 1 task that began before.")
    await page.shows("#plot-states-text", "none")


async def test_the_legend_has_the_colours_of_the_bars(page: Watched) -> None:
    """Each state has one colour, in the legend as in the bars, and no two states have the same."""
    stages = (Stage.DONE, Stage.ERROR, Stage.STREAMING, Stage.QUEUED)
    await Lists(*[made(f"task-{stage}", stage) for stage in stages]).serve(page)
    await page.open()
    await page.shows("#plot-states-text", "1 waiting")
    states = ("success", "failed", "running", "pending")
    colours = [await page.evaluate(COLOURS, state) for state in states]
    assert [legend for legend, _ in colours] == [bar for _, bar in colours]
    assert len({bar for _, bar in colours}) == len(states)


COLOURS = """
(state) => [
  getComputedStyle(document.querySelector(`#plot-states-text .key.${state}`)).backgroundColor,
  getComputedStyle(document.querySelector(`#plot-states rect.${state}`)).fill,
]
"""


async def test_an_earlier_attempt_keeps_its_bar(page: Watched) -> None:
    """A task that is tried again counts in the plots as often as it was tried; the list has its newest attempt."""
    failed = made("again", Stage.ERROR, age_seconds=120)
    lists = Lists(failed)
    await lists.serve(page)
    await page.open()
    await page.shows("#plot-states-text", "1 failed")
    lists.tasks = [made("again", Stage.DONE, age_seconds=10)]
    await page.shows("#plot-states-text", "1 ended well, 1 failed")
    await page.counts("#recent tbody tr", 1)
    await expect(page.row("recent", "again")).to_contain_text("SUCCESS")


@pytest.mark.parametrize("options", [PHONE, {"color_scheme": "dark"}, {"forced_colors": "active"}])
async def test_plots_fit(beating: Gateway, new_page: NewPage, options: dict[str, object]) -> None:
    """On a phone, in the dark and with forced colours, with the numbers open."""
    page = await new_page(beating, **options)
    await Lists(*day(50)).serve(page)
    await page.open("/#/?range=1h")
    await page.shows("#plot-states-text", "ended well")
    await page["#numbers-details summary"].click()
    await page.shoot(f"list-plots-{next(iter(set(options) & {'is_mobile', 'color_scheme', 'forced_colors'}))}")
