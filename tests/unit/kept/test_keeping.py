"""Owns how kept answers get to their store: what is written, when a task may end there, and what frees memory.

`Keeping`, `Answer` and the saver are real, and so is the tracker; the store of answers is a model of Redis's rules that
can fail at any moment. The rules themselves are held in tests/unit/store/test_answers.py.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gateway.kept import keeping as keeping_module
from gateway.kept import saver as saver_module
from gateway.kept.head import End, digest_of, head_in
from gateway.kept.keeping import Keeping, KeptLimits
from gateway.store.answers import Saved, StoredAnswer
from gateway.store.interface import StoreError
from gateway.tasks.stages import Stage
from gateway.tasks.task import Kept
from gateway.tracking.tracked import TrackedTask
from tests.support.tracking import Subject, tracking
from tests.support.waiting import next_turn, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.kept.answer import Answer
    from gateway.store.answers import Part, ThenSaved

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMITS = KeptLimits(
    response_bytes=1_000, held_bytes=2_500, ttl_running_seconds=60, ttl_response_seconds=60, heartbeat_seconds=60
)
FIELDS = [(b"content-type", b"text/plain"), (b"set-cookie", b"a=b"), (b"date", b"today")]


class ModelStore:
    """Keeps answers by the rules of Redis, in this process. `fate` decides what becomes of the next calls."""

    def __init__(self) -> None:
        self.heads: dict[str, str] = {}
        self.bodies: dict[str, bytes] = {}
        self.dropped: list[str] = []
        self.fate: list[Saved | StoreError] = []
        self.calls: list[list[Part]] = []
        self.is_held = False  # no call is answered
        self.waiting: list[tuple[Sequence[Part], ThenSaved]] = []
        self.closed = False
        self.at_once = self.most_at_once = 0

    def save(self, parts: Sequence[Part], then: ThenSaved) -> None:
        """Answers in the next turn of the loop, or when `release` is called."""
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.calls.append(list(parts))
        if self.is_held:
            self.waiting.append((parts, then))
        else:
            asyncio.get_running_loop().call_soon(self._answer, parts, then)

    def release(self) -> None:
        """Answers all calls that wait."""
        self.is_held = False
        waiting, self.waiting = self.waiting, []
        for parts, then in waiting:
            self._answer(parts, then)

    def _answer(self, parts: Sequence[Part], then: ThenSaved) -> None:
        self.at_once -= 1
        fate = self.fate.pop(0) if self.fate else None
        if isinstance(fate, StoreError):
            then(fate)
        else:
            then([fate or self._save(part) for part in parts])

    def _save(self, part: Part) -> Saved:
        name = part.generation
        body = self.bodies.get(name, b"")
        if (not part.head and name not in self.heads) or len(body) < part.offset:
            return Saved.MISSING
        if part.head:
            self.heads[name] = part.head
        self.bodies[name] = body + part.piece[len(body) - part.offset :]
        return Saved.SAVED

    def has_all(self, answer: Answer, body: bytes) -> bool:
        """Whether this much of an answer's body is here, and its end if it has come."""
        found = head_in(self.heads.get(answer.generation, ""))
        is_ended = found is not None and found.end is answer.head.end
        return is_ended and self.bodies.get(answer.generation, b"").startswith(body)

    def lose(self) -> None:
        """All that was stored is gone."""
        self.heads.clear()
        self.bodies.clear()

    async def read(self, task_id: str, offset: int) -> StoredAnswer:
        """There is nothing to read."""
        return StoredAnswer(None, "", "", 0, b"")

    async def drop(self, task_id: str, generation: str, event_id: str) -> bool:
        """Remembers what was dropped."""
        self.dropped.append(generation)
        return self.heads.pop(generation, None) is not None

    async def close(self) -> None:
        """Remembers that it was closed."""
        self.closed = True


class Exchange:
    """The exchange of an answer: remembers why it was dropped."""

    def __init__(self) -> None:
        self.why: Kept | None = None

    def on_dropped(self, why: Kept) -> None:
        """The answer is kept no longer."""
        self.why = why


