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
_MOST_BYTES = 64 * 1024  # of one answer in one part


class Holder(Protocol):
    """What holds an answer in this process."""

    def grown(self, count: int, held_bytes: int) -> Kept:
        """It takes `count` bytes more (fewer, if negative), and `held_bytes` in all. What becomes of it.

        Anything but KEPT is the end of it, if it has grown.
        """

    def changed(self, answer: "Answer") -> None:
        """Something of it is to be written."""

    def dropped(self, answer: "Answer") -> None:
        """It is kept no longer, see `answer.task.response`."""


class Source(Protocol):
    """The exchange that the answer comes from. No call may raise."""

    def on_dropped(self, why: Kept) -> None:
        """The answer is kept no longer."""


class Answer:
    """What there is of one answer. `generation` names it. Once `is_dropped`, it has no body and takes none."""

    __slots__ = (
        "_body", "_end_at", "_holder", "_is_head_saved", "_pieces", "_pieces_bytes", "_request_bytes", "_source",
        "_waiting", "generation", "head", "is_dropped", "saved_bytes", "task",
    )  # fmt: skip

    def __init__(self, holder: Holder, source: Source, task: TrackedTask, name: str) -> None:
        self.task = task
        self.generation = ""  # until the task has its id
        self.head = KeptHead(name=name, method=task.method)
        self._body = bytearray()
        self._pieces: list[bytes] = []  # of the body, behind that
        self._pieces_bytes = 0
        self.is_dropped = False
        self._request_bytes = 0  # of the request that the gateway holds, before it is with Ollama
        self._holder = holder
        self._source: Source | None = source  # until it ends: the two hold each other
        self._waiting: list[asyncio.Future[None]] = []
        # the store
        self.saved_bytes = 0
        self._is_head_saved = False
        self._end_at: int | None = None  # the size of the body when the task ended

    def __repr__(self) -> str:
        end = self.head.end or "not ended"
        return f"<Answer {self.generation} of {self.task.task_id!r}, {len(self._body)} bytes, {end}>"

    # -- what the exchange says --

    def granted(self) -> None:
        """The task has its id. The answer can be written from now on."""
        self.generation = f"{self.task.likely_attempt}-{secrets.token_hex(8)}"
        self._change(self.head)

    def hold_request(self, count: int) -> bool:
        """The gateway holds so many bytes of the request by now. False if that is too much."""
        more, self._request_bytes = count - self._request_bytes, count
        return self._holder.grown(more, self.held_bytes) is Kept.KEPT

    def request_sent(self) -> None:
        """The gateway holds nothing of the request any more."""
        count, self._request_bytes = self._request_bytes, 0
        if count:
            self._holder.grown(-count, self.held_bytes)

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
        pieces = self._pieces
        pieces.append(piece)
        self._pieces_bytes += len(piece)
        if self._waiting:
            self._wake()
        # Each piece of a stream comes here: one that waits with others for the store costs no call (test_cost.py).
        if len(pieces) == 1 or self._pieces_bytes >= PIECE_BYTES:
            self._holder.changed(self)

    def gather(self) -> None:
        """Puts the pieces that have come since the last time into the body, unless the body gets too long."""
        pieces, count, self._pieces, self._pieces_bytes = self._pieces, self._pieces_bytes, [], 0
        if not count:
            return
        self._body += b"".join(pieces)
        fate = self._holder.grown(count, self.held_bytes)
        if fate is not Kept.KEPT:
            self.drop(fate)

    @property
    def body(self) -> bytearray:
        """What has come of the body. Empty once `is_dropped`."""
        if self._pieces:
            self.gather()
        return self._body

    def end(self, end: End, refusal: Refusal | None = None) -> None:
        """Nothing follows. `refusal` is what the client gets if the answer has not begun."""
        self.gather()
        self._source = None
        self.request_sent()
        if self.head.end is None and not self.is_dropped:
            refusal = None if self.head.status else refusal
            self._change(replace(self.head, end=end, total=len(self.body), refusal=refusal))

    def task_ended(self) -> None:
        """The task has its end. What has come so far has to be in the store before that end is."""
        self.gather()
        if not self.is_dropped:
            self._end_at = len(self._body)
            self._holder.changed(self)

    def drop(self, why: Kept) -> None:
        """It is kept no longer. Its readers are broken off."""
        if self.is_dropped:
            return
        self.task.keep(why)
        source = self._source
        self.discard()
        self._holder.dropped(self)
        if source is not None:
            source.on_dropped(why)

    def discard(self) -> None:
        """It leaves the memory of this process, which says nothing of the answer itself: the store may have it."""
        self.is_dropped = True
        self._source = None
        held_bytes, self._body, self._request_bytes = self.held_bytes, bytearray(), 0
        self._pieces, self._pieces_bytes = [], 0
        self._holder.grown(-held_bytes, 0)
        self._wake()

    def _change(self, head: KeptHead) -> None:
        if not self.is_dropped:
            self.head, self._is_head_saved = head, False
            self._wake()
            self._holder.changed(self)

    @property
    def held_bytes(self) -> int:
        """How much memory its gathered body takes, and its request before that is with Ollama."""
        return len(self._body) + self._request_bytes

    # -- what the saver writes --

    @property
    def is_due(self) -> bool:
        """Whether the store lacks anything of it."""
        is_saved = self._is_head_saved and self.saved_bytes == len(self._body) and not self._pieces
        return not is_saved and self.is_writable

    @property
    def is_writable(self) -> bool:
        """Whether it may be written at all.

        Until the store has granted the id, it may have another request's answer. An ended task claims it by its end.
        """
        if self.is_dropped or not self.generation:
            return False
        return self.task.attempt > 0 or (self._end_at is not None and not self.is_foreign)

    @property
    def is_foreign(self) -> bool:
        """Whether the id is another request's: the store has refused the claim after the request had gone on."""
        return self.task.is_superseded and not self.task.attempt

    @property
    def is_urgent(self) -> bool:
        """Whether that should not wait."""
        is_long = len(self._body) + self._pieces_bytes - self.saved_bytes >= PIECE_BYTES
        return is_long or self._end_at is not None or not self._is_head_saved

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

    def take_part(self, ttl_running_seconds: int, ttl_response_seconds: int) -> Part:
        """The next part to write: empty if there is nothing new, which renews what is there."""
        body = self.body
        to = min(len(body), self.saved_bytes + _MOST_BYTES)
        is_end = self.head.end is not None and to == len(body)
        return Part(
            self.task.task_id,
            self.task.owner,
            self.generation,
            self.task.created_ms,
            "" if self._is_head_saved else self._head_part(is_end=is_end),
            self.saved_bytes,
            bytes(memoryview(body)[self.saved_bytes : to]),
            is_end,
            ttl_response_seconds if is_end else ttl_running_seconds,
        )

    def _head_part(self, *, is_end: bool) -> str:
        """The head as it is to be written. Its end is written with the last bytes, not before them."""
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
