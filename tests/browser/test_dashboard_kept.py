"""What the dashboard shows of kept answers: marks in the lists, the answer beside its task, and how it is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from tests.support.outcome import outcome
from tests.support.scripted import EVENTS, JSON, answering, sending, streaming
from tests.support.scripted import head as head_of
from tests.support.waiting import GUARD_SECONDS, within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Gated, Script, Upstream

CHAT = "/v1/chat/completions"
PHONE = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
PIECES = [b'data: {"choices":[{"delta":{"content":"word %d "}}]}\n\n' % n for n in range(30)] + [b"data: [DONE]\n\n"]
WHOLE = b"".join(PIECES)


async def kept(gateway: Gateway, upstream: Upstream, task_id: str, script: Script, *more: tuple[bytes, bytes]) -> None:
    """A task that has ended, with its answer kept."""
    upstream.then(script)
    fields = [(b"X-Task-Id", task_id.encode()), (b"X-Task-Keep", b"true"), *more]
    await gateway.ask("POST", CHAT, *fields, body=b"{}")
    await gateway.ended(task_id)


async def detached(gateway: Gateway, upstream: Upstream, task_id: str) -> Gated:
    """A task that runs without a client; its answer has not begun."""
    gated = upstream.gated(EVENTS)
    fields = [(b"X-Task-Id", task_id.encode()), (b"Prefer", b"respond-async")]
    answer = await gateway.ask("POST", CHAT, *fields, body=b"{}")
    assert answer.status == 202
    await gateway.at(task_id, "forwarding")
    return gated


async def open_task(page: Watched, table: str, task_id: str) -> None:
    """Open the view of a task."""
    await page.row(table, task_id).get_by_role("link", name=task_id, exact=True).click()
    await page.shows("#task-id", task_id)


async def test_lists_mark_kept_and_detached_tasks(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """A task that is kept says so, one that needs no client says that, and the others say nothing."""
    await kept(beating, upstream, f"{fresh_id}-kept", streaming(*PIECES))
    upstream.then(streaming(*PIECES))
    await beating.ask("POST", CHAT, (b"X-Task-Id", f"{fresh_id}-plain".encode()), body=b"{}")
    await detached(beating, upstream, f"{fresh_id}-alone")
    await page.open()
    await expect(page.row("in-flight", f"{fresh_id}-alone").locator(".mark")).to_have_text("kept, detached")
    await expect(page.row("recent", f"{fresh_id}-kept").locator(".mark")).to_have_text("kept")
    await expect(page.row("recent", f"{fresh_id}-plain").locator(".mark")).to_be_hidden()


async def test_an_answer_is_shown_and_saved(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """Its text appears in the view, its bytes go into a file; a task that is not kept has no such part."""
    await kept(beating, upstream, fresh_id, streaming(*PIECES))
    upstream.then(streaming(*PIECES))
    await beating.ask("POST", CHAT, (b"X-Task-Id", f"{fresh_id}-plain".encode()), body=b"{}")
    await page.open()
    await open_task(page, "recent", f"{fresh_id}-plain")
    await expect(page["#task-answer"]).to_be_hidden()
    await page.page.keyboard.press("Escape")
    await open_task(page, "recent", fresh_id)
    await page.shows("#task-fields", "yes, 1.6 KiB")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "This is the whole answer.")
    await page["#answer-as-raw"].click()
    assert await page["#answer-text"].text_content() == WHOLE.decode()
    async with page.page.expect_download() as download:
        await page["#answer-save"].click()
    saved = await download.value
    assert saved.suggested_filename == f"{fresh_id}.txt"
    await saved.save_as(tmp_path / "saved")
    assert (tmp_path / "saved").read_bytes() == WHOLE
    await page.shows("#answer-note", f"as {fresh_id}.txt")
    await page.page.keyboard.press("Escape")
    await open_task(page, "recent", fresh_id)
    await expect(page["#answer-text"]).to_be_hidden()


async def test_an_answer_is_shown_live(page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """While the task runs, its answer grows in the view; leaving the view ends the reading."""
    gated = await detached(beating, upstream, fresh_id)
    await page.open()
    await open_task(page, "in-flight", fresh_id)
    await page.shows("#task-fields", "yes: the task does not need its client any more")
    await expect(page["#answer-save"]).to_be_hidden()
    await page["#answer-show"].click()
    await page.shows("#answer-note", "The answer has not begun.")
    gated.head()
    gated.piece(PIECES[0])
    await page.shows("#task-fields", "RUNNING, streaming")
    await page["#answer-show"].click()
    await page.shows("#answer-text", "word 0 ")
    gated.piece(PIECES[1])
    await page.shows("#answer-text", "word 1 ")
    gated.piece(b"".join(PIECES[2:]))
    gated.end()
    await page.shows("#answer-note", "This is the whole answer.")
    await page["#answer-as-raw"].click()
    assert await page["#answer-text"].text_content() == WHOLE.decode()
    await expect(page["#answer-save"]).to_be_visible()


async def test_an_answer_is_deleted_when_asked_twice(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """The first press asks, `Keep` and Escape take it back, the second one deletes; the page says what became of it."""
    await kept(beating, upstream, fresh_id, streaming(*PIECES))
    await page.open()
    await open_task(page, "recent", fresh_id)
    part = page["#task-answer"]
    await part.get_by_text("Delete", exact=True).click()
    await part.get_by_text("Keep", exact=True).click()
    await part.get_by_text("Delete", exact=True).click()
    await page.page.keyboard.press("Escape")
    assert await page.focused() == f"Delete the answer of {fresh_id}"
    assert (await beating.http.get(f"/tasks/{fresh_id}/response")).content == WHOLE
    await page.page.keyboard.press("Enter")
    await page.page.keyboard.press("Enter")
    await page.shows("#task-fields", "no, it was deleted")
    await expect(part).to_be_hidden()
    assert await page.evaluate("document.activeElement.id") == "h-task"
    await page.shows("#news", f"The answer of {fresh_id} is deleted.")
    assert (await beating.http.get(f"/tasks/{fresh_id}/response")).status_code == 410
    await page.page.keyboard.press("Escape")
    await expect(page.row("recent", fresh_id).locator(".mark")).to_be_hidden()


async def test_deleting_a_detached_tasks_answer_cancels_it(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """No client would get that answer: the button says that it cancels the task, and does."""
    await detached(beating, upstream, fresh_id)
    exchange = await upstream.exchange()
    await page.open()
    await open_task(page, "in-flight", fresh_id)
    await page["#task-answer"].get_by_text("Delete", exact=True).click()
    await page["#task-answer"].get_by_text("Really delete, and cancel the task").click()
    await within(GUARD_SECONDS, exchange.closed.wait(), "the upstream connection is closed")
    await page.shows("#task-fields", "FAILED, cancelled")
    assert outcome(await beating.status(fresh_id)) == ("FAILED", "cancelled", "cancelled")


async def test_what_is_wrong_with_an_answer_is_said(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Broken off, or gone since the page has asked: each is said in words."""
    broken = sending(head_of(200, JSON, (b"Content-Length", b"1000")) + b"part", then="drop")
    await kept(beating, upstream, f"{fresh_id}-broken", broken)
    await kept(beating, upstream, f"{fresh_id}-gone", streaming(*PIECES))
    await page.open("/", "410", "net::ERR_CONTENT_LENGTH_MISMATCH", "net::ERR_INCOMPLETE_CHUNKED_ENCODING")
    await open_task(page, "recent", f"{fresh_id}-broken")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "The answer was broken off.")
    await page.page.keyboard.press("Escape")
    await open_task(page, "recent", f"{fresh_id}-gone")
    assert (await beating.http.delete(f"/tasks/{fresh_id}-gone/response")).status_code == 204
    await page["#answer-show"].click()
    await page.shows("#answer-note", "is not kept: deleted")


