"""One id is begun at two gateways while one of them is cut off from the store: the claim that the store has stays.

Contract sections 4.6 and 4.10. The other request is served to its end and told nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.faults import Gate
from tests.support.kept import DONE_EVENT, Kept, read
from tests.support.outcome import DONE, outcome
from tests.support.streams import until_beaten
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.chaos.conftest import LaunchMortal
    from tests.chaos.mortal import Mortal
    from tests.conftest import NewStore
    from tests.support.scripted import Upstream
    from tests.support.store import Store

PIECE = b"data: first\n\n"


class Pair:
    """Two gateways and their store. One of them finds it behind a gate."""

    def __init__(self, store: Store, gate: Gate, cut_off: Mortal, other: Mortal, upstream: Upstream) -> None:
        self.store, self.gate, self.cut_off, self.other = store, gate, cut_off, other
        self._upstream = upstream

    async def cut_and_begin_twice(self) -> tuple[Kept, Kept]:
        """The call of the gateway that the store has, and then that of the one that is cut off."""
        await self.gate.refuse()
        await self._until_store("down")
        first, second = Kept(self.other, self._upstream), Kept(self.cut_off, self._upstream)
        second.task_id = first.task_id
        await first.begin()
        first.script.piece(PIECE)
        await second.begin()
        return first, second

    async def heal(self) -> None:
        """End the cut, and wait until the gateway writes again."""
        await self.gate.heal()
        await self._until_store("up")
        witness = Kept(self.cut_off, self._upstream)
        await witness.begin()
        await until_beaten(self.store, witness.task_id, 3, 30)

    async def _until_store(self, view: str) -> None:
        async def is_so() -> bool:
            table = (await self.cut_off.http.get("/nodes")).json()["items"]
            own: list[str] = [item["store"] for item in table if item["instance"] == "cut-off"]
            return own == [view]

        await until(is_so, 30, f"it finds the store {view}")


@pytest.fixture
async def pair(mortal: LaunchMortal, new_store: NewStore, upstream: Upstream) -> AsyncIterator[Pair]:
    """Both of them run."""
    store = await new_store()
    gate = Gate(store.port)
    await gate.open()
    cut_off = await mortal(REDIS_URL=gate.url, HEARTBEAT_SEC="0.5", GATEWAY_INSTANCE="cut-off")
    other = await mortal(REDIS_URL=store.url, HEARTBEAT_SEC="0.5", GATEWAY_INSTANCE="other")
    yield Pair(store, gate, cut_off, other, upstream)
    await gate.close()


async def test_an_answer_of_the_cut_leaves_the_one_that_runs(pair: Pair) -> None:
    """It ended during the cut, and comes to the store before its claim: the running task and its answer stay."""
    first, second = await pair.cut_and_begin_twice()
    second.finish()
    assert DONE_EVENT in await second.client.up_to(b"0\r\n\r\n")
    await first.leave()
    await pair.heal()
    assert (await pair.other.status(first.task_id))["state"] == "RUNNING"
    first.finish()
    assert outcome(await pair.other.ended(first.task_id)) == DONE
    for gateway in (pair.cut_off, pair.other):
        assert (await read(gateway, first.task_id)).data == PIECE + DONE_EVENT


async def test_a_heartbeat_of_the_other_changes_no_end(pair: Pair) -> None:
    """The store refused its claim: when the first one ends, it begins no new attempt, however long it runs."""
    first, second = await pair.cut_and_begin_twice()
    await pair.heal()
    first.finish()
    ended = await pair.other.ended(first.task_id)
    assert outcome(ended) == DONE
    await pair.heal()
    second.finish()
    assert DONE_EVENT in await second.client.up_to(b"0\r\n\r\n")
    await pair.heal()
    assert await pair.store.document(first.task_id) == ended
    assert (await read(pair.cut_off, first.task_id)).data == PIECE + DONE_EVENT
