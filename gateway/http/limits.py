"""The limits of a client's connection (contract 2.5), the pace a client has to keep, and the number of connections.

Knows no HTTP.
"""

import logging
import resource
from contextlib import suppress

from gateway.net.deadline import Deadline

log = logging.getLogger("gateway.limits")

# Contract 2.5. A head, the line of a chunk or a trailer section may have this many bytes.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 128  # the shortest field takes twenty times its length in memory
IDLE_SECONDS = 60.0
HEAD_SECONDS = 10.0
# In each such time the client has to send this many bytes of the body, or its end.
BODY_SECONDS = 30.0
BODY_LEAST_BYTES = 1024
# How often to look whether a client has left, while reading is paused.
LOOK_SECONDS = 0.5
# A client that reads nothing for so long, while bytes wait for it, is closed.
STALL_SECONDS = 300.0
# Lingering, after an answer that came before its request was complete: the longest silence, and time and bytes in all.
LINGER_IDLE_SECONDS = 2.0
LINGER_SECONDS = 30.0
LINGER_BYTES = 2**30
# Pipelined requests wait in memory, behind the one that is being answered. They may take PIPELINE_BYTES there. Each
# takes REQUEST_BYTES, and FIELD_BYTES per field, beside the bytes of its head. Reading pauses while more than
# PIPELINED_HEAD_BYTES of heads wait: with a half-read head and one more read they still fit.
PIPELINE_BYTES = 262_144
PIPELINED_HEAD_BYTES = 32_768
REQUEST_BYTES = 2_600
FIELD_BYTES = 130

# Files, sockets and pipes of the process itself, and connections over the cap that get an answer that says so.
_OWN_DESCRIPTORS = 96


def fitting_connections(wanted: int) -> int:
    """How many client connections the file descriptors allow, at most `wanted`. Raises the soft limit first.

    Each connection may need a second descriptor, for a connection to Ollama.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # a limit that cannot be raised is used as it is
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    fitting = wanted if soft == resource.RLIM_INFINITY else max(1, (soft - _OWN_DESCRIPTORS) // 2)
    if fitting < wanted:
        log.warning("%d file descriptors are allowed: at most %d connections instead of %d", soft, fitting, wanted)
    return min(wanted, fitting)


class Pace:
    """Checks that a client sends its request fast enough, and no endless line. Moves the connection's deadline."""

    __slots__ = ("_deadline", "_pending_bytes", "_timed_bytes", "has_progressed", "is_timed")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self.has_progressed = False  # in this read
        self.is_timed = False  # the present part, head or body, did not come in one read
        self._timed_bytes = 0
        self._pending_bytes = 0  # read since the parser last made progress

    def begin_part(self) -> None:
        """A head begins, or the body behind it."""
        self.is_timed = False
        self._pending_bytes = 0

    def give_time(self, *, is_body: bool) -> None:
        """From now on the client has its full time for the next part of its request."""
        self._deadline.move(BODY_SECONDS if is_body else HEAD_SECONDS)
        self.is_timed, self._timed_bytes = True, 0

    def count(self, size: int, *, is_body: bool, is_paused: bool) -> bool:
        """Counts a read of `size` bytes that did not complete a request. False: too much came without any progress.

        While reading is paused the client cannot be late.
        """
        self._pending_bytes = 0 if self.has_progressed else self._pending_bytes + size
        if self._pending_bytes > MAX_HEAD_BYTES:
            return False
        self._timed_bytes += size
        if not is_paused and (not self.is_timed or (is_body and self._timed_bytes >= BODY_LEAST_BYTES)):
            self.give_time(is_body=is_body)
        return True
