"""Decides which status may replace which when several processes write: the rules of every store.

Pure. status.lua has the same rules for Redis; a test runs both through all cases.
"""

from dataclasses import dataclass

from gateway.tasks.task import FINAL_RANK, MAX_ATTEMPT


@dataclass(frozen=True, slots=True)
class Stored:
    """What `verdict` needs of the stored document, compared with the request that writes."""

    attempt: int
    rank: int
    is_ours: bool  # the same request of the same process wrote it
    is_foreign: bool  # its API key is not the writer's


def verdict(stored: Stored | None, attempt: int, rank: int) -> int | None:
    """The attempt under which a status of `rank` is written; None if the stored document stays.

    `attempt` 0 claims the id: it becomes the attempt after the one that has ended. A rank never falls, an end never
    changes, and an attempt never replaces a later one.
    """
    if stored is None:
        return max(attempt, 1)
    if attempt == 0 and not stored.is_ours:
        is_free = stored.rank == FINAL_RANK and not stored.is_foreign
        return min(stored.attempt + 1, MAX_ATTEMPT) if is_free else None
    attempt = attempt or stored.attempt
    if attempt != stored.attempt:
        return attempt if attempt > stored.attempt else None
    # If a document was evicted, attempts begin again at 1. So an equal attempt may be another request's.
    is_next = stored.is_ours and stored.rank < FINAL_RANK and rank >= stored.rank
    return attempt if is_next else None
