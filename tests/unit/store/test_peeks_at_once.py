"""Plain reads of pages: some at a time, so that a burst of large ones is late for no reason of the store's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from gateway.store.clock import StoreClock
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError, Unclear
from gateway.store.layout import list_names
from gateway.store.peeks import Peeks
from tests.support.waiting import next_turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gateway.store.interface import PeekedPage
    from gateway.store.pipeline import Command, Pipeline, Replies

EMPTY_PAGE: list[object] = [[1, 0, [], 0, [], []]]
AT_ONCE = 4


class Held:
    """A pipeline whose replies a test gives."""

    def __init__(self) -> None:
        self.asked: list[Callable[[Replies], None]] = []

    def ask(self, _: Sequence[Command], then: Callable[[Replies], None]) -> None:
        """Keeps the callback."""
        self.asked.append(then)


def asking(count: int) -> tuple[Held, list[PeekedPage]]:
    """So many pages asked for: the pipeline that they go over, and the answers so far."""
    held = Held()
    answers: list[PeekedPage] = []
    peeks = Peeks(Connector.to("redis://127.0.0.1:1/0"), StoreClock(30))
    peeks._page_pipeline = cast("Pipeline", held)
    for _ in range(count):
        peeks.page(50, list_names(None, None), "+", answers.append, state=None, label="")
    return held, answers


async def test_a_few_pages_are_asked_for_at_a_time() -> None:
    """Each page that is answered lets the next one begin; its time begins when it is sent."""
    held, answers = asking(10)
    for answered in range(10):
        assert len(held.asked) == min(answered + AT_ONCE, 10)
        held.asked[answered](EMPTY_PAGE)
    assert answers == [([], None)] * 10


async def test_pages_that_wait_do_not_ask_a_store_that_fails() -> None:
    """When a page fails, those that wait are unclear at once: their waits do not add up. Later ones are asked for."""
    held, answers = asking(10)
    for then in held.asked[:AT_ONCE]:
        then(StoreError("no answer in time"))
    await next_turn()
    assert len(held.asked) == AT_ONCE
    assert [isinstance(answer, Unclear) for answer in answers] == [True] * 10
