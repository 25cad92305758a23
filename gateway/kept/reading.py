"""Gives a kept answer to one client: a reader of it, or a request that joins the one that it belongs to.

A reader pulls: it looks for the next piece when its client has taken the one before. So it can be as slow as it likes,
and holds 64 KiB at most. It ends as the answer did, whole or broken off.
"""

import asyncio
import time
from dataclasses import dataclass
from http import HTTPStatus

from gateway.errors import GatewayError, GenerationChanged, OffsetNotSatisfiable, StoreAway
from gateway.http.background import Background
from gateway.http.head import TASK_ID, Fields
from gateway.http.request import Request, http_date, lines, own_fields
from gateway.kept.head import End, KeptHead, Refusal
from gateway.kept.looking import Look, Looking

JOINED = (b"x-task-joined", b"true")
_AWAY_SECONDS = 5.0  # how long a reader waits for a store that is away
_RETRY_SECONDS = 0.25
_BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
# A reader's answer has its own.
_OF_READERS = frozenset(
    {b"etag", b"accept-ranges", b"cache-control", b"x-content-type-options", b"cross-origin-resource-policy"}
)
_USELESS_RETRIES = frozenset({"start_timeout", "task_timeout"})


class Refused(GatewayError):
    """The error that the first client got, for a reader of the same task."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.status, self.code = refusal.status, refusal.code
        self.retry_after_seconds = refusal.retry_after_seconds
        self.is_retry_useless = refusal.code in _USELESS_RETRIES


@dataclass(frozen=True, slots=True)
class Wish:
    """What a reader asks for. `wait_seconds` None: it waits for the head of the answer as long as the task runs."""

    task_id: str
    reader: str | None  # the key whose tasks it may see, None for all
    offset: int = 0
    generations: frozenset[str] | None = None  # one of these it has to be; None: it may be any
    wait_seconds: float | None = None
    range_from: int | None = None  # of a Range field: counts for an answer of 200 that has ended whole
    if_range: str | None = None  # the only generation for which the Range counts
    is_joined: bool = False  # a request under /v1/, not a reader of ours


class Reading(Background):
    """Gives one kept answer to one client."""

    def __init__(self, looking: Looking, request: Request, wish: Wish) -> None:
        super().__init__(request)
        self._looking = looking
        self._wish = wish
        self._offset = wish.offset
        self._generation = ""  # until the first look that knows it
        self._last: Look | None = None
        self._new_at = time.monotonic()  # when something new came last

    async def run(self) -> None:
        """Answers the request. Raises GatewayError before the answer has begun, and to break it off."""
        look = await self._first()
        if look is None:
            return
        self._start(look)
        if self._offset != self._wish.offset:  # a Range field counts, and may begin far behind what was looked at
            look = await self._look_patiently()
        while self.request.method != "HEAD":
            while not self.request.wire.is_writable:
                await self.changed()
            if look.piece:
                self._new_at = time.monotonic()
                self._offset += len(look.piece)
                self.request.write(look.piece)
            elif look.end is End.BROKEN:
                self.request.break_off()
                return
            elif look.end is End.WHOLE:
                break
            else:
                self.request.flush()
                await self._looking.wait(look, self._new_at)
            look = await self._look_patiently()
        self.request.end()

    @property
    def has_started(self) -> bool:
        """Whether the task is known to be with Ollama."""
        return self._last is not None and self._looking.has_started(self._last)

    def refuse(self, error: GatewayError) -> None:
        """Answers with an error, which names the task."""
        self.request.refuse(error, task_id=self._wish.task_id)

    # -- looking --

    async def _look(self) -> Look:
        look = await self._looking.look(self._wish.task_id, self._wish.reader, self._offset, self._generation)
        self._last = look
        if look.generation and not self._generation:
            if self._wish.generations is not None and look.generation not in self._wish.generations:
                raise GenerationChanged(f"the answer is of the generation {look.generation!r} now")
            self._generation = look.generation
        return look

    async def _look_patiently(self) -> Look:
        """As `_look`, and waits a while for a store that is away."""
        until = time.monotonic() + _AWAY_SECONDS
        while True:
            try:
                return await self._look()
            except StoreAway:
                if time.monotonic() >= until:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _first(self) -> Look | None:
        """The look with which the answer begins. None if the client has got a status document instead."""
        wish, began = self._wish, time.monotonic()
        look = await self._look()
        while True:
            if look.refusal is not None:
                raise Refused(look.refusal)
            if look.has_begun and look.length >= self._offset:
                return look
            if look.end is not None:
                raise OffsetNotSatisfiable(f"the answer ends behind {look.length} bytes", look.length)
            if wish.wait_seconds is not None and time.monotonic() - began >= wish.wait_seconds:
                accept(self.request, wish.task_id, self._looking.document(look), is_read=True)
                return None
            await self._looking.wait(look, began, wish.wait_seconds)
            look = await self._look_patiently()

    # -- the head --

    def _start(self, look: Look) -> None:
        """Begins the answer."""
        head = look.head
        assert head is not None, "the answer has begun"
        status, fields = head.status, head.wire_fields
        if not self._wish.is_joined:
            fields = [field for field in fields if field[0] not in _OF_READERS]
        fields.append((TASK_ID, self._wish.task_id.encode()))
        if self._wish.is_joined:
            fields.append(JOINED)
        else:
            fields.append((b"etag", b'"%b"' % look.generation.encode()))
            status = self._ranged(look, status, fields)
            fields = own_fields(fields)
        fields.append((b"date", http_date()))
        length = None if status in _BODILESS else self._length(head, look)
        if length is not None:
            fields.append((b"content-length", b"%d" % length))
        self.request.start(status, lines(fields), length=length)

    def _ranged(self, look: Look, status: int, fields: Fields) -> int:
        """Obeys a Range field, if it counts for this answer: moves the offset. Returns the status of the answer."""
        if look.end is not End.WHOLE or status != HTTPStatus.OK:
            return status
        fields.append((b"accept-ranges", b"bytes"))
        first = self._wish.range_from
        if first is None or self._wish.offset or self._wish.if_range not in (None, look.generation):
            return status
        if first >= look.length:
            raise OffsetNotSatisfiable(f"the answer has {look.length} bytes", look.length)
        self._offset = first
        fields.append((b"content-range", b"bytes %d-%d/%d" % (first, look.length - 1, look.length)))
        return HTTPStatus.PARTIAL_CONTENT

    def _length(self, head: KeptHead, look: Look) -> int | None:
        """The Content-Length of what is left, None if it is not known."""
        if head.method == "HEAD" and self._wish.is_joined:
            return head.length
        if look.end is End.WHOLE:
            return look.length - self._offset
        if head.length is None or head.method == "HEAD":
            return None
        return max(head.length - self._offset, 0)


def accept(request: Request, task_id: str, document: str, *, is_read: bool = False) -> None:
    """Answers 202 with a status document: the request was accepted, or (`is_read`) there is no answer to read yet."""
    fields = [(b"content-type", b"application/json"), (TASK_ID, task_id.encode())]
    if is_read:
        fields.append((b"retry-after", b"1"))
    else:
        fields += [(b"location", b"/tasks/%b/response" % task_id.encode()), (b"preference-applied", b"respond-async")]
    request.answer(HTTPStatus.ACCEPTED, own_fields(fields), document.encode())
