"""What waiting for a change promises: own changes at once, foreign ones by one shared look, none without a waiter."""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import Unclear
from gateway.tasks.document import complete_document, found_in
from gateway.tracking.changes import Changes, _Sleeper
from tests.support.records import record
from tests.support.tracking import seconds_of
from tests.support.waiting import next_turn, until, until_steady, within

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.store.interface import Peeked
    from gateway.tasks.document import Found

pytestmark = pytest.mark.alone

AT_ONCE_SECONDS = 0.1
LOOK_SECONDS = 0.25
QUIET_SECONDS = 3 * LOOK_SECONDS  # so long without a look means that there will be none


class Watched:
    """Changes with a store that a test fills, and a count of the looks at it."""

    def __init__(self, own: tuple[str, ...] = ()) -> None:
        self.own = set(own)
        self.documents: dict[str, str] = {}
        self.looks: list[str] = []
        self.asked: list[str] = []
        self.is_away = False
        self.changes = Changes(self.peek, self.own.__contains__, lambda found: self.asked.append(found[1].task_id))

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """The document as it is."""
        self.looks.append(task_id)
        document = self.documents.get(task_id)
        found = None if document is None else found_in(document)
        asyncio.get_running_loop().call_soon(then, Unclear("away") if self.is_away else found)

    def put(self, task_id: str) -> Found:
        """A new event of a task."""
        self.documents[task_id] = complete_document(record(task_id).head, 1)
        return found_in(self.documents[task_id])

    def change(self, task_id: str) -> None:
        """A new event of a task of this process."""
        self.put(task_id)
        self.changes.changed(task_id)

    def waiting(self, task_id: str, found: Found | None = None, seconds: float = 10) -> asyncio.Task[bool]:
        """A poller that waits until the event is another one than that of `found` (None: the present one)."""
        found = found or self.put(task_id)
        return asyncio.create_task(self.changes.wait(task_id, found, seconds))

    async def until_looked(self, times: int = 1) -> None:
        """Waits until the store was looked at so many times more."""
        wanted = len(self.looks) + times
        await until(lambda: len(self.looks) >= wanted, 30, "the store is looked at")

    async def until_quiet(self) -> int:
        """How many looks there were when no more come."""
        return await until_steady(lambda: len(self.looks), QUIET_SECONDS, 5)


async def test_an_own_change_wakes_at_once() -> None:
    """All waiters for a task of this process go on when it changes, and no others; they share one look."""
    watched = Watched(own=("a", "b"))
    seen = watched.put("a")
    here, there = [watched.waiting("a", seen) for _ in range(10)], watched.waiting("b")
    await until(lambda: watched.changes.waiting == 11, 30, "all wait")
    watched.change("a")
    assert await within(AT_ONCE_SECONDS, asyncio.gather(*here)) == [True] * 10
    assert not there.done()
    watched.change("b")
    assert await within(AT_ONCE_SECONDS, there)
    assert watched.looks == ["a", "b"]
    assert watched.asked == []


async def test_own_tasks_are_not_looked_for() -> None:
    """However long a poller waits for a task of this process, the store is not asked."""
    watched = Watched(own=("a",))
    assert not await watched.changes.wait("a", watched.put("a"), QUIET_SECONDS)
    assert watched.looks == []


async def test_a_status_that_has_not_changed_wakes_no_waiter() -> None:
    """A notice of a change that the store does not show is no change."""
    watched = Watched(own=("a",))
    waiting = watched.waiting("a")
    await until(lambda: watched.changes.waiting, 30, "it waits")
    watched.changes.changed("a")
    await watched.until_looked()
    await next_turn()
    assert not waiting.done()
    watched.change("a")
    assert await within(AT_ONCE_SECONDS, waiting)


async def test_one_look_serves_all_who_wait() -> None:
    """A hundred waiters for ten tasks cost ten reads per look."""
    watched = Watched()
    seen = {f"t{n}": watched.put(f"t{n}") for n in range(10)}
    waiting = [watched.waiting(task_id, found) for task_id, found in seen.items() for _ in range(10)]
    begun = time.monotonic()
    await watched.until_looked(30)
    assert time.monotonic() - begun >= 2 * LOOK_SECONDS
    assert [sorted(watched.looks[n : n + 10]) for n in (0, 10, 20)] == [sorted(seen)] * 3
    assert not any(waiter.done() for waiter in waiting)
    watched.changes.close()
    await asyncio.gather(*waiting)


