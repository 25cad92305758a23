"""What the dashboard shows of tasks, and what it does to them (issue 6, part 1)."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.listed import Lists, made
from tests.support.outcome import outcome
from tests.support.scripted import EVENTS, JSON, Gated, answering, sending, streaming
from tests.support.waiting import GUARD_SECONDS, until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel
    from tests.support.scripted import Upstream
    from tests.support.wire import Client


CHAT = "/v1/chat/completions"
CANCELLED = ("FAILED", "cancelled", "cancelled")
NOTHING = "\u2013"
DONE_EVENT = b"data: [DONE]\n\n"
STAGE, AGE, FIRST_BYTE, BYTES, HEARTBEAT = 3, 4, 5, 6, 7
TOOK = 6  # of the recent tasks


async def start(gateway: Gateway, task_id: str, target: str = CHAT) -> Client:
    """Send a request and leave its answer unread."""
    return await gateway.send("POST", target, (b"X-Task-Id", task_id.encode()), body=b"{}")


async def run(gateway: Gateway, task_id: str, target: str = CHAT) -> None:
    """A request from its start to its end."""
    await gateway.ask("POST", target, (b"X-Task-Id", task_id.encode()), body=b"{}")


async def test_an_empty_gateway_says_so(launch: Launch, new_page: NewPage) -> None:
    """Where nothing has happened, each part says that in words, and that all is well."""
    page = await new_page(await launch())
    await page.open()
    await page.shows("#problems", "All is well.")
    await page.shows("#in-flight-note", "Nothing runs")
    await page.shows("#recent-note", "No task yet")
    await page.shows("#models-note", "None. Ollama loads a model with the first request")
    await page.shows("#condition-store", "none")
    await page.shows("#version", re.compile(r"\d+\.\d+"))
    await page.shoot("empty")


async def test_a_live_stream_appears_moves_and_ends(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """A stream is in flight while it runs, and its bytes and age go on; at its end it is a recent one."""
    await page.open()
    gated = upstream.gated()
    await start(beating, fresh_id)
    row = page.row("in-flight", fresh_id)
    cells = row.locator("td")
    await expect(cells.nth(STAGE)).to_have_text("forwarding")
    await expect(cells.nth(FIRST_BYTE)).to_have_text(NOTHING)
    await expect(cells.nth(BYTES)).to_have_text("0 B")
    await expect(row).to_contain_text(CHAT)

    gated.head()
    gated.piece(b"data: " + b"x" * 4090)
    await expect(cells.nth(STAGE)).to_have_text("streaming")
    await expect(cells.nth(FIRST_BYTE)).to_have_text(re.compile(r"\d+ m?s"))
    await expect(cells.nth(BYTES)).to_have_text("4.0 KiB")
    age = await cells.nth(AGE).inner_text()
    await expect(cells.nth(AGE)).not_to_have_text(age)
    gated.piece(b"y" * 4096)
    await expect(cells.nth(BYTES)).to_have_text("8.0 KiB")
    await expect(cells.nth(HEARTBEAT)).to_have_text(re.compile(r"[0-4] s ago"))

    gated.piece(b"\n\n" + DONE_EVENT)
    gated.end()
    await expect(row).to_have_count(0)
    await expect(page.row("recent", fresh_id)).to_contain_text("SUCCESS")


@pytest.mark.model
async def test_a_real_models_stream_is_seen(
    gateways: Launch, new_page: NewPage, model: EmbeddedModel, fresh_id: str
) -> None:
    """A real model's stream is in flight and grows, no word of it is on the page, and cancelling ends it."""
    gateway = await gateways(UPSTREAM_BASE=model.base, HEARTBEAT_SEC="0.5")
    page = await new_page(gateway)
    await page.open()
    question = {"role": "user", "content": "Tell of Xanadu"}
    body = {"model": model.name, "stream": True, "max_tokens": 3000, "messages": [question]}
    client = await gateway.connect()
    fields = ((b"X-Task-Id", fresh_id.encode()), JSON)
    await client.send(request("POST", CHAT, *fields, body=json.dumps(body).encode()))
    row = page.row("in-flight", fresh_id)
    cells = row.locator("td")
    await expect(cells.nth(STAGE)).to_have_text("streaming")
    before = await cells.nth(BYTES).inner_text()
    await expect(cells.nth(BYTES)).not_to_have_text(before)
    assert "Xanadu" not in await page["html"].inner_text()
    await row.get_by_text("Cancel", exact=True).click()
    await row.get_by_text("Really cancel").click()
    await expect(page.row("recent", fresh_id)).to_contain_text("cancelled")
    answer = await within(GUARD_SECONDS, client.answer(), "the client's answer is broken off")
    assert not answer.body.complete


