"""Owns port numbers: one that is free now, and one that refuses every connection.

Several test processes run at once, and each starts servers on ports that were free a moment ago. So a port that was
handed out stays bound here for a while, without listening: the kernel gives it to no one who asks for any port, and
a program that asks for just this one may have it, since servers set SO_REUSEADDR, too.
"""

from __future__ import annotations

import atexit
import contextlib
import socket
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = 100  # the servers of the ports before these have long been started
_kept: deque[socket.socket] = deque()


def free_port() -> int:
    """A port on 127.0.0.1 that no one listens on, and that no one else is given until a hundred more were asked for."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    _kept.append(sock)
    if len(_kept) > KEPT:
        _kept.popleft().close()
    return int(sock.getsockname()[1])


@atexit.register
def _close_all() -> None:
    while _kept:
        _kept.pop().close()


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port that is taken but not listened on: connections are refused for sure."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield int(sock.getsockname()[1])