async def test_a_large_or_hostile_answer_is_text(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Markup stays text, control characters are escaped, and of a large answer the page shows the first part."""
    hostile = "<img src=x onerror=document.title='hit'>\x1b[31m\u202egnp\tx\n"
    await kept(beating, upstream, fresh_id, answering(200, (b"Content-Type", b"text/html"), body=hostile.encode()))
    await kept(beating, upstream, f"{fresh_id}-large", answering(500, JSON, body=b"x" * 1_000_000))
    await page.open("/", "500")
    await open_task(page, "recent", fresh_id)
    await page["#answer-show"].click()
    await page.shows("#answer-note", "This is the whole answer.")
    shown = "<img src=x onerror=document.title='hit'>\\u001b[31m\\u202egnp\tx\n"
    assert await page["#answer-text"].text_content() == shown
    await page.counts("img", 0)
    await page.page.keyboard.press("Escape")
    await open_task(page, "recent", f"{fresh_id}-large")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "These are the first 256 KiB.")
    assert len(await page["#answer-text"].text_content() or "") == 256 * 1024


async def test_with_keys_the_page_sends_its_key(
    launch: Launch, upstream: Upstream, new_page: NewPage, fresh_id: str
) -> None:
    """A kept answer is shown and deleted with the key that the page asked for."""
    gateway = await launch(GATEWAY_API_KEYS="alice:alices-key")
    gateway.http.headers["Authorization"] = "Bearer alices-key"
    await kept(gateway, upstream, fresh_id, streaming(*PIECES), (b"Authorization", b"Bearer alices-key"))
    page = await new_page(gateway)
    await page.open("/", "401")
    await page["#key"].fill("alices-key")
    await page["#key"].press("Enter")
    await open_task(page, "recent", fresh_id)
    await page["#answer-show"].click()
    await page.shows("#answer-text", "word 29 ")
    await page["#task-answer"].get_by_text("Delete", exact=True).click()
    await page["#task-answer"].get_by_text("Really delete").click()
    await page.shows("#task-fields", "no, it was deleted")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", ["wide", "phone"])
async def test_it_looks_well(launch: Launch, upstream: Upstream, new_page: NewPage, scheme: str, device: str) -> None:
    """Lists and view, wide and on a phone, in the light and the dark: nothing scrolls sideways."""
    gateway = await launch(HEARTBEAT_SEC="0.5")
    await kept(gateway, upstream, "night-report-7", streaming(*PIECES), (b"X-Task-Label", b"nightly"))
    gated = await detached(gateway, upstream, "summary-of-the-week")
    gated.head()
    gated.piece(PIECES[0])
    page = await new_page(gateway, color_scheme=scheme, **(PHONE if device == "phone" else {}))
    await page.open()
    await page.shows("#in-flight", "kept, detached")
    await page.shoot(f"kept-list-{device}-{scheme}")
    await open_task(page, "recent", "night-report-7")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "This is the whole answer.")
    await page.shoot(f"kept-shown-{device}-{scheme}", is_whole=False)
    await page["#task-answer"].get_by_text("Delete", exact=True).click()
    await page.shoot(f"kept-detail-{device}-{scheme}")
