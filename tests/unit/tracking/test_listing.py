"""What the list promises while the store takes no writes: it says what this gateway knows."""

from __future__ import annotations

import json
import random

import pytest

from gateway.store.interface import StoreError
from gateway.tasks.stages import Stage, State
from gateway.tasks.task import Reason
from gateway.tracking.tracker import StoreUnavailable
from tests.support.records import put, record
from tests.support.tracking import Subject, tracking
from tests.support.waiting import next_millisecond, until


async def refuse_writes(subject: Subject) -> None:
    """The store answers reads and takes no writes, and the tracker knows."""
    subject.store.write_failure = StoreError("READONLY", "READONLY")
    await subject.begin()
    await until(lambda: not subject.tracker.is_store_up, 3, "the tracker notices")


async def walked(
    subject: Subject, limit: int, state: State | None = None, reader: str | None = None, label: str = ""
) -> list[str]:
    """All documents of a list, page by page."""
    documents: list[str] = []
    cursor = None
    while True:
        page = await subject.tracker.answers.page(limit, state, cursor, reader, label)
        assert len(page.documents) <= limit
        documents += page.documents
        cursor = page.next_cursor
        if cursor is None:
            return documents
        assert len(page.documents) == limit, "a page before the last one is full"


def place_of(document: str) -> tuple[int, str]:
    """By what a list is sorted."""
    fields = json.loads(document)
    return fields["extensions"]["created_ms"], fields["task_id"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("state", [None, *State])
async def test_no_page_contradicts_a_status(limit: int, state: State | None) -> None:
    """Each page, with any filter, has each task once, in order, as the status route tells it, and misses none."""
    dice = random.Random(7 * limit)
    async with tracking() as subject:
        tasks = []
        for number in range(12):
            tasks.append(await subject.begin(f"own-{number}"))
            if number % 3 == 0:
                await put(subject.store.table, [record(f"other-{number}", Stage.STREAMING, created_ms=number * 10)])
            if number % 4 == 0:
                subject.tracker.forward(tasks[-1])
            await next_millisecond()
        await until(lambda: not subject.tracker.unsaved, 3, "all is written")
        await put(subject.store.table, [record("done", Stage.DONE, created_ms=tasks[5].created_ms)])
        await refuse_writes(subject)
        for task in dice.sample(tasks, 6):
            subject.run_through(task, dice.choice([None, Reason.UPSTREAM_STATUS]))
        subject.run_through(again := await subject.begin(next(one for one in tasks if one.is_final).task_id))
        newest = await subject.begin()
        documents = await walked(subject, limit, state)
        ids = [json.loads(document)["task_id"] for document in documents]
        assert [place_of(one) for one in documents] == sorted(map(place_of, documents), reverse=True)
        assert len(ids) == len(set(ids))
        for document in documents:
            told = await subject.tracker.read(json.loads(document)["task_id"])
            assert told is not None
            assert json.loads(told)["event_id"] == json.loads(document)["event_id"]
        known = {task.task_id for task in (*tasks, again, newest)} | {f"other-{n}" for n in range(0, 12, 3)} | {"done"}
        expected = set()
        for task_id in known:
            told = await subject.tracker.read(task_id)
            if state is None or json.loads(told or "")["state"] == state:
                expected.add(task_id)
        assert expected <= set(ids)
        assert subject.store.calls["page"] > 0


async def test_a_list_is_still_its_owners() -> None:
    """Merged pages show a key its own tasks alone."""
    async with tracking() as subject:
        await refuse_writes(subject)
        for owner in ("alice", "bob"):
            subject.tracker.begin(None, "POST", "/v1/x", "", owner)
        for owner in ("alice", "bob"):
            [document] = await walked(subject, 10, reader=owner)
            assert json.loads(document)["extensions"]["owner"] == owner


async def test_the_list_of_a_label_has_the_own_tasks() -> None:
    """Merged pages of a label have each task with that label once, in order, as this process knows it, and no other."""
    async with tracking() as subject:
        await put(subject.store.table, [record("other", Stage.STREAMING, created_ms=1, label="job")])
        await put(subject.store.table, [record("reused", Stage.DONE, created_ms=2, label="job")])
        saved = subject.tracker.begin(None, "POST", "/v1/x", "", label="job")
        await until(lambda: not subject.tracker.unsaved, 3, "all is written")
        await refuse_writes(subject)
        await next_millisecond()
        fresh = subject.tracker.begin(None, "POST", "/v1/x", "", "alice", label="job")
        subject.tracker.begin(None, "POST", "/v1/x", "", label="job2")
        subject.tracker.begin("reused", "POST", "/v1/x", "", label="job2")
        subject.run_through(saved)
        for limit in (1, 2, 1000):
            documents = await walked(subject, limit, label="job")
            assert [json.loads(one)["task_id"] for one in documents] == [fresh.task_id, saved.task_id, "other"]
            assert json.loads(documents[1])["state"] == State.SUCCESS
        [document] = await walked(subject, 10, reader="alice", label="job")
        assert json.loads(document)["task_id"] == fresh.task_id


async def test_a_store_that_cannot_be_read_has_no_list() -> None:
    """Where others' tasks cannot be known the list is 503, not a part of it."""
    async with tracking() as subject:
        await subject.begin()
        await subject.lose_store()
        with pytest.raises(StoreUnavailable):
            await subject.tracker.answers.page(10, None, None)


async def test_a_failure_while_a_page_is_read_counts() -> None:
    """A page that was asked for while the store was well is not told once it is known to take no writes."""
    async with tracking() as subject:
        task = await subject.begin("t")
        subject.tracker.forward(task)
        await until(lambda: not subject.tracker.unsaved, 3, "it is written")
        page = subject.store.page

        async def late_page(*arguments: object, **more: object) -> object:
            found = await page(*arguments, **more)  # type: ignore[arg-type]
            if subject.tracker.is_store_up:
                await refuse_writes(subject)
                subject.run_through(task)
            return found

        subject.store.page = late_page  # type: ignore[assignment, method-assign]
        found = await subject.tracker.answers.page(10, None, None)
        stages = {json.loads(one)["task_id"]: json.loads(one)["stage"] for one in found.documents}
        assert stages["t"] == "done"
