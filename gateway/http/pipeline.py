"""The requests of one connection that have no complete answer yet, and what they hold in memory. Pure.

A client may send requests before the answers to earlier ones (pipelining, RFC 9112 section 9.3.2). They are answered
one after another, in their order.
"""

from collections import deque

from gateway.http import limits
from gateway.http.head import Refusal, head_bytes
from gateway.http.request import Request

# Reading pauses while more than this much of bodies waits. A read has at most 64 KiB. Together with the write buffer of
# the connection to Ollama, and the 16 KiB at which that is filled again, this keeps contract 3.3.
_BODY_HIGH_WATER_BYTES = 32_768
_MAX_PIPELINED = 16


class Pipeline:
    """The requests in their order. `first` is being answered, or is the next to be answered; the others wait."""

    __slots__ = ("_head_bytes", "_own_bytes", "_waiting", "body_bytes", "first")

    def __init__(self) -> None:
        self.first: Request | None = None
        self.body_bytes = 0  # that have come and were not taken yet
        self._waiting: deque[Request] = deque()
        self._head_bytes = 0  # of the waiting requests' heads
        self._own_bytes = 0  # that the waiting requests take in memory beside that

    @property
    def last(self) -> Request | None:
        """The newest request."""
        return self._waiting[-1] if self._waiting else self.first

    @property
    def is_full(self) -> bool:
        """Whether so much waits that reading has to pause."""
        return (
            self.body_bytes > _BODY_HIGH_WATER_BYTES
            or self._head_bytes > limits.PIPELINED_HEAD_BYTES
            or len(self._waiting) > _MAX_PIPELINED
        )

    @property
    def has_unbegun(self) -> bool:
        """Whether a request is here that is not being answered."""
        return bool(self._waiting) or (self.first is not None and self.first.answerer is None)

    @property
    def is_refusable(self) -> bool:
        """Whether a refusal can be sent: the client would not read it as the answer to one of these requests."""
        return not any(request.is_started or request.is_whole for request in self._all())

    def add(self, request: Request) -> None:
        """Takes a request whose head is complete. Raises Refusal if too much waits."""
        if self.first is None:
            self.first = request
            return
        self._count(request, 1)
        if self._head_bytes + self._own_bytes > limits.PIPELINE_BYTES:
            raise Refusal(431, "Too many requests wait.")
        self._waiting.append(request)

    def advance(self) -> None:
        """The first request is answered: the next one is the first now."""
        self.first = None
        if self._waiting:
            self.first = self._waiting.popleft()
            self._count(self.first, -1)

    def lose(self) -> None:
        """The client has left: tells the answerers, and forgets the requests."""
        lost = self._all()
        self.first = None
        self._waiting.clear()
        for request in lost:
            request.lose()

    def _all(self) -> list[Request]:
        return [] if self.first is None else [self.first, *self._waiting]

    def _count(self, request: Request, sign: int) -> None:
        """Counts a request that begins to wait behind another; with a `sign` of -1, one that no longer does."""
        self._head_bytes += sign * head_bytes(request.method, request.target, request.fields)
        self._own_bytes += sign * (limits.REQUEST_BYTES + len(request.fields) * limits.FIELD_BYTES)
