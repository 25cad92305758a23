"""What a store is, as the tracker sees it: its methods, what goes in and what comes out.

Owns no connection and no key; store (Redis) and memory are the two that follow it. Called by tracker, both stores
and the status routes (for the cursor's error).
"""

import base64
import re
import secrets
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from gateway.tasks.task import ID_PATTERN, State

_PLACE = re.compile(rf"\d{{13}}:{ID_PATTERN}")


class StoreError(Exception):
    """The store could not be asked: away, too slow, or refusing.

    `kind` is the first word of a refusal (READONLY, OOM, NOPERM and so on), "" where no answer came.
    """

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class InvalidCursor(ValueError):
    """A list cursor that no list of ours has given out."""


class Record(NamedTuple):  # a dataclass that is frozen takes four times as long to make
    """One status as it is written. `head` is the document without its last values (see `Task.document_head`).

    `grace_seconds` is how long the task may then be silent before anybody may call it lost; no matter once it ended.
    """

    task_id: str
    head: str
    attempt: int  # 0: claim the id, the store tells the number
    rank: int
    state: State
    created_ms: int
    ttl_seconds: int
    owner: str = ""
    grace_seconds: float = 30


class Written(NamedTuple):
    """What became of a record: whether it stands in the store now, and the attempt that does."""

    is_written: bool
    attempt: int


# Told what became of records, or why that is not known.
Then: TypeAlias = Callable[[list[Written] | StoreError], None]


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, newest first, and the cursor of the next page (None at the end).

    `skipped` counts the malformed records that were left out.
    """

    documents: list[str]
    next_cursor: str | None
    skipped: int = 0


class Store(Protocol):
    """Where the tracker keeps statuses. Every method but `write` and `close` raises StoreError when the store is away.

    Where `spared` is given, a task that has been silent for too long becomes FAILED lost before it is answered,
    unless the name of its request is in `spared`; where it is None, documents are answered as they stand. `lost` counts
    them.
    """

    answers_at_once: bool  # `write` calls its `then` before it returns

    @property
    def lost(self) -> int:
        """How many tasks of other gateways this process has made lost."""

    @property
    def connections(self) -> int:
        """How often it has connected in order to write: another connection may lead to another server."""

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record in one atomic step, and calls `then` once with what became of them."""

    async def read(self, task_ids: Sequence[str], spared: Container[str] | None = None) -> list[str | None]:
        """The documents of `task_ids`; None where there is none, or what is there has not a document's shape."""
        ...

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        spared: Container[str] | None = None,
    ) -> Page: ...
    async def ping(self) -> None:
        """Raises StoreError where anything would fail that the gateway cannot do without."""

    async def bury(self) -> None:
        """Makes lost what a former run of this gateway left in flight."""

    async def watch(self, spared: Container[str], on_spared: Callable[[str], object] = str) -> list[str]:
        """Makes lost what has been silent for too long; answers the names of requests that are to be cancelled.

        Calls `on_spared` with the names of those that were spared: the store has not heard of them for long.
        """
        ...

    async def ask_cancel(self, name: str) -> None:
        """Tells all gateways to cancel the request of this name."""

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Calls `on_cancel` with each name that anybody asks to cancel; does not return."""

    async def close(self) -> None: ...


def new_boot(run: str) -> str:
    """A name for one process of one run of one gateway; `run` names its place and the run."""
    return f"{run}-{secrets.token_hex(4)}"


def request_name(boot: object, created_ms: object, task_id: str) -> str:
    """One request of one process, unlike any other that has the same id, at whatever time."""
    return f"{boot}:{created_ms}:{task_id}"


class Names:
    """The names of requests for which `is_in` holds."""

    def __init__(self, is_in: Callable[[str], bool]) -> None:
        self._is_in = is_in

    def __contains__(self, name: object) -> bool:
        return self._is_in(str(name))


def name_in(fields: dict[str, Any]) -> str:
    """The name of the request that a document (its fields) tells of."""
    extensions = fields["extensions"]
    return request_name(extensions.get("boot"), extensions.get("created_ms"), str(fields.get("task_id")))


def place(created_ms: int, task_id: str) -> str:
    """Where a task stands in the list: sorts by creation, then by id."""
    return f"{created_ms:013d}:{task_id}"


def is_place(text: str) -> bool:
    """Whether `place` can have made this."""
    return _PLACE.fullmatch(text) is not None


def encode_cursor(at: str) -> str:
    return base64.urlsafe_b64encode(at.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The place that `encode_cursor` was given. Raises InvalidCursor."""
    try:
        found = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), b"-_", validate=True).decode(
            "ascii"
        )
    except ValueError as error:
        raise InvalidCursor(cursor) from error
    if not is_place(found) or encode_cursor(found) != cursor:
        raise InvalidCursor(cursor)
    return found
