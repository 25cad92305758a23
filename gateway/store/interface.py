"""The interface of a store, as the tracker uses it: methods, records, pages, cursors and errors.

Owns no connection and no key. RedisStore and MemoryStore implement it.
"""

import base64
import re
import secrets
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from gateway.store.clock import Clock
from gateway.tasks.document import Found
from gateway.tasks.stages import State
from gateway.tasks.task import ID_PATTERN

_PLACE = re.compile(rf"\d{{13}}:{ID_PATTERN}")


class StoreError(Exception):
    """The store is away, too slow, or refuses.

    The text is for the log. `kind` is the first word of a refusal (READONLY, OOM, NOPERM and so on), "" if no reply
    came. `public` is the text for clients: it does not name the store's address.
    """

    def __init__(self, text: str, kind: str = "", public: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.public = public or text


def public_reason(error: StoreError | TimeoutError) -> str:
    """What clients read of a failed question to the store. A TimeoutError is a question that was given up."""
    return error.public if isinstance(error, StoreError) else "no answer in time"


class Incomplete(StoreError):
    """A list lacks tasks: Redis evicted it, or it is not built yet."""


class Unclear(StoreError):
    """A plain read cannot say: ask by `Store.read` or `Store.page`."""


class InvalidCursor(ValueError):
    """A list cursor that no page of this gateway's lists has returned."""


class Record(NamedTuple):  # a frozen dataclass takes four times as long to create
    """One status to write. `head` is the document without its last values (see `document_head`).

    If the task is then silent for longer than `grace_seconds`, any gateway may call it lost; unused for an ended task.
    """

    task_id: str
    head: str
    attempt: int  # 0: claim the id, the store replies with the number; -1 - n: the same if the newest attempt is n
    rank: int
    state: State
    created_ms: int
    ttl_seconds: int
    owner: str = ""
    grace_seconds: float = 30
    is_first: bool = False  # nothing of this request was sent before; if wrong, the write only takes longer
    label: str = ""


class Written(NamedTuple):
    """The result of writing a record: whether the store has it now, and the attempt that the store has.

    `was_presumed`: the same request was presumed lost in the store.
    """

    is_written: bool
    attempt: int
    was_presumed: bool = False


# Called with the results of a write, one per record, or with the error that leaves them unknown.
Then: TypeAlias = Callable[[list[Written] | StoreError], None]


Peeked: TypeAlias = Found | Unclear | None  # what a plain read of a status finds; None for no such task
# The same for a page: documents, newest first, and the cursor of the next page (None at the end).
PeekedPage: TypeAlias = tuple[list[Found], str | None] | Unclear


@dataclass(frozen=True, slots=True)
class Page:
    """Documents (JSON), newest first, and the cursor of the next page (None at the end).

    `skipped` counts the malformed records that the page leaves out.
    """

    documents: list[str]
    next_cursor: str | None
    skipped: int = 0


def ignore(_name: str) -> None:
    """Does nothing: the default of `Store.watch` for silent requests that are exempt."""


class Store(Protocol):
    """Keeps the tracker's statuses. Every method but `write` and `close` raises StoreError when the store is away.

    With `exempt`, a read makes a task that has been silent for too long FAILED lost before it returns the task, unless
    the name of its request is in `exempt`. `lost` counts these tasks. With `exempt` None, documents stay unchanged. The
    loss is presumed at first: the request that is presumed lost can put it right.
    """

    answers_at_once: bool  # `write` calls its `then` before it returns

    @property
    def clock(self) -> Clock:
        """The store's clock, as far as it is known."""

    @property
    def lost(self) -> int:
        """How many tasks of other gateways this process has made lost."""

    @property
    def connections(self) -> int:
        """How often the writer has connected. A new connection may lead to another server."""

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record in one atomic step, and calls `then` once with the results."""

    def replace_end(self, record: Record) -> None:
        """The same end of a task with another document: its answer is kept no longer. For a store without answers.

        Elsewhere `AnswerStore.drop` does it, in one step with the answer.
        """

    async def read(self, task_ids: Sequence[str], exempt: Container[str] | None = None) -> list[str | None]:
        """The documents of `task_ids`, in that order; None for a task without a well-formed document."""
        ...

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        label: str = "",
        exempt: Container[str] | None = None,
    ) -> Page:
        """Up to `limit` documents, newest first, after `cursor`.

        Those of one owner (None: of all), and of a state or of a label, not both at once. Raises InvalidCursor too.
        """
        ...

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Calls `then` once with the status of a task, by plain calls. Changes nothing: a silent task is Unclear."""

    def peek_page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        then: Callable[[PeekedPage], None],
        *,
        owner: str | None = None,
        label: str = "",
    ) -> None:
        """As `peek`, for a page. Raises InvalidCursor."""

    def tell(self, message: str) -> None:
        """Sends all gateways a message that `listen` gets. It may be lost."""

    async def probe(self) -> None:
        """Tries everything that the gateway needs. Raises StoreError if any of it fails."""

    async def presumed(self) -> list[str]:
        """The documents of the tasks that are presumed lost."""
        ...

    async def end_earlier_run(self) -> None:
        """Makes lost for good the tasks that an earlier run of this gateway left behind."""

    async def watch(self, exempt: Container[str], on_silent: Callable[[str], object] = ignore) -> list[str]:
        """Makes silent tasks lost. Returns the names of requests to cancel.

        Calls `on_silent` with the names in `exempt` whose tasks are silent, or presumed lost: the store lacks their
        last heartbeats.
        """
        ...

    async def ask_cancel(self, name: str) -> None:
        """Asks all gateways to cancel the request of this name."""

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Calls `on_cancel` with the name of each request that a gateway asks to cancel, and with what gateways `tell`.

        Does not return.
        """

    async def close(self) -> None: ...


def new_boot(run: str) -> str:
    """A new name for this process: `<run>-<process>`. `run` is `<site>-<run>`, see `settings.run_name`."""
    return f"{run}-{secrets.token_hex(4)}"


def request_name(boot: object, created_ms: object, task_id: str) -> str:
    """The name of one request of one process. No other request has it, not even one with the same task id."""
    return f"{boot}:{created_ms}:{task_id}"


def name_in(fields: dict[str, Any]) -> str:
    """The name of the request that a document describes; `fields` are the document's."""
    extensions = fields["extensions"]
    return request_name(extensions.get("boot"), extensions.get("created_ms"), str(fields.get("task_id")))


def id_in(name: str) -> str:
    """The task id in the name of a request."""
    return name.split(":", 2)[-1]


def place(created_ms: int, task_id: str) -> str:
    """A task's place in the lists, `<created_ms, 13 digits>:<task id>`: sorts by creation, then by id."""
    return f"{created_ms:013d}:{task_id}"


def is_place(text: str) -> bool:
    """Whether `text` has the form that `place` returns."""
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


def is_cursor(text: str) -> bool:
    """Whether `decode_cursor` takes `text`."""
    with suppress(InvalidCursor):
        return bool(decode_cursor(text))
    return False
