"""The rules of which status follows which are the same in Python and in Redis, for all cases."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import Written
from gateway.store.redis import RedisStore
from gateway.tasks.document import fields_of, lost_document
from gateway.tasks.stages import FINAL_RANK, MAX_ATTEMPT, Stage, Stored, verdict
from tests.support.records import put, record

if TYPE_CHECKING:
    from gateway.store.interface import Record
    from tests.support.store import Store as Server

RANKS = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.DONE]
ATTEMPTS = [-3, -2, -1, 0, 1, 2, 3, MAX_ATTEMPT]
# What is stored: its attempt and stage (LOST: presumed), whether the writer wrote it, the owners of both.
STORED = [
    (attempt, stage, is_ours, owners)
    for attempt, stage, is_ours, owners in product(
        [1, 2, MAX_ATTEMPT],
        [*RANKS, Stage.LOST],
        [True, False],
        [("", ""), ("a", "a"), ("a", "b"), ("", "b"), ("a", "")],
    )
    if not is_ours or owners[0] == owners[1]
]


@pytest.mark.usefixtures("patience")
async def test_redis_and_python_decide_the_same(server: Server) -> None:
    """Every stored status against every written one: the same verdict, and a refused write changes nothing."""
    await server.client.flushall()
    writer = RedisStore(server.url, boot="ours", longest_ttl_seconds=3600)
    other = RedisStore(server.url, boot="other", longest_ttl_seconds=3600)
    before: dict[RedisStore, list[Record]] = {writer: [], other: []}
    after: list[Record] = []
    expected: list[Written] = []
    for n, ((stored_attempt, stage, is_ours, owners), attempt, rank) in enumerate(product(STORED, ATTEMPTS, RANKS)):
        boot = "ours" if is_ours else "other"
        first = Stage.QUEUED if stage is Stage.LOST else stage  # it becomes a presumed loss below
        created_ms = 1000 if is_ours else 900
        before[writer if is_ours else other].append(
            record(f"t{n}", first, attempt=stored_attempt, created_ms=created_ms, boot=boot, owner=owners[0])
        )
        after.append(record(f"t{n}", rank, attempt=attempt, boot="ours", owner=owners[1]))
        is_foreign = len({*owners} - {""}) > 1
        is_presumed = stage is Stage.LOST
        found = verdict(Stored(stored_attempt, stage.rank, is_ours, is_foreign, is_presumed), attempt, rank.rank)
        was_presumed = is_presumed and is_ours and found is not None
        expected.append(Written(found is not None, stored_attempt if found is None else found, was_presumed))
    for store, records in before.items():
        for start in range(0, len(records), 200):
            await put(store, records[start : start + 200])
    for n, ((_, stage, _, _), _, _) in enumerate(product(STORED, ATTEMPTS, RANKS)):
        if stage is Stage.LOST:
            fields = fields_of(await server.raw(f"t{n}") or "")
            assert fields is not None
            await server.client.set(f"ts:ollama:t{n}", lost_document(fields, 1.0), ex=60)
    written: list[Written] = []
    for start in range(0, len(after), 200):
        written += await put(writer, after[start : start + 200])
    assert [(one, two) for one, two in zip(written, expected, strict=True) if one != two] == []
    await writer.close()
    await other.close()


@pytest.mark.parametrize(("attempt", "rank"), [*product(ATTEMPTS, range(FINAL_RANK + 1))])
def test_nothing_stored_stops_nothing(attempt: int, rank: int) -> None:
    """Without a stored document any status is written; a claim is attempt 1."""
    assert verdict(None, attempt, rank) == max(attempt, 1)


@pytest.mark.parametrize("stored_rank", range(FINAL_RANK + 1))
def test_a_rank_never_falls_and_an_end_never_changes(stored_rank: int) -> None:
    """Within one attempt a status only goes forward."""
    for rank in range(FINAL_RANK + 1):
        is_written = verdict(Stored(1, stored_rank, is_ours=True, is_foreign=False), 1, rank) is not None
        assert is_written == (stored_rank < FINAL_RANK and rank >= stored_rank)


@pytest.mark.parametrize("rank", range(FINAL_RANK + 1))
def test_a_presumed_loss_is_put_right_by_its_own_request(rank: int) -> None:
    """Whatever that request has reached counts, its own attempt alone; another request only begins after it."""
    own = Stored(2, FINAL_RANK, is_ours=True, is_foreign=False, is_presumed=True)
    assert [verdict(own, attempt, rank) for attempt in (1, 2, 0)] == [None, 2, 2]
    other = Stored(2, FINAL_RANK, is_ours=False, is_foreign=False, is_presumed=True)
    assert [verdict(other, attempt, rank) for attempt in (1, 2, 0)] == [None, None, 3]


@pytest.mark.parametrize(("seen", "is_granted"), [(0, False), (1, False), (2, True), (3, False)])
def test_a_claim_may_name_the_attempt_that_it_follows(seen: int, *, is_granted: bool) -> None:
    """It is refused if another attempt has begun and ended since that one was seen."""
    ended = Stored(2, FINAL_RANK, is_ours=False, is_foreign=False)
    assert verdict(ended, -1 - seen, 0) == (3 if is_granted else None)