class World:
    """A tracker that runs, a store of answers, and what keeps answers between them."""

    def __init__(self) -> None:
        self.subject = Subject(60.0)
        self.store = ModelStore()
        self.keeping = Keeping(self.subject.tracker, self.store, LIMITS)

    async def begin(self, task_id: str | None = None) -> tuple[Answer, Exchange]:
        """An answer whose task is with the upstream."""
        exchange = Exchange()
        task = self.subject.tracker.begin(task_id, "POST", "/v1/x", "")
        answer = self.keeping.begin(task, exchange)
        answer.granted()
        answer.request_came(digest_of(task.task_id, "POST", b"/v1/x").hexdigest(), 0)
        self.subject.tracker.forward(task)
        return answer, exchange

    def head(self, answer: Answer, *, length: int | None = None) -> None:
        """The head of the answer comes."""
        answer.begin(200, FIELDS, length)
        self.subject.tracker.answer(answer.task, 200, is_stream=False)

    def end(self, answer: Answer) -> None:
        """The message comes to its end, and the task with it."""
        answer.end(End.WHOLE)
        self.subject.tracker.finish(answer.task, None, "complete")
        answer.task_ended()

    async def until_ended(self, answer: Answer) -> None:
        """Waits until the store of statuses has the task's end."""
        await self.subject.until_stage(answer.task.task_id, Stage.DONE)

    def stored(self, answer: Answer) -> bytes:
        """The body that the store has."""
        return self.store.bodies.get(answer.generation, b"")


@pytest_asyncio.fixture(loop_scope="session")
async def world() -> AsyncIterator[World]:
    """A tracker whose writer runs."""
    world = World()
    await world.subject.start()
    yield world
    await world.subject.stop()


async def test_the_end_of_a_task_waits_for_its_answer(world: World) -> None:
    """While the store does not answer for the answer, the status stays RUNNING there; this process knows the end."""
    answer, _ = await world.begin()
    world.head(answer)
    answer.add(b"abc")
    await until(lambda: world.stored(answer) == b"abc")
    world.store.is_held = True
    answer.add(b"def")
    world.end(answer)
    await until(lambda: world.store.waiting)
    assert answer.task.is_held
    assert await world.subject.stage(answer.task.task_id) != Stage.DONE
    world.store.release()
    await world.until_ended(answer)
    assert world.stored(answer) == b"abcdef"
    found = head_in(world.store.heads[answer.generation])
    assert found is not None
    assert (found.end, found.total, found.status) == (End.WHOLE, 6, 200)
    assert found.wire_fields == [(b"content-type", b"text/plain")]


async def test_what_the_store_has_is_held_no_longer(world: World) -> None:
    """Memory is free again when the store has all of an answer that has ended."""
    answer, _ = await world.begin()
    world.head(answer)
    answer.add(bytes(500))
    answer.gather()
    assert world.keeping.held_bytes == 500
    world.end(answer)
    await until(lambda: world.keeping.held_bytes == 0)
    assert world.keeping.answers == 0
    assert world.keeping.find(answer.task.task_id) is None
    assert len(answer.body) == 0


async def test_pieces_gather_and_a_long_one_goes_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces are written together after the linger, in one call for all answers."""
    monkeypatch.setattr(saver_module, "LINGER_SECONDS", 0.02)
    answers = [(await world.begin())[0] for _ in range(3)]
    for answer in answers:
        world.head(answer)
    await until(lambda: all(not answer.is_due for answer in answers))
    before = len(world.store.calls)
    for _ in range(5):
        for answer in answers:
            answer.add(b"x")
    await until(lambda: all(world.stored(answer) == b"xxxxx" for answer in answers))
    assert len(world.store.calls) == before + 1
    for answer in answers:
        world.end(answer)


async def test_a_store_that_lost_everything_gets_everything_again(world: World) -> None:
    """An answer that the store has no longer is written anew, head and body."""
    answer, _ = await world.begin()
    world.head(answer)
    answer.add(b"one ")
    await until(lambda: not answer.is_due)
    world.store.lose()
    answer.add(b"two")
    world.end(answer)
    await world.until_ended(answer)
    assert world.stored(answer) == b"one two"


@pytest.mark.parametrize(
    ("fate", "response"),
    [(Saved.NO_ROOM, Kept.NO_ROOM), (Saved.DROPPED, Kept.DELETED), (Saved.SUPERSEDED, Kept.NO_ROOM)],
)
async def test_the_store_may_end_the_keeping(world: World, fate: Saved, response: Kept) -> None:
    """The status says why; the exchange is told, the memory is free, and the task's end waits for nothing."""
    answer, exchange = await world.begin()
    world.head(answer)
    await until(lambda: not answer.is_due)
    world.store.fate = [fate]
    answer.add(b"abc")
    await until(lambda: answer.is_dropped)
    assert (exchange.why, answer.task.response) == (response, response)
    assert (world.keeping.held_bytes, world.keeping.answers) == (0, 0)
    answer.add(b"more")
    world.end(answer)
    await world.until_ended(answer)
    assert world.keeping.held_bytes == 0


