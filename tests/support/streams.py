"""Owns streams that run until their test lets them end, and what the store says of tasks meanwhile.

The tests of failures, draining, cancelling and polling call it.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

from tests.support.scripted import Gated
from tests.support.store import DOCUMENTS
from tests.support.waiting import until
from tests.support.wire import Client

if TYPE_CHECKING:
    import httpx

    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
# What a client gets of a held stream behind the head, when it ends.
WHOLE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


class HeldStream:
    """A task that runs all the time, until its test lets it end."""

    def __init__(self) -> None:
        self.task_id = f"held-{uuid.uuid4()}"
        self.script = Gated()
        self.client: Client
        self.exchange: Exchange  # as the upstream has it

    async def ask(self, gateway: Gateway, upstream: Upstream) -> None:
        """Send the request and wait until the upstream has it."""
        number = len(upstream.exchanges)
        upstream.then(self.script)
        self.client = await gateway.send("POST", CHAT, (b"X-Task-Id", self.task_id.encode()), body=BODY)
        self.exchange = await upstream.exchange(number)

    async def begin(self, gateway: Gateway, upstream: Upstream) -> None:
        """Send the request and wait for the response head."""
        await self.ask(gateway, upstream)
        self.script.head()
        await self.client.head()

    async def end(self) -> bytes:
        """Let the rest go; all that came of the body."""
        self.script.piece(b"data: [DONE]\n\n")
        self.script.end()
        return await self.client.up_to(b"0\r\n\r\n")

    async def is_cut(self) -> bool:
        """Whether the client's connection ends without another byte: no terminator is forged."""
        return await self.client.at_end()


async def held(gateway: Gateway, upstream: Upstream) -> HeldStream:
    """A stream that has begun."""
    stream = HeldStream()
    await stream.begin(gateway, upstream)
    return stream


async def stored_states(store: Store, task_ids: list[str]) -> dict[str, str | None]:
    """The state that the store has for each task, None where it has no document."""
    texts = await store.client.mget([DOCUMENTS + task_id for task_id in task_ids])
    return {i: json.loads(text)["state"] if text else None for i, text in zip(task_ids, texts, strict=True)}


async def until_beaten(store: Store, task_id: str, count: int, seconds: float) -> None:
    """Wait until the document of a running task has been renewed `count` times."""
    seen: set[int] = set()

    async def is_renewed() -> bool:
        seen.add((await store.document(task_id))["extensions"]["lost_after_ms"])  # each beat moves it
        return len(seen) > count

    await until(is_renewed, seconds, f"{count} heartbeats of {task_id}")


async def cancel(gateway: Gateway, task_id: str) -> httpx.Response:
    """Ask a gateway to end a task."""
    return await gateway.http.post(f"/tasks/{task_id}/cancel")
