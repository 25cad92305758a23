"""A deadline ends when it was last moved to, and costs the loop one timer, however often it is moved."""

from __future__ import annotations

import asyncio
from functools import partial

from gateway.net.deadline import Deadline
from tests.support.waiting import until, until_steady

SHORT_SECONDS = 0.05
LONG_SECONDS = 3600.0


class Subject:
    """A deadline, and the number of times that it expired."""

    def __init__(self) -> None:
        self.count = 0
        self.deadline = Deadline(asyncio.get_running_loop(), self._over)

    def has_expired(self, count: int) -> bool:
        """Whether it has expired this often."""
        return self.count == count

    def _over(self) -> None:
        self.count += 1


async def test_it_is_over_once() -> None:
    """A deadline that was set once expires once."""
    subject = Subject()
    subject.deadline.move(SHORT_SECONDS)
    await until(lambda: subject.count, 30)
    assert await until_steady(lambda: subject.count, 3 * SHORT_SECONDS, 1) == 1


async def test_it_can_be_moved_both_ways_or_put_off() -> None:
    """The last call counts: later, sooner, none."""
    subject = Subject()
    subject.deadline.move(SHORT_SECONDS)
    subject.deadline.move(LONG_SECONDS)
    assert await until_steady(lambda: subject.count, 3 * SHORT_SECONDS, 1) == 0
    subject.deadline.move(SHORT_SECONDS)
    await until(lambda: subject.count, 30)
    subject.deadline.move(SHORT_SECONDS)
    subject.deadline.off()
    assert await until_steady(lambda: subject.count, 3 * SHORT_SECONDS, 1) == 1
    subject.deadline.cancel()


async def test_moving_it_up_makes_it_no_later() -> None:
    """If several owners share a deadline, the earliest one counts, also after an earlier one has expired."""
    subject = Subject()
    for count in (1, 2):
        subject.deadline.move_up(LONG_SECONDS)
        subject.deadline.move_up(SHORT_SECONDS)
        subject.deadline.move_up(LONG_SECONDS)
        await until(partial(subject.has_expired, count), 30)
