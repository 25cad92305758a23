"""The promises of both stores: one atomic step per status, the list by creation, no key beyond its TTL.

Redis (a real server) and the in-process table run through the same cases.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.store.interface import InvalidCursor, Page, Store, Written, decode_cursor, encode_cursor, place
from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.tasks.document import complete_document
from gateway.tasks.stages import Stage, State
from tests.support.records import BOOT, ids, put, record, stage_and_attempt, stored, text_of, undated, walk
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.store.interface import Record
    from tests.support.store import Store as Server

IN_FLIGHT = [Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING]
SHORT_SECONDS = 3  # a TTL that outlasts a stall of a busy machine
FINAL = [Stage.DONE, Stage.ERROR, Stage.CANCELLED, Stage.SHUTDOWN, Stage.LOST]


@dataclass
class Clock:
    """The clock of the in-process table, in Unix seconds."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Subject:
    """A store under test. `clock` is set if its time can be moved; otherwise time has to pass."""

    store: Store
    clock: Clock | None

    async def expire(self, task_id: str) -> None:
        """Lets a TTL of SHORT_SECONDS pass."""
        if self.clock is not None:
            self.clock.now += SHORT_SECONDS + 0.5

        async def is_gone() -> bool:
            return await text_of(self.store, task_id) is None

        await until(is_gone, 30, f"{task_id} expires")


@pytest.fixture(params=["redis", "memory"])
async def subject(request: pytest.FixtureRequest, server: Server, patience: None) -> AsyncIterator[Subject]:
    """Each store, empty."""
    if request.param == "memory":
        clock = Clock()
        yield Subject(MemoryStore(clock=clock), clock)
        return
    await server.client.flushall()
    store = RedisStore(server.url, boot=BOOT, longest_ttl_seconds=3600)
    yield Subject(store, None)
    await store.close()


@pytest.fixture
def store(subject: Subject) -> Store:
    """Each store, empty, in which nothing expires."""
    return subject.store


# -- writing and reading --


async def test_what_is_put_is_read(store: Store) -> None:
    """A document is read back byte for byte, completed with its attempt."""
    one = record("t", Stage.FORWARDING, message='quotes " and é and }}')
    assert await put(store, [one]) == [Written(True, 1)]
    assert undated(await text_of(store, "t")) == complete_document(one.head, 1)


async def test_an_unknown_task_is_none(store: Store) -> None:
    """An id that was never used has no document."""
    assert await text_of(store, "unknown") is None


async def test_results_come_in_the_order_of_the_records(store: Store) -> None:
    """A batch returns a result for each record, also for several records of one task."""
    await put(store, [record("a", Stage.DONE), record("b", Stage.STREAMING)])
    batch = [
        record("a", Stage.STREAMING), record("b", Stage.FORWARDING), record("c"), record("c", Stage.DONE),
        record("c", Stage.ERROR), record("a", attempt=0, created_ms=2000),
    ]  # fmt: skip
    wrote, refused = Written(True, 1), Written(False, 1)
    assert await put(store, batch) == [refused, refused, wrote, wrote, refused, Written(True, 2)]
    assert await stage_and_attempt(store, "c") == ("done", 1)


async def test_a_large_batch_is_written(store: Store) -> None:
    """A thousand statuses at once are all there afterwards."""
    batch = [record(f"t{n:04}", Stage.DONE, created_ms=1000 + n) for n in range(1000)]
    assert await put(store, batch) == [Written(True, 1)] * 1000
    assert await walk(store, limit=333) == [f"t{n:04}" for n in reversed(range(1000))]


async def test_an_empty_batch_is_nothing(store: Store) -> None:
    """An empty batch is no error."""
    assert await put(store, []) == []


# -- transitions --


