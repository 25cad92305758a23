"""Which status of a task counts: the one that this process knows, or the store's. Decides only."""

from enum import Enum, auto
from typing import Any

from gateway.store.interface import name_in
from gateway.tasks.document import rank_of
from gateway.tasks.stages import FINAL_RANK
from gateway.tracking.tracked import TrackedTask


class Source(Enum):
    """Where a task's status is taken from, and what that means for the task."""

    OWN = auto()  # this process: the store does not have it yet
    OWN_AGAIN = auto()  # this process: the store had it, and has lost it
    STORE = auto()  # the store, which knows as much or more
    ANOTHER = auto()  # the store: another request stands there, or this one was called lost


def source_of(own: TrackedTask, name: str, fields: dict[str, Any] | None, *, is_expired: bool) -> Source:
    """`name` is that of the own request; `fields` are those of the store's document, None where it has none.

    `is_expired`: the own task ended so long ago that the store need not have it any more.
    """
    if fields is None:
        is_news = not is_expired
    else:
        is_news = (own.likely_attempt, own.stage.rank) > (fields["extensions"].get("attempt", 1), rank_of(fields))
    if is_news:
        return Source.OWN_AGAIN if own.is_saved else Source.OWN
    if fields is None or not own.is_claimed:  # the answer to the claim will say it
        return Source.STORE
    is_called_lost = rank_of(fields) == FINAL_RANK and fields["stage"] != own.stage
    return Source.ANOTHER if is_called_lost or name_in(fields) != name else Source.STORE
