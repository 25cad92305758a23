"""Owns what a look says of a task that the store does not have yet, or has only by the second look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from gateway.errors import ResponseGone
from gateway.kept.keeping import Keeping, KeptLimits
from gateway.kept.looking import Looking
from gateway.store.answers import StoredAnswer
from gateway.tasks.task import Kept
from tests.support.tracking import Subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from gateway.store.answers import Part, ThenSaved

pytestmark = pytest.mark.asyncio(loop_scope="session")

LIMITS = KeptLimits(1_000, 10_000, 60, 60, 60)


class Late:
    """A store of answers that has the document of a task from the second read on, or never."""

    def __init__(self) -> None:
        self.documents: list[str | None] = []

    def save(self, parts: Sequence[Part], then: ThenSaved) -> None:
        """Not used here."""

    async def read(self, task_id: str, offset: int) -> StoredAnswer:
        """The next document; there is no answer yet."""
        return StoredAnswer(self.documents.pop(0), "", "", 0, b"")

    async def drop(self, task_id: str, generation: str, event_id: str) -> bool:
        """Not used here."""
        return False

    async def close(self) -> None:
        """Nothing is open."""


@pytest_asyncio.fixture(loop_scope="session")
async def subject() -> AsyncIterator[Subject]:
    """A tracker whose writer runs."""
    subject = Subject(60.0)
    await subject.start()
    yield subject
    await subject.stop()


@pytest.mark.parametrize("comes_late", [True, False])
async def test_a_running_task_that_the_store_does_not_have_yet_is_waited_for(
    subject: Subject, *, comes_late: bool
) -> None:
    """Its answer is not gone: there is nothing of it so far."""
    store = Late()
    looking = Looking(Keeping(subject.tracker, store, LIMITS))
    task = await subject.begin("mine")
    task.keep(Kept.KEPT)
    document = subject.tracker.kept_tasks().document(task)
    store.documents = [None, document if comes_late else None]
    look = await looking.look("mine", None)
    assert (look.head, look.end, look.length) == (None, None, 0)
    subject.run_through(task)


async def test_the_answer_of_an_ended_task_that_the_store_lost_is_gone(subject: Subject) -> None:
    """This process remembers the task, but nothing holds its answer."""
    store = Late()
    looking = Looking(Keeping(subject.tracker, store, LIMITS))
    task = await subject.begin("lost")
    task.keep(Kept.KEPT)
    subject.run_through(task)
    store.documents = [None, None]
    with pytest.raises(ResponseGone):
        await looking.look("lost", None)
