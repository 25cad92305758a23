"""What users do in the view of one task: copy, cancel, read a kept answer; and what they hear while it changes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect

from gateway.tasks.stages import Stage
from tests.browser.task_pages import ID, lost, show, task
from tests.support.outcome import outcome
from tests.support.scripted import EVENTS, JSON, answering, streaming
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.browser.watched import Watched
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Gated, Upstream

CHAT = "/v1/chat/completions"
DONE_EVENT = b"data: [DONE]\n\n"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
COPIES = {"#copy-id": ID, "#copy-address": f"/#/tasks/{ID}", "#task-fields button": TRACE}
SELECTED = "(() => { const e = document.activeElement; return e.value.slice(e.selectionStart, e.selectionEnd); })()"
# A page on plain http has no clipboard, and a browser may refuse the older way, too.
NO_CLIPBOARD = "Object.defineProperty(navigator, 'clipboard', { value: undefined });"
RECORDED = "document.execCommand = () => { window.copied = document.activeElement.value; return true; };"
REFUSED = "document.execCommand = () => false;"
# What any button has said since the page was loaded.
SAID = """
window.said = [];
const note = ({ target }) => { if (target.tagName === "BUTTON") said.push(target.textContent); };
new MutationObserver((changes) => changes.forEach(note)).observe(document, { childList: true, subtree: true });
"""
HEARD = """
window.heard = [];
addEventListener("DOMContentLoaded", () => {
  const note = () => { const text = document.getElementById("task-news").textContent; if (text) heard.push(text); };
  new MutationObserver(note).observe(document.getElementById("task-news"), { childList: true, characterData: true });
});
"""


async def show_all(page: Watched) -> None:
    """A task with everything that can be copied."""
    await show(page, task(Stage.DONE, seconds=(1, 2, 3), trace_id=TRACE))


async def test_what_is_copied_is_in_the_clipboard(page: Watched) -> None:
    """Id, address, trace and document; the button says `Copied` for a while, and a screen reader hears it once."""
    await page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.page.add_init_script(SAID)
    await show_all(page)
    for number, (selector, text) in enumerate(COPIES.items(), 1):
        await page[selector].click()
        await has_said_copied(page, number)
        await page.shows("#news", "Copied")
        assert (await page.evaluate("navigator.clipboard.readText()")).endswith(text)
        await expect(page[selector]).not_to_have_text("Copied")
    await page["#task-document-fold summary"].click()
    await page["#copy-document"].click()
    await has_said_copied(page, len(COPIES) + 1)
    assert json.loads(await page.evaluate("navigator.clipboard.readText()"))["task_id"] == ID


async def has_said_copied(page: Watched, number: int) -> None:
    """Waits until buttons have said `Copied` so many times, each for a moment."""
    await until(lambda: page.evaluate(f"said.filter((text) => text === 'Copied').length === {number}"), what="Copied")


@pytest.mark.parametrize("selector", COPIES)
async def test_without_a_clipboard_it_is_copied_from_a_field(page: Watched, selector: str) -> None:
    """On plain http: the button has the focus again, and no field stays."""
    await page.page.add_init_script(NO_CLIPBOARD + RECORDED)
    await show_all(page)
    await page[selector].click()
    await page.shows("#news", "Copied")
    assert (await page.evaluate("window.copied")).endswith(COPIES[selector])
    await expect(page[selector]).to_be_focused()
    await page.counts("textarea", 0)


async def test_if_all_fails_the_text_is_selected(page: Watched) -> None:
    """The button says which keys copy it; nothing scrolls sideways; going back and coming again removes the field."""
    await page.page.add_init_script(NO_CLIPBOARD + REFUSED)
    await show_all(page)
    await page["#copy-id"].click()
    await expect(page["#copy-id"]).to_have_text("Press Ctrl+C")
    assert await page.evaluate(SELECTED) == ID
    await page.shows("#news", "Press Ctrl+C")
    await page.shoot("task-press-ctrl-c")
    await page.page.keyboard.press("Escape")
    await page.page.go_back()
    await expect(page["#copy-id"]).to_have_text("Copy id")
    await page.counts("textarea", 0)


async def start(gateway: Gateway, task_id: str, upstream: Upstream) -> Gated:
    """A request that Ollama has, and has not answered."""
    gated = upstream.gated(EVENTS)
    await gateway.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
    await gateway.at(task_id, "forwarding")
    return gated


async def test_a_task_is_cancelled_in_its_view(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """By keyboard: Enter asks, Escape takes it back and stays in the view, Enter twice ends the task."""
    await start(beating, fresh_id, upstream)
    exchange = await upstream.exchange()
    await page.open(f"/#/tasks/{fresh_id}")
    await page.shows("#task-fields", "RUNNING, forwarding")
    await page.tab_to(f"Cancel the task {fresh_id}")
    await page.page.keyboard.press("Enter")
    await page.page.keyboard.press("Escape")
    assert await page.focused() == f"Cancel the task {fresh_id}"
    assert not exchange.closed.is_set()
    await page.page.keyboard.press("Enter")
    await page.shoot("task-asked-before-cancelling")
    await page.page.keyboard.press("Enter")
    await within(GUARD_SECONDS, exchange.closed.wait(), "the upstream connection is closed")
    await expect(page["#task-badge"]).to_have_text("FAILED")
    await page.shows("#task-means", "A call cancelled it")
    await page.counts("#task-cancel button", 0)
    await expect(page["#h-task"]).to_be_focused()
    assert outcome(await beating.status(fresh_id)) == ("FAILED", "cancelled", "cancelled")


@pytest.mark.parametrize("is_presumed", [True, False])
async def test_a_task_that_does_not_end_at_once_was_asked_to_stop(page: Watched, is_presumed: bool) -> None:
    """The view says since when, until it ends; a waiting and a presumed-lost task can be cancelled, too."""
    found = lost(is_presumed=True) if is_presumed else task(Stage.QUEUED, queue_position=1, queue_length=1)
    await page.page.route(f"**/tasks/{ID}/cancel", lambda route: route.fulfill(status=202, json=found))
    answers = await show(page, found)
    await page["#task-cancel"].get_by_text("Cancel", exact=True).click()
    await page["#task-cancel"].get_by_text("Really cancel").click()
    await page.shows("#task-note", re.compile(r"Asked to stop [1-9]\d* s ago"))
    await expect(page["#task-cancel"].get_by_text("Cancel", exact=True)).to_be_visible()
    answers.found = task(Stage.CANCELLED, seconds=(1, None, 2), reason="cancelled")
    await expect(page["#task-badge"]).to_have_text("FAILED")
    await expect(page["#task-note"]).to_have_text("")


async def test_bytes_are_live_between_heartbeats(
    gateways: Launch, upstream: Upstream, new_page: NewPage, fresh_id: str
) -> None:
    """While the task streams, the page asks for it every two seconds; once it has ended, no more."""
    gateway = await gateways(HEARTBEAT_SEC="60")
    gated = await start(gateway, fresh_id, upstream)
    page = await new_page(gateway)
    await page.open(f"/#/tasks/{fresh_id}")
    await page.shows("#task-fields", "RUNNING, forwarding")
    gated.head()
    for kib in (4, 8, 12):
        gated.piece(b"x" * 4096)
        await page.shows("#task-fields", f"{kib}.0 KiB down")
    gated.piece(b"\n\n" + DONE_EVENT)
    gated.end()
    await page.shows("#stages", "Ended: ")
    asked = [request for request in page.requests if f"/tasks/status/{fresh_id}" in request.url]
    conditions = len(page.asked("/readyz"))
    await until(lambda: len(page.asked("/readyz")) >= conditions + 3, what="the condition is asked for")
    assert len([request for request in page.requests if f"/tasks/status/{fresh_id}" in request.url]) == len(asked)


async def test_stages_are_heard_and_heartbeats_are_not(page: Watched) -> None:
    """A screen reader hears another stage and the end, once each; bytes and ages are silent."""
    await page.page.add_init_script(HEARD)
    answers = await show(page, task(Stage.FORWARDING, seconds=(1,)))
    for size in (1000, 2000, 3000):
        answers.found = task(Stage.STREAMING, seconds=(1, 2), response_bytes=size, status_code=200)
        await page.shows("#task-fields", re.compile(f"{size / 1024:.1f} KiB down|{size} B down"))
    answers.found = task(Stage.ERROR, seconds=(1, 2, 301), reason="timeout")
    await page.shows("#task-news", "Ended: FAILED, timeout, after 5 min 01 s.")
    assert await page.evaluate("heard") == ["The answer comes.", "Ended: FAILED, timeout, after 5 min 01 s."]


async def test_a_selection_survives_heartbeats(page: Watched) -> None:
    """Rows and lines are renewed in their place: a text that the user has selected stays selected."""
    answers = await show(page, task(Stage.STREAMING, seconds=(1, 2), response_bytes=1))
    await page["#task-document-fold summary"].click()
    for place in ("#task-fields dd:nth-of-type(2) bdi", "#task-document span:nth-child(4)"):
        await page.evaluate("(place) => getSelection().selectAllChildren(document.querySelector(place))", place)
        selected = await page.evaluate("String(getSelection())")
        answers.found = answers.found | {"timestamp": answers.found["timestamp"] + 1}
        answers.found["extensions"]["response_bytes"] += 7
        await page.shows("#task-fields", f"{answers.found['extensions']['response_bytes']} B down")
        assert await page.evaluate("String(getSelection())") == selected != ""


CHAT_EVENTS = [b'data: {"choices":[{"index":0,"delta":{"content":"w%d "}}]}\n\n' % n for n in range(40)]
FORMS = {
    "chat": (CHAT_EVENTS[:2], "w0 w1 "),
    "completions": ([b'data: {"choices":[{"index":0,"text":"a"}]}\n\n', b'data: {"choices":[{"text":"b"}]}\n\n'], "ab"),
    "responses": (
        [b"event: response.output_text.delta\ndata: ", b'{"type":"response.output_text.delta","delta":"<b>c</b>"}\n\n'],
        "<b>c</b>",
    ),
    "messages": (
        [b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"d\\u0007"}}\r\n\r\n'],
        "d\\u0007",
    ),
    "odd": ([b'data: {"choices":"x"}\n\ndata: null\n\ndata: {"choices":[null]}\n\ndata: 7\n\n: note\n\n'], ""),
}  # fmt: skip


async def keep(gateway: Gateway, upstream: Upstream, task_id: str, *pieces: bytes, end: bytes = DONE_EVENT) -> None:
    """A stream that has ended, with its answer kept."""
    upstream.then(streaming(*filter(None, (*pieces, end))))
    await gateway.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), (b"X-Task-Keep", b"true"), body=b"{}")
    await gateway.ended(task_id)


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_is_shown_as_text_or_raw(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str, form: str
) -> None:
    """Text joins the pieces of its events, as text; Raw is what Ollama sent."""
    pieces, text = FORMS[form]
    await keep(beating, upstream, fresh_id, *pieces)
    await page.open(f"/#/tasks/{fresh_id}")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "This is the whole answer.")
    await expect(page["#answer-as-text"]).to_have_attribute("aria-pressed", "true")
    assert await page["#answer-text"].text_content() == text
    await page.shoot(f"task-answer-{form}")
    await page["#answer-as-raw"].click()
    raw = b"".join([*pieces, DONE_EVENT]).decode().replace("\r", "\\u000d")
    assert await page["#answer-text"].text_content() == raw
    await page["#answer-as-text"].click()
    assert await page["#answer-text"].text_content() == text
    await page.counts("#answer-text b", 0)


SPLIT = """async ([stream, size]) => {
  const { EventText } = await import("/dashboard/events.js");
  const events = new EventText();
  let text = "";
  for (let at = 0; at < stream.length; at += size) text += events.push(stream.slice(at, at + size));
  return text + events.end();
}"""
# A stream, and its text. `{}` is the end of a line.
STREAMS = {
    "several lines": ('data: {{"choices":{}data: [{{"text":"a"}}]}}{}{}', "a"),
    "other fields": (': note{}id: 1{}event: x{}data:{{"choices":[{{"text":" b"}}]}}{}retry: 1{}{}', " b"),
    "no data": ('data{}{}datax: {{"choices":[{{"text":"c"}}]}}{}{}', ""),
    "no blank line": ('data: {{"choices":[{{"text":"d"}}]}}{}', "d"),
    "no line end": ('data: {{"choices":[{{"text":"e"}}]}}{}{}data: {{"choices":[{{"text":"f"}}]}}', "ef"),
    "broken off": ('data: {{"choices":[{{"text":"g"}}]}}{}{}data: {{"choices":[{{"te', "g"),
}


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("name", STREAMS)
async def test_events_are_read_by_the_standard(page: Watched, name: str, end: str) -> None:
    """Each field counts until the empty line, whatever ends a line and however the stream comes in pieces."""
    await page.open()
    pattern, text = STREAMS[name]
    stream = pattern.format(*[end] * pattern.count("{}"))
    for size in (1, 2, 7, len(stream)):
        assert await page.evaluate(SPLIT, [stream, size]) == text


async def test_the_last_event_is_shown_without_its_end(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """An answer that ends inside a line: its text is there at the end, and after a look at the other form."""
    await keep(beating, upstream, fresh_id, CHAT_EVENTS[0], DONE_EVENT, CHAT_EVENTS[1].rstrip(), end=b"")
    await page.open(f"/#/tasks/{fresh_id}")
    await page["#answer-show"].click()
    await page.shows("#answer-note", "This is the whole answer.")
    assert await page["#answer-text"].text_content() == "w0 w1 "
    await page["#answer-as-raw"].click()
    await page["#answer-as-text"].click()
    assert await page["#answer-text"].text_content() == "w0 w1 "


async def test_another_answer_has_no_such_choice(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """JSON is shown as it is."""
    upstream.then(answering(200, JSON, body=b'{"a": 1}'))
    await beating.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), (b"X-Task-Keep", b"true"), body=b"{}")
    await page.open(f"/#/tasks/{fresh_id}")
    await page["#answer-show"].click()
    await page.shows("#answer-text", '{"a": 1}')
    await expect(page["#answer-forms"]).to_be_hidden()


AT_END = "(e => e.scrollHeight - e.scrollTop - e.clientHeight < 2)(document.getElementById('answer-text'))"


async def test_a_running_answer_follows_its_end(
    page: Watched, beating: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """New text scrolls into sight, unless the reader has scrolled up to read."""
    gated = upstream.gated(EVENTS)
    fields = ((b"X-Task-Id", fresh_id.encode()), (b"Prefer", b"respond-async"))
    await beating.ask("POST", CHAT, *fields, body=b"{}")
    gated.head()
    gated.piece(line("first"))
    await page.open(f"/#/tasks/{fresh_id}")
    await page.shows("#task-fields", "RUNNING, streaming")
    await page["#answer-show"].click()
    await page.shows("#answer-text", "first")
    gated.piece(line("second\\n" * 100))
    await page.shows("#answer-text", "second")
    await until(lambda: page.evaluate(AT_END), what="it shows the end")
    await page.evaluate("document.getElementById('answer-text').scrollTop = 0")
    gated.piece(line("third\\n" * 100))
    await page.shows("#answer-text", "third")
    assert await page.evaluate("document.getElementById('answer-text').scrollTop") == 0


def line(text: str) -> bytes:
    """An event of a chat, with a text that is part of JSON."""
    return b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % text.encode()
