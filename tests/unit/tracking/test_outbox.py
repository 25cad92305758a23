"""What the outbox promises: the newest status of each task once, the ended first, bounded, no loss uncounted."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError
from gateway.tracking import outbox as outbox_module
from gateway.tracking.outbox import BATCH_TASKS, LINGER_SECONDS, Outbox
from gateway.tracking.tracked import TrackedTask
from tests.support.tracking import Cut
from tests.support.waiting import until

LONG_PATH_BYTES = 4 * 1024 * 1024


def running(task_id: str, path: str = "/v1/x") -> TrackedTask:
    """A task that was handed over."""
    task = TrackedTask(task_id, "POST", path, "", 1000, 1)
    task.forward(1001)
    return task


def ended(task_id: str, path: str = "/v1/x", owner: str = "") -> TrackedTask:
    """A task that has come to its end."""
    task = running(task_id, path)
    task.owner = owner
    task.finish(None, "", 1002)
    return task


def posted(*tasks: TrackedTask) -> Outbox:
    """An outbox with these tasks, in this order, all to be written at once."""
    outbox = Outbox()
    for task in tasks:
        outbox.post_urgently(task)
    return outbox


def save(outbox: Outbox) -> list[str]:
    """Takes a batch and writes it; the ids in their order."""
    batch = outbox.next_batch()
    outbox.finish_batch()
    return [task.task_id for task in batch]


@pytest.fixture
def room_for_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ended tasks are kept."""
    monkeypatch.setattr(outbox_module, "KEPT_TASKS", 10)


# -- what goes first --


async def test_the_ended_go_first() -> None:
    """Whatever was posted before, ends are written ahead of tasks in flight, each kind in its own order."""
    outbox = posted(running("a"), ended("b"), running("c"), ended("d"))
    assert save(outbox) == ["b", "d", "a", "c"]


async def test_an_end_goes_ahead_of_the_next_claim_of_its_id() -> None:
    """Two attempts of one id are two tasks, and the earlier one's end is written before the later one's claim."""
    first, second = running("t"), TrackedTask("t", "POST", "/v1/x", "", 2000, 0)
    outbox = posted(second, first)
    first.finish(None, "", 1002)
    outbox.post_urgently(first)
    assert outbox.next_batch() == [first, second]


async def test_what_nobody_waits_for_lingers() -> None:
    """A status that is only posted is not written before the linger ends, and then without anybody asking."""
    outbox = Outbox()
    outbox.post(running("a"))
    assert (outbox.next_batch(), outbox.is_due, outbox.unsaved) == ([], False, 1)
    await until(lambda: outbox.is_due, LINGER_SECONDS * 20)
    assert save(outbox) == ["a"]
    assert outbox.is_empty


async def test_all_that_lingers_goes_with_the_first() -> None:
    """One linger is for all: what came a little later is written with what began it."""
    outbox, first, second = Outbox(), running("a"), running("b")
    outbox.post(first)
    outbox.post(second)
    await until(lambda: outbox.is_due, LINGER_SECONDS * 20)
    assert outbox.next_batch() == [first, second]


async def test_what_somebody_waits_for_does_not_linger() -> None:
    """A task that is posted urgently is due at once, lingering or not, and is written once."""
    outbox, task = Outbox(), running("a")
    outbox.post(task)
    outbox.post_urgently(task)
    outbox.post(task)
    assert outbox.is_due
    assert save(outbox) == ["a"]
    outbox.end_linger()
    assert save(outbox) == []


async def test_an_end_replaces_what_waited() -> None:
    """A task that ends while an earlier status of it waits, urgently or lingering, is written once."""
    one, other = running("a"), running("b")
    outbox = posted(one)
    outbox.post(other)
    for task in (one, other):
        task.finish(None, "", 1002)
        outbox.post_urgently(task)
    outbox.end_linger()
    assert outbox.unsaved == 2
    assert save(outbox) == ["a", "b"]