@pytest.mark.parametrize("then", Stage)
@pytest.mark.parametrize("now", Stage)
async def test_a_status_only_goes_forward(store: Store, now: Stage, then: Stage) -> None:
    """Within an attempt a rank never falls, a final status never changes, and the same stage may be written again."""
    await put(store, [record("t", now)])
    is_allowed = now in IN_FLIGHT and (then in FINAL or IN_FLIGHT.index(then) >= IN_FLIGHT.index(now))
    late = record("t", then, message="later")
    assert await put(store, [late]) == [Written(is_allowed, 1)]
    document = await stored(store, "t")
    assert (document["stage"], document["message"]) == ((then, "later") if is_allowed else (now, ""))


async def test_a_repeated_end_is_refused_without_harm(store: Store) -> None:
    """The same final record twice leaves the first one's document."""
    first = record("t", Stage.DONE)
    await put(store, [first])
    assert await put(store, [record("t", Stage.DONE)]) == [Written(False, 1)]
    assert await text_of(store, "t") == complete_document(first.head, 1)


@pytest.mark.parametrize("late", Stage)
async def test_an_earlier_attempt_never_comes_back(store: Store, late: Stage) -> None:
    """A late write of attempt 1 changes nothing once attempt 2 has begun."""
    await put(store, [record("t", Stage.ERROR)])
    await put(store, [record("t", attempt=2, created_ms=2000)])
    assert await put(store, [record("t", late)]) == [Written(False, 2)]
    assert await stage_and_attempt(store, "t") == ("queued", 2)
    assert await walk(store) == ["t"]


# What stands under the id (stage, attempt), and what becomes of an end that is the first word of its request.
FOUND = {
    "nothing": (None, Written(True, 1)),
    "queued": ((Stage.QUEUED, 1), Written(True, 1)),
    "streaming": ((Stage.STREAMING, 1), Written(True, 1)),
    "ended": ((Stage.ERROR, 1), Written(False, 1)),
    "a later attempt": ((Stage.QUEUED, 2), Written(False, 2)),
}


@pytest.mark.parametrize(("found", "result"), FOUND.values(), ids=FOUND)
async def test_an_end_without_a_beginning_is_written_by_the_same_rules(
    store: Store, found: tuple[Stage, int] | None, result: Written
) -> None:
    """A task whose first write is its end follows the same rules, and the write may be repeated."""
    if found is not None:
        await put(store, [record("t", found[0], attempt=found[1], message="before")])
    end = record("t", Stage.DONE, message="the end")
    batch = [record("a"), end, record("b", Stage.DONE)]
    for _ in range(2):
        assert (await put(store, batch))[1:] == [result, Written(True, 1)]
    assert (await stored(store, "t"))["message"] == ("the end" if result.is_written else "before")
    assert sorted(await walk(store)) == ["a", "b", "t"]
    assert await walk(store, state=State.SUCCESS) == (["t", "b"] if result.is_written else ["b"])


async def test_an_end_without_a_beginning_has_its_ttl_and_is_read_as_any(subject: Subject) -> None:
    """Its document is byte for byte the head and what the store adds, and it expires like any other."""
    end = record("t", Stage.DONE, ttl_seconds=SHORT_SECONDS)
    await put(subject.store, [end])
    assert await text_of(subject.store, "t") == complete_document(end.head, 1)
    await subject.expire("t")


@pytest.mark.parametrize("stage", [Stage.QUEUED, Stage.STREAMING, Stage.DONE])
@pytest.mark.parametrize("late", [Stage.QUEUED, Stage.STREAMING, Stage.DONE])
async def test_an_equal_attempt_of_another_request_is_refused(store: Store, stage: Stage, late: Stage) -> None:
    """If an id was claimed as attempt 1 again (its document was evicted, or not yet written), the claim holds it."""
    await put(store, [record("t", attempt=0, created_ms=2000)])
    await put(store, [record("t", stage, created_ms=2000)])
    assert await put(store, [record("t", late, created_ms=1000)]) == [Written(False, 1)]
    document = await stored(store, "t")
    assert (document["stage"], document["extensions"]["created_ms"]) == (stage, 2000)
    assert await walk(store) == await walk(store, state=stage.state) == ["t"]


