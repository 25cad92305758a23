"""How many bytes of kept answers Redis has: counted in the step that changes them, and never more than there may be."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from gateway.store.answers import Part, Saved
from tests.support.answers import (
    ANSWER_BYTES,
    ANSWERS,
    EVENT_ID,
    HEAD,
    MOST,
    PREFIX,
    TTL_SECONDS,
    client_of,
    counted,
    part,
    save,
    sizes,
    total,
)
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.redis_answers import RedisAnswers
    from tests.support.store import Store as Server


@pytest.fixture
async def answers(server: Server, patience: None) -> AsyncIterator[RedisAnswers]:
    """The kept answers, on the empty server."""
    await server.client.flushall()
    answers = client_of(server)
    yield answers
    await answers.close()


async def test_an_answer_that_finds_no_room_leaves_nothing(server: Server, answers: RedisAnswers) -> None:
    """A part beyond the bound is NO_ROOM: head, body and counts of its answer go, and later parts are DROPPED."""
    size = len("1-a 1000 " + HEAD)
    assert await save(answers, part(b"x" * (MOST - 2 * size - 5), task_id="big", head=HEAD)) == [Saved.SAVED]
    assert await save(answers, part(b"12345", head=HEAD)) == [Saved.SAVED], "up to the bound"
    assert await total(server) == MOST
    assert await save(answers, part(b"6", 5)) == [Saved.NO_ROOM]
    assert await server.client.get(PREFIX + "answer:t") == "1-a 1000 "
    assert not await server.client.exists(PREFIX + "body:t 1-a")
    assert set(await counted(server)) == {"@", "big 1-a"}
    assert await save(answers, part(b"12345", head=HEAD), part(b"", 0)) == [Saved.DROPPED] * 2
    assert await save(answers, part(b"12345", head=HEAD, generation="2-b")) == [Saved.SAVED], "a new request may try"


async def test_heads_count_too(server: Server, answers: RedisAnswers) -> None:
    """A head that is larger than all that may be stored is NO_ROOM."""
    assert await save(answers, part(head="x" * MOST)) == [Saved.NO_ROOM]
    assert await counted(server) == {}
    assert 0 < await server.client.ttl(PREFIX + "answer:t") <= TTL_SECONDS


async def test_the_answers_of_an_owner_have_half_of_the_room(server: Server, answers: RedisAnswers) -> None:
    """An owner's answers have half of the bound together, beside those of others; without owners there is one bound."""
    half = MOST // 2 - len("1-a 1000 " + HEAD)
    assert await save(answers, part(b"x" * half, task_id="a", head=HEAD, owner="alice")) == [Saved.SAVED]
    assert await save(answers, part(head=HEAD, task_id="b", owner="alice")) == [Saved.NO_ROOM]
    assert await save(answers, part(b"x" * half, task_id="c", head=HEAD, owner="bob")) == [Saved.SAVED]
    assert {name: int(value) for name, value in (await counted(server)).items() if name[0] == "@"} == {
        "@": MOST, "@alice": MOST // 2, "@bob": MOST // 2,
    }  # fmt: skip
    await server.client.flushall()
    assert await save(answers, part(b"x" * (half + 1), head=HEAD)) == [Saved.SAVED]


async def test_what_has_expired_makes_room(server: Server, answers: RedisAnswers) -> None:
    """Answers that have expired are not counted any more as soon as the next part comes, also if they are many."""
    await save(
        answers, *(part(task_id=f"t{n}", head=HEAD, owner="alice" if n % 2 else "", ttl_seconds=1) for n in range(300))
    )
    assert await total(server) == 300 * len("1-a 1000 " + HEAD)

    async def is_expired() -> bool:
        return not [key for key in await server.keys() if key.startswith(PREFIX + "answer:")]

    async def is_past() -> bool:
        return await server.client.zcount(ANSWERS, (await server.client.time())[0], "+inf") == 0

    await until(is_expired, 30, "they expire")
    await until(is_past, 30, "their second is over")
    assert await save(answers, part(b"x" * (MOST - 100), head=HEAD)) == [Saved.SAVED]
    assert set(await counted(server)) == {"t 1-a", "@"}
    assert await server.client.zrange(ANSWERS, 0, -1) == ["t 1-a"]


async def test_an_answer_that_only_renews_keeps_its_room(server: Server, answers: RedisAnswers) -> None:
    """If the bound became smaller, answers in the store stay, and those that grow are NO_ROOM."""
    await save(answers, part(b"x" * 1_000, head=HEAD), part(b"x" * 1_000, task_id="u", head=HEAD))
    small = client_of(server, 1_000)
    assert await save(small, part(b"", 1_000), part(b"x", 1_000, task_id="u")) == [Saved.SAVED, Saved.NO_ROOM]
    assert await sizes(server) == {"t 1-a": 1_000 + len("1-a 1000 " + HEAD)}
    await small.close()


@pytest.mark.parametrize("evicted", [ANSWERS, ANSWER_BYTES])
async def test_evicted_counts_begin_anew(server: Server, answers: RedisAnswers, evicted: str) -> None:
    """If Redis evicts one of the two keys of the counts, both begin anew; what grows counts with all its bytes."""
    await save(answers, part(b"abc", head=HEAD, owner="alice"), part(b"abc", task_id="u", head=HEAD))
    await server.client.delete(evicted)
    assert await save(answers, part(b"d", 3, owner="alice")) == [Saved.SAVED]
    size = len("1-a 1000 " + HEAD) + 4
    assert await counted(server) == {"t 1-a": f"{size} alice", "@": str(size), "@alice": str(size)}
    assert await server.client.zrange(ANSWERS, 0, -1) == ["t 1-a"]


