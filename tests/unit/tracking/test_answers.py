"""Which source is right about a task, as a table; test_tracker.py asks the same of a tracker and a store."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.store.interface import request_name
from gateway.tasks.document import complete_document
from gateway.tasks.stages import Stage
from gateway.tracking.answers import Source, source_of
from gateway.tracking.tracked import TrackedTask
from tests.support.records import BOOT, record

CREATED_MS = 1000
NAME = request_name(BOOT, CREATED_MS, "t")


def own(stage: Stage, attempt: int = 1, *, is_saved: bool = False, likely_attempt: int | None = None) -> TrackedTask:
    """The task as this process knows it."""
    task = TrackedTask("t", "POST", "/v1/x", "", CREATED_MS, attempt, likely_attempt=likely_attempt or attempt)
    task.stage = stage
    task.saved_rank = stage.rank if is_saved else -1
    return task


def found(stage: Stage, attempt: int = 1, *, boot: str = BOOT, is_presumed: bool = False) -> dict[str, Any]:
    """What the store says."""
    fields: dict[str, Any] = json.loads(
        complete_document(record("t", stage, created_ms=CREATED_MS, boot=boot).head, attempt)
    )
    fields["extensions"]["is_presumed"] = is_presumed
    return fields


RUNNING, DONE, LOST = Stage.STREAMING, Stage.DONE, Stage.LOST
CASES = {
    "not written yet": (own(RUNNING), None, Source.OWN),
    "lost by the store": (own(RUNNING, is_saved=True), None, Source.OWN_AGAIN),
    "the store is behind": (own(RUNNING), found(Stage.QUEUED), Source.OWN),
    "the store fell behind": (own(DONE, is_saved=True), found(Stage.QUEUED), Source.OWN_AGAIN),
    "a later attempt here": (own(Stage.QUEUED, 2), found(DONE), Source.OWN),
    "a likely attempt": (own(RUNNING, 0, likely_attempt=2), found(DONE, boot="other"), Source.OWN),
    "the same": (own(RUNNING, is_saved=True), found(RUNNING), Source.STORE),
    "the same end": (own(DONE, is_saved=True), found(DONE), Source.STORE),
    "a claim without an answer": (own(Stage.QUEUED, 0, likely_attempt=1), found(RUNNING, boot="other"), Source.STORE),
    "called lost while it runs": (own(RUNNING, is_saved=True), found(LOST), Source.ANOTHER),
    "called lost before its end came": (own(DONE), found(LOST), Source.ANOTHER),
    "presumed lost while it runs": (own(RUNNING, is_saved=True), found(LOST, is_presumed=True), Source.OWN_AGAIN),
    "presumed lost before its end came": (own(DONE), found(LOST, is_presumed=True), Source.OWN),
    "another, presumed lost": (own(DONE), found(LOST, boot="other", is_presumed=True), Source.ANOTHER),
    "another request": (own(RUNNING), found(RUNNING, boot="other"), Source.ANOTHER),
    "a later attempt elsewhere": (own(DONE, is_saved=True), found(Stage.QUEUED, 2, boot="other"), Source.ANOTHER),
}


@pytest.mark.parametrize(("task", "fields", "source"), CASES.values(), ids=CASES)
def test_who_knows_more_tells(task: TrackedTask, fields: dict[str, Any] | None, source: Source) -> None:
    """The later attempt and the higher rank tell; what the store says of another request stands."""
    assert source_of(task, NAME, fields, is_expired=False) is source


@pytest.mark.parametrize("is_saved", [True, False])
def test_what_has_expired_is_told_no_more(is_saved: bool) -> None:
    """An end older than its TTL is not put back, and the store's nothing is the answer."""
    assert source_of(own(DONE, is_saved=is_saved), NAME, None, is_expired=True) is Source.STORE
