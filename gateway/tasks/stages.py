"""The states and stages of a task, and which status may replace which: within one process, and when several write.

Pure. status.lua has the rules of `verdict` for Redis; a test runs both through all cases.
"""

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """What a poller acts on."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class Stage(StrEnum):
    """A task's place within its state. A status never goes to a lower rank, and never changes at FINAL_RANK.

    There is one exception: a presumed loss is put right by the request that is presumed lost.
    """

    rank: int
    state: State

    def __new__(cls, value: str, rank: int, state: State) -> "Stage":
        stage = str.__new__(cls, value)
        stage._value_, stage.rank, stage.state = value, rank, state
        return stage

    QUEUED = "queued", 0, State.PENDING
    FORWARDING = "forwarding", 1, State.RUNNING  # sent to Ollama, no answer yet
    STREAMING = "streaming", 2, State.RUNNING  # the response head is here
    DONE = "done", 3, State.SUCCESS
    ERROR = "error", 3, State.FAILED
    CANCELLED = "cancelled", 3, State.FAILED  # the client left, or a cancel call
    SHUTDOWN = "shutdown", 3, State.FAILED  # the gateway was stopped
    LOST = "lost", 3, State.FAILED  # its gateway is silent (the loss is presumed), or dead


FINAL_RANK = 3  # the highest
PRESUMED_MS = 600_000  # a loss is presumed for so long; then it is final
MAX_ATTEMPT = 2**31  # the count of an id's attempts stops here


@dataclass(frozen=True, slots=True)
class Stored:
    """What `verdict` needs of the stored document, compared with the request that writes."""

    attempt: int
    rank: int
    is_ours: bool  # the same request of the same process wrote it
    is_foreign: bool  # its API key is not the writer's
    is_presumed: bool = False  # its loss is only presumed (see `lost_document`)


def verdict(stored: Stored | None, attempt: int, rank: int) -> int | None:
    """The attempt under which a status of `rank` is written; None if the stored document stays.

    `attempt` 0 claims the id: it becomes the attempt after the one that has ended. -1 - n does so only after the
    attempt n, which may be 0 for none. A rank never falls, an end never changes, and an attempt never replaces a later
    one. Only a presumed loss is put right, by the request that was presumed lost.
    """
    if stored is None:
        return max(attempt, 1)
    seen, attempt = -1 - attempt, max(attempt, 0)
    if attempt == 0 and not stored.is_ours:
        is_free = stored.rank == FINAL_RANK and not stored.is_foreign and seen in (-1, stored.attempt)
        return min(stored.attempt + 1, MAX_ATTEMPT) if is_free else None
    attempt = attempt or stored.attempt
    if attempt != stored.attempt:
        return attempt if attempt > stored.attempt else None
    # If a document was evicted, attempts begin again at 1. So an equal attempt may be another request's.
    is_next = stored.is_presumed or (stored.rank < FINAL_RANK and rank >= stored.rank)
    return attempt if stored.is_ours and is_next else None
