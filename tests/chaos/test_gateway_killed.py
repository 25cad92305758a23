"""A gateway is killed with 50 streams and 10 silent requests in flight, while another one with its store lives on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.load import relay
from tests.chaos.mortal import Mortal
from tests.conftest import started_store
from tests.support.outcome import outcome
from tests.support.streams import HeldStream, held, stored_states
from tests.support.waiting import until

if TYPE_CHECKING:
    import pytest

    from tests.support.scripted import Upstream
    from tests.support.store import Store

HEARTBEAT_SECONDS = 0.5
LOST_SECONDS = 3 * HEARTBEAT_SECONDS + 2
STREAMS = 50
SILENT = 10  # the upstream has not answered these
ENDED = 50


@dataclass
class Killing:
    """What the store and the other gateway said."""

    before: dict[str, str | None]  # states of what was in flight
    seconds: float  # until none of it was PENDING or RUNNING
    documents: list[dict[str, Any]]  # of what was in flight, then
    lists: dict[str, list[str]]  # the other gateway's, by state
    ended_before: list[str | None]  # what had ended, as it was stored
    ended_after: list[str | None]
    survivor: dict[str, Any]  # the document of the other gateway's own stream


@pytest.fixture(scope="module")
async def killing(scripted: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Killing:
    """SIGKILL for one of two."""
    store = await started_store(tmp_path_factory)
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": str(HEARTBEAT_SECONDS)}
    victim, survivor = (Mortal(tmp_path_factory, scripted, **settings) for _ in range(2))
    try:
        await victim.start()
        await survivor.start()
        happened = await _killed(victim, survivor, scripted, store)
        await survivor.stop()
    finally:
        await victim.put_down()
        await survivor.put_down()
        await store.close()
        await scripted.forget()
    return happened


async def _killed(victim: Mortal, survivor: Mortal, upstream: Upstream, store: Store) -> Killing:
    ended = (await relay(victim, ENDED)).task_ids
    await until(lambda: _are_all(store, ended, {"SUCCESS"}), what="all ends are in the store")
    ended_before = [await store.raw(task_id) for task_id in ended]
    own = await held(survivor, upstream)
    streams = [HeldStream() for _ in range(STREAMS + SILENT)]
    for number, stream in enumerate(streams):
        await (stream.begin if number < STREAMS else stream.ask)(victim, upstream)
    ids = [stream.task_id for stream in streams]
    await until(lambda: _are_all(store, ids, {"RUNNING"}), what="all are RUNNING in the store")
    before = await stored_states(store, ids)

    await victim.kill()
    begun = time.monotonic()
    await until(lambda: _are_all(store, ids, {"SUCCESS", "FAILED"}), LOST_SECONDS + 5, "nothing is RUNNING any more")
    seconds = time.monotonic() - begun
    lists = {state: await _listed(survivor, state) for state in ("PENDING", "RUNNING", "FAILED")}
    return Killing(
        before=before,
        seconds=seconds,
        documents=[await store.document(task_id) for task_id in ids],
        lists=lists,
        ended_before=ended_before,
        ended_after=[await store.raw(task_id) for task_id in ended],
        survivor=await store.document(own.task_id),
    )


async def _are_all(store: Store, ids: list[str], states: set[str]) -> bool:
    return set((await stored_states(store, ids)).values()) <= states


async def _listed(gateway: Mortal, state: str) -> list[str]:
    answer = await gateway.http.get("/tasks/status", params={"state": state, "limit": 1000})
    return [item["task_id"] for item in answer.json()["items"]]


def test_nothing_stays_in_flight(killing: Killing) -> None:
    """Three heartbeats and two seconds after the kill none of its tasks is PENDING or RUNNING any more."""
    assert list(killing.before.values()) == ["RUNNING"] * (STREAMS + SILENT)
    assert killing.seconds <= LOST_SECONDS


def test_what_was_in_flight_is_lost(killing: Killing) -> None:
    """Each of them is FAILED, for the reason `lost`, with an end."""
    assert {outcome(document) for document in killing.documents} == {("FAILED", "lost", "lost")}
    assert all(document["extensions"]["finished_ms"] for document in killing.documents)


def test_what_had_ended_is_untouched(killing: Killing) -> None:
    """The documents of what had ended before the kill are the same, byte for byte."""
    assert all(killing.ended_before)
    assert killing.ended_after == killing.ended_before


def test_the_lists_know(killing: Killing) -> None:
    """The lost tasks are listed as FAILED by the other gateway, each once, and as nothing else."""
    assert sorted(killing.lists["FAILED"]) == sorted(killing.before)
    assert killing.lists["RUNNING"] == [killing.survivor["task_id"]]
    assert killing.lists["PENDING"] == []


def test_the_other_gateways_tasks_go_on(killing: Killing) -> None:
    """What the other gateway has in flight is not lost."""
    assert killing.survivor["state"] == "RUNNING"