async def test_an_end_goes_ahead_of_the_next_claim_in_its_batch(store: Store) -> None:
    """An id that is twice in a batch is written in the batch's order, also if the end is the first record."""
    await put(store, [record("t", Stage.STREAMING)])
    batch = [record("t", Stage.DONE), record("t", Stage.ERROR, attempt=0, created_ms=2000)]
    assert await put(store, batch) == [Written(True, 1), Written(True, 2)]
    assert await stage_and_attempt(store, "t") == ("error", 2)
    assert await walk(store) == await walk(store, state=State.FAILED) == ["t"]


async def test_a_later_attempt_is_written_at_any_stage(store: Store) -> None:
    """Attempt 2 replaces attempt 1, whatever the stage of attempt 1."""
    await put(store, [record("t", Stage.STREAMING)])
    assert await put(store, [record("t", Stage.FORWARDING, attempt=2, created_ms=2000)]) == [Written(True, 2)]


# -- claims --


async def test_a_fresh_id_is_claimed_as_attempt_one(store: Store) -> None:
    """The first claim of an id is written as its first attempt."""
    assert await put(store, [record("t", attempt=0)]) == [Written(True, 1)]
    assert await stage_and_attempt(store, "t") == ("queued", 1)


@pytest.mark.parametrize("stage", IN_FLIGHT)
async def test_an_id_in_flight_cannot_be_claimed(store: Store, stage: Stage) -> None:
    """Another request's claim is refused and changes nothing."""
    await put(store, [record("t", stage)])
    assert await put(store, [record("t", attempt=0, created_ms=2000)]) == [Written(False, 1)]
    assert (await stored(store, "t"))["extensions"]["created_ms"] == 1000
    assert await stage_and_attempt(store, "t") == (stage, 1)


@pytest.mark.parametrize("stage", FINAL)
async def test_an_ended_id_begins_a_new_attempt(store: Store, stage: Stage) -> None:
    """After any end a claim begins the next attempt, and the attempts count up."""
    for attempt in (1, 2, 3):
        created_ms = 1000 * attempt
        assert await put(store, [record("t", attempt=0, created_ms=created_ms)]) == [Written(True, attempt)]
        await put(store, [record("t", stage, attempt=attempt, created_ms=created_ms)])
    assert await stage_and_attempt(store, "t") == (stage, 3)


async def test_a_claim_may_be_repeated(store: Store) -> None:
    """The same request's claim again, after a lost answer, gives the same attempt."""
    await put(store, [record("t", Stage.DONE)])
    claim = record("t", attempt=0, created_ms=2000)
    assert await put(store, [claim]) == [Written(True, 2)]
    assert await put(store, [claim]) == [Written(True, 2)]
    assert await put(store, [claim, claim]) == [Written(True, 2)] * 2


async def test_a_claim_may_come_with_a_later_stage(store: Store) -> None:
    """A request that went on while the store was away claims with the stage that it has reached."""
    assert await put(store, [record("t", Stage.STREAMING, attempt=0)]) == [Written(True, 1)]
    assert await put(store, [record("t", Stage.FORWARDING, attempt=0)]) == [Written(False, 1)]
    assert await put(store, [record("t", Stage.DONE, attempt=0)]) == [Written(True, 1)]
    assert await put(store, [record("t", Stage.DONE, attempt=0)]) == [Written(False, 1)]
    assert await stage_and_attempt(store, "t") == ("done", 1)


async def test_of_two_claims_at_once_one_wins(store: Store) -> None:
    """In one batch the first of two requests gets the id."""
    claims = [record("t", attempt=0, created_ms=1000), record("t", attempt=0, created_ms=1001)]
    assert await put(store, claims) == [Written(True, 1), Written(False, 1)]


# -- the list --


async def test_the_newest_comes_first_and_ties_go_by_id(store: Store) -> None:
    """The order is creation, then id, whatever the order of writing was."""
    for name, created_ms in (("b", 3000), ("a", 1000), ("c", 3000), ("d", 2000), ("B", 3000)):
        await put(store, [record(name, created_ms=created_ms)])
    assert await walk(store) == ["c", "b", "B", "d", "a"]


