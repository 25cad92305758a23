"""Owns a tap on the way to a store: bytes pass, are held back, cut into single ones or made up; in TLS if asked.

The unit tests of the line to the store call it.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator


class Tap:
    """Takes connections for the server at `port`."""

    def __init__(self, port: int) -> None:
        self.server_port = port
        self.port = 0
        self.connections = 0
        self.is_split = False  # each answer comes byte by byte
        self.open = asyncio.Event()  # answers pass
        self.open.set()
        self._clients: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        """Where the store seems to be, without TLS."""
        return f"redis://127.0.0.1:{self.port}/0"

    def say(self, answer: bytes) -> None:
        """The server seems to say something, on the newest connection."""
        self._clients[-1].write(answer)

    def cut(self) -> None:
        """All connections end."""
        for client in self._clients:
            client.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways."""
        self.connections += 1
        self._clients.append(writer)
        answers, questions = await asyncio.open_connection("127.0.0.1", self.server_port)
        up = asyncio.create_task(self._pass_up(reader, questions))
        try:
            while data := await answers.read(65536):
                await self.open.wait()
                for piece in (bytes([byte]) for byte in data) if self.is_split else (data,):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except OSError:
            pass  # it was cut, or the other side has closed it
        finally:
            up.cancel()
            questions.transport.abort()
            writer.transport.abort()

    async def _pass_up(self, reader: asyncio.StreamReader, questions: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                questions.write(data)
        except OSError:
            pass  # as above
        questions.transport.abort()


@asynccontextmanager
async def tapped(port: int, context: ssl.SSLContext | None = None) -> AsyncIterator[Tap]:
    """A tap on a free port."""
    tap = Tap(port)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0, ssl=context)
    tap.port = server.sockets[0].getsockname()[1]
    async with server:
        yield tap
        tap.open.set()
        tap.cut()
