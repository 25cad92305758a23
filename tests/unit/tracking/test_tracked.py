"""What a task knows of its claim and its records: one claim at a time, and no saved status is forgotten by mistake."""

from __future__ import annotations

from gateway.tasks.stages import FINAL_RANK, Stage, Stored, verdict
from gateway.tracking.tracked import TrackedTask


def new(attempt: int) -> TrackedTask:
    """A task; attempt 0 is one whose id the client chose."""
    return TrackedTask("t", "POST", "/v1/x", "", 1000, attempt)


def claim_of(task: TrackedTask) -> tuple[bool, bool, bool]:
    """Whether its claim is decided, refused, superseded."""
    return task.is_claimed, task.is_refused, task.is_superseded


def test_an_id_of_our_own_needs_no_claim() -> None:
    """An id that this process made is granted from the start, one that a client chose is not."""
    assert claim_of(new(1)) == (True, False, False)
    assert claim_of(new(0)) == (False, False, False)


def test_a_saved_record_grants_the_claim() -> None:
    """The store's attempt is the task's, whatever the claim was before."""
    for before in (TrackedTask.refused, TrackedTask.superseded, TrackedTask.claim_again):
        task = new(0)
        before(task)
        task.sent()
        task.saved(4)
        assert claim_of(task) == (True, False, False)
        assert (task.attempt, task.likely_attempt, task.is_saved) == (4, 4, True)


def test_a_refused_claim_can_be_made_again() -> None:
    """The next try is a claim like the first, and is sent although the first was."""
    task = new(0)
    task.sent()
    task.refused()
    assert claim_of(task) == (False, True, False)
    task.claim_again()
    assert claim_of(task) == (False, False, False)
    assert task.sent_rank < Stage.QUEUED.rank


def test_a_record_that_is_not_written_supersedes_the_task_unless_it_went_on() -> None:
    """A task that has gone on since its record was sent is to be written again as it is now."""
    task, later = new(1), new(1)
    for one in (task, later):
        one.sent()
    later.forward(1001)
    for one in (task, later):
        one.rejected()
    assert (task.is_superseded, task.is_saved) == (True, True)
    assert (later.is_superseded, later.is_saved) == (False, False)


def test_a_claim_that_lost_its_id_is_not_made_again() -> None:
    """Its later records count only if the store has no attempt: the other request's end is not replaced."""
    task = new(0)
    task.sent()
    assert task.rejected()
    stored = Stored(attempt=1, rank=FINAL_RANK, is_ours=False, is_foreign=False)
    assert verdict(stored, task.claim_number, Stage.STREAMING.rank) is None
    assert verdict(None, task.claim_number, Stage.STREAMING.rank) == 1


def test_a_late_answer_does_not_take_back_a_later_status() -> None:
    """What the store has stays known until the store may have lost it."""
    task = new(1)
    task.forward(1001)
    task.sent()
    task.saved(1)
    assert task.saved_rank == Stage.FORWARDING.rank
    task.forgotten()
    assert task.saved_rank < Stage.QUEUED.rank
