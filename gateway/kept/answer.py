"""One kept answer, as the gateway that runs its task holds it: head and body, from the request's first byte on.

The exchange adds to it, the saver writes it to the store, and readers look into it. No call waits for another.
"""

import asyncio
import secrets
from dataclasses import replace
from typing import Protocol

from gateway.http.head import Fields
from gateway.kept.head import End, KeptHead, Refusal, kept_fields
from gateway.store.answers import Part
from gateway.tasks.task import Kept
from gateway.tracking.tracked import TrackedTask

PIECE_BYTES = 16 * 1024  # so much is written to the store at once, or what has come in 50 ms
_MOST_BYTES = 256 * 1024  # of one answer in one part


class Keeper(Protocol):
    """What an answer tells of itself."""

    def grown(self, answer: "Answer", count: int) -> Kept:
        """It takes so many bytes more (fewer, if negative). What becomes of it; anything but KEPT ends it."""

    def changed(self, answer: "Answer") -> None:
        """Something of it is to be written."""

    def dropped(self, answer: "Answer") -> None:
        """It is kept no longer, see `answer.task.response`."""


class Owner(Protocol):
    """The exchange that the answer is of. No call may raise."""

    def on_dropped(self, why: Kept) -> None:
        """The answer is kept no longer."""


class Answer:
    """What there is of one answer. `generation` names it.

    `is_dropped`: it is kept no longer, and has no body any more. `is_refused`: its task never had the id.
    """

    __slots__ = (
        "_end_at", "_is_head_saved", "_keeper", "_owner", "_request_bytes", "_waiting", "body", "generation", "head",
        "held_bytes", "is_dropped", "is_marked", "is_refused", "saved_bytes", "task",
    )  # fmt: skip

    def __init__(self, keeper: Keeper, owner: Owner, task: TrackedTask, name: str) -> None:
        self.task = task
        self.generation = ""  # until the task has its id
        self.head = KeptHead(name=name, method=task.method)
        self.body = bytearray()
        self.held_bytes = 0  # of memory: of the body, and of the request before it is with Ollama
        self.is_dropped = False
        self.is_refused = False
        self._request_bytes = 0  # of memory: of the request alone
        self._keeper = keeper
        self._owner: Owner | None = owner  # until it ends: the two hold each other
        self._waiting: list[asyncio.Future[None]] = []
        # the store
        self.saved_bytes = 0
        self.is_marked = False  # the saver knows that something is to be written
        self._is_head_saved = False
        self._end_at: int | None = None  # the size of the body when the task ended

    def __repr__(self) -> str:
        end = self.head.end or "not ended"
        return f"<Answer {self.generation} of {self.task.task_id!r}, {len(self.body)} bytes, {end}>"

    # -- what the exchange says --

    def granted(self) -> None:
        """The task has its id. The answer can be written from now on."""
        self.generation = f"{self.task.likely_attempt}-{secrets.token_hex(8)}"
        self._change(self.head)

    def refused(self) -> None:
        """The id is in flight elsewhere: there will be no such answer."""
        self.is_refused = self.is_dropped = True
        self._owner = None
        self.clear()
        self._wake()

    def hold_request(self, count: int) -> bool:
        """The gateway holds so many bytes of the request by now. False if that is too much."""
        more, self._request_bytes = count - self._request_bytes, count
        return self._keeper.grown(self, more) is Kept.KEPT

    def request_sent(self) -> None:
        """The gateway holds nothing of the request any more."""
        if self._request_bytes:
            self._keeper.grown(self, -self._request_bytes)
            self._request_bytes = 0

    def request_came(self, digest: str, count: int) -> None:
        """The request is whole, with a body of `count` bytes."""
        self._change(replace(self.head, digest=digest, request_bytes=count))

    def begin(self, status: int, fields: Fields, length: int | None) -> None:
        """The head of the answer. `fields` are those that the client gets, with lower-case names."""
        self._change(replace(self.head, status=status, fields=kept_fields(fields), length=length))

    def add(self, piece: bytes) -> None:
        """A piece of the body."""
        if self.is_dropped:
            return
        body = self.body
        body += piece
        fate = self._keeper.grown(self, len(piece))
        if fate is not Kept.KEPT:
            self.drop(fate)
            return
        if self._waiting:
            self._wake()
        if not self.is_marked or len(body) - self.saved_bytes >= PIECE_BYTES:
            self._keeper.changed(self)

    def end(self, end: End, refusal: Refusal | None = None) -> None:
        """Nothing follows. `refusal` is what the client gets if the answer has not begun."""
        self._owner = None
        self.request_sent()
        if self.head.end is None and not self.is_dropped:
            refusal = None if self.head.status else refusal
            self._change(replace(self.head, end=end, total=len(self.body), refusal=refusal))

    def task_ended(self) -> None:
        """The task has its end. What has come so far has to be in the store before that end is."""
        if not self.is_dropped:
            self._end_at = len(self.body)
            self._keeper.changed(self)

    def drop(self, why: Kept) -> None:
        """It is kept no longer. Its readers are broken off."""
        if self.is_dropped:
            return
        self.is_dropped = True
        self.task.keep(why)
        owner, self._owner = self._owner, None
        self.clear()
        self._keeper.dropped(self)
        self._wake()
        if owner is not None:
            owner.on_dropped(why)

    def clear(self) -> None:
        """Frees its memory."""
        self._keeper.grown(self, -self.held_bytes)
        self._request_bytes = self.saved_bytes = 0
        self.body = bytearray()

    def _change(self, head: KeptHead) -> None:
        if not self.is_dropped:
            self.head, self._is_head_saved = head, False
            self._wake()
            self._keeper.changed(self)

    # -- what the saver writes --

    @property
    def unsaved_bytes(self) -> int:
        """How much of the body the store lacks."""
        return len(self.body) - self.saved_bytes

    @property
    def is_due(self) -> bool:
        """Whether the store lacks anything of it."""
        return self.is_writable and not (self._is_head_saved and self.saved_bytes == len(self.body))

    @property
    def is_writable(self) -> bool:
        """Whether it may be written at all.

        Until the store has granted the id, it may have another request's answer, and it has that once the task is
        superseded. An ended task claims the id by its end.
        """
        task = self.task
        is_claimed = task.is_claimed or self._end_at is not None
        return bool(self.generation) and is_claimed and not (self.is_dropped or task.is_superseded)

    @property
    def is_urgent(self) -> bool:
        """Whether that should not wait."""
        return self.unsaved_bytes >= PIECE_BYTES or self._end_at is not None or not self._is_head_saved

    @property
    def is_ending(self) -> bool:
        """Whether it has ended, or its task has."""
        return self._end_at is not None or self.head.end is not None

    @property
    def is_end_saved(self) -> bool:
        """Whether the task has ended, and the store has all that has to be there before that is told."""
        if self._end_at is None or self.saved_bytes < self._end_at:
            return False
        return self.head.end is None or not self.is_due

    @property
    def is_complete(self) -> bool:
        """Whether it has ended and the store has all of it."""
        return self.head.end is not None and not self.is_due

    def part(self, ttl_running_seconds: int, ttl_response_seconds: int) -> Part:
        """The next part to write: empty if there is nothing new, which renews what is there."""
        to = min(len(self.body), self.saved_bytes + _MOST_BYTES)
        is_end = self.head.end is not None and to == len(self.body)
        return Part(
            self.task.task_id,
            self.task.owner,
            self.generation,
            self.task.created_ms,
            self._head_part(is_end=is_end),
            self.saved_bytes,
            bytes(memoryview(self.body)[self.saved_bytes : to]),
            is_end,
            ttl_response_seconds if is_end else ttl_running_seconds,
        )

    def _head_part(self, *, is_end: bool) -> str:
        """The head as it is to be written. Its end is written with the last bytes, not before them."""
        if self._is_head_saved:
            return ""
        if is_end or self.head.end is None:
            return self.head.as_text()
        return replace(self.head, end=None, total=0, refusal=None).as_text() if self.saved_bytes == 0 else ""

    def saved(self, part: Part) -> None:
        """The store has a part."""
        self.saved_bytes += len(part.piece)
        if part.head and part.head == self.head.as_text():
            self._is_head_saved = True

    def lost(self) -> None:
        """The store lacks what it had: all is to be written anew."""
        self.saved_bytes, self._is_head_saved = 0, False

    # -- what readers see --

    async def wait(self, seconds: float) -> None:
        """Waits until something of it changes, at most so long."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass  # the caller looks again
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)
