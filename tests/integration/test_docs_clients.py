"""Owns the promise of docs/clients.md: each example is cut out of the page and run, in front of the real model.

What a client needs is installed as the page says, in a fixed version, into pytest's cache; at home a machine without
npm, or one that reaches no packages, skips those examples.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.installing import installed, needed, openai_for_node
from tests.support.outcome import failed, outcome
from tests.support.pages import blocks, here, output, page, the_block
from tests.support.scripted import streaming

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel
    from tests.support.scripted import Upstream

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

PAGE = page("docs/clients.md")
PIECE = (
    b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":%b}]}\n\n'
)
FINISH = PIECE % b'{},"finish_reason":"stop"'
PIECE %= b'{"role":"assistant","content":"red"},"finish_reason":null'
LANGCHAIN = "langchain-openai==1.7.3"


async def assert_success(gateway: Gateway, written: str, task_id: str) -> None:
    """The example wrote an answer and then its task's end, which the store has."""
    *answer, last = written.splitlines()
    assert last.startswith("[SUCCESS done]")
    assert "".join(answer).strip()
    assert (await gateway.status(task_id))["state"] == "SUCCESS"


async def test_the_python_example_finds_its_id(live: Gateway, model: EmbeddedModel, tmp_path: Path) -> None:
    """It prints the answer and the end of the task that the response named."""
    example = here(the_block(PAGE, "python", "from openai"), live.port, model.name)
    written = await output(sys.executable, "-c", example, cwd=tmp_path)
    task_id = written.splitlines()[-1].split()[-1]
    assert re.fullmatch(r"[0-9a-f-]{36}", task_id)
    await assert_success(live, written, task_id)


async def test_the_javascript_example_streams(live: Gateway, model: EmbeddedModel, pytestconfig: pytest.Config) -> None:
    """With the official package it streams the answer and prints the end of its task."""
    node, directory = needed("node"), await openai_for_node(pytestconfig)
    script = directory / f"example-{live.port}.mjs"
    script.write_text(here(the_block(PAGE, "js", "import OpenAI"), live.port, model.name))
    await assert_success(live, await output(node, str(script), cwd=directory), "colours-1")
    script.unlink()


async def test_the_fetch_example_needs_no_package(live: Gateway, model: EmbeddedModel, tmp_path: Path) -> None:
    """Plain `fetch` gets the answer and the end of its task."""
    script = tmp_path / "example.mjs"
    script.write_text(here(the_block(PAGE, "js", "await fetch"), live.port, model.name))
    await assert_success(live, await output(needed("node"), str(script), cwd=tmp_path), "colours-2")


async def test_the_curl_examples_work(live: Gateway, model: EmbeddedModel, tmp_path: Path) -> None:
    """The chat names the task that was asked for; its status is SUCCESS."""
    needed("curl")
    chat, status = blocks(PAGE, "sh", "curl ")
    written = await output("bash", "-c", here(chat, live.port, model.name), cwd=tmp_path)
    assert "x-task-id: colours-3" in written.lower()
    shown = await output("bash", "-c", here(status, live.port), cwd=tmp_path)
    document = json.loads(shown[shown.index("{") :])  # behind curl's progress
    assert (document["task_id"], document["state"]) == ("colours-3", "SUCCESS")


async def test_the_langchain_example_streams(
    live: Gateway, model: EmbeddedModel, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """LangChain streams the answer under the id that was given; its task's end is printed."""
    directory = await installed(pytestconfig, LANGCHAIN, sys.executable, "-m", "pip", "install", "--quiet", "--target")
    example = here(the_block(PAGE, "python", "langchain_openai"), live.port, model.name)
    command = (sys.executable, "-W", "ignore", "-c", example)
    written = await output(*command, cwd=tmp_path, settings={"PYTHONPATH": str(directory)})
    await assert_success(live, written, "colours-4")


async def test_the_langchain_example_limits_the_tokens(
    tracked: Gateway, upstream: Upstream, model: EmbeddedModel, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """What LangChain sends has `max_tokens`, the one name for it that Ollama reads."""
    directory = await installed(pytestconfig, LANGCHAIN, sys.executable, "-m", "pip", "install", "--quiet", "--target")
    number = len(upstream.exchanges)
    upstream.then(streaming(PIECE, FINISH, b"data: [DONE]\n\n"))
    example = here(the_block(PAGE, "python", "langchain_openai"), tracked.port, model.name)
    command = (sys.executable, "-W", "ignore", "-c", example)
    written = await output(*command, cwd=tmp_path, settings={"PYTHONPATH": str(directory)})
    await assert_success(tracked, written, "colours-4")
    sent = json.loads(bytes((await upstream.exchange(number)).body.data))
    assert (sent["max_tokens"], "max_completion_tokens" in sent) == (50, False)


async def test_a_client_takes_an_end_without_its_event_for_a_normal_one(
    tracked: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """The loop over such a stream ends without an error: a missing `finish_reason` and the task's reason tell it."""
    upstream.then(streaming(PIECE))
    async with openai.AsyncOpenAI(
        base_url=tracked.base_url, api_key="unused", http_client=openai.DefaultAsyncHttpxClient(trust_env=False)
    ) as client:
        stream = await client.chat.completions.create(
            model="m",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            extra_headers={"X-Task-Id": fresh_id},
        )
        finished = [piece.choices[0].finish_reason async for piece in stream]
    assert finished == [None]
    assert outcome(await tracked.status(fresh_id)) == failed("stream_incomplete")
    early = PAGE.split("## A stream that ends early")[1]
    assert all(word in early for word in ("finish_reason", "stream_incomplete", "repeated itself"))


async def test_every_example_of_the_page_is_run() -> None:
    """The page has no other examples than those above."""
    assert {language: len(blocks(PAGE, language)) for language in ("python", "js", "sh")} == {
        "python": 2, "js": 2, "sh": 2,
    }  # fmt: skip
    assert PAGE.count("\n```") == 12
