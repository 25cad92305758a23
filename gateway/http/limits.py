"""The limits of a client's connection, and the number of connections that file descriptors allow.

Knows no HTTP. docs/behaviour.md, "HTTP/1.1 towards clients", promises the limits.
"""

import logging
import resource
from contextlib import suppress

log = logging.getLogger("gateway.limits")

# A head, the line of a chunk or a trailer section may have this many bytes.
MAX_HEAD_BYTES = 65_536
MAX_FIELDS = 128  # the shortest field takes twenty times its length in memory
# Reading pauses while so much of a body waits. A read has at most 64 KiB. Together with the write buffer of the
# connection to Ollama, and the 16 KiB at which that is filled again, this keeps the bound of 256 KiB a stream.
BODY_HIGH_WATER_BYTES = 32_768
# A request that waits in the queue is read up to here, and no byte further (docs/behaviour.md, "The queue").
QUEUED_BODY_BYTES = 262_144
# Close to that limit reads are as short as what is left of it. Without progress each counts as so many bytes.
LEAST_READ_BYTES = 64
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
