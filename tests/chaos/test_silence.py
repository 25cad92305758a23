"""The upstream takes a request and says nothing for five heartbeats, as Ollama does while it loads a model."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.mortal import Mortal
from tests.support.scripted import Gated
from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.support.scripted import Upstream
    from tests.support.store import Store

HEARTBEAT_SECONDS = 0.5
BEATS = 5
TTL_SECONDS = 60
TASK_ID = "silent"


@dataclass
class Silence:
    """What a poller of the store and the client saw."""

    versions: list[dict[str, Any]] = field(default_factory=list)  # of the document, while it was forwarding
    least_ttl: int = TTL_SECONDS
    has_client_heard: bool = False


@pytest.fixture(scope="module")
async def silence(scripted: Upstream, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Silence:
    """Five heartbeats without a byte, looked at all the time."""
    beating = {"HEARTBEAT_SEC": str(HEARTBEAT_SECONDS), "TTL_RUNNING": str(TTL_SECONDS)}
    gateway = Mortal(tmp_path_factory, scripted, REDIS_URL=store.url, **beating)
    try:
        await gateway.start()
        scripted.then(Gated())
        client = await gateway.send("POST", CHAT, (b"X-Task-Id", TASK_ID.encode()), body=BODY)
        heard = asyncio.ensure_future(client.piece())
        seen = await _watched(store)
        seen.has_client_heard = heard.done()
        heard.cancel()
        await gateway.stop()
    finally:
        await gateway.put_down()
        await scripted.forget()
    return seen


async def _watched(store: Store) -> Silence:
    seen = Silence()

    async def has_begun() -> bool:
        return bool(json.loads(await store.raw(TASK_ID) or "{}").get("stage") == "forwarding")

    await until(has_begun, what="the upstream has the request")

    async def is_over() -> bool:
        document = await store.document(TASK_ID)
        if document not in seen.versions:
            seen.versions.append(document)
        seen.least_ttl = min(seen.least_ttl, await store.ttl(TASK_ID))
        return len(seen.versions) > BEATS

    await until(is_over, what=f"{BEATS} heartbeats")
    return seen


def test_the_document_is_renewed(silence: Silence) -> None:
    """With each of five heartbeats the document is written anew, its times later each time."""
    assert len(silence.versions) == 1 + BEATS
    timestamps = [version["timestamp"] for version in silence.versions]
    assert timestamps == sorted(timestamps)
    moments = [version["extensions"]["lost_after_ms"] for version in silence.versions]
    assert moments == sorted(set(moments))
    quickest_ms = min(later - earlier for earlier, later in pairwise(moments))  # the machine may hold some up
    assert quickest_ms < 2 * HEARTBEAT_SECONDS * 1000


def test_nothing_else_of_it_changes(silence: Silence) -> None:
    """A heartbeat keeps the event_id and all but the times by which pollers know that the task lives."""
    assert len(silence.versions) > 1
    first, *others = map(_without_times, silence.versions)
    assert others == [first] * len(others)


def _without_times(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"timestamp": 0, "extensions": document["extensions"] | {"lost_after_ms": 0}}


def test_the_time_to_live_is_kept(silence: Silence) -> None:
    """The document never has less left than TTL_RUNNING, but for the time between two heartbeats."""
    assert silence.least_ttl >= TTL_SECONDS - 2


def test_the_client_hears_nothing(silence: Silence) -> None:
    """No byte goes to the client before the upstream has sent one."""
    assert not silence.has_client_heard
