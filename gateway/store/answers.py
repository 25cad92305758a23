"""The interface of a store of kept answers: what is written of them, and what is read. Owns no connection and no key.

A kept answer is a head, which is a JSON text that `kept.head` makes and checks, and a body of raw bytes. It belongs to
one request of its task; `generation` names it: a text without white space that no other answer of that task has.
"""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeAlias

from gateway.store.interface import StoreError

READ_BYTES = 64 * 1024  # the most of a body that one read returns


class Part(NamedTuple):
    """What is to be written of one answer: the bytes from `offset` on, and the head if that has changed.

    A part may be written again: what is stored already stays as it is.
    """

    task_id: str
    owner: str  # the name of the API key, "" without one
    generation: str
    created_ms: int  # of its request: the answer of an older request never replaces that of a newer one
    head: str  # "": the store has it already
    offset: int
    piece: bytes
    is_end: bool  # nothing follows
    ttl_seconds: int


class Saved(Enum):
    """What became of a part."""

    SAVED = "saved"
    MISSING = "missing"  # the store lacks the head, or what comes before `offset`: all has to be written anew
    NO_ROOM = "no_room"  # it would be more than the store may hold; nothing of this answer is left there
    DROPPED = "dropped"  # it was deleted by `drop`, or found no room before
    SUPERSEDED = "superseded"  # the answer of a newer request of the task is there


class StoredAnswer(NamedTuple):
    """What the store has of a task and its newest answer, at one moment."""

    document: str | None  # the status document of the task; None without a well-formed one
    generation: str  # "" if there is no answer
    head: str  # "" if there is no answer, or if it was dropped
    length: int  # of the body so far; 0 if the store lost it
    piece: bytes  # of the body, from the offset that was asked for, at most READ_BYTES


# Called with what became of each part, or with the error that leaves it unknown.
ThenSaved: TypeAlias = Callable[[list[Saved] | StoreError], None]


class AnswerStore(Protocol):
    """Keeps answers for all gateways, for a bounded time and up to a bounded number of bytes."""

    def save(self, parts: Sequence[Part], then: ThenSaved) -> None:
        """Writes each part in one atomic step, and calls `then` once."""

    async def read(self, task_id: str, offset: int) -> StoredAnswer:
        """What there is of the newest answer of a task. Raises StoreError."""
        ...

    async def drop(self, task_id: str, generation: str, event_id: str) -> bool:
        """Deletes an answer, for good: later parts of it are DROPPED. Whether it was there.

        If its task has ended, the status document says so in the same atomic step: its `response` is `deleted`, its
        `event_id` is the one given. Raises StoreError.
        """
        ...

    async def close(self) -> None: ...