async def test_looks_are_bounded() -> None:
    """However many tasks of other gateways are waited for, 50 are looked at a quarter second, each in its turn."""
    watched = Watched()
    waiting = [watched.waiting(f"t{n}") for n in range(120)]
    begun = time.monotonic()
    await watched.until_looked(240)
    assert time.monotonic() - begun >= 4 * LOOK_SECONDS
    assert len(set(watched.looks[:120])) == 120
    watched.changes.close()
    await asyncio.gather(*waiting)


async def test_who_waits_for_another_gateways_task_asks_for_it() -> None:
    """Each wait for a task of another gateway is made known, so that a notice can come before the next look."""
    watched = Watched()
    waiting = watched.waiting("a")
    await until(lambda: watched.asked == ["a"], 30, "it is asked for")
    watched.change("a")
    assert await within(AT_ONCE_SECONDS, waiting)


async def test_a_foreign_change_wakes_within_a_look() -> None:
    """Who waits for a task of another gateway goes on soon after its event changed; the others wait on."""
    watched = Watched()
    waiting, still = watched.waiting("a"), watched.waiting("b")
    await watched.until_looked(2)
    assert not waiting.done()
    watched.put("a")
    assert await within(2 * LOOK_SECONDS, waiting)
    assert not still.done()
    still.cancel()


async def test_what_changed_before_wakes_with_the_first_look() -> None:
    """Who names an event that is not the present one any more waits no longer than a look."""
    watched = Watched()
    older = watched.put("a")
    watched.put("a")
    assert await within(2 * LOOK_SECONDS, watched.waiting("a", older))


async def test_a_task_that_is_gone_has_changed() -> None:
    """A document that expired or was removed ends the wait for it."""
    watched = Watched()
    waiting = watched.waiting("a")
    await watched.until_looked()
    del watched.documents["a"]
    assert await within(2 * LOOK_SECONDS, waiting)


async def test_without_waiters_there_are_no_looks() -> None:
    """Before the first and after the last waiter the store is not asked, and a later one is served again."""
    watched = Watched()
    assert await watched.until_quiet() == 0
    waiting = watched.waiting("a")
    await watched.until_looked()
    older = watched.put("a")
    await waiting
    count = len(watched.looks)
    assert await watched.until_quiet() <= count + 1
    watched.put("a")
    assert await within(2 * LOOK_SECONDS, watched.waiting("a", older))


async def test_time_is_up_when_it_is() -> None:
    """Without a change the wait ends after its seconds, and says so; no time at all is no wait."""
    watched = Watched()
    seen = watched.put("a")
    begun = time.monotonic()
    assert not await watched.changes.wait("a", seen, 0.4)
    assert 0.4 <= time.monotonic() - begun <= 0.4 + AT_ONCE_SECONDS
    assert await seconds_of(watched.changes.wait("a", seen, 0)) <= AT_ONCE_SECONDS
    assert await seconds_of(watched.changes.wait("a", seen, -1)) <= AT_ONCE_SECONDS


async def test_waits_of_different_length_end_each_in_time() -> None:
    """They share one timer: a short wait that begins later ends first."""
    watched = Watched(own=("a",))
    seen = watched.put("a")
    ended: list[float] = []

    async def wait(seconds: float) -> None:
        assert not await watched.changes.wait("a", seen, seconds)
        ended.append(seconds)

    await asyncio.gather(*(wait(seconds) for seconds in (0.5, 0.1, 0.3)))
    assert ended == [0.1, 0.3, 0.5]


async def test_ends_of_waits_that_are_over_do_not_pile_up() -> None:
    """A thousand waits that end early leave no more than a bounded rest behind."""
    watched = Watched(own=("a",))
    for _ in range(5):
        waiting = [watched.waiting("a", watched.put("a"), 3600) for _ in range(1000)]
        await until(lambda: watched.changes.waiting == 1000, 30, "all wait")
        watched.change("a")
        await asyncio.gather(*waiting)
    assert len(watched.changes._ends) <= 1000


