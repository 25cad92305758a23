"""When a gateway tells the others of itself, and that neither the store nor Ollama can hold it up."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gateway.metrics import counts
from gateway.metrics.counts import Counts
from gateway.nodes.announcer import Announcer
from gateway.nodes.node import parse
from gateway.store.interface import StoreError
from gateway.store.nodes import StoredNode, Told
from tests.support.faults import elapse
from tests.support.nodes import NODE, node
from tests.support.waiting import GUARD_SECONDS, next_turn, until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

BEAT_SECONDS = 0.1
SELDOM_SECONDS = 3_600.0
OTHER = node(instance="gw-0", running=9)


class Table:
    """A table of gateways with one other gateway in it. It fails, hangs, or says that the own record was taken."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.kept_ms = 0
        self.others = [StoredNode("gw-0", 1_999, OTHER.text())]
        self.reported: list[str] = []
        self.failure: Exception | None = None
        self.is_taken = False
        self.is_empty = False
        self.has_left = False
        self.door = asyncio.Event()
        self.door.set()

    async def _pass(self) -> None:
        await self.door.wait()
        if self.failure is not None:
            raise self.failure

    async def tell(self, record: str, kept_ms: int) -> Told:
        """Keeps the record."""
        await self._pass()
        assert not self.has_left
        self.told.append(record)
        self.kept_ms = kept_ms
        return Told(self.is_taken, [*self.others, StoredNode("gw-1", 0, record)])

    async def look(self) -> list[StoredNode]:
        """The other gateways."""
        await self._pass()
        own = StoredNode("gw-1", 5_000, self.told[-1] if self.told else NODE.text())
        return self.others if self.is_empty else [*self.others, own]

    async def leave(self) -> None:
        """Remembers it."""
        await self._pass()
        self.has_left = True

    def report(self, instance: str) -> None:
        """Remembers the name."""
        self.reported.append(instance)

    @property
    def last(self) -> dict[str, object]:
        """What the gateway told last."""
        said: dict[str, object] = json.loads(self.told[-1])
        return said


class Subject:
    """An announcer with all that it asks."""

    def __init__(self, *, has_store: bool = True, beat_seconds: float = SELDOM_SECONDS) -> None:
        self.table = Table()
        self.counts = Counts()
        self.is_store_up = True
        self.models: Sequence[str] = ("smollm2:135m",)
        self.ollama = asyncio.Event()  # it answers
        self.ollama.set()
        self.announcer = Announcer(
            self.table if has_store else None,
            node(running=0, waiting=0, models=(), store="none"),
            load=lambda: (5, 6),
            loaded_models=self._loaded_models,
            is_store_up=lambda: self.is_store_up,
            heartbeat_seconds=beat_seconds,
            counts=self.counts,
        )

    async def _loaded_models(self) -> Sequence[str]:
        await self.ollama.wait()
        return self.models

    async def has_told(self, times: int = 1) -> None:
        """Waits until it has told the others so often."""
        await until(lambda: len(self.table.told) >= times, what=f"{times} words")

    def shown(self) -> list[float]:
        """The metric: how many are up, draining and lost."""
        return self.counts.row[counts.NODES.start : counts.NODES.end]

    async def seen(self) -> list[tuple[str, str, int, str]]:
        """Instance, state, age and view of the store of each gateway in the table."""
        return [(one.node.instance, one.state, one.age_ms, one.node.store) for one in await self.announcer.table()]


@asynccontextmanager
async def running(subject: Subject) -> AsyncIterator[Subject]:
    """The announcer's loop runs."""
    loop = asyncio.create_task(subject.announcer.run())
    yield subject
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    subject.ollama.set()


OWN, OTHERS = ("gw-1", "up", 0), ("gw-0", "up", 1_999, "up")


