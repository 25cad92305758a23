"""What the dashboard's lists do by themselves: live sizes, the age of the page, pausing, the store away, cancelling."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.listed import Lists, made
from tests.browser.test_dashboard_page import PHONE, RECORD, SEEN
from tests.support.scripted import Gated
from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.async_api import Locator, Route

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

BOX = "(element) => { const { x, y, width, height } = element.getBoundingClientRect(); return [x, y, width, height]; }"


async def test_bytes_grow_between_heartbeats(gateways: Launch, new_page: NewPage, upstream: Upstream) -> None:
    """The sizes of a stream are those of now, although no heartbeat comes."""
    gateway = await gateways(HEARTBEAT_SEC="60")
    page = await new_page(gateway)
    stream = Gated()
    upstream.then(stream)
    await gateway.send("POST", CHAT, (b"X-Task-Id", b"growing"), body=BODY)
    await upstream.exchange()
    stream.head()
    await page.open()
    for size in ("4.0 KiB", "8.0 KiB"):
        stream.piece(b"x" * 4096)
        await expect(page.row("in-flight", "growing")).to_contain_text(size)


async def test_it_says_how_old_it_is(page: Watched) -> None:
    """The age of the last list counts up, in plain text that no screen reader announces."""
    await page.page.clock.install()
    await Lists().serve(page)
    await page.open(turns_clock=True)

    async def is_told(text: str) -> bool:
        await page.page.clock.run_for(250)
        return re.fullmatch(text, await page["#updated"].inner_text()) is not None

    for text in (r"Updated 0 s ago", r"Updated [12] s ago", r"Updated 0 s ago"):
        await until(partial(is_told, text), what=text)
    assert await page["#updated"].evaluate("(e) => e.closest('[role=status], [aria-live]')") is None


async def test_paused_nothing_moves(page: Watched, beating: Gateway) -> None:
    """Paused, the page asks only for the gateway's condition; a button shows what is new, and how many.

    That is so whatever list would be the next one: here that of the tasks that stream.
    """
    lists = Lists(made("first"), made("streams", Stage.STREAMING, age_seconds=70))
    await lists.serve(page)
    await page.page.add_init_script(RECORD)
    await page.page.clock.install()
    await page.open(turns_clock=True)
    await page.page.clock.run_for(2500)
    await page.counts("#recent tbody tr", 2)
    await page["#pause"].click()
    await expect(page["#pause"]).to_have_attribute("aria-pressed", "true")
    assert (await page.page.title()).startswith("paused · ")
    lists.tasks.append(made("second", age_seconds=1))
    before = len(await page.evaluate("window.asked"))
    for _ in range(10):
        await page.page.clock.run_for(2000)
    asked = {path for path, _ in (await page.evaluate("window.asked"))[before:]}
    assert asked == {"/readyz"}
    await page.counts("#recent tbody tr", 2)
    await page.shows("#updated", "Paused. The page shows")
    await page.shoot("list-paused")
    await page["#look"].click()
    await page.counts("#recent tbody tr", 3)
    await page.shows("#look", "1 new task.")
    await page["#pause"].click()
    await page.page.clock.run_for(100)
    await page.shows("#updated", "Updated 0 s ago")
    assert await page.page.title() == "(1) Ollama Gateway"


async def test_an_answer_after_the_pause_changes_nothing(page: Watched) -> None:
    """A list that was in the air when the user paused the page is dropped; when the page goes on, it comes again."""
    lists = Lists(made("first"))
    await lists.serve(page)
    await page.open()
    await page.counts("#recent tbody tr", 1)
    lists.gate.clear()
    before = len(lists.queries)
    await until(lambda: len(lists.queries) > before, what="a list is in the air")
    await page["#pause"].click()
    await page.shows("#updated", "Paused.")
    told = await page["#updated"].inner_text()
    lists.tasks.append(made("second", age_seconds=1))
    lists.gate.set()
    assert await page.asked("/tasks/status")[-1].response() is not None
    await page.evaluate("fetch('/livez').then((answer) => answer.text())")  # by then the page has read the list
    await page.counts("#recent tbody tr", 1)
    assert await page["#updated"].inner_text() == told
    await page["#pause"].click()
    await page.counts("#recent tbody tr", 2)


async def test_hidden_backing_off_and_away_have_their_words(page: Watched) -> None:
    """A hidden tab rests, failing lists name the next try, and a gateway that is away is in the title."""
    lists = Lists(made("first"))
    await lists.serve(page)
    await page.page.clock.install()
    await page.open("/", "500", "net::ERR_FAILED", turns_clock=True)
    await page.page.clock.run_for(500)
    await page.counts("#recent tbody tr", 1)
    await page.evaluate(SEEN, False)
    await page.shows("#updated", "Rests while its tab is hidden.")
    await page.evaluate(SEEN, True)
    await page.page.route("**/tasks/status?*", lambda route: route.fulfill(status=500, json={"detail": "broken"}))
    await page.page.clock.run_for(3000)
    await page.shows("#updated", re.compile(r"Updated \d\d:\d\d:\d\d, next try in \d+ s\."))
    for path in ("**/tasks/status?*", "**/readyz", "**/models/loaded", "**/nodes"):
        await page.page.route(path, lambda route: route.abort())

    async def is_away() -> bool:
        await page.page.clock.run_for(1000)
        return (await page.page.title()).startswith("away · ")

    await until(is_away, what="the title says away")
    await page.shows("#updated", re.compile(r"Away since \d\d:\d\d:\d\d, next try in \d+ s\."))


async def test_a_fresh_page_shows_what_the_gateway_knows(
    launch: Launch, new_store: NewStore, new_page: NewPage
) -> None:
    """While the store is down, a page that opens lists the gateway's own tasks and says so; later it lists all."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, HEARTBEAT_SEC="0.5")
    await gateway.ask("POST", CHAT, (b"X-Task-Id", b"before"), body=BODY)
    await store.kill()
    await gateway.ask("POST", CHAT, (b"X-Task-Id", b"meanwhile"), body=BODY)
    page = await new_page(gateway)
    await page.open("/", "503")
    for task_id in ("before", "meanwhile"):
        await expect(page.row("recent", task_id)).to_be_visible()
    await page.shows("#own-note", "The store is down. These are the tasks that this gateway itself knows.")
    await page.shoot("list-store-away")
    await store.start()
    await expect(page["#own-note"]).to_have_text("")
    await expect(page.row("recent", "meanwhile")).to_be_visible()