async def test_a_waiter_that_fails_harms_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """An error while one poller is answered is logged, and the others are answered."""

    class Failing(_Sleeper):
        def on_change(self, found: Found | None) -> None:
            raise ValueError("a bug")

    watched = Watched(own=("a",))
    seen = watched.put("a")
    watched.changes.add(Failing("a", seen[1].event_id), seen, 10)
    waiting = watched.waiting("a", seen)
    await until(lambda: watched.changes.waiting == 2, 30, "both wait")
    watched.change("a")
    assert await within(AT_ONCE_SECONDS, waiting)
    assert "a bug" in caplog.text


async def test_an_own_change_that_a_look_misses_is_found_by_a_later_one() -> None:
    """If the store fails while a task of this process changes, its waiters learn of it once the store answers."""
    watched = Watched(own=("a",))
    waiting = watched.waiting("a")
    await until(lambda: watched.changes.waiting, 30, "it waits")
    watched.is_away = True
    watched.change("a")
    await watched.until_looked(2)
    assert not waiting.done()
    watched.is_away = False
    assert await within(2 * LOOK_SECONDS + AT_ONCE_SECONDS, waiting)
    assert not watched.changes.waiters


async def test_many_changes_at_once_leave_turns_to_others() -> None:
    """If many tasks change at once, some are looked at in each turn of the loop, and others have turns between."""
    watched = Watched(own=tuple(f"t{n}" for n in range(200)))
    waiting = [watched.waiting(task_id) for task_id in watched.own]
    await until(lambda: watched.changes.waiting == 200, 30, "all wait")
    for task_id in watched.own:
        watched.change(task_id)
    looks = [0]
    while looks[-1] < 200:
        await next_turn()
        looks.append(len(watched.looks))
    assert max(after - before for before, after in pairwise(looks)) <= 16
    assert await within(1, asyncio.gather(*waiting)) == [True] * 200


async def test_who_leaves_is_forgotten() -> None:
    """A poller that goes away while it waits leaves nothing behind, and the looks end with the last one."""
    watched = Watched()
    seen = watched.put("a")
    leaving, staying = watched.waiting("a", seen), watched.waiting("a", seen)
    await watched.until_looked()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await watched.until_looked()
    assert not staying.done()
    staying.cancel()
    await asyncio.gather(staying, return_exceptions=True)
    count = len(watched.looks)
    assert await watched.until_quiet() <= count + 1
    assert (watched.changes.waiters, watched.changes.waiting) == ({}, 0)


async def test_an_unclear_look_is_forgotten_with_its_waiter() -> None:
    """A look that said nothing is repeated for its waiter alone: a later waiter for the same own task needs none."""
    watched = Watched(own=("a",))
    watched.is_away = True
    leaving = watched.waiting("a")
    await until(lambda: watched.changes.waiting, 30, "it waits")
    watched.changes.changed("a")
    await watched.until_looked()
    await next_turn()
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    watched.is_away = False
    count = len(watched.looks)
    staying = watched.waiting("a")
    assert await watched.until_quiet() == count
    assert not staying.done()
    staying.cancel()


async def test_a_store_that_is_away_wakes_no_waiter() -> None:
    """A look that fails is no change: who waits goes on waiting, and hears of a change when the store is back."""
    watched = Watched()
    waiting = watched.waiting("a")
    watched.is_away = True
    await watched.until_looked(2)
    assert not waiting.done()
    watched.put("a")
    watched.is_away = False
    assert await within(2 * LOOK_SECONDS, waiting)


async def test_a_task_that_leaves_this_process_is_looked_for() -> None:
    """Who waits for a claim of ours that was refused hears of the task at the other gateway."""
    watched = Watched(own=("a",))
    waiting = watched.waiting("a")
    await until(lambda: watched.changes.waiting, 30, "it waits")
    watched.put("a")
    watched.own.clear()
    assert await within(3 * LOOK_SECONDS, waiting)


async def test_closing_lets_all_go() -> None:
    """When the gateway stops, all waits end, for own and foreign tasks alike, and none begins."""
    watched = Watched(own=("a",))
    waiting = [watched.waiting("a"), watched.waiting("b")]
    await watched.until_looked()
    watched.changes.close()
    assert await within(AT_ONCE_SECONDS, asyncio.gather(*waiting)) == [False, False]
    assert await seconds_of(watched.changes.wait("a", watched.put("a"), 10)) <= AT_ONCE_SECONDS