async def test_a_batch_is_bounded_and_the_rest_stays_due() -> None:
    """What does not fit into a batch waits for the next one, ends and others alike."""
    many = BATCH_TASKS // 2 + 10
    outbox = posted(*(running(f"r{n}") for n in range(many)), *(ended(f"e{n}") for n in range(many)))
    first = save(outbox)
    assert len(first) == BATCH_TASKS
    assert outbox.is_due
    assert save(outbox) == [f"r{n}" for n in range(many - 20, many)]
    assert not outbox.is_due


async def test_what_is_discarded_is_not_written() -> None:
    """A task whose claim was refused is taken out, urgent or lingering."""
    one, other = running("a"), running("b")
    outbox = posted(one)
    outbox.post(other)
    outbox.discard(one)
    outbox.discard(other)
    outbox.end_linger()
    assert outbox.is_empty
    assert save(outbox) == []


# -- a batch that fails --


async def test_a_batch_that_failed_goes_first_in_its_order() -> None:
    """What comes back is written before what came meanwhile: ends before ends, the others before the others."""
    outbox = posted(running("a"), ended("b"), running("c"))
    outbox.next_batch()
    for task in (running("d"), ended("e")):
        outbox.post_urgently(task)
    outbox.give_back()
    assert outbox.is_due
    assert save(outbox) == ["b", "e", "a", "c", "d"]


async def test_a_batch_that_failed_comes_back_as_it_is_by_then() -> None:
    """A task that ended while its earlier status was on its way is among the ended, once, with its end."""
    task, other = running("a"), running("b")
    outbox = posted(task, other)
    outbox.next_batch()
    task.finish(None, "", 1002)
    outbox.post_urgently(task)
    outbox.post(other)
    outbox.give_back()
    assert outbox.unsaved == 2
    outbox.end_linger()
    assert outbox.next_batch() == [task, other]
    assert task.is_end_sent


async def test_a_task_under_way_counts_once() -> None:
    """A task that beats while it is being written is one that waits, not two."""
    task = running("a")
    outbox = posted(task)
    outbox.next_batch()
    outbox.post(task)
    assert outbox.unsaved == 1


# -- bounds --


@pytest.mark.usefixtures("room_for_ten")
async def test_the_oldest_go_at_the_bound_and_are_counted() -> None:
    """Of more ended tasks than are kept the last ones stay, in order; each that went unwritten counts once."""
    outbox = posted(*(ended(f"t{n}") for n in range(25)))
    assert (outbox.unsaved, outbox.dropped) == (10, 15)
    assert save(outbox) == [f"t{n}" for n in range(15, 25)]


@pytest.mark.usefixtures("room_for_ten")
async def test_a_noisy_key_displaces_its_own_ends_alone() -> None:
    """While the store is away the flood of one key costs another key no end, whichever came first."""
    outbox = posted(ended("quiet", owner="quiet"), *(ended(f"t{n}", owner="noisy") for n in range(20)))
    assert (outbox.unsaved, outbox.dropped) == (10, 11)
    assert outbox.remembered.get("quiet") is not None
    assert save(outbox) == ["quiet", *(f"t{n}" for n in range(11, 20))]


async def test_long_paths_count_by_their_bytes() -> None:
    """32 MB are kept, however few tasks that is: of ten with a path of 4 MB seven stay."""
    outbox = posted(*(ended(f"t{n}", "/v1/" + "x" * LONG_PATH_BYTES) for n in range(10)))
    assert (outbox.unsaved, outbox.dropped) == (7, 3)
    small = [ended(f"s{n}") for n in range(100)]
    for task in small:
        outbox.post_urgently(task)
    assert outbox.dropped == 3


@pytest.mark.usefixtures("room_for_ten")
async def test_what_the_store_has_goes_first() -> None:
    """Room is made by forgetting what is written already, and that is no loss."""
    outbox = posted(*(ended(f"written{n}") for n in range(10)))
    save(outbox)
    for n in range(10):
        outbox.post_urgently(ended(f"t{n}"))
    assert (outbox.unsaved, outbox.dropped) == (10, 0)
    assert outbox.remembered.get("written0") is None