async def test_filters_work_without_the_store(page: Watched) -> None:
    """While the store is away, a label and a state are asked of the gateway itself, however many tasks are newer."""
    lists = Lists()
    lists.is_away = True
    lists.own = [made(f"task-{n:04}", age_seconds=1000 + n) for n in range(700)]
    lists.own += [made("rare", age_seconds=2000, label="rare"), made("broken", Stage.ERROR, age_seconds=2100)]
    await lists.serve(page)
    await page.open("/#/?label=rare", "503")
    await expect(page.row("recent", "rare")).to_be_visible()
    await page.counts("#recent tbody tr", 1)
    assert {"scope": "instance", "label": "rare", "limit": "50"} in lists.queries
    await page.open("/#/?state=FAILED", "503")
    await expect(page.row("recent", "broken")).to_be_visible()
    await page.open("/#/?path=nothing-of-this", "503")
    await page.shows("#found-note", "This gateway's own tasks are read back to")
    await expect(page["#search-older"]).to_be_visible()
    await page["#search-older"].click()
    await page.shows("#recent-note", "No task matches these filters.")
    await expect(page["#found-note"]).to_have_text("")


async def test_plots_have_all_own_tasks_without_the_store(page: Watched) -> None:
    """While the store is away, the plots read the gateway's own tasks page by page, and say how far those reach."""
    lists = Lists()
    lists.is_away = True
    lists.own = [made(f"task-{n:04}", age_seconds=10 + n / 2) for n in range(1200)]
    await lists.serve(page)
    await page.open("/", "503")
    await page.shows("#plot-states-text", "1,200 ended well")
    await page.shows("#plots-note", re.compile(r"The oldest task that this gateway knows is of \d\d:\d\d:\d\d\."))
    assert all(query["limit"] != "500" for query in lists.queries)


async def test_without_all_lists_the_page_says_what_it_has(page: Watched) -> None:
    """A list that is being rebuilt is no store that is down. What was known of other gateways stays, with its time."""
    lists = Lists(made("of-another"))
    lists.own = [made("own", age_seconds=5)]
    lists.why_away = "the list is being rebuilt; try again in a moment"
    await lists.serve(page)
    await page.open("/", "503")
    await expect(page.row("recent", "of-another")).to_be_visible()
    lists.is_away = True
    await page.shows(
        "#own-note",
        re.compile(
            r"Not all tasks can be listed: the list is being rebuilt; try again in a moment\. "
            r"These are the tasks that this gateway itself knows\. "
            r"Those of other gateways are as they were at \d\d:\d\d:\d\d\."
        ),
    )
    await page.shows("#problems", "Tasks of other gateways cannot be listed: the list is being rebuilt")
    await expect(page.row("recent", "own")).to_be_visible()
    await expect(page.row("recent", "of-another")).to_be_visible()
    lists.is_away = False
    await expect(page["#own-note"]).to_have_text("")
    await page.shows("#problems", "All is well.")


async def test_what_cannot_be_listed_is_no_empty_list(page: Watched) -> None:
    """While nothing has come it says `Asking…`; where nothing can be had it says that, and never `No task`."""
    await page.page.route("**/tasks/status?*", lambda route: route.fulfill(status=503, json={"detail": "away"}))
    await page.open("/", "503")
    await page.shows("#recent-note", "The tasks cannot be listed at the moment.")
    assert "No task" not in (await page["#recent-note"].inner_text())


async def test_a_list_that_takes_its_time_is_loading(page: Watched) -> None:
    """Before the first answer the list says that the page is asking."""
    waiting: list[Route] = []
    await page.page.route("**/tasks/status?*", lambda route: waiting.append(route))
    await page.open("/", "net::ERR_ABORTED")
    await page.shows("#recent-note", "Asking…")


