"""Which status may follow which, where several processes write: the rules of the store.

status.lua has the same rules for Redis; a test runs both through all cases.
"""

from dataclasses import dataclass

from gateway.tasks.task import FINAL_RANK, MAX_ATTEMPT


@dataclass(frozen=True, slots=True)
class Stored:
    """What decides about the document that is stored, and how it stands to the request that writes."""

    attempt: int
    rank: int
    is_ours: bool  # the same request of the same process wrote it
    is_foreign: bool  # its API key is another one than the writer's


def verdict(stored: Stored | None, attempt: int, rank: int) -> int | None:
    """The attempt under which a status of `rank` is written; None where what is stored stays.

    `attempt` 0 claims the id: the attempt after the one that has ended. A rank never falls, an end never changes, an
    attempt never comes back after a later one.
    """
    if stored is None:
        return max(attempt, 1)
    if attempt == 0 and not stored.is_ours:
        is_free = stored.rank == FINAL_RANK and not stored.is_foreign
        return min(stored.attempt + 1, MAX_ATTEMPT) if is_free else None
    attempt = attempt or stored.attempt
    if attempt != stored.attempt:
        return attempt if attempt > stored.attempt else None
    # Attempts begin again at 1 where a document was evicted: an equal one may be another request's.
    is_next = stored.is_ours and stored.rank < FINAL_RANK and rank >= stored.rank
    return attempt if is_next else None
