"""Owns what goes wrong with the store in the tests of failures, and how it is put right again.

`Gate` is the network between a gateway and its store: it delays, swallows, refuses or resets. Each `Fault` is one
way for a store to fail: `begin`, `end`, and the `url` under which a gateway is to look for the store. What a fault
needs from a store that refuses it asks on a connection it opened before. The tests in tests/chaos call it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Self

import redis.asyncio

from tests.support.ports import free_port
from tests.support.waiting import until
from tests.support.wire import LIMIT, set_reset_on_close

if TYPE_CHECKING:
    from tests.support.store import Store


async def elapse(seconds: float, since: float, why: str) -> None:
    """Wait until `seconds` have passed since the monotonic time `since`; `why` says what needs just this long."""
    assert why
    await asyncio.sleep(max(0.0, since + seconds - time.monotonic()))


class _Line:
    """One connection through a gate. A dead one takes every byte and passes none on, for ever."""

    def __init__(self, gate: Gate, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.gate = gate
        self.reader = reader
        self.writer = writer
        self.is_dead = gate.is_hole

    async def run(self) -> None:
        """Pass bytes on in both directions until one side ends."""
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.gate.target_port, limit=LIMIT)
            try:
                await self._pump_both(far_reader, far_writer)
            finally:
                await _end(far_writer)
        except ConnectionError:
            pass  # no one listens there
        finally:
            await _end(self.writer)

    async def _pump_both(self, far_reader: asyncio.StreamReader, far_writer: asyncio.StreamWriter) -> None:
        pumps = [
            asyncio.ensure_future(self._pump(self.reader, far_writer, is_reply=False)),
            asyncio.ensure_future(self._pump(far_reader, self.writer, is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while piece := await source.read(LIMIT):
            if is_reply and self.gate.delay_seconds:
                await asyncio.sleep(self.gate.delay_seconds)
            if not self.is_dead:
                sink.write(piece)
                await sink.drain()

    def reset(self) -> None:
        """End it with RST towards the gateway."""
        with contextlib.suppress(OSError):  # closed already
            set_reset_on_close(self.writer.get_extra_info("socket"))
        self.writer.transport.abort()


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):  # the peer was faster
        await writer.wait_closed()


class Gate:
    """A TCP proxy in front of a port of this machine; each way a network fails is a method, `heal` ends it."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = free_port()
        self.delay_seconds = 0.0  # how late each reply is
        self.is_hole = False
        self.is_resetting = False
        self.lines: dict[_Line, asyncio.Task[None]] = {}
        self.server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Where a gateway finds the store behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def open(self) -> None:
        """Listen, if it does not yet."""
        if self.server is None:
            self.server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=LIMIT)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(self, reader, writer)
        if self.is_resetting:
            line.reset()
            return
        task = self.lines[line] = asyncio.ensure_future(line.run())
        task.add_done_callback(lambda _: self.lines.pop(line, None))

    def swallow(self) -> None:
        """A black hole: what is connected stays so and hears nothing any more, and so does what connects."""
        self.is_hole = True
        for line in self.lines:
            line.is_dead = True

    def reset(self) -> None:
        """Every connection is reset, and so is what connects."""
        self.is_resetting = True
        for line in list(self.lines):
            line.reset()

    async def refuse(self) -> None:
        """No one listens any more, and every connection is reset."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for line in list(self.lines):
            line.reset()

    async def heal(self) -> None:
        """New connections pass at once; those that a black hole has seen stay dead."""
        self.delay_seconds = 0.0
        self.is_hole = self.is_resetting = False
        await self.open()

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self.server is not None:
            self.server.close()
            self.server = None
        tasks = list(self.lines.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Fault:
    """One way for a store to fail, begun and ended by a test; a context that owns what it needs beside the store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @property
    def url(self) -> str:
        """Where the gateway is to look for the store."""
        return self.store.url

    async def __aenter__(self) -> Self:
        """Have ready what has to be there before anything is wrong."""
        await self.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give it back."""
        await self.close()

    async def prepare(self) -> None:
        """What has to be there before anything is wrong."""

    async def begin(self) -> None:
        """From here on the store fails."""
        raise NotImplementedError

    async def end(self) -> None:
        """From here on it does not."""
        raise NotImplementedError

    async def close(self) -> None:
        """Give back what `prepare` took."""


class Killed(Fault):
    """The server is gone, with all it held, and comes back empty on the same port."""

    async def begin(self) -> None:
        """SIGKILL."""
        await self.store.kill()

    async def end(self) -> None:
        """A new server."""
        await self.store.start()


class Frozen(Fault):
    """The server is stopped: the kernel still takes connections and bytes, no one answers."""

    def _signal(self, number: signal.Signals) -> None:
        assert self.store.process is not None
        os.kill(self.store.process.pid, number)

    async def begin(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    async def end(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)


class NetworkFault(Fault):
    """Something between the gateway and a store that is well."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gate = Gate(store.port)

    @property
    def url(self) -> str:
        """The gate's address."""
        return self.gate.url

    async def prepare(self) -> None:
        """Open the gate."""
        await self.gate.open()

    async def end(self) -> None:
        """New connections pass again."""
        await self.gate.heal()

    async def close(self) -> None:
        """Close the gate."""
        await self.gate.close()