async def test_an_empty_list_offers_a_first_call(page: Watched, beating: Gateway, new_page: NewPage) -> None:
    """Where there is no task, one line for a shell stands there, to this address; with keys it has their header."""
    await Lists().serve(page)
    await page.open()
    await page.shows("#first-call-text", f"curl {page.origin}/v1/chat/completions -H 'Content-Type")
    await page["#copy-call"].click()
    await page.shows("#news", re.compile(r"Copied|Press Ctrl\+C"))  # on the button `Copied` does not stay
    await page.evaluate("sessionStorage.setItem('ollama-gateway-key', 'k')")
    await page.page.reload()
    await page.shows("#first-call-text", "-H 'Authorization: Bearer YOUR_KEY'")
    await page.shoot("list-empty")


async def boxes(*elements: Locator) -> list[Any]:
    """Where these stand on the page, and how large they are."""
    return [await element.evaluate(BOX) for element in elements]


@pytest.mark.parametrize("options", [{}, PHONE])
async def test_the_question_moves_nothing(beating: Gateway, new_page: NewPage, options: dict[str, Any]) -> None:
    """The confirmation of a cancel stands over its button: its row, the next one and the columns stay."""
    page = await new_page(beating, **options)
    await Lists(*[made(f"running-{n}", Stage.STREAMING, age_seconds=40 + n) for n in range(3)]).serve(page)
    await page.open()
    await page.counts("#in-flight tbody tr", 3)
    rows = [page.row("in-flight", f"running-{n}") for n in range(3)]
    cells = [rows[1].locator("td").nth(n) for n in (0, 3, 9)]
    before = await boxes(*rows, *cells)
    await rows[1].get_by_text("Cancel", exact=True).click()
    await expect(rows[1].get_by_text("Really cancel")).to_be_visible()
    assert await boxes(*rows, *cells) == before
    await page.shoot(f"list-asked-{'phone' if options else 'wide'}")
    await page.page.keyboard.press("Escape")
    assert await page.focused() == "Cancel the task running-1"
    assert await page["#in-flight"].evaluate("(e) => getComputedStyle(e.parentElement).maxHeight") == (
        "none" if options else "576px"
    )


async def test_all_of_a_label_are_cancelled(page: Watched, beating: Gateway, upstream: Upstream) -> None:
    """With the filter of a label, one button cancels all its tasks in flight, after a confirmation."""
    upstream.then(Gated(), Gated())
    for number in range(2):
        fields = ((b"X-Task-Id", b"of-a-job-%d" % number), (b"X-Task-Label", b"job-of-many"))
        await beating.send("POST", CHAT, *fields, body=BODY)
        await beating.at(f"of-a-job-{number}", "forwarding")
    await page.open("/#/?label=job-of-many")
    button = page["#cancel-label"].get_by_text("Cancel the 2 in flight with this label")
    await button.click()
    await page.shoot("list-cancel-label")
    await page["#cancel-label"].get_by_text("Keep").click()
    await button.click()
    await page["#cancel-label"].get_by_text("Really cancel").click()
    await page.shows("#news", "2 tasks were asked to stop.")
    await page.counts("#in-flight tbody tr", 0)
    await expect(page["#cancel-label"]).to_be_hidden()


async def test_admin_sees_the_owners(page: Watched) -> None:
    """The names of the API keys are a column if the key sees the gateways, and the tasks have owners."""
    lists = Lists(made("one", owner="team-a"), made("two", Stage.STREAMING, owner="team-b"))
    await lists.serve(page)
    await page.open()
    await expect(page.row("recent", "one").locator("td.owner")).to_have_text("team-a")
    await expect(page.row("recent", "one").locator("td.owner")).to_be_visible()
    await page.shoot("list-admin")
    await page.page.route("**/nodes", lambda route: route.fulfill(status=403, json={"detail": "not yours"}))
    await page.page.reload()
    await expect(page.row("recent", "one").locator("td.owner")).to_be_hidden()
    lists.tasks = [made("three")]
    await expect(page.row("recent", "three").locator("td.owner")).to_be_hidden()


async def test_words_explain_themselves(page: Watched) -> None:
    """A `?` button opens one sentence below, by keyboard too, and closes it again."""
    await Lists(made("one")).serve(page)
    await page.open()
    button = page.page.get_by_role("button", name="What is Unsaved?")
    await button.focus()
    await page.page.keyboard.press("Enter")
    await page.shows("#why-top", "statuses that wait to be written to the store")
    await expect(button).to_have_attribute("aria-expanded", "true")
    await page.page.get_by_role("button", name="What is Dropped?").click()
    await page.shows("#why-top", "the store was down for too long")
    await expect(button).to_have_attribute("aria-expanded", "false")
    await page.shoot("list-explained")
    for word in ("kept", "detached", "lost"):
        await page.page.get_by_role("button", name=f"What is {word}?").click()
        await page.shows("#why-recent", word)