@pytest.mark.usefixtures("room_for_ten")
async def test_tasks_in_flight_are_not_dropped() -> None:
    """The bound is on what has ended: tasks in flight stay, as many as there are."""
    outbox = posted(*(running(f"r{n}") for n in range(30)), *(ended(f"e{n}") for n in range(20)))
    assert (outbox.unsaved, outbox.dropped) == (40, 10)


@pytest.mark.usefixtures("room_for_ten")
async def test_a_drop_during_a_batch_counts_once() -> None:
    """An end that was on its way, or came while an earlier status was, counts once when both are lost."""
    late, final = running("late"), ended("final")
    outbox = posted(late, final)
    outbox.next_batch()
    late.finish(None, "", 1002)
    outbox.post_urgently(late)
    for n in range(10):
        outbox.post_urgently(ended(f"t{n}"))
    outbox.give_back()
    assert (outbox.unsaved, outbox.dropped) == (10, 2)


@pytest.mark.usefixtures("room_for_ten")
async def test_a_batch_that_is_written_was_no_drop() -> None:
    """An end that left the memory while it was on its way, and arrived, is no loss."""
    outbox = posted(ended("on its way"))
    outbox.next_batch()
    for n in range(10):
        outbox.post_urgently(ended(f"t{n}"))
    outbox.finish_batch()
    assert (outbox.unsaved, outbox.dropped) == (10, 0)


# -- memory --


async def test_the_ended_are_known_by_id() -> None:
    """A task that ended here is remembered, written or not; one in flight and one unknown are not there."""
    task = ended("t")
    outbox = posted(task, running("r"))
    assert outbox.remembered.get("t") is task
    save(outbox)
    assert outbox.remembered.get("t") is task
    assert (outbox.remembered.get("r"), outbox.remembered.get("unknown")) == (None, None)


@pytest.mark.usefixtures("room_for_ten")
async def test_the_newest_attempt_is_the_one_known() -> None:
    """Of several attempts the last that ended answers, and does so after an earlier one was forgotten."""
    first, second = ended("t"), ended("t")
    outbox = posted(first, *(ended(f"t{n}") for n in range(8)), second)
    assert outbox.remembered.get("t") is second
    outbox.post_urgently(ended("one more"))
    assert outbox.remembered.get("t") is second
    assert outbox.dropped == 1


async def test_ten_thousand_are_kept() -> None:
    """The bounds are the contract's: 10,000 tasks and 32 MB."""
    assert (outbox_module.KEPT_TASKS, outbox_module.KEPT_BYTES) == (10_000, 32 * 1024 * 1024)
    outbox = posted(*(ended(f"t{n}") for n in range(10_001)))
    assert (outbox.unsaved, outbox.dropped) == (10_000, 1)


# -- cutting --


async def test_a_cut_reaches_the_request_once() -> None:
    """The request of a task is told once that it is cut; the first reason stays, and an ended task is left alone."""
    task, told = running("a"), []
    task.run_by(Cut(lambda: told.append(task.cut_by)))
    first, second = GatewayError("one"), GatewayError("two")
    task.cut(first)
    task.cut(second)
    assert told == [first]
    over = ended("b")
    over.cut(first)
    assert over.cut_by is None


# -- an end that waits for its answer --


async def test_an_end_that_is_held_is_written_when_it_is_released() -> None:
    """Neither its own post nor a batch that comes back writes it before."""
    task = running("a")
    task.hold_end()
    outbox = posted(task)
    assert outbox.next_batch() == [task]
    task.finish(None, "", 1002)
    outbox.post_urgently(task)
    outbox.give_back()
    assert save(outbox) == []
    assert outbox.remembered == {"a": task}
    assert task.release_end()
    outbox.post_urgently(task)
    assert save(outbox) == ["a"]


async def test_a_refused_claim_is_not_written_again() -> None:
    """After a failure of the store, only what the store may have lost is due: not a claim that it has refused."""
    outbox, refused = Outbox(), TrackedTask("t", "POST", "/v1/x", "", 1000, 0)
    refused.sent()
    refused.refused()
    outbox.post_again([refused], 0)
    assert outbox.is_empty
    refused.claim_again()
    outbox.post_again([refused], 0)
    assert outbox.next_batch() == [refused]