async def test_it_tells_with_every_heartbeat() -> None:
    """The others hear at the start, and then once per heartbeat, with the present numbers."""
    async with running(Subject(beat_seconds=BEAT_SECONDS)) as subject:
        began = time.monotonic()
        await subject.has_told(4)
        assert time.monotonic() - began >= 2.5 * BEAT_SECONDS
    said = parse("gw-1", subject.table.told[-1])
    assert said == node(running=5, waiting=6, models=("smollm2:135m",), store="up")
    assert subject.table.kept_ms == 600_000


async def test_a_record_is_kept_for_longer_than_a_gateway_may_be_silent() -> None:
    """With a long heartbeat the record stays until the gateway has been lost for a while."""
    subject = Subject()
    subject.announcer._own = node(silent_ms=10_800_000)
    async with running(subject):
        await subject.has_told()
    assert subject.table.kept_ms == 21_600_000


async def test_the_drain_is_told_at_once() -> None:
    """The others hear of the drain without waiting for the heartbeat, nor for an Ollama that does not answer."""
    async with running(Subject()) as subject:
        await subject.has_told()
        subject.ollama.clear()
        subject.announcer.drain()
        await subject.has_told(2)
        assert subject.table.last["is_draining"] is True
        assert (await subject.seen())[1][1] == "draining"
        assert subject.shown() == [1, 1, 0]


async def test_it_looks_at_the_others_and_at_itself() -> None:
    """The table has the present self, and the others as they said, by instance."""
    subject = Subject()
    assert await subject.seen() == [OTHERS, (*OWN, "up")]
    assert [one.node.running for one in await subject.announcer.table()] == [9, 5]


async def test_without_a_store_it_is_alone() -> None:
    """Without a store there is this gateway, draining as soon as it is; nothing is asked and the loop ends."""
    subject = Subject(has_store=False)
    await within(GUARD_SECONDS, subject.announcer.run(), "the loop ends")
    assert await subject.seen() == [(*OWN, "none")]
    assert subject.shown() == [1, 0, 0]
    subject.announcer.drain()
    assert subject.shown() == [0, 1, 0]
    await subject.announcer.close()


@pytest.mark.parametrize("failure", [StoreError("away"), StoreError("no", "NOPERM"), TimeoutError()])
async def test_a_store_that_fails_leaves_it_alone(failure: Exception) -> None:
    """If the store cannot be asked, there is this gateway alone, and it says that the store is down."""
    subject = Subject()
    subject.table.failure = failure
    assert await subject.seen() == [(*OWN, "down")]
    assert subject.shown() == [1, 0, 0]


async def test_a_store_that_is_known_to_be_away_is_not_asked() -> None:
    """While the store is away nothing waits for it, not even the end."""
    subject = Subject()
    subject.is_store_up = False
    subject.table.door.clear()
    assert await subject.seen() == [(*OWN, "down")]
    async with running(subject):
        await next_turn()
        await within(0.4, subject.announcer.close(), "the end does not wait")
    assert subject.table.told == []


async def test_it_tells_when_the_store_is_back() -> None:
    """The others hear within a second after the store is back, whatever the heartbeat."""
    subject = Subject()
    subject.is_store_up = False
    async with running(subject):
        await next_turn()
        subject.is_store_up = True
        await subject.has_told()
        subject.is_store_up = False
        await until(lambda: subject.shown() == [2, 0, 0], what="it has counted")
        await elapse(0.6, time.monotonic(), "longer than it takes to see that the store is away")
        subject.is_store_up = True
        await subject.has_told(2)


async def test_it_tells_again_if_its_record_is_gone() -> None:
    """If the table lacks its record, or could not be read, the gateway writes the record without waiting."""
    async with running(Subject()) as subject:
        await subject.has_told()
        subject.table.is_empty = True
        await subject.seen()
        await subject.has_told(2)
        subject.table.is_empty = False
        subject.table.failure = StoreError("gone")
        await subject.seen()
        subject.table.failure = None
        await subject.has_told(3)


