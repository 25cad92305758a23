"""Owns the promise of docs/polling.md: each example is cut out of the page and run, and every reason is explained."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks.stages import Stage
from gateway.tasks.task import Reason
from tests.support.forged import document, forge_document, lost_document
from tests.support.pages import blocks, here, output, page, running, table, the_block
from tests.support.scripted import JSON, answering
from tests.support.store import DOCUMENTS
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Script, Upstream
    from tests.support.store import Store
    from tests.support.wire import Client

pytestmark = pytest.mark.timeout(300)

PAGE = page("docs/polling.md")
CHAT = "/v1/chat/completions"
END = b"data: [DONE]\n\n"


async def ask(gateway: Gateway, task_id: str) -> Client:
    """A client that has sent its request under this id, and reads nothing yet."""
    return await gateway.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line that it writes."""
    assert process.stdout is not None
    return (await within(30, process.stdout.readline(), "a line")).decode().strip()


async def test_the_python_example_shows_each_status_as_it_comes(
    tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """It waits for a task that is not there yet, prints each change when it comes, and ends with the task."""
    stream = upstream.gated()
    example = here(the_block(PAGE, "python", "def statuses"), tracked.port)
    async with running(example, tmp_path, fresh_id) as process:
        client = await ask(tracked, fresh_id)
        first = await line(process)
        if first == "PENDING queued":  # it came while the store was asked for the id
            first = await line(process)
        assert first == "RUNNING forwarding"
        stream.head()
        assert await line(process) == "RUNNING streaming"
        stream.piece(END)
        stream.end()
        assert await line(process) == "SUCCESS done"
        assert await within(30, process.wait(), "the example ends") == 0
    await client.close()


async def test_the_python_example_tells_the_reason(
    tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """Of a task that failed it prints why; an id that never comes ends it with the gateway's 404."""
    upstream.then(answering(500))
    await tracked.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    example = here(the_block(PAGE, "python", "def statuses"), tracked.port)
    assert await output(sys.executable, "-c", example, fresh_id, cwd=tmp_path) == "FAILED error upstream_status\n"
    assert "seconds_until_known=10" in example
    impatient = example.replace("seconds_until_known=10", "seconds_until_known=1")
    with pytest.raises(AssertionError, match="HTTP Error 404"):
        await output(sys.executable, "-c", impatient, "never-" + fresh_id, cwd=tmp_path)


@pytest.mark.parametrize(("end", "shown"), [(END, ["SUCCESS"]), (b"data: {}\n\n", ["FAILED", "stream_incomplete"])])
async def test_the_shell_example_waits_for_the_end(
    tracked: Gateway, upstream: Upstream, tmp_path: Path, end: bytes, shown: list[str]
) -> None:
    """While the task runs the loop asks on, from 304 to 304; with its end it shows state and reason and is over."""
    stream = upstream.gated()
    client = await ask(tracked, "report-17")
    await upstream.exchange()
    example = here(the_block(PAGE, "sh", "until "), tracked.port)
    assert "?wait=30" in example
    waiting = asyncio.create_task(output("bash", "-c", example.replace("?wait=30", "?wait=0.2"), cwd=tmp_path))
    saved = tmp_path / "report-17.json"
    await until(saved.exists, 30, "the first status is there")
    stream.head()
    await until(lambda: b'"stage":"streaming"' in saved.read_bytes(), 30, "the second one")
    assert not waiting.done()
    stream.piece(end)
    stream.end()
    written = await within(30, waiting, "the loop ends")
    assert [row.split('"')[3] for row in written.splitlines()] == shown
    await client.close()


@pytest.mark.parametrize("language", ["python", "sh"])
async def test_the_examples_pause_after_an_answer_before_its_time(
    upstream: Upstream, tmp_path: Path, language: str
) -> None:
    """Where the server answers 304 at once, they pause for a second; they name the event that they know."""
    found, end = document("report-17"), document("report-17", Stage.DONE)
    asked_at: list[float] = []

    def at_once(status: int, task: dict[str, Any]) -> Script:
        tag = (b"ETag", b'"%s"' % task["event_id"].encode())
        answer = answering(
            status, JSON, tag, body=json.dumps(task, separators=(",", ":")).encode() if status == 200 else b""
        )

        async def script(exchange: Exchange) -> None:
            asked_at.append(time.monotonic())
            await answer(exchange)

        return script

    upstream.then(at_once(200, found), at_once(304, found), at_once(304, found), at_once(200, end))
    example = here(the_block(PAGE, language, "def statuses" if language == "python" else "until "), upstream.port)
    command = [sys.executable, "-c", example, "report-17"] if language == "python" else ["bash", "-c", example]
    await output(*command, cwd=tmp_path)
    known = b'"%s"' % found["event_id"].encode()
    assert [exchange.head.get("If-None-Match") for exchange in upstream.exchanges[1:]] == [known] * 3
    assert min(later - earlier for earlier, later in pairwise(asked_at[1:])) >= 0.9


@pytest.fixture
async def presumed(store: Store, fresh_id: str) -> AsyncIterator[Store]:
    """A store in which the task `fresh_id` is presumed lost."""
    await forge(store, lost_document(fresh_id, is_presumed=True))
    yield store
    await store.client.delete(DOCUMENTS + fresh_id)


async def forge(store: Store, found: dict[str, Any]) -> None:
    """Writes a document as its gateway does."""
    await forge_document(store.client, found["task_id"], json.dumps(found, separators=(",", ":")))


def hurried(example: str, task_id: str) -> str:
    """The example with short waits, for this task."""
    return example.replace("?wait=30", "?wait=0.3").replace("report-17", task_id)


async def test_a_presumed_loss_is_no_end_for_the_python_example(
    tracked: Gateway, presumed: Store, fresh_id: str, tmp_path: Path
) -> None:
    """It shows that the task runs again, and ends with the loss that is certain."""
    example = hurried(here(the_block(PAGE, "python", "def statuses"), tracked.port), fresh_id)
    async with running(example, tmp_path, fresh_id) as process:
        assert await line(process) == "FAILED lost lost"
        await forge(presumed, document(fresh_id))
        assert await line(process) == "RUNNING streaming"
        await forge(presumed, lost_document(fresh_id, is_presumed=False))
        assert await line(process) == "FAILED lost lost"
        assert await within(30, process.wait(), "the example ends") == 0


async def test_a_presumed_loss_is_no_end_for_the_shell_example(
    tracked: Gateway, presumed: Store, fresh_id: str, tmp_path: Path
) -> None:
    """The loop asks on until the task runs again, and ends with the loss that is certain."""
    example = hurried(here(the_block(PAGE, "sh", "until "), tracked.port), fresh_id)
    waiting = asyncio.create_task(output("bash", "-c", example, cwd=tmp_path))
    saved = tmp_path / f"{fresh_id}.json"
    await until(lambda: saved.exists() and b'"stage":"lost"' in saved.read_bytes(), 30, "the presumed loss is there")
    await forge(presumed, document(fresh_id))
    await until(lambda: b'"stage":"streaming"' in saved.read_bytes(), 30, "it runs again")
    assert not waiting.done()
    await forge(presumed, lost_document(fresh_id, is_presumed=False))
    written = await within(30, waiting, "the loop ends")
    assert [row.split('"')[3] for row in written.splitlines()] == ["FAILED", "lost"]


async def test_the_walk_finds_every_task_once(
    tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """Over several pages each task is printed once, newest first; a state is a filter."""
    ids = [f"{fresh_id}-{number}" for number in range(7)]
    upstream.then(*[answering(500 if number == 3 else 200) for number in range(7)])
    for task_id in ids:
        await tracked.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=b"{}")
    example = here(the_block(PAGE, "python", "next_cursor"), tracked.port)
    assert '"limit": 200' in example
    small = example.replace('"limit": 200', '"limit": 2')
    walked = await output(sys.executable, "-c", small, "SUCCESS", cwd=tmp_path)
    mine = [row.split()[0] for row in walked.splitlines() if row.startswith(fresh_id)]
    assert mine == [task_id for task_id in reversed(ids) if not task_id.endswith("-3")]
    failed = await output(sys.executable, "-c", example, "FAILED", cwd=tmp_path)
    assert f"{ids[3]} FAILED upstream_status" in failed.splitlines()


async def test_the_first_command_shows_the_whole_status(tracked: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """It shows state, message and reason of a failed task, the fields that the page tells its reader to look at."""
    upstream.then(answering(500))
    await tracked.ask("POST", CHAT, (b"X-Task-Id", b"report-17"), body=b"{}")
    shown = await output("bash", "-c", here(the_block(PAGE, "sh", "status/report-17\n"), tracked.port), cwd=tmp_path)
    task = json.loads(shown)
    assert (task["state"], task["extensions"]["reason"]) == ("FAILED", "upstream_status")
    assert task["message"].startswith("the upstream answered HTTP 500")


async def test_the_cancel_example_ends_the_task(tracked: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """It answers the final status, the client's message is broken off, and Ollama's connection is closed."""
    stream = upstream.gated()
    stream.head()
    client = await ask(tracked, "report-17")
    await client.head()
    shown = await output("bash", "-c", here(the_block(PAGE, "sh", "report-17/cancel"), tracked.port), cwd=tmp_path)
    assert json.loads(shown)["extensions"]["reason"] == "cancelled"
    await within(30, upstream.exchanges[-1].closed.wait(), "the upstream is closed")
    await client.close()


async def test_the_label_example_lists_and_cancels(tracked: Gateway, upstream: Upstream, tmp_path: Path) -> None:
    """It shows the tasks of the label, and ends the one in flight."""
    stream = upstream.gated()
    stream.head()
    client = await tracked.send("POST", CHAT, (b"X-Task-Label", b"report-november"), body=b"{}")
    await client.head()
    shown = await output("bash", "-c", here(the_block(PAGE, "sh", "?label="), tracked.port), cwd=tmp_path)
    listed, found, cancelled = shown.partition('{"cancelled":')
    assert json.loads(listed)["items"][0]["extensions"]["label"] == "report-november"
    assert json.loads(found + cancelled) == {"cancelled": 1}
    await within(30, upstream.exchanges[-1].closed.wait(), "the upstream is closed")
    await client.close()


async def test_the_answers_beside_a_status_are_these(tracked: Gateway) -> None:
    """The page's table of answers has each code other than 200 that a well-formed question can get."""
    assert [row[0] for row in table(PAGE, "| Answer | Means | Do |")] == ["304", "404", "503"]
    responses = (await tracked.http.get("/openapi.json")).json()["paths"]["/tasks/status/{task_id}"]["get"]["responses"]
    malformed = {"400", "422"}
    assert set(responses) - malformed == {"200", "304", "404", "503"}


async def test_every_reason_has_its_advice() -> None:
    """The table has each reason of the code once, with what it means and what to do."""
    rows = table(PAGE, "| Reason | Means | Do |")
    assert sorted(row[0] for row in rows) == sorted(Reason)
    assert all(len(row) == 3 and row[1] and row[2] for row in rows)


async def test_every_example_of_the_page_is_run() -> None:
    """The page has no other examples than those above, and the terminal's command, which has tests of its own."""
    shell = blocks(PAGE, "sh")
    assert (len(blocks(PAGE, "python")), len(shell), PAGE.count("\n```")) == (2, 5, 14)
    (command,) = [block for block in shell if "curl" not in block]
    assert command == "docker compose exec gateway ollama-gateway status report-17 --wait\n"