class Slow(NetworkFault):
    """Each reply comes two seconds late."""

    async def begin(self) -> None:
        """Delay what comes from now on."""
        self.gate.delay_seconds = 2.0


class HalfOpen(NetworkFault):
    """Connections stay open and no byte gets through; the old ones never recover."""

    async def begin(self) -> None:
        """A black hole."""
        self.gate.swallow()


class Resetting(NetworkFault):
    """Every connection is reset as soon as it is there."""

    async def begin(self) -> None:
        """RST for all."""
        self.gate.reset()


class RefusingFault(Fault):
    """The server is there and refuses. A connection opened before asks it to, and to stop."""

    control: redis.asyncio.Redis

    async def prepare(self) -> None:
        """Connect while that is possible."""
        self.control = redis.asyncio.Redis(port=self.store.port, decode_responses=True, single_connection_client=True)
        await self.control.ping()

    async def close(self) -> None:
        """Close that connection."""
        await self.control.aclose()

    async def kill_connections(self) -> None:
        """End every connection but our own, subscribers' too."""
        for kind in ("normal", "pubsub"):
            await self.control.client_kill_filter(_type=kind, skipme=True)


class OutOfMemory(RefusingFault):
    """Writes are refused: OOM, the limit being less than the server has."""

    async def begin(self) -> None:
        """The lowest limit there is; nothing is evicted."""
        await self.control.config_set("maxmemory", "1")

    async def end(self) -> None:
        """No limit."""
        await self.control.config_set("maxmemory", "0")


class ReadOnly(RefusingFault):
    """Writes are refused: the server is a replica now, of a master that cannot be reached."""

    async def begin(self) -> None:
        """A failover elsewhere made it a replica."""
        await self.control.replicaof("127.0.0.1", free_port())

    async def end(self) -> None:
        """It is the master again, with what it had."""
        await self.control.replicaof("NO", "ONE")


class PasswordSet(RefusingFault):
    """Everything is refused: someone set a password and cut the connections."""

    async def begin(self) -> None:
        """NOAUTH for all who connect from now on."""
        await self.control.config_set("requirepass", "someone-set-one")
        await self.kill_connections()

    async def end(self) -> None:
        """No password any more."""
        await self.control.config_set("requirepass", "")


class CannotSave(RefusingFault):
    """Writes are refused: MISCONF, for the last snapshot failed (a directory lies where its file should go)."""

    async def _save(self, status: str) -> None:
        async def has_ended() -> bool:
            info = await self.control.info("persistence")
            return not info["rdb_bgsave_in_progress"] and info["rdb_last_bgsave_status"] == status

        await self.control.bgsave()
        await until(has_ended, 30, f"a snapshot that ends with {status}")

    async def begin(self) -> None:
        """A snapshot fails, where snapshots are asked for."""
        self.store.directory.joinpath("dump.rdb").mkdir()
        await self.control.config_set("save", "3600 1")
        await self._save("err")

    async def end(self) -> None:
        """The next snapshot succeeds."""
        self.store.directory.joinpath("dump.rdb").rmdir()
        await self._save("ok")


class TooManyClients(RefusingFault):
    """Every new connection is refused: others have taken all there are, and the gateway's were cut."""

    async def begin(self) -> None:
        """Our own connection is as many as may be."""
        await self.control.config_set("maxclients", "1")
        await self.kill_connections()

    async def end(self) -> None:
        """Room for all."""
        await self.control.config_set("maxclients", "10000")


class SubscribersRefused(RefusingFault):
    """Publishing and subscribing are forbidden, as with an account that has no channels."""

    async def begin(self) -> None:
        """No channels for anybody; who had subscribed is cut off."""
        await self.control.acl_setuser("default", enabled=True, reset_channels=True)

    async def end(self) -> None:
        """All channels."""
        await self.control.acl_setuser("default", enabled=True, channels=["*"])