async def test_later_stages_keep_the_place(store: Store) -> None:
    """A task stays where its creation put it and is listed once, however often it is written."""
    for name, created_ms in (("a", 1000), ("b", 2000), ("c", 3000)):
        await put(store, [record(name, created_ms=created_ms)])
    for stage in (Stage.FORWARDING, Stage.STREAMING, Stage.STREAMING, Stage.DONE):
        await put(store, [record("b", stage, created_ms=2000)])
        assert await walk(store) == ["c", "b", "a"]


async def test_a_new_attempt_is_a_new_creation(store: Store) -> None:
    """A claimed id moves to the front and is listed once, with its new status alone."""
    for name, created_ms in (("a", 1000), ("b", 2000)):
        await put(store, [record(name, Stage.DONE, created_ms=created_ms)])
    await put(store, [record("a", attempt=0, created_ms=3000)])
    assert await walk(store) == ["a", "b"]
    assert await walk(store, state=State.SUCCESS) == ["b"]
    assert await walk(store, state=State.PENDING) == ["a"]


async def test_a_new_attempt_whose_clock_is_behind_is_the_one_listed(store: Store) -> None:
    """An id claimed by a gateway with a slow clock is listed at that clock's place, with its new status alone."""
    await put(store, [record("a", Stage.DONE, created_ms=5000), record("b", Stage.DONE, created_ms=4000)])
    assert await put(store, [record("a", attempt=0, created_ms=3000)]) == [Written(True, 2)]
    assert await walk(store) == ["b", "a"]
    assert await walk(store, state=State.PENDING) == ["a"]
    assert await walk(store, state=State.SUCCESS) == ["b"]


@pytest.mark.parametrize("late", [Stage.STREAMING, Stage.DONE])
async def test_a_late_write_of_an_earlier_attempt_leaves_the_list_alone(store: Store, late: Stage) -> None:
    """Whatever its clock says, an earlier attempt does not return to the list over one that has ended."""
    await put(store, [record("t", Stage.ERROR, created_ms=5000)])
    await put(store, [record("t", attempt=0, created_ms=3000)])
    await put(store, [record("t", Stage.DONE, attempt=2, created_ms=3000)])
    assert await put(store, [record("t", late, created_ms=5000)]) == [Written(False, 2)]
    assert await walk(store, state=State.SUCCESS) == ["t"]
    assert [await walk(store, state=state) for state in (State.RUNNING, State.FAILED)] == [[], []]


@pytest.mark.parametrize(
    ("stage", "refused"),
    [(Stage.STREAMING, record("t", attempt=0, created_ms=2000)), (Stage.DONE, record("t", Stage.ERROR))],
    ids=["a claim", "another end"],
)
async def test_what_was_refused_leaves_the_list_alone(subject: Subject, stage: Stage, refused: Record) -> None:
    """A task stays in the list, under its own state, if a claim of its id or another end of it was refused."""
    await put(subject.store, [record("t", stage)])
    assert await put(subject.store, [refused]) == [Written(False, 1)]
    assert await walk(subject.store) == ["t"]
    assert {state for state in State if await walk(subject.store, state=state)} == {stage.state}


STAGES = {"p": Stage.QUEUED, "f": Stage.FORWARDING, "r": Stage.STREAMING, "s": Stage.DONE, "e": Stage.ERROR}


