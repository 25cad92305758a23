"""The store is killed for half a minute, under two gateways: one with streams that end meanwhile, one overwhelmed.

500 streams run when the store goes and end while it is away; the other gateway relays 20,000 requests in that time,
twice what it may keep of their statuses.
"""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.load import Round, relay
from tests.chaos.mortal import Mortal
from tests.conftest import started_store
from tests.support.faults import elapse
from tests.support.streams import WHOLE, held, stored_states
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.timeout(600)

OUTAGE_SECONDS = 30.0
RETURN_SECONDS = 5.0
STREAMS = 500
REQUESTS = 20_000
WARM_UP_REQUESTS = 2_000
MAX_ADDED_BYTES = 64 * 1024 * 1024
MAX_KEPT = 10_000


@dataclass(repr=False)
class Outage:
    """What happened."""

    before: list[str | None] = field(default_factory=list)  # states of the streams when the store went
    after: list[str | None] = field(default_factory=list)  # 5 s after its return
    answers: list[bytes] = field(default_factory=list)  # the streams' ends, as their clients had them
    requests: Round = field(default_factory=Round)
    added_bytes: int = 0  # of the overwhelmed gateway's memory
    readiness: dict[str, Any] = field(default_factory=dict)  # of it, at the outage's end
    stored: int = 0  # of its requests, after the return
    log: str = ""  # of it


@pytest.fixture(scope="module")
async def outage(scripted: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Outage:
    """Half a minute without a store."""
    store = await started_store(tmp_path_factory)
    streaming, overwhelmed = (Mortal(tmp_path_factory, scripted, REDIS_URL=store.url) for _ in range(2))
    try:
        await streaming.start()
        await overwhelmed.start()
        happened = await _live_through(store, streaming, overwhelmed, scripted)
        await streaming.stop()
        await overwhelmed.stop()
    finally:
        await streaming.put_down()
        await overwhelmed.put_down()
        await store.close()
        await scripted.forget()
    return happened


async def _live_through(store: Store, streaming: Gateway, overwhelmed: Gateway, upstream: Upstream) -> Outage:
    happened = Outage()
    streams = [await held(streaming, upstream) for _ in range(STREAMS)]
    ids = [stream.task_id for stream in streams]
    happened.before = list((await stored_states(store, ids)).values())
    await relay(overwhelmed, WARM_UP_REQUESTS)
    memory = overwhelmed.resident_bytes

    await store.kill()
    begun = time.monotonic()
    happened.requests = await relay(overwhelmed, REQUESTS)
    happened.answers = list(await asyncio.gather(*(stream.end() for stream in streams)))
    happened.added_bytes = overwhelmed.resident_bytes - memory
    await elapse(OUTAGE_SECONDS, begun, "an outage of half a minute is what is promised to be survived")
    happened.readiness = (await overwhelmed.http.get("/readyz")).json()

    await store.start()
    returned = time.monotonic()
    await elapse(RETURN_SECONDS, returned, "this is how long the gateways have to write what they kept")
    happened.after = list((await stored_states(store, ids)).values())
    await until(lambda: "the store is back" in overwhelmed.log, 10, "the gateway says that the store is back")
    states = await stored_states(store, happened.requests.task_ids)
    happened.stored = sum(state == "SUCCESS" for state in states.values())
    happened.log = overwhelmed.log
    return happened


def test_streams_end_in_an_outage(outage: Outage) -> None:
    """500 of 500 streams that run when the store goes are relayed to their end."""
    assert outage.before == ["RUNNING"] * STREAMS
    assert outage.answers == [WHOLE] * STREAMS


def test_their_ends_are_written_within_five_seconds(outage: Outage) -> None:
    """Of 500 tasks that ended in an outage of 30 s, 500 are SUCCESS in the store 5 s after its return."""
    assert outage.after == ["SUCCESS"] * STREAMS


def test_all_requests_of_an_outage_are_served(outage: Outage) -> None:
    """20,000 of 20,000 requests in an outage are relayed."""
    assert outage.requests.failures == []
    assert len(outage.requests.task_ids) == REQUESTS


def test_memory_is_bounded(outage: Outage) -> None:
    """20,000 tasks that end in an outage cost at most 64 MB of memory."""
    assert outage.added_bytes <= MAX_ADDED_BYTES


def test_what_is_kept_is_written_and_the_rest_is_counted(outage: Outage) -> None:
    """As many of the 20,000 as may be kept are written afterwards; `dropped` of /readyz counts all others."""
    assert 0 < outage.stored <= MAX_KEPT
    assert outage.readiness["dropped"] == REQUESTS - outage.stored


def test_the_log_names_what_was_dropped(outage: Outage) -> None:
    """The line that says that the store is back says how many statuses were dropped."""
    line = next(line for line in outage.log.splitlines() if "the store is back" in line)
    assert str(REQUESTS - outage.stored) in re.findall(r"\d+", line), line
