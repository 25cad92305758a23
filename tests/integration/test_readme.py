"""Owns the promise that the README's examples work as they stand: they are cut out of the page and run.

Only the model's name and the port are changed: the tests have the embedded model, and a port that is free.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.pages import output
from tests.support.process import ROOT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.model import EmbeddedModel
    from tests.support.store import Store

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

README = (ROOT / "README.md").read_text()
ADDRESS, MODEL = "http://127.0.0.1:11535", "qwen3:0.6b"


def blocks(language: str, start: str = "") -> list[str]:
    """The README's examples in a language that begin so."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [block for block in found if block.startswith(start)]


def here(example: str, gateway: Gateway, model: EmbeddedModel) -> str:
    """The example with the address and the model that the test has."""
    assert ADDRESS in example
    return example.replace(ADDRESS, f"http://127.0.0.1:{gateway.port}").replace(MODEL, model.name)


async def test_the_python_example_streams_and_shows_the_status(
    live: Gateway, store: Store, model: EmbeddedModel
) -> None:
    """It prints RUNNING streaming, the answer, SUCCESS done; the store keeps the first an hour, the last a day."""
    (example,) = blocks("python")

    async def is_kept_an_hour() -> bool:
        return 3595 <= await store.ttl("sky-1") <= 3600

    async with asyncio.TaskGroup() as group:
        written = group.create_task(output(sys.executable, "-c", here(example, live, model)))
        await until(is_kept_an_hour, 30, "the running task is in the store for an hour")
    first, *answer, last = written.result().splitlines()
    assert (first, last) == ("[RUNNING streaming]", "[SUCCESS done]")
    assert "".join(answer).strip()
    assert 86395 <= await store.ttl("sky-1") <= 86400


async def test_the_curl_examples_work(live: Gateway, model: EmbeddedModel) -> None:
    """The models are listed, the chat streams to its end, its status and the list say SUCCESS and stay so."""
    if shutil.which("curl") is None and not os.environ.get("CI"):
        pytest.skip("there is no curl here")
    examples = blocks("sh", "curl ")
    assert len(examples) == README.count("\ncurl ")
    shown = [await output("bash", "-c", silent(here(example, live, model))) for example in examples]
    models, chat, status, page, changed, cancelled = shown
    assert model.name in [entry["id"] for entry in json.loads(models)["data"]]
    assert chat.startswith("data: {")
    assert chat.rstrip().endswith("data: [DONE]")
    document = json.loads(status)
    assert (document["task_id"], document["state"], document["stage"]) == ("sky-2", "SUCCESS", "done")
    assert "sky-2" in [item["task_id"] for item in json.loads(page)["items"]]
    assert f'etag: "{document["event_id"]}"' in changed
    assert json.loads(changed.split("\r\n\r\n")[1]) == json.loads(cancelled) == document


def silent(example: str) -> str:
    """The example without curl's progress, which it shows where its output is no terminal."""
    return f'curl() {{ command curl --silent --show-error "$@"; }}\n{example}'