async def test_an_answer_that_is_too_long_is_dropped(world: World) -> None:
    """Over MAX_RESPONSE_BYTES it is `too_large`, and what was stored of it is dropped."""
    answer, exchange = await world.begin()
    world.head(answer)
    answer.add(bytes(1_000))
    await until(lambda: not answer.is_due)
    assert not answer.is_dropped
    answer.add(b"x")
    answer.gather()
    assert exchange.why is Kept.TOO_LARGE
    await until(lambda: world.store.dropped == [answer.generation])
    assert world.keeping.held_bytes == 0


async def test_what_is_held_in_all_is_bounded(world: World) -> None:
    """A new answer needs room for the longest; one that grows beyond the bound is dropped with `no_room`."""
    world.store.is_held = True  # nothing leaves the memory
    first, _ = await world.begin()
    second, _ = await world.begin()
    for answer in (first, second):
        world.head(answer)
    first.add(bytes(900))
    first.gather()
    assert world.keeping.has_room
    second.add(bytes(900))
    second.gather()
    assert not world.keeping.has_room
    third, exchange = await world.begin()
    world.head(third)
    third.add(bytes(701))
    third.gather()
    assert exchange.why is Kept.NO_ROOM
    assert world.keeping.held_bytes == 1_800
    world.store.release()
    for answer in (first, second, third):
        world.end(answer)


async def test_a_request_that_is_held_counts(world: World) -> None:
    """The body of a respond-async request counts until it is sent, or the task has ended."""
    answer, _ = await world.begin()
    assert answer.hold_request(300)
    assert answer.hold_request(500)
    assert world.keeping.held_bytes == 500
    answer.request_sent()
    assert world.keeping.held_bytes == 0
    assert not answer.hold_request(1_001)
    world.end(answer)
    assert world.keeping.held_bytes == 0


