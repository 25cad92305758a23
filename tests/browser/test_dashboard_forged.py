"""What the dashboard makes of records that others forged in the store: it shows the rest, and says what is left out."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from gateway.tasks.document import fields_of
from gateway.tasks.stages import Stage
from tests.support.forged import all_documents, document, forge_document

if TYPE_CHECKING:
    from tests.browser.conftest import NewPage
    from tests.conftest import Launch, NewStore


CREATED_MS = int(time.time() * 1000) - 60_000
FORGED = dict(all_documents(CREATED_MS))
MALFORMED = {task_id for task_id, text in FORGED.items() if fields_of(text, task_id) is None}
ESCAPES = "\x1b]0;owned\x07\u202eabc"
SHOWN_ESCAPES = "\\u001b]0;owned\\u0007\\u202eabc"


async def test_forged_documents_do_not_break_the_page(launch: Launch, new_store: NewStore, new_page: NewPage) -> None:
    """Every field in every wrong shape: the tables show what has the shape, a note counts the rest, nothing fails."""
    store = await new_store()
    for task_id, text in FORGED.items():
        await forge_document(store.client, task_id, text, CREATED_MS)
    gateway = await launch(REDIS_URL=store.url)
    await gateway.ask("POST", "/v1/chat/completions", (b"X-Task-Id", b"good"), body=b"{}")
    page = await new_page(gateway)
    await page.open("/", "404")
    await page.shows("#recent", "good")
    await page.shows("#recent-note", "malformed records in the store")
    await page.shows("#problems", "All is well.")
    await page["#search-id"].fill(sorted(MALFORMED)[0])
    await page["#search"].get_by_role("button").click()
    await page.shows("#task-problem", "There is no such task")
    await page.shoot("forged")


async def test_a_page_of_nothing_else_is_walked_past(launch: Launch, new_store: NewStore, new_page: NewPage) -> None:
    """Where a whole page is malformed the dashboard says so and goes on to what is behind it."""
    store = await new_store()
    now_ms = int(time.time() * 1000)
    pipe = store.client.pipeline()
    gateway = await launch(REDIS_URL=store.url)
    await gateway.ask("POST", "/v1/chat/completions", (b"X-Task-Id", b"good"), body=b"{}")
    for n in range(1500):
        pipe.set(f"ts:ollama:bad{n}", "{}", ex=60)
        pipe.zadd("tsx:ollama:2:RUNNING", {f"{now_ms + 60_000 + n:013d}:bad{n}": 0})
    await pipe.execute()
    page = await new_page(gateway)
    await page.open()
    await page.shows("#recent-note", "malformed records in the store")
    await page.shows("#recent", "good")
    await page.shows("#plots-note", "Drawn from 1 task")


async def test_control_characters_are_shown_as_escapes(launch: Launch, new_store: NewStore, new_page: NewPage) -> None:
    """What could steer a terminal when it is copied, or turn the writing round, is shown as an escape sequence."""
    store = await new_store()
    now_ms = int(time.time() * 1000)
    odd = document("odd", Stage.ERROR, created_ms=now_ms)
    odd["message"] = ESCAPES
    odd["extensions"] |= dict.fromkeys(("path", "query", "instance", "owner", "reason", "method"), ESCAPES)
    await forge_document(store.client, "odd", json.dumps(odd), now_ms)
    page = await new_page(await launch(REDIS_URL=store.url))
    await page.open()
    await page.shows("#recent", SHOWN_ESCAPES)
    await page.row("recent", "odd").locator("a.id").click()
    await page.shows("#task-fields", SHOWN_ESCAPES)
    for element in ("#recent", "#task-fields", "#task-document"):
        text = await page[element].text_content() or ""
        assert not {"\x1b", "\x07", "\u202e"} & set(text), element


async def test_a_document_of_the_version_before_is_shown(
    launch: Launch, new_store: NewStore, new_page: NewPage
) -> None:
    """What an earlier gateway did not write is shown as unknown, and nothing reads `undefined` or `NaN`."""
    store = await new_store()
    now_ms = int(time.time() * 1000)
    before = document("before", Stage.DONE, created_ms=now_ms)
    kept = {"method", "path", "query", "created_ms", "attempt"}
    before["extensions"] = {name: value for name, value in before["extensions"].items() if name in kept}
    before["timestamp"] += 0.25
    await forge_document(store.client, "before", json.dumps(before), now_ms)
    page = await new_page(await launch(REDIS_URL=store.url))
    await page.open()
    await page.shows("#recent", "before")
    await page.row("recent", "before").locator("a.id").click()
    await page.shows("#task-fields", "SUCCESS, done")
    for element in ("#recent", "#task-fields", "#plots-note"):
        text = await page[element].text_content() or ""
        assert "undefined" not in text, element
        assert "NaN" not in text, element
