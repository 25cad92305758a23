"""What one client's connection may take: the numbers of contract 2.5, what is counted for them, how many there may be.

Knows no HTTP.
"""

import logging
import resource
from contextlib import suppress

from gateway.net.deadline import Deadline

log = logging.getLogger("gateway.limits")

# Contract 2.5. A head, the line of a chunk or a trailer section may have this many bytes.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 128  # each takes twenty times its shortest form in memory
IDLE_SECONDS = 60.0
HEAD_SECONDS = 10.0
# A body has to bring this many bytes, or its end, in each such time; what trickles in slower has stalled.
BODY_SECONDS = 30.0
BODY_LEAST_BYTES = 1024
# How often to look whether a client is still there that we do not read from.
LOOK_SECONDS = 0.5
# A client that takes nothing for so long of what waits for it is no slow reader.
STALL_SECONDS = 300.0
# After an answer that came before its request was whole: how long a silence, how long and how much in all.
LINGER_IDLE_SECONDS = 2.0
LINGER_SECONDS = 30.0
LINGER_BYTES = 2**30
# Pipelined requests are in memory all at once: what those behind the one that is being answered may take there, and
# what each takes beside the bytes of its head. Reading pauses where more than so many bytes of heads wait: together
# with the head that is half read then, and one read more, they stay below.
PIPELINE_BYTES = 262_144
PIPELINED_HEAD_BYTES = 32_768
REQUEST_BYTES = 2_600
FIELD_BYTES = 130

# Files, sockets and pipes of the process itself, and connections over the cap that are being told so.
_OWN_DESCRIPTORS = 96


def fitting_connections(wanted: int) -> int:
    """How many clients' connections fit into the file descriptors, at most `wanted`; raises the soft limit first.

    Each may need a second one, to Ollama.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # what cannot be raised is used as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = wanted if soft == resource.RLIM_INFINITY else max(1, (soft - _OWN_DESCRIPTORS) // 2)
    if fitting < wanted:
        log.warning("%d file descriptors are allowed: at most %d connections instead of %d", soft, fitting, wanted)
    return min(wanted, fitting)


class Pace:
    """How a client brings a request: not too slowly, and no line without an end. Moves the connection's deadline."""

    __slots__ = ("_deadline", "_pending_bytes", "_timed_bytes", "has_progressed", "is_timed")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.has_progressed = False  # in this read
        self.is_timed = False  # the present part, head or body, is not from this read alone
        self._timed_bytes = 0
        self._pending_bytes = 0  # read since the parser last got on

    def begin_part(self) -> None:
        """A head begins, or the body behind it."""
        self.is_timed = False
        self._pending_bytes = 0

    def give_time(self, *, is_body: bool) -> None:
        """From now on the client has its time for the next part of its request."""
        self._deadline.move(BODY_SECONDS if is_body else HEAD_SECONDS)
        self.is_timed, self._timed_bytes = True, 0

    def count(self, size: int, *, is_body: bool, is_paused: bool) -> bool:
        """A read of `size` bytes did not bring all of a request. False where the parser could not get on for too long.

        While reading is paused the client cannot be late.
        """
        self._pending_bytes = 0 if self.has_progressed else self._pending_bytes + size
        if self._pending_bytes > MAX_HEAD_BYTES:
            return False
        self._timed_bytes += size
        if not is_paused and (not self.is_timed or (is_body and self._timed_bytes >= BODY_LEAST_BYTES)):
            self.give_time(is_body=is_body)
        return True


class Linger:
    """The time behind our last word, from `now` on (seconds of any clock), in which what still comes is dropped."""

    __slots__ = ("_bytes", "_until")

    def __init__(self, now: float) -> None:
        self._until = now + LINGER_SECONDS
        self._bytes = 0

    def takes(self, size: int, now: float) -> bool:
        """Whether `size` bytes more may be dropped."""
        self._bytes += size
        return self._bytes <= LINGER_BYTES and not self.is_over(now)

    def is_over(self, now: float) -> bool:
        return now > self._until
