"""The least that a relay in Python must do if it writes a status before it answers: it joins bytes and sends one SET.

This is not a peer, but the lower limit for the gateway: `python -m bench.floor PORT UPSTREAM_PORT STORE_PORT`. It
parses and checks nothing, and takes each read for one request or answer, so it works only in the small JSON scenarios.
It shows what the hops between the processes cost on this machine.
"""

import asyncio
import gc
import sys
from typing import cast
from uuid import uuid4

import uvloop

PORT, UPSTREAM_PORT, STORE_PORT = map(int, sys.argv[1:4])
DOCUMENT = b"x" * 640  # as long as the gateway's


class Side(asyncio.Protocol):
    """One of the three connections of `joined`, which passes what it reads to `on_<name>`."""

    def __init__(self, joined: "Joined", name: str) -> None:
        self._joined = joined
        self.data_received = getattr(joined, f"on_{name}")  # type: ignore[method-assign]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._joined.close()


class Joined:
    """A client's connection, joined with one to the upstream and one to the store."""

    def __init__(self) -> None:
        self.client = Side(self, "request")
        self._sides = [self.client]
        self._early = b""
        self._answer = b""
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self._upstream = await loop.create_connection(lambda: Side(self, "answer"), "127.0.0.1", UPSTREAM_PORT)
        _, self._store = await loop.create_connection(lambda: Side(self, "stored"), "127.0.0.1", STORE_PORT)
        self._sides += [self._upstream, self._store]
        if self._early:
            self._upstream.transport.write(self._early)

    def on_request(self, data: bytes) -> None:
        """Sends the request to the upstream unchanged."""
        if len(self._sides) == 1:
            self._early += data
        else:
            self._upstream.transport.write(data)

    def on_answer(self, data: bytes) -> None:
        """Sends the status to the store first."""
        self._answer = data
        name = b"ts:floor:%b" % str(uuid4()).encode()
        parts = (b"SET", name, DOCUMENT, b"EX", b"86400")
        command = b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])
        self._store.transport.write(command)

    def on_stored(self, data: bytes) -> None:  # noqa: ARG002
        """Then sends the answer to the client."""
        self.client.transport.write(self._answer)

    def close(self) -> None:
        """Closes all three connections when one ends."""
        self._opening.cancel()
        for side in self._sides:
            side.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Joined().client, "127.0.0.1", PORT, backlog=2048)
    gc.freeze()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
