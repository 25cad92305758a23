"""The view of one task explains it: the stages of its time, what its end means, and what its user can do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from gateway.relay.outcome import outcome_of_message
from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason
from tests.browser.task_pages import failed, lost, now_ms, show, task

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.support.gateway import Gateway

WIDTHS = "[...document.querySelectorAll('#timeline .part')].map((part) => part.width.baseVal.value)"
# Counts what changes in the timeline.
COUNTED = """
window.changes = 0;
for (const id of ["timeline", "stages"]) {
  const options = { childList: true, subtree: true, attributes: true, characterData: true };
  new MutationObserver((found) => { window.changes += found.length; }).observe(document.getElementById(id), options);
}
"""
TWO_FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
TIME = r"\d\d:\d\d:\d\d\.\d{3}"


# A document, the parts of its bar, and the lines below it.
STAGES: list[tuple[Any, int, list[str]]] = [
    (
        task(Stage.QUEUED, queue_position=1, queue_length=1),
        1,
        [r"Waits: .* so far \(now\) · created", "Forwarded: not yet", "Answered: not yet"],
    ),
    (
        task(Stage.FORWARDING, seconds=(4.2,)),
        2,
        ["Waited: 4.2 s", r"Is forwarded: .* so far, no byte yet \(now\)", "Answered: not yet"],
    ),
    (
        task(Stage.STREAMING, seconds=(4.2, 6.1), stream=True, response_bytes=41165),
        3,
        ["Waited: 4.2 s", "Forwarded: 1.9 s until the first byte", r"Streams: .* so far, 40.2 KiB \(now\)"],
    ),
    (
        task(Stage.DONE, seconds=(4.2, 6.1, 18.1), stream=True, response_bytes=41165),
        3,
        [
            rf"Waited: 4.2 s · created \d+ \w+ \d{{4}}, {TIME} \(UTC.\d\d:\d\d\)",
            rf"Forwarded: 1.9 s until the first byte · handed to Ollama {TIME}",
            rf"Streamed: 12.0 s, 40.2 KiB · first byte {TIME}",
            rf"Ended: SUCCESS, after 18.1 s · at {TIME}",
        ],
    ),
    (
        task(Stage.DONE, seconds=(0, 1, 2), response_bytes=10),
        3,
        ["Waited: 0 ms", "Forwarded: 1.0 s", "Answered: 1.0 s, 10 B", "Ended: SUCCESS, after 2.0 s"],
    ),
    (
        failed(Reason.QUEUE_FULL, (None, None, 12)),
        1,
        [
            "Waited: 12.0 s, never handed to Ollama",
            "Forwarded: never handed to Ollama",
            "Answered: no answer came from Ollama",
            "Ended: FAILED, queue_full, after 12.0 s",
        ],
    ),
    (
        failed(Reason.TIMEOUT, (1, None, 301)),
        2,
        [
            "Waited: 1.0 s",
            "Forwarded: 5 min 00 s, no answer came from Ollama",
            "Answered: no answer came from Ollama",
            "Ended: FAILED, timeout, after 5 min 01 s",
        ],
    ),
    (
        lost(is_presumed=True),
        2,
        [
            "Waited: 1.0 s",
            "Forwarded: .*, no answer is known",
            "Answered: no answer is known",
            rf"Lost\?: no word from the task's gateway, which may still run it · presumed lost at {TIME}",
        ],
    ),
    (
        lost(is_presumed=False, started_ms=None),
        1,
        [
            "Waited: .*, not known to be handed to Ollama",
            "Forwarded: not known to be handed to Ollama",
            "Answered: no answer is known",
            "Ended: FAILED, lost, after",
        ],
    ),
]


@pytest.mark.parametrize(("found", "parts", "lines"), STAGES)
async def test_each_stage_is_told_in_words(page: Watched, found: Any, parts: int, lines: list[str]) -> None:
    """How long each took and when it began; what never happened is named; the last line is the end."""
    await show(page, found)
    await expect(page["#stages li"]).to_have_text([re.compile(line) for line in lines])
    widths = await page.evaluate(WIDTHS)
    assert len(widths) == parts
    assert min(widths) >= 3
    assert sum(widths) == pytest.approx(await page.evaluate("document.getElementById('timeline').clientWidth"))


async def test_a_short_part_is_still_seen(page: Watched) -> None:
    """A millisecond beside minutes has three pixels."""
    await show(page, task(Stage.DONE, seconds=(0.001, 0.002, 600)))
    first, second, third = await page.evaluate(WIDTHS)
    assert (first, second) == (3, 3)
    assert third > 500


async def test_the_part_that_runs_grows_and_is_marked(page: Watched) -> None:
    """Each second its share grows; a pattern and a dashed edge mark it, and the list says so in words."""
    await show(page, task(Stage.FORWARDING, began_ms=now_ms() - 4000, seconds=(2,)))
    await page.counts("#timeline .running-edge", 1)
    await page.counts("#stages li.running", 1)
    before = await page.evaluate(WIDTHS)
    words = await page["#stages li.running"].inner_text()  # of the same moment or a later one
    await expect(page["#stages li.running"]).not_to_have_text(words)
    after = await page.evaluate(WIDTHS)
    assert after[0] < before[0]
    assert after[1] > before[1]


async def test_an_ended_task_is_drawn_once(page: Watched) -> None:
    """The ages in the details go on, and the timeline stays as it is."""
    await show(page, task(Stage.DONE, began_ms=now_ms() - 5000, seconds=(1, 2, 3)))
    await page.shows("#stages", "Ended: SUCCESS")
    await page.evaluate(TWO_FRAMES)  # the first one tells the bar its width
    await page.evaluate(COUNTED)
    for _ in range(2):
        ended = await page["#task-fields dd"].nth(4).inner_text()
        await expect(page["#task-fields dd"].nth(4)).not_to_have_text(ended, use_inner_text=True)
    assert await page.evaluate("window.changes") == 0


async def test_a_later_attempt_says_that_the_times_are_its_own(page: Watched) -> None:
    """Attempt 2 says so at the timeline; the first attempt says nothing of attempts."""
    answers = await show(page, task(Stage.DONE, seconds=(1, 2, 3), attempt=2))
    await page.shows("#timeline-note", "These are the times of attempt 2.")
    answers.found = task(Stage.DONE, seconds=(1, 2, 3))
    await page.page.reload()
    await page.shows("#task-fields", "SUCCESS")
    await expect(page["#timeline-note"]).to_have_text("")


EXPLAINED = {
    Reason.TIMEOUT: ("A time limit was over.", "loading a model takes minutes. Otherwise give the request more time."),
    Reason.CLIENT_DISCONNECT: (
        "The client closed its connection.",
        "let the call outlive its client (X-Task-Keep: true)",
    ),
    Reason.LOST: ("Its gateway was killed, or has been silent for too long.", "Send the request again."),
}


@pytest.mark.parametrize("reason", EXPLAINED)
async def test_a_failure_is_explained(page: Watched, reason: Reason) -> None:
    """The view says what the reason means and what to do next."""
    await show(page, failed(reason, (1, 2, 3)))
    means, step = EXPLAINED[reason]
    await expect(page["#task-means"]).to_have_text(means)
    await page.shows("#task-next", step)
    await expect(page["#task-error"]).to_be_hidden()


@pytest.mark.parametrize(
    ("message", "means", "step"),
    [
        ("the task did not end within X-Task-Timeout, 1 seconds", "limit that the client set", "shorter answer"),
        ("the request was not with Ollama within X-Task-Start-Timeout, 1 seconds", "too long for its turn", "later"),
        ("the upstream was silent for 5 s", "A time limit was over", "UPSTREAM_IDLE_TIMEOUT_SEC"),
    ],
)
async def test_a_timeout_says_which_limit_it_was(page: Watched, message: str, means: str, step: str) -> None:
    """The client's limits and the gateway's own need different steps."""
    await show(page, failed(Reason.TIMEOUT, (1, 2, 3)) | {"message": message})
    await page.shows("#task-means", means)
    await page.shows("#task-next", step)


async def test_a_success_needs_no_advice(page: Watched) -> None:
    """A task that ended well, or runs, has no such part."""
    await show(page, task(Stage.DONE, seconds=(1, 2, 3)))
    await expect(page["#task-advice"]).to_be_hidden()


async def test_a_reason_of_a_later_version_is_named(page: Watched) -> None:
    """A reason that this page does not know is shown, and the page says that it cannot explain it."""
    await show(page, task(Stage.ERROR, seconds=(1, 2, 3), reason="constructor"))
    await page.shows("#task-fields", "constructor")
    await page.shows("#task-means", "does not know this reason")
    await expect(page["#task-next"]).to_have_text("")


async def test_ollamas_error_is_text(page: Watched) -> None:
    """Where the gateway kept Ollama's error, it is shown letter by letter, whatever it holds."""
    hostile = "<img src=x onerror=document.title='hit'> \u202e model 'x' not found"
    await show(page, failed(Reason.UPSTREAM_STATUS, (1, 2, 3), status_code=404, error_text=hostile))
    await expect(page["#task-error-text"]).to_have_text(hostile.replace("\u202e", "\\u202e"))
    await expect(page["#task-error-note"]).to_have_text("")
    await page.counts("img", 0)


