"""Owns the lifespan as the server sees it: which messages it gets when the application starts, ends, or cannot."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway.http.asgi import serve_lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STARTED, ENDED = "lifespan.startup.complete", "lifespan.shutdown.complete"


async def served(seen: list[str], *, fails: str = "") -> list[dict[str, Any]]:
    """Starts and ends an application that fails at `fails`; `seen` gets its steps and the messages' types, in order."""
    messages: list[dict[str, Any]] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        seen.append("begin")
        if fails == "begin":
            raise OSError("no port")
        yield
        seen.append("end")
        if fails == "end":
            raise OSError("no disk")

    async def receive() -> dict[str, Any]:
        return {}

    async def send(message: Any) -> None:
        messages.append(message)
        seen.append(message["type"])

    if fails:
        with pytest.raises(OSError, match="no "):
            await serve_lifespan(lifespan(), receive, send)
    else:
        await serve_lifespan(lifespan(), receive, send)
    return messages


async def test_it_starts_and_ends_when_it_is_told() -> None:
    """The server hears of the start once all has begun, and of the end once all has ended."""
    seen: list[str] = []
    await served(seen)
    assert seen == ["begin", STARTED, "end", ENDED]


@pytest.mark.parametrize(("fails", "said"), [("begin", "lifespan.startup.failed"), ("end", "lifespan.shutdown.failed")])
async def test_the_server_is_told_why_it_failed(fails: str, said: str) -> None:
    """A failure is named with its traceback, as that of the start or that of the end."""
    messages = await served([], fails=fails)
    assert messages[-1]["type"] == said
    assert "OSError: no " in messages[-1]["message"]
