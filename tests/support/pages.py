"""Owns the pages as tests use them: examples are cut out of a page and run, tables are read.

An example is run as it stands; only the gateway's address and the model's name become those that the test has.
"""

from __future__ import annotations

import asyncio
import re
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.process import ROOT, environment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

ADDRESS, MODEL = "http://127.0.0.1:11535", "qwen3:0.6b"


def page(name: str) -> str:
    """The text of a page, by its path from the root."""
    return (ROOT / name).read_text()


def blocks(text: str, language: str, holding: str = "") -> list[str]:
    """A page's examples in a language, those that hold `holding`."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in found if holding in block]


def the_block(text: str, language: str, holding: str) -> str:
    """The one example in a language that holds `holding`."""
    (block,) = blocks(text, language, holding)
    return block


def table(text: str, header: str) -> list[list[str]]:
    """The cells of the table under `header`, without the backticks around a cell that is one span of code."""
    (rest,) = text.split(header + "\n")[1:]
    rows = rest.split("\n\n")[0].splitlines()[1:]
    return [[cell.strip().removeprefix("`").removesuffix("`") for cell in row.strip("| ").split(" | ")] for row in rows]


def here(example: str, port: int, model: str = "") -> str:
    """The example with the port and the model that the test has."""
    assert ADDRESS in example
    assert bool(model) == (MODEL in example)
    return example.replace(ADDRESS, f"http://127.0.0.1:{port}").replace(MODEL, model)


@asynccontextmanager
async def running(example: str, cwd: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python example as a process of its own, whose output can be read as it comes; gone with the test.

    Wait for the process inside, if its exit code counts: after a kill it may be another one.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", example, *arguments, cwd=cwd, env=environment({}), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def output(
    *command: str, cwd: Path | None = None, settings: Mapping[str, str] | None = None, seconds: float = 120
) -> str:
    """All that the command writes; it has to end with 0, and does not outlive the test."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=environment(dict(settings or {})), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        written, _ = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, written.decode()
    return written.decode()