async def test_a_task_is_cancelled_when_asked_twice(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """The first press asks, `Keep` takes it back, the second one closes the connection to Ollama and fails the task."""
    await page.open()
    upstream.gated()
    await start(beating, fresh_id)
    row = page.row("in-flight", fresh_id)
    await row.get_by_text("Cancel", exact=True).click()
    await row.get_by_text("Keep").click()
    await expect(row.get_by_text("Keep")).to_be_hidden()
    exchange = await upstream.exchange()
    assert not exchange.closed.is_set()

    await row.get_by_text("Cancel", exact=True).click()
    await page.shoot("asked-before-cancelling")
    await row.get_by_text("Really cancel").click()
    await within(GUARD_SECONDS, exchange.closed.wait(), "the upstream connection is closed")
    await expect(row).to_have_count(0)
    await page.shows("#news", f"The task {fresh_id} is cancelled.")
    await expect(page.row("recent", fresh_id)).to_contain_text("cancelled")
    assert outcome(await beating.status(fresh_id)) == CANCELLED


async def test_what_a_task_took_begins_at_its_hand_over(page: Watched) -> None:
    """As on the command line: until the end, or until now. A task that never got to Ollama took nothing."""
    never = made("never", Stage.CANCELLED, started_ms=None, first_byte_ms=None, reason="cancelled")
    await Lists(made("ended"), never, made("running", Stage.STREAMING, age_seconds=30)).serve(page)
    await page.open()
    await expect(page.row("recent", "ended").locator("td").nth(TOOK)).to_have_text("4.0 s")
    await expect(page.row("recent", "never").locator("td").nth(TOOK)).to_have_text(NOTHING)
    running = page.row("recent", "running").locator("td").nth(TOOK)
    await expect(running).to_have_text(re.compile(r"\d\d s"))
    before = await running.inner_text()
    await expect(running).not_to_have_text(before)


async def test_the_keyboard_suffices(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Tab comes by everything in the order of the page; Enter opens a task and cancels it, Escape goes back."""
    upstream.gated()
    await start(beating, fresh_id)
    await page.open()
    await page.shows("#in-flight", fresh_id)
    passed = await page.tab_to(f"Cancel the task {fresh_id}")
    assert passed[:3] == ["To the content", "Dashboard", "API"]
    assert passed[-3:-1] == [fresh_id, f"POST {CHAT}"]

    await page.page.keyboard.press("Shift+Tab")
    await page.page.keyboard.press("Shift+Tab")
    await page.page.keyboard.press("Enter")
    await page.shows("#task-fields", "RUNNING, forwarding")
    await page.page.keyboard.press("Escape")
    await expect(page["#view-task"]).to_be_hidden()
    assert await page.focused() == fresh_id

    await page.page.keyboard.press("Tab")
    await page.page.keyboard.press("Tab")
    await page.page.keyboard.press("Enter")
    assert await page.focused() == f"Really cancel the task {fresh_id}"
    await page.page.keyboard.press("Escape")
    assert await page.focused() == f"Cancel the task {fresh_id}"
    await page.page.keyboard.press("Enter")
    await page.page.keyboard.press("Enter")
    await page.shows("#news", "is cancelled")
    assert (await page.focused()).startswith("In flight")  # its row is gone, the keyboard stays near
    assert outcome(await beating.status(fresh_id)) == CANCELLED


async def test_a_row_stays_itself_while_it_is_renewed(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Lists that come in leave the keyboard where it is, also when tasks come above and go below."""
    older, newer = Gated(), Gated()
    upstream.then(older, Gated(), newer)
    await start(beating, f"{fresh_id}-older")
    await upstream.exchange(0)
    await start(beating, fresh_id)
    await upstream.exchange(1)
    await page.open()
    row = page.row("in-flight", fresh_id)
    await row.get_by_text("Cancel", exact=True).focus()
    await start(beating, f"{fresh_id}-newer")
    await page.shows("#in-flight", f"{fresh_id}-newer")
    older.head()
    older.piece(DONE_EVENT)
    older.end()
    await expect(page.row("in-flight", f"{fresh_id}-older")).to_have_count(0)
    assert await page.focused() == f"Cancel the task {fresh_id}"


async def test_hostile_texts_are_texts(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Markup in paths and queries is shown letter by letter and does nothing; as an id it is refused."""
    image, script = "<img src=x onerror=document.title='hit'>", "<script>document.title='hit'</script>"
    targets = [
        "/v1/%3Cimg%20src=x%20onerror=document.title=%27hit%27%3E?q=%3Cscript%3Edocument.title=1%3C/script%3E",
        "/v1/<img/src=x/onerror=document.title='hit'>?q=<script>document.title='hit'</script>",
        "/v1/%E2%80%AEgnp.exe?q=%22%3E%3Csvg/onload=document.title=1%3E&r=javascript:document.title=1",
        "/v1/" + "x" * 2000,
    ]
    upstream.default = answering(200, JSON, body=f'{{"answer": "{image}"}}'.encode())
    for number, target in enumerate(targets):
        await run(beating, f"{fresh_id}-{number}", target)
    upstream.gated()
    await start(beating, f"{fresh_id}-running", targets[1])
    refused = await beating.http.post("/v1/embeddings", headers={"X-Task-Id": image})
    assert refused.status_code == 400

    await page.open("/", "400", "404")
    for number, target in enumerate(targets):
        shown = await page.row("recent", f"{fresh_id}-{number}").locator(".target").text_content()
        assert shown == f"POST {target}"
    await (
        page.row("in-flight", f"{fresh_id}-running").get_by_role("link", name=f"{fresh_id}-running", exact=True).click()
    )
    await page.shows("#task-fields", targets[1])
    await page.page.keyboard.press("Escape")
    for hostile in (image, script, "../../livez", "%00"):
        await page["#search-id"].fill(hostile)
        await page["#search-id"].press("Enter")
        await page.shows("#task-problem", re.compile("not a task id|no such task|must not contain"))
        await page.page.keyboard.press("Escape")
    await page.counts("img, script:not([src]), iframe, main svg [onload]", 0)
    await expect(page.page).to_have_title("(1) Ollama Gateway")


async def test_the_filter_shows_one_state(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """With a state chosen, the recent tasks are those in it, and they stay up to date."""
    await run(beating, f"{fresh_id}-well")
    upstream.then(answering(500))
    await run(beating, f"{fresh_id}-failed")
    await page.open()
    await page["#state"].select_option("FAILED")
    await expect(page.row("recent", f"{fresh_id}-well")).to_have_count(0)
    await expect(page.row("recent", f"{fresh_id}-failed")).to_contain_text("HTTP 500")
    upstream.then(sending(b"", then="reset"))
    await run_broken(beating, f"{fresh_id}-later")
    await expect(page.row("recent", f"{fresh_id}-later")).to_contain_text("upstream_error")
    await page.shoot("failed")


async def run_broken(gateway: Gateway, task_id: str) -> None:
    """A request that Ollama breaks off."""
    answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
    assert answer.status == 502


async def test_older_pages_can_be_walked(launch: Launch, new_page: NewPage) -> None:
    """`Older` and `Newer` walk through all tasks, fifty at a time, without a gap or a double."""
    gateway = await launch()
    ids = [f"task-{number:03}" for number in range(120)]
    for task_id in ids:
        await run(gateway, task_id)
    page = await new_page(gateway)
    await page.open()
    await page.counts("#recent tbody tr", 50)
    seen = await page["#recent .id"].all_text_contents()
    for number in (2, 3):
        await page["#older"].click()
        await page.shows("#page-number", f"Page {number}")
        seen += await page["#recent .id"].all_text_contents()
    assert seen == ids[::-1]
    await expect(page["#older"]).to_be_disabled()
    await page["#newer"].click()
    await page.shows("#page-number", "Page 2")
    await page.shows("#plots-note", "Drawn from 120 tasks.")
    await page.shows("#plot-states-text", "120 ended well")


async def test_a_task_is_found_by_its_id(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """An exact id opens its document, which follows the task by itself; an unknown one is told to be unknown."""
    gated = upstream.gated(EVENTS)
    await start(beating, fresh_id)
    await page.open("/", "404")
    await page["#search-id"].fill("unknown")
    await page["#search-id"].press("Enter")
    await page.shows("#task-problem", "There is no such task")
    await page["#task-back"].click()
    await page["#search-id"].fill(fresh_id)
    await page["#search-id"].press("Enter")
    await page.shows("#task-id", fresh_id)
    await page.shows("#task-fields", "RUNNING, forwarding")
    await until(lambda: "wait=" in page.asked(f"/tasks/status/{fresh_id}")[-1].url, what="it waits for news")
    waiting = page.asked(f"/tasks/status/{fresh_id}")[-1]
    gated.head()
    await page.shows("#task-fields", "RUNNING, streaming")
    answer = await waiting.response()
    assert answer is not None
    assert answer.status == 200, "the news came as the answer to the question that waited"
    gated.end()
    await page.shows("#task-fields", "stream_incomplete")
    await page.shows("#task-means", "The stream ended without its end event.")
    await page["#task-document-fold summary"].click()
    await page.shows("#task-document", '"event_type": "task.status.update"')


async def test_the_plots_count_what_happened(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """Requests per state and times to first byte are those of the tasks, in numbers, too."""
    gateway = await launch(HEARTBEAT_SEC="0.5")
    for number in range(7):
        await run(gateway, f"well-{number}")
    upstream.then(answering(500), answering(404))
    await run(gateway, "bad-1")
    await run(gateway, "bad-2")
    streams = [Gated() for _ in range(3)]
    upstream.then(*streams)
    for number, stream in enumerate(streams):
        await start(gateway, f"stream-{number}")
        await upstream.exchange(9 + number)
        if number:
            stream.head()
            stream.piece(b"data: x\n\n" * 500 * number)
    upstream.loaded = answering(200, JSON, body=TWO_MODELS)
    page = await new_page(gateway)
    await page.open()
    await page.shows("#plot-states-text", "7 ended well, 2 failed, 3 running")
    await page.shows("#plot-first-byte-text", re.compile(r"median [\d.]+ m?s, p95 [\d.]+ m?s, slowest \d+"))
    assert (
        await page["#plot-states svg"].get_attribute("aria-label")
        == "Requests a minute: 7 ended well, 2 failed, 3 running"
    )
    titles = await page["#plot-states title"].all_text_contents()
    numbers = [int(number) for title in titles for number in re.findall(r": (\d+) ended well", title)]
    assert sum(numbers) == 7
    await page.shows("#models-note", "A part of qwen3:30b is on the CPU")
    await page.shows("#in-flight-count", "3")
    await page.shoot("busy")


TWO_MODELS = json.dumps(
    {
        "models": [
            {
                "name": "qwen3:30b",
                "size": 20_000_000_000,
                "size_vram": 13_000_000_000,
                "expires_at": "2318-03-12T14:38:31.83753-07:00",
                "context_length": 8192,
            },
            {"name": "nomic-embed-text:latest", "size": 600_000_000, "size_vram": 600_000_000, "context_length": 2048},
        ]
    }
).encode()


async def test_clients_come_and_go_by_the_hundred(launch: Launch, upstream: Upstream, new_page: NewPage) -> None:
    """Tasks in flight are shown even where hundreds of newer ones ended since, which fill the newest pages."""
    gateway = await launch()
    upstream.then(Gated())
    await start(gateway, "early")
    await upstream.exchange(0)
    upstream.default = streaming(DONE_EVENT)
    await asyncio.gather(*(many(gateway, f"batch-{number}", 30) for number in range(4)))
    page = await new_page(gateway)
    await page.open()
    await expect(page.row("in-flight", "early")).to_be_visible()
    await expect(page.row("recent", "early")).to_have_count(0)
    await page.shows("#plot-states-text", "120 ended well, 1 running")


async def many(gateway: Gateway, name: str, number: int) -> None:
    """Requests one after another."""
    for index in range(number):
        await run(gateway, f"{name}-{index}")