async def test_a_hanging_store_holds_nothing_up_for_long() -> None:
    """A store that takes a command and does not answer delays the table by a second, and the end by half of one."""
    async with running(Subject()) as subject:
        await subject.has_told()
        subject.table.door.clear()
        began = time.monotonic()
        assert await subject.seen() == [(*OWN, "down")]
        assert time.monotonic() - began >= 0.9
        began = time.monotonic()
        await subject.announcer.close()
        assert time.monotonic() - began >= 0.4


async def test_a_hanging_ollama_holds_no_heartbeat_up() -> None:
    """While Ollama takes its time the others hear what it said last."""
    async with running(Subject(beat_seconds=BEAT_SECONDS)) as subject:
        await subject.has_told()
        subject.ollama.clear()
        subject.models = ()
        await subject.has_told(5)
        assert subject.table.last["models"] == ["smollm2:135m"]
        subject.ollama.set()
        await until(lambda: subject.table.last["models"] == [], what="its answer is told")


async def test_one_that_has_left_says_nothing_more() -> None:
    """After the record is taken away the loop does not write it again, and ends."""
    subject = Subject(beat_seconds=BEAT_SECONDS)
    loop = asyncio.create_task(subject.announcer.run())
    await subject.has_told()
    await subject.announcer.close()
    assert subject.table.has_left
    await within(GUARD_SECONDS, loop, "the loop ends")


async def test_the_end_goes_on_after_any_error(caplog: pytest.LogCaptureFixture) -> None:
    """Statuses are saved after the record is taken away, so no error may end that: what is unforeseen is logged."""
    subject = Subject()
    for failure in (StoreError("away"), ValueError("unforeseen")):
        subject.table.failure = failure
        await subject.announcer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "leaving the other gateways failed inside the gateway"
    ]


async def test_lost_gateways_are_counted() -> None:
    """The metric has the gateways by state, as of the last word; a malformed record is none, and reported."""
    subject = Subject()
    subject.table.others = [
        StoredNode("lost", 30_001, OTHER.text()),
        StoredNode("draining", 0, node(is_draining=True).text()),
        StoredNode("\x1b[31m", 0, OTHER.text()),
        StoredNode("odd", 0, "{}"),
    ]
    async with running(subject):
        await subject.has_told()
        await until(lambda: subject.shown() == [1, 1, 1], what="they are counted")
    assert subject.table.reported == ["\x1b[31m", "odd"]
    assert [one[:2] for one in await subject.seen()] == [("draining", "draining"), ("gw-1", "up"), ("lost", "lost")]


async def test_two_gateways_of_one_name_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """If another process writes the own record again and again, one line says so; a former run alone is none."""
    async with running(Subject(beat_seconds=BEAT_SECONDS)) as subject:
        subject.table.is_taken = True
        await subject.has_told()
        subject.table.is_taken = False
        await subject.has_told(len(subject.table.told) + 2)
        assert "calls itself" not in caplog.text
        subject.table.is_taken = True
        await subject.has_told(len(subject.table.told) + 5)
    assert caplog.text.count("another gateway calls itself gw-1, too; GATEWAY_INSTANCE has to be unique") == 1


async def test_a_refusal_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """A store that forbids the table is logged at most once a minute; all other failures are the tracker's to log."""
    subject = Subject()
    forbidden = StoreError("no HSET", "NOPERM")
    for failure in (StoreError("away"), StoreError("full", "OOM"), forbidden, forbidden):
        subject.table.failure = failure
        await subject.seen()
    assert [record.getMessage() for record in caplog.records] == [
        "the store does not keep the table of gateways, GET /nodes shows this one alone: no HSET"
    ]


async def test_what_no_one_foresees_does_not_end_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """After an unforeseen error the loop goes on with the next heartbeat."""
    async with running(Subject(beat_seconds=BEAT_SECONDS)) as subject:
        await subject.has_told()
        subject.table.failure = ValueError("unforeseen")
        await until(lambda: "telling the other gateways failed" in caplog.text, what="it is logged")
        subject.table.failure = None
        await subject.has_told(len(subject.table.told) + 1)