async def several(store: Store) -> list[str]:
    """Puts 20 tasks of all states; their ids from the newest on."""
    names = [f"{letter}{n}" for n in range(4) for letter in STAGES]
    await put(store, [record(name, STAGES[name[0]], created_ms=1000 + n // 2) for n, name in enumerate(names)])
    return sorted(names, key=lambda name: (names.index(name) // 2, name), reverse=True)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 19, 20, 21, 1000])
@pytest.mark.parametrize("state", [None, *State])
async def test_cursors_walk_everything_once(store: Store, limit: int, state: State | None) -> None:
    """With any limit and any filter the pages hold every task that fits, once, in order."""
    names = await several(store)
    assert await walk(store, limit, state) == [n for n in names if state in (None, STAGES[n[0]].state)]


async def test_a_filter_follows_the_state(store: Store) -> None:
    """A task is listed under its present state and under no earlier one."""
    for stage in (Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING, Stage.CANCELLED):
        await put(store, [record("t", stage)])
        assert {state for state in State if await walk(store, state=state)} == {stage.state}


async def test_a_walk_is_not_disturbed_by_what_is_new(store: Store) -> None:
    """Tasks that begin or end between two pages neither repeat nor hide others."""
    names = await several(store)
    first = await store.page(10, None, None)
    await put(store, [record("new", created_ms=9000), record(names[15], Stage.DONE, created_ms=1000 + 19 // 2)])
    rest = await store.page(1000, None, first.next_cursor)
    assert "new" not in ids(rest)
    assert {*ids(first), *ids(rest)} >= {*names} - {names[15]}
    assert len({*ids(first), *ids(rest)}) == len(ids(first)) + len(ids(rest))


async def test_the_last_page_has_no_cursor(store: Store) -> None:
    """A page that holds exactly the rest is the last one; an empty list is one empty page."""
    assert await store.page(5, None, None) == Page([], None)
    await put(store, [record("a"), record("b")])
    assert (await store.page(2, None, None)).next_cursor is None
    assert (await store.page(1, None, None)).next_cursor is not None


async def test_a_cursor_outlives_its_task(subject: Subject) -> None:
    """If a page's last task has gone meanwhile, the next page goes on after its place."""
    short = record("b", Stage.DONE, created_ms=2000, ttl_seconds=SHORT_SECONDS)
    await put(subject.store, [record("a", created_ms=1000), short, record("c", created_ms=3000)])
    page = await subject.store.page(2, None, None)
    assert ids(page) == ["c", "b"]
    await subject.expire("b")
    assert ids(await subject.store.page(2, None, page.next_cursor)) == ["a"]


@pytest.mark.parametrize(
    "cursor",
    ["x", "!!!!", "é", "a" * 1000, encode_cursor("1000:t"), encode_cursor("0000000001000t"), "AAAA",
     encode_cursor("000000000100x:t"), encode_cursor("0000000001000:"), encode_cursor("0000000001000:-t"),
     encode_cursor("0000000001000:t\n"), encode_cursor("0000000001000:" + "t" * 129), encode_cursor("+"), "\x00", " "],
)  # fmt: skip
async def test_a_bad_cursor_is_refused(store: Store, cursor: str) -> None:
    """A cursor that no list has returned is InvalidCursor, not an empty page and not an error of the store."""
    await put(store, [record("t")])
    with pytest.raises(InvalidCursor):
        await store.page(5, None, cursor)


# -- owners --


async def owned(store: Store) -> None:
    """Six tasks: of alice, of bob, and without an owner."""
    tasks = [("a1", "alice", Stage.DONE), ("b1", "bob", Stage.DONE), ("n1", "", Stage.ERROR),
             ("a2", "alice", Stage.STREAMING), ("b2", "bob", Stage.ERROR), ("a3", "alice", Stage.DONE)]  # fmt: skip
    await put(store, [record(name, stage, created_ms=n, owner=owner) for n, (name, owner, stage) in enumerate(tasks)])


@pytest.mark.parametrize(
    ("owner", "state", "names"),
    [
        ("alice", None, ["a3", "a2", "a1"]),
        ("bob", None, ["b2", "b1"]),
        ("unknown", None, []),
        (None, None, ["a3", "b2", "a2", "n1", "b1", "a1"]),
        ("alice", State.SUCCESS, ["a3", "a1"]),
        ("bob", State.FAILED, ["b2"]),
        ("bob", State.RUNNING, []),
        (None, State.FAILED, ["b2", "n1"]),
    ],
)
@pytest.mark.parametrize("limit", [1, 2, 1000])
async def test_a_list_is_of_an_owner(
    store: Store, owner: str | None, state: State | None, names: list[str], limit: int
) -> None:
    """Each owner's list has only that owner's tasks, by state and page by page too; without an owner it has all."""
    await owned(store)
    assert await walk(store, limit, state, owner) == names


async def test_an_owners_list_follows_his_tasks(store: Store) -> None:
    """A task moves to its new state in its owner's lists too, and a new attempt to the top of them."""
    await owned(store)
    await put(store, [record("a2", Stage.DONE, created_ms=3, owner="alice")])
    assert await walk(store, state=State.RUNNING, owner="alice") == []
    assert await walk(store, state=State.SUCCESS, owner="alice") == ["a3", "a2", "a1"]
    await put(store, [record("a1", attempt=0, created_ms=9, owner="alice")])
    assert await walk(store, owner="alice") == ["a1", "a3", "a2"]


@pytest.mark.parametrize("stage", [Stage.DONE, Stage.STREAMING])
async def test_an_owners_id_cannot_be_taken(store: Store, stage: Stage) -> None:
    """No owner with another name can claim an id, in flight or ended; the document stays its owner's."""
    await put(store, [record("t", stage, owner="alice")])
    assert await put(store, [record("t", attempt=0, created_ms=2000, owner="bob")]) == [Written(False, 1)]
    assert (await stored(store, "t"))["extensions"]["owner"] == "alice"
    assert await walk(store, owner="bob") == []
    assert await walk(store, owner="alice") == ["t"]


@pytest.mark.parametrize(("before", "now"), [("alice", "alice"), ("", "bob"), ("alice", ""), ("", "")])
async def test_an_ended_id_is_free_for_its_owner(store: Store, before: str, now: str) -> None:
    """The same name may use its id again; an id without an owner is free for all; without keys there are no owners."""
    await put(store, [record("t", Stage.DONE, owner=before)])
    assert await put(store, [record("t", attempt=0, created_ms=2000, owner=now)]) == [Written(True, 2)]
    assert (await stored(store, "t"))["extensions"]["owner"] == (now or None)
    assert await walk(store) == ["t"]
    for owner in {before, now} - {""}:
        assert await walk(store, owner=owner) == (["t"] if owner == now else [])


# -- cancelling and looking --


async def test_reading_alone_loses_nothing(store: Store) -> None:
    """Without `exempt`, a silent task is read and listed unchanged."""
    await put(store, [record("t", Stage.STREAMING, grace_seconds=0)])
    assert await stage_and_attempt(store, "t") == ("streaming", 1)
    assert await walk(store, state=State.RUNNING) == ["t"]


async def test_nothing_to_bury_and_nothing_to_watch(store: Store) -> None:
    """A look at an empty store does no harm."""
    await store.end_earlier_run()
    assert await store.watch(()) == []


# -- time --


async def test_a_status_lasts_as_long_as_its_ttl(subject: Subject) -> None:
    """After its TTL a document is gone, from the list too, and its id is as good as new."""
    await put(subject.store, [record("short", Stage.DONE, ttl_seconds=SHORT_SECONDS), record("long", Stage.DONE)])
    assert sorted(await walk(subject.store)) == ["long", "short"]
    await subject.expire("short")
    assert await walk(subject.store) == ["long"]
    assert await walk(subject.store, state=State.SUCCESS) == ["long"]
    assert await put(subject.store, [record("short", attempt=0, created_ms=5000)]) == [Written(True, 1)]
    assert await walk(subject.store) == ["short", "long"]


async def test_each_write_renews_the_ttl(subject: Subject) -> None:
    """The TTL of the newest write counts: longer with an end, renewed by a heartbeat."""
    await put(subject.store, [record("beat", ttl_seconds=1), record("other", ttl_seconds=1)])
    await put(subject.store, [record("beat", ttl_seconds=60)])
    await subject.expire("other")
    assert await stage_and_attempt(subject.store, "beat") == ("queued", 1)


async def test_a_refused_write_renews_nothing(subject: Subject) -> None:
    """A late write over an ended task does not extend its life."""
    await put(subject.store, [record("t", Stage.DONE, ttl_seconds=SHORT_SECONDS)])
    await put(subject.store, [record("t", Stage.STREAMING, ttl_seconds=60)])
    await subject.expire("t")


async def test_a_lost_status_is_put_back(subject: Subject) -> None:
    """The next write of a task restores what has gone, with the same attempt."""
    await put(subject.store, [record("t", Stage.STREAMING, attempt=3, ttl_seconds=1)])
    await subject.expire("t")
    assert await put(subject.store, [record("t", Stage.STREAMING, attempt=3)]) == [Written(True, 3)]
    assert await stage_and_attempt(subject.store, "t") == ("streaming", 3)
    assert await walk(subject.store, state=State.RUNNING) == ["t"]


async def test_it_answers_a_ping(store: Store) -> None:
    """`probe` succeeds if the store is up."""
    await store.probe()


# -- cursors --

places = st.builds(
    place, st.integers(0, 10**13 - 1), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}", fullmatch=True)
)


@given(places)
def test_a_cursor_is_a_place(place: str) -> None:
    """Every place survives the way into a cursor and back, and the cursor needs no escaping in a query."""
    cursor = encode_cursor(place)
    assert decode_cursor(cursor) == place
    assert json.dumps(cursor) == f'"{cursor}"'
    assert set(cursor) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


@given(st.text(max_size=60))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Decoding raises no error but InvalidCursor, and returns only places."""
    try:
        place = decode_cursor(text)
    except InvalidCursor:
        return
    assert decode_cursor(encode_cursor(place)) == place


@given(places, places)
def test_places_sort_as_the_list_does(one: str, other: str) -> None:
    """The order of places as text is the order of creation, then of ids."""
    parts = [(int(place[:13]), place[14:]) for place in (one, other)]
    assert (one < other) == (parts[0] < parts[1])


# -- the in-process table's bound --


async def test_the_table_forgets_the_oldest_ended_tasks_first() -> None:
    """At the bound the oldest ended task goes; tasks in flight stay as long as any task has ended."""
    store = MemoryStore(max_tasks=3)
    await put(store, [record("run", Stage.STREAMING, created_ms=1)])
    await put(store, [record(f"end{n}", FINAL[n], created_ms=10 + n) for n in range(4)])
    assert await walk(store) == ["end3", "end2", "run"]
    await put(store, [record(f"run{n}", created_ms=20 + n) for n in range(3)])
    assert await walk(store) == ["run2", "run1", "run0"]
    assert await text_of(store, "run") is None


async def test_a_noisy_key_displaces_its_own_tasks_alone() -> None:
    """At the table's bound the owner with the most loses its oldest: the few of a quiet key stay, ended or not."""
    store = MemoryStore(max_tasks=50)
    await put(store, [record("quiet-end", Stage.DONE, created_ms=1, owner="quiet")])
    await put(store, [record("quiet-run", Stage.STREAMING, created_ms=2, owner="quiet")])
    await put(store, [record("nameless", Stage.DONE, created_ms=3)])
    await put(store, [record(f"noise{n:03}", Stage.DONE, created_ms=10 + n, owner="noisy") for n in range(200)])
    assert await walk(store, owner="quiet") == ["quiet-run", "quiet-end"]
    assert await walk(store, owner="noisy") == [f"noise{n:03}" for n in reversed(range(153, 200))]
    assert await text_of(store, "nameless") is not None
    assert len(await walk(store)) == 50


async def test_a_noisy_keys_running_tasks_go_before_a_quiet_keys_ended_ones() -> None:
    """If the largest owner has no ended task, its oldest task still goes; its heartbeat restores it."""
    store = MemoryStore(max_tasks=10)
    await put(store, [record("quiet", Stage.DONE, created_ms=1, owner="quiet")])
    await put(store, [record(f"noise{n:02}", created_ms=10 + n, owner="noisy") for n in range(20)])
    assert await walk(store, owner="quiet") == ["quiet"]
    assert await walk(store, owner="noisy") == [f"noise{n:02}" for n in reversed(range(11, 20))]