@pytest.mark.parametrize("is_off", [True, False])
async def test_without_ollamas_error_the_view_names_the_setting(page: Watched, is_off: bool) -> None:
    """If the setting is off, the message says so, and the view what to set. An answer without text needs nothing."""
    found = failed(Reason.UPSTREAM_STATUS, (1, 2, 3), status_code=500)
    found["message"] = outcome_of_message(500, None, needs_ending=False, is_text_kept=not is_off).message
    await show(page, found)
    await page.shows("#task-means", "Ollama answered")
    await expect(page["#task-error-note"]).to_have_text(re.compile("ERROR_TEXT_BYTES" if is_off else "^$"))
    await expect(page["#task-error"]).to_be_hidden()
    assert "Trace" not in await page["#task-fields"].inner_text()


async def test_only_facts_with_a_value_are_rows(page: Watched) -> None:
    """A plain task has no rows for labels, queues and keys; points in time have a date, an offset and an age."""
    await show(page, task(Stage.DONE, began_ms=now_ms() - 200_000, seconds=(1, 2, 3)))
    names = await page["#task-fields dt"].all_text_contents()
    assert names == ["State", "Request", "Bytes", "Created", "Ended", "Gateway"]
    created = page["#task-fields dd"].nth(3)
    await expect(created).to_have_text(
        re.compile(rf"\d+ \w+ \d{{4}}, {TIME} \(UTC.\d\d:\d\d\) · 3 min ago"), use_inner_text=True
    )
    stamp = await created.locator("time").get_attribute("datetime")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stamp or "")


async def test_points_in_time_have_the_offset_of_their_day(beating: Gateway, new_page: NewPage) -> None:
    """In Berlin, winter is UTC+01:00 and summer UTC+02:00, whenever the page is opened."""
    page = await new_page(beating, timezone_id="Europe/Berlin")
    await page.open()
    script = "(ms) => import('/dashboard/moments.js').then((found) => found.moment(ms))"
    assert await page.evaluate(script, 1_796_039_343_120) == "30 Nov 2026, 12:49:03.120 (UTC+01:00)"
    assert (await page.evaluate(script, 1_783_000_000_005)).endswith(".005 (UTC+02:00)")
