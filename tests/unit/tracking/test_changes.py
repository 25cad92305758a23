"""What waiting for a change promises: own changes at once, foreign ones by one shared look, none while no one waits."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import StoreError
from gateway.tasks.document import complete_document
from gateway.tracking.changes import Changes
from tests.support.records import record
from tests.support.tracking import seconds_of
from tests.support.waiting import until, until_steady, within

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.alone

AT_ONCE_SECONDS = 0.1
LOOK_SECONDS = 0.25
QUIET_SECONDS = 3 * LOOK_SECONDS  # so long without a look means that there will be none


class Watched:
    """Changes with a store that a test fills, and a count of the looks at it."""

    def __init__(self, own: tuple[str, ...] = ()) -> None:
        self.own = set(own)
        self.documents: dict[str, str] = {}
        self.looks: list[list[str]] = []
        self.failure: StoreError | None = None
        self.changes = Changes(self.look, self.own)

    async def look(self, task_ids: Sequence[str]) -> list[str | None]:
        """The documents as they are."""
        self.looks.append(list(task_ids))
        if self.failure is not None:
            raise self.failure
        return [self.documents.get(task_id) for task_id in task_ids]

    def put(self, task_id: str) -> str:
        """A new event of a task; its id."""
        one = record(task_id)
        self.documents[task_id] = complete_document(one.head, 1)
        return one.head.split('"event_id":"')[1].split('"')[0]

    def waiting(self, task_id: str, event: str, seconds: float = 10) -> asyncio.Task[bool]:
        """Someone who waits until the event is another one."""
        return asyncio.create_task(self.changes.wait(task_id, event, seconds))

    async def until_looked(self, times: int = 1) -> None:
        """Waits until the store was looked at so many times more."""
        wanted = len(self.looks) + times
        await until(lambda: len(self.looks) >= wanted, 30, "the store is looked at")

    async def until_quiet(self) -> int:
        """How many looks there were when no more come."""
        return await until_steady(lambda: len(self.looks), QUIET_SECONDS, 5)


async def test_an_own_change_wakes_at_once() -> None:
    """All who wait for a task of this process go on when it changes, and no one else; the store is not asked."""
    watched = Watched(own=("a", "b"))
    here, there = [watched.waiting("a", "e") for _ in range(10)], watched.waiting("b", "e")
    await until(lambda: len(watched.changes.waiters) == 2, 30, "all wait")
    watched.changes.changed("a")
    assert await within(AT_ONCE_SECONDS, asyncio.gather(*here)) == [True] * 10
    assert not there.done()
    watched.changes.changed("b")
    assert await within(AT_ONCE_SECONDS, there)
    assert watched.looks == []


async def test_own_tasks_are_not_looked_for() -> None:
    """However long someone waits for a task of this process, its store is left in peace."""
    watched = Watched(own=("a",))
    assert not await watched.changes.wait("a", "e", QUIET_SECONDS)
    assert watched.looks == []


async def test_one_look_serves_all_who_wait() -> None:
    """A hundred waiters for ten tasks cost one read per look, which names each task once."""
    watched = Watched()
    events = {f"t{n}": watched.put(f"t{n}") for n in range(10)}
    waiting = [watched.waiting(task_id, event) for task_id, event in events.items() for _ in range(10)]
    begun = time.monotonic()
    await watched.until_looked(3)
    assert time.monotonic() - begun >= 2 * LOOK_SECONDS
    assert all(sorted(look) == sorted(events) for look in watched.looks)
    assert not any(waiter.done() for waiter in waiting)
    watched.changes.close()
    await asyncio.gather(*waiting)


async def test_a_foreign_change_wakes_within_a_look() -> None:
    """Who waits for a task of another gateway goes on soon after its event changed; the others wait on."""
    watched = Watched()
    first, other = watched.put("a"), watched.put("b")
    waiting, still = watched.waiting("a", first), watched.waiting("b", other)
    await watched.until_looked()
    assert not waiting.done()
    watched.put("a")
    assert await within(2 * LOOK_SECONDS, waiting)
    assert not still.done()
    still.cancel()


async def test_what_changed_before_wakes_with_the_first_look() -> None:
    """Who names an event that is not the present one any more waits no longer than a look."""
    watched = Watched()
    watched.put("a")
    assert await within(2 * LOOK_SECONDS, watched.waiting("a", "an older one"))


async def test_a_task_that_is_gone_has_changed() -> None:
    """A document that expired or was removed ends the wait for it."""
    watched = Watched()
    waiting = watched.waiting("a", watched.put("a"))
    await watched.until_looked()
    del watched.documents["a"]
    assert await within(2 * LOOK_SECONDS, waiting)


async def test_nobody_waits_nobody_looks() -> None:
    """Before the first and after the last waiter the store is not asked, and a later one is served again."""
    watched = Watched()
    assert await watched.until_quiet() == 0
    waiting = watched.waiting("a", watched.put("a"))
    await watched.until_looked()
    watched.put("a")
    await waiting
    count = len(watched.looks)
    assert await watched.until_quiet() <= count + 1
    again = watched.waiting("a", "another")
    assert await within(2 * LOOK_SECONDS, again)


async def test_time_is_up_when_it_is() -> None:
    """Without a change the wait ends after its seconds, and says so; no time at all is no wait."""
    watched = Watched()
    event = watched.put("a")
    begun = time.monotonic()
    assert not await watched.changes.wait("a", event, 0.4)
    assert 0.4 <= time.monotonic() - begun <= 0.4 + AT_ONCE_SECONDS
    assert await seconds_of(watched.changes.wait("a", event, 0)) <= AT_ONCE_SECONDS
    assert await seconds_of(watched.changes.wait("a", event, -1)) <= AT_ONCE_SECONDS


async def test_who_leaves_is_forgotten() -> None:
    """A poller that goes away while it waits leaves nothing behind, and the looks end with the last one."""
    watched = Watched()
    event = watched.put("a")
    leaving, staying = watched.waiting("a", event), watched.waiting("a", event)
    await watched.until_looked()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await watched.until_looked()
    assert not staying.done()
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    count = len(watched.looks)
    assert await watched.until_quiet() <= count + 1
    assert watched.changes.waiters == {}


async def test_a_store_that_is_away_wakes_nobody() -> None:
    """A look that fails is no change: who waits goes on waiting, and hears of a change when the store is back."""
    watched = Watched()
    waiting = watched.waiting("a", watched.put("a"))
    watched.failure = StoreError("gone")
    await watched.until_looked(2)
    assert not waiting.done()
    watched.put("a")
    watched.failure = None
    assert await within(2 * LOOK_SECONDS, waiting)


async def test_a_task_that_leaves_this_process_is_looked_for() -> None:
    """Who waits for a claim of ours that was refused hears of the task at the other gateway."""
    watched = Watched(own=("a",))
    waiting = watched.waiting("a", "ours")
    watched.put("a")
    watched.own.clear()
    assert await within(3 * LOOK_SECONDS, waiting)


async def test_closing_lets_all_go() -> None:
    """When the gateway stops no one is kept waiting, own and foreign tasks alike, and no one begins to."""
    watched = Watched(own=("a",))
    waiting = [watched.waiting("a", "e"), watched.waiting("b", watched.put("b"))]
    await watched.until_looked()
    watched.changes.close()
    assert await within(AT_ONCE_SECONDS, asyncio.gather(*waiting)) == [False, False]
    assert await seconds_of(watched.changes.wait("a", "e", 10)) <= AT_ONCE_SECONDS
