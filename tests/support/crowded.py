"""Owns an upstream whose queue of connections is full: who connects is not answered, until there is room.

The kernel drops what it cannot queue, so the gateway waits in the middle of connecting, as with a busy Ollama.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Self

from tests.support.wire import LIMIT

_SYN_SENT = "02"


class CrowdedUpstream:
    """A listener that has all it can queue, and what it hears once it has room; a context."""

    def __init__(self) -> None:
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.socket.listen(0)
        self.port = int(self.socket.getsockname()[1])
        self.accepted = 0
        self.received: list[bytes] = []  # all that each connection sent, when it has ended
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        """Fill the queue."""
        self.first = socket.create_connection(("127.0.0.1", self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it with all its connections."""
        self.first.close()
        if self.server is not None:
            self.server.close()
        self.socket.close()

    def is_waited_for(self) -> bool:
        """Whether someone is connecting and has no answer."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        there = [line.split()[2:4] for line in lines]
        return [f"0100007F:{self.port:04X}", _SYN_SENT] in there

    async def make_room(self) -> None:
        """Accept who waits and who comes, and read what they send."""
        self.first.close()
        self.server = await asyncio.start_server(self._read, sock=self.socket)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        got = b""
        with contextlib.suppress(ConnectionError):  # a reset ends it as well
            while piece := await reader.read(LIMIT):
                got += piece
        writer.close()
        self.received.append(got)
