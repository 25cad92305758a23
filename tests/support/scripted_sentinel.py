"""Owns Sentinels that say what a test wants: another epoch, another primary, nothing at all.

They know HELLO, AUTH in it, CLIENT and SENTINEL MASTERS, in RESP3.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hiredis import Reader

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator


@dataclass
class ScriptedSentinel:
    """What it says of its one master. If it is not `open`, it takes connections and says nothing."""

    name: str = "main"
    primary_port: int = 0
    epoch: int = 0
    flags: str = "master"
    open: asyncio.Event = field(default_factory=asyncio.Event)
    asked: int = 0
    logins: list[tuple[str, ...]] = field(default_factory=list)
    port: int = 0

    def state(self) -> dict[str, str]:
        """What SENTINEL MASTERS says."""
        return {
            "name": self.name, "ip": "127.0.0.1", "port": str(self.primary_port), "flags": self.flags,
            "num-other-sentinels": "2", "config-epoch": str(self.epoch),
        }  # fmt: skip

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        parser = Reader(encoding="utf-8")
        try:
            while data := await reader.read(65536):
                parser.feed(data)
                while (command := parser.gets()) is not False:
                    await self.open.wait()
                    writer.write(self._answer([str(word) for word in command]))
        except OSError:
            pass  # the client has left
        finally:
            writer.close()

    def _answer(self, command: list[str]) -> bytes:
        if command[0] == "HELLO":
            self.logins.append(tuple(command[3:]))
            return b"%2\r\n$5\r\nproto\r\n:3\r\n$4\r\nrole\r\n$8\r\nsentinel\r\n"
        if command[:2] == ["SENTINEL", "MASTERS"]:
            self.asked += 1
            words = [word for item in self.state().items() for word in item]
            return b"*1\r\n%%%d\r\n" % (len(words) // 2) + b"".join(map(_bulk, words))
        return b"+OK\r\n"


def _bulk(word: str) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word.encode())


@asynccontextmanager
async def scripted_sentinels(
    count: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[list[ScriptedSentinel]]:
    """So many Sentinels on free ports, all open."""
    sentinels = [ScriptedSentinel() for _ in range(count)]
    servers = []
    for sentinel in sentinels:
        sentinel.open.set()
        servers.append(await asyncio.start_server(sentinel.serve, "127.0.0.1", 0, ssl=context))
        sentinel.port = servers[-1].sockets[0].getsockname()[1]
    try:
        yield sentinels
    finally:
        for sentinel, server in zip(sentinels, servers, strict=True):
            sentinel.open.set()
            server.close()
            await server.wait_closed()