async def test_an_answer_whose_owner_changed_counts_for_the_new_one(server: Server, answers: RedisAnswers) -> None:
    """The counts name the owner of the last part alone."""
    for owner in ("alice", "", "bob"):
        await save(answers, part(b"abc", head=HEAD, owner=owner))
        size = len("1-a 1000 " + HEAD) + 3
        expected = {"t 1-a": f"{size} {owner}", "@": str(size)} | ({f"@{owner}": str(size)} if owner else {})
        assert await counted(server) == expected


@dataclass
class Answer:
    """An answer as the model has it."""

    generation: str
    created_ms: int
    owner: str
    head: str
    body: bytes = b""

    @property
    def size(self) -> int:
        """The bytes with which it counts."""
        return len(f"{self.generation} {self.created_ms} {self.head}") + len(self.body) if self.head else 0


@dataclass
class Model:
    """What the store should hold, in plain Python."""

    most: int
    answers: dict[str, Answer] = field(default_factory=dict)

    def total(self, owner: str | None = None) -> int:
        """The bytes of all answers, or of those of an owner."""
        return sum(answer.size for answer in self.answers.values() if owner in (None, answer.owner))

    def save(self, one: Part) -> Saved:
        """The rules of a part."""
        stored = self.answers.get(one.task_id)
        is_ours = stored is not None and stored.generation == one.generation
        if stored is not None and not is_ours and stored.created_ms > one.created_ms:
            return Saved.SUPERSEDED
        if stored is not None and is_ours and not stored.head:
            return Saved.DROPPED
        body = stored.body if stored is not None and is_ours else b""
        if (not is_ours and not one.head) or len(body) < one.offset:
            return Saved.MISSING
        head = one.head or (stored.head if stored is not None else "")
        body += one.piece[len(body) - one.offset :]
        before = stored.size if stored is not None and is_ours else 0
        self.answers[one.task_id] = new = Answer(one.generation, one.created_ms, one.owner, head, body)
        is_within = self.total() <= self.most and (not one.owner or self.total(one.owner) <= self.most / 2)
        if new.size > before and not is_within:
            new.head, new.body = "", b""
            return Saved.NO_ROOM
        return Saved.SAVED

    def drop(self, task_id: str, generation: str) -> bool:
        """Deletes an answer."""
        stored = self.answers.get(task_id)
        if stored is None or stored.generation != generation or not stored.head:
            return False
        stored.head, stored.body = "", b""
        return True


async def expire(server: Server, model: Model, task_id: str) -> None:
    """Leaves of an answer what its expiry leaves: the counts, with a second that is over."""
    answer = model.answers.pop(task_id, None)
    if answer is not None:
        name = f"{task_id} {answer.generation}"
        await server.client.delete(f"{PREFIX}answer:{task_id}", f"{PREFIX}body:{name}")
        await server.client.zadd(ANSWERS, {name: 1}, xx=True)


def some_part(chance: random.Random, model: Model) -> Part:
    """A part of one of a few answers: the next bytes, some again, a gap, a new generation, an older one."""
    task_id = chance.choice("abcdef")
    owner = {"a": "alice", "b": "alice", "c": "bob"}.get(task_id, "")
    stored = model.answers.get(task_id)
    created_ms = chance.choice([1, 2, 3])
    if stored is not None and chance.random() < 0.9:
        created_ms = stored.created_ms
    length = len(stored.body) if stored is not None and stored.created_ms == created_ms else 0
    offset = max(length + chance.choice([0, 0, 0, 0, -7, -300, 3]), 0)
    piece = bytes([ord(task_id)]) * chance.choice([0, 1, 9, 200, 700, 2_500])
    head = chance.choice(["", "", "", HEAD, HEAD + " " * 40]) if length else chance.choice([HEAD, HEAD, HEAD, ""])
    return part(
        piece, offset, task_id=task_id, owner=owner, generation=f"{created_ms}-g", created_ms=created_ms, head=head,
        is_end=chance.random() < 0.1,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
async def test_the_counts_are_those_of_what_is_stored(server: Server, answers: RedisAnswers, seed: int) -> None:
    """Through all parts, drops and expiries, results and counts are those of a plain model, within the bounds."""
    chance, model, seen = random.Random(seed), Model(MOST), set[Saved]()
    for _ in range(150):
        if chance.random() < 0.08:
            await expire(server, model, chance.choice("abcdef"))
        if chance.random() < 0.1 and model.answers:
            task_id, answer = chance.choice(list(model.answers.items()))
            generation = chance.choice([answer.generation, answer.generation, "9-z"])
            assert await answers.drop(task_id, generation, EVENT_ID) == model.drop(task_id, generation)
        batch, expected = [], []
        for _ in range(chance.randint(1, 3)):
            batch.append(some_part(chance, model))
            expected.append(model.save(batch[-1]))
        assert await save(answers, *batch) == expected
        seen.update(expected)
        names = {f"{task_id} {answer.generation}": answer for task_id, answer in model.answers.items() if answer.head}
        assert await sizes(server) == {name: answer.size for name, answer in names.items()}
        totals = {"@": model.total(), "@alice": model.total("alice"), "@bob": model.total("bob")}
        assert model.total() <= MOST
        assert max(totals["@alice"], totals["@bob"]) <= MOST / 2
        assert await counted(server) == {name: f"{answer.size} {answer.owner}" for name, answer in names.items()} | {
            name: str(size) for name, size in totals.items() if size
        }
        assert set(await server.client.zrange(ANSWERS, 0, -1)) == set(names)
    assert seen == set(Saved), "the test meets every case"
    for task_id, answer in model.answers.items():
        found = await answers.read(task_id, 0)
        assert (found.generation, found.head, found.piece) == (answer.generation, answer.head, answer.body)