async def test_a_store_that_takes_statuses_but_no_answers_does_not_hold_ends_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the patience the answer is given up with `no_room`, and the task's end is written."""
    monkeypatch.setattr(keeping_module, "_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(keeping_module, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(saver_module, "_RETRY_SECONDS", 0.01)
    running = asyncio.create_task(world.keeping.run())
    answer, _ = await world.begin()
    world.head(answer)
    world.store.fate = [StoreError("NOPERM", "NOPERM")] * 10_000
    world.end(answer)
    await world.until_ended(answer)
    assert answer.task.response is Kept.NO_ROOM
    running.cancel()


async def test_closing_writes_what_is_left_and_holds_no_end(world: World) -> None:
    """At the end of the process a frozen store of answers keeps no task from its end."""
    answer, _ = await world.begin()
    world.head(answer)
    await until(lambda: not answer.is_due)
    answer.add(b"abc")
    answer.end(End.BROKEN)
    world.subject.tracker.finish(answer.task, None, "complete")
    answer.task_ended()
    await world.keeping.close()
    assert world.stored(answer) == b"abc"
    assert world.store.closed
    await world.until_ended(answer)


async def test_an_id_that_was_refused_leaves_nothing(world: World) -> None:
    """Its answer is written nowhere and held no longer, and the task has no `response`."""
    exchange = Exchange()
    task = world.subject.tracker.begin("mine", "POST", "/v1/x", "")
    answer = world.keeping.begin(task, exchange)
    world.keeping.discard(answer)
    assert (answer.is_dropped, task.response, world.keeping.answers) == (True, None, 0)
    assert not task.is_held
    world.subject.tracker.finish(task, None, "complete")


@pytest.mark.parametrize("seed", range(60))
async def test_any_history_ends_with_the_whole_answer_before_its_end(
    world: World, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Whatever the store does meanwhile: a task that is DONE there has its whole answer, or says that it has none."""
    monkeypatch.setattr(saver_module, "LINGER_SECONDS", 0.001)
    monkeypatch.setattr(saver_module, "_RETRY_SECONDS", 0.001)
    dice = random.Random(seed)
    written: dict[Answer, bytes] = {}
    release_end = TrackedTask.release_end

    def checked_release_end(task: TrackedTask) -> bool:
        (answer,) = [one for one in written if one.task is task]
        released.setdefault(answer, world.store.has_all(answer, at_end[answer]))
        return release_end(task)

    released: dict[Answer, bool] = {}
    at_end: dict[Answer, bytes] = {}  # what had come when the task ended
    monkeypatch.setattr(TrackedTask, "release_end", checked_release_end)
    for _ in range(4):
        answer, _ = await world.begin()
        written[answer] = b""
    open_answers = list(written)
    while open_answers:
        answer = dice.choice(open_answers)
        match dice.randrange(9):
            case 0 if answer.head.status and dice.random() < 0.3:
                if not answer.task.is_final and dice.random() < 0.5:  # its end event has come, its message goes on
                    world.subject.tracker.finish(answer.task, None, "complete")
                    answer.task_ended()
                    at_end[answer] = written[answer]
                else:
                    world.end(answer)
                    at_end.setdefault(answer, written[answer])
                    open_answers.remove(answer)
            case 0 | 1:
                if not answer.head.status:
                    world.head(answer)
            case 2:
                world.store.fate.append(StoreError("gone"))
            case 3:
                world.store.lose()
            case 4:
                world.store.is_held = True
            case 5:
                world.store.release()
            case _:
                if answer.head.status and len(written[answer]) < 500:
                    piece = dice.randbytes(dice.randrange(1, 40))
                    answer.add(piece)
                    written[answer] += piece
        if dice.random() < 0.5:
            await next_turn()
    world.store.release()
    for answer, body in written.items():
        await world.until_ended(answer)
        assert answer.task.response is Kept.KEPT
        assert len(answer.body) == 0
        assert world.stored(answer) in (body, b""), "the store may have lost it since"
    assert released == dict.fromkeys(written, True)
    assert world.store.most_at_once == 1
    assert world.keeping.held_bytes == 0


async def test_a_wait_for_an_end_that_is_held_says_nothing_of_the_store(world: World) -> None:
    """The request goes on after the bounded wait, and the store of statuses still counts as up."""
    world.store.is_held = True
    answer, _ = await world.begin()
    world.head(answer)
    world.end(answer)
    went_on = asyncio.Event()
    world.subject.tracker.settle(answer.task, went_on.set)
    await until(went_on.is_set)
    assert world.subject.tracker.is_store_up
    assert answer.task.is_held
    world.store.release()
    await world.until_ended(answer)


async def test_an_end_that_comes_before_the_messages_waits_for_what_came_until_then(world: World) -> None:
    """A stream's end event ends the task; the store has all up to it first, though not the message's end."""
    answer, _ = await world.begin()
    world.head(answer)
    await until(lambda: not answer.is_due)
    world.store.is_held = True
    answer.add(bytes(600))
    await until(lambda: world.store.waiting)
    answer.add(b"data: [DONE]\n\n")
    world.subject.tracker.finish(answer.task, None, "complete")
    answer.task_ended()
    waiting, world.store.waiting = world.store.waiting, []
    for parts, then in waiting:
        world.store._answer(parts, then)  # the pieces before the end event alone
    assert answer.task.is_held
    world.store.release()
    await world.until_ended(answer)
    assert world.stored(answer).endswith(b"[DONE]\n\n")
    answer.end(End.WHOLE)
    await until(lambda: world.keeping.held_bytes == 0)


async def test_what_follows_the_end_of_a_replaced_answer_takes_no_memory() -> None:
    """Without a store, a new request of the task frees the answer before, also if that message has yet to end."""
    async with tracking() as subject:
        keeping = Keeping(subject.tracker, None, LIMITS)
        first = keeping.begin(subject.tracker.begin("mine", "POST", "/v1/x", ""), Exchange())
        first.granted()
        first.begin(200, FIELDS, None)
        first.add(b"data: [DONE]\n\n")
        subject.tracker.finish(first.task, None, "complete")  # its end event has come, its message goes on
        first.task_ended()
        second = keeping.begin(subject.tracker.begin("mine", "POST", "/v1/x", ""), Exchange())
        first.add(b"\n")
        first.end(End.WHOLE)
        assert (keeping.find("mine"), keeping.held_bytes, keeping.answers) == (second, 0, 1)
        subject.tracker.finish(second.task, None, "complete")


async def test_answers_are_written_at_once_after_a_failure_in_which_all_were_dropped(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next try has nothing to write; the next answer does not wait for a heartbeat."""
    monkeypatch.setattr(saver_module, "_RETRY_SECONDS", 0.01)
    answer, _ = await world.begin()
    world.head(answer)
    await until(lambda: not answer.is_due)
    world.store.is_held = True
    answer.add(bytes(600))
    await until(lambda: world.store.waiting)
    world.store.fate = [StoreError("gone")]
    world.store.release()
    saver = world.keeping._saver
    assert saver is not None
    assert saver.failing_since is not None
    answer.drop(Kept.DELETED)
    await until(lambda: saver._next is None, what="the next try is over")
    other, _ = await world.begin()
    world.head(other)
    await until(lambda: not other.is_due)
    for one in (answer, other):
        world.end(one)
