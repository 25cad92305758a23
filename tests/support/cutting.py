"""Owns a proxy that cuts connections, as a bad network or an impatient load balancer does.

It cuts between requests' bytes and answers' bytes alone: what a client has sent of a request arrives whole or not at
all, because a client that breaks off inside its body ends its call as ever (contract 9.1). Each call is known by its
`X-Task-Id` and is cut a bounded number of times, so that it can succeed.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import Counter
from typing import TYPE_CHECKING

from tests.support.ports import free_port
from tests.support.wire import LIMIT, read_head, set_reset_on_close

if TYPE_CHECKING:
    import random

    from tests.support.wire import Head


class Cut(Exception):
    """This connection ends now."""


class CuttingProxy:
    """A TCP proxy in front of a gateway. It cuts each call from 0 to `most` times, at places that `chance` chooses."""

    def __init__(self, target_port: int, chance: random.Random, most: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.cuts: Counter[str] = Counter()  # by task id: how often it was cut
        self._planned: dict[str, int] = {}
        self._chance = chance
        self._most = most
        self._lines: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def open(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=LIMIT)

    async def close(self) -> None:
        """End everything."""
        self._server.close()
        lines = list(self._lines)
        for line in lines:
            line.cancel()
        await asyncio.gather(*lines, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            far = await asyncio.open_connection("127.0.0.1", self.target_port, limit=LIMIT)
            try:
                while (head := await read_head(reader)) is not None:
                    await self._pass(head, reader, writer, *far)
            finally:
                far[1].transport.abort()
        except (Cut, ConnectionError, AssertionError, asyncio.CancelledError):
            pass  # it ends, as it should
        finally:
            if self._chance.random() < 0.5:
                with contextlib.suppress(OSError):  # closed already
                    set_reset_on_close(writer.get_extra_info("socket"))
            writer.transport.abort()
            self._lines.discard(task)

    async def _pass(
        self,
        head: Head,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        """One request and its answer, as far as they come."""
        body = await reader.readexactly(int(head.get("content-length") or b"0"))
        where = self._place(head)
        if where == "before the request":
            raise Cut
        far_writer.write(head.raw + body)
        await far_writer.drain()
        if where == "behind the request":
            raise Cut
        raw = await far_reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: *([0-9]+)", raw.lower())
        assert length is not None, "plain answers have a length"
        answer = raw + await far_reader.readexactly(int(length[1]))
        if where == "in the answer":
            writer.write(answer[: self._chance.randrange(len(answer))])
            await writer.drain()
            raise Cut
        writer.write(answer)
        await writer.drain()

    def _place(self, head: Head) -> str:
        """Where to cut this one; "" for nowhere."""
        task_id = (head.get("x-task-id") or b"").decode()
        planned = self._planned.setdefault(task_id, self._chance.randint(0, self._most))
        if self.cuts[task_id] == planned:
            return ""
        self.cuts[task_id] += 1
        return self._chance.choice(["before the request", "behind the request", "in the answer"])
