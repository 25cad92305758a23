"""Owns a primary with two replicas and three Sentinels, all on loopback, and what the Sentinels say of a failover.

A gateway gets `url`. The primary takes writes only while a replica has them, as people run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import redis.asyncio
from redis.exceptions import RedisError

from tests.support.ports import free_port
from tests.support.process import kill, spawn
from tests.support.store import Store
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

MASTER = "main"
DOWN_AFTER_MS = 1000
_SETTLED_SECONDS = 60.0
_CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {master} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {master} {down_after}
sentinel failover-timeout {master} 10000
sentinel parallel-syncs {master} 2
"""


class Watched:
    """The servers and their Sentinels. `primary` is the store that was the primary at the start."""

    def __init__(self, directory: Path, program: str) -> None:
        self.directory = directory
        self.program = program
        self.stores: list[Store] = []
        self.ports = [free_port() for _ in range(3)]
        self.sentinels: list[subprocess.Popen[bytes]] = []
        self.switched_at: float | None = None  # monotonic: when the first Sentinel spoke of a new primary
        self._listening: list[asyncio.Task[None]] = []

    @property
    def primary(self) -> Store:
        """The first primary."""
        return self.stores[0]

    @property
    def url(self) -> str:
        """The store's address, as a gateway gets it."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{MASTER}"

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._listening:
            task.cancel()
        await asyncio.gather(*self._listening, return_exceptions=True)
        for sentinel in self.sentinels:
            await kill(sentinel)
        for store in self.stores:
            self.resume(store)
            await store.close()

    async def _start(self) -> None:
        for number in range(3):
            directory = self.directory / f"store-{number}"
            directory.mkdir()
            self.stores.append(Store(directory, self.program))
            more = ["--replicaof", "127.0.0.1", str(self.primary.port)] if number else []
            # Without a wait for further replicas a synchronisation takes no five seconds.
            await self.stores[-1].start(*more, "--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1",
                                        "--min-replicas-max-lag", "10", "--repl-timeout", "20")  # fmt: skip
        for number, port in enumerate(self.ports):
            directory = self.directory / f"sentinel-{number}"
            directory.mkdir()
            configuration = directory / "sentinel.conf"
            configuration.write_text(
                _CONFIGURATION.format(
                    port=port,
                    directory=directory,
                    master=MASTER,
                    primary=self.primary.port,
                    down_after=DOWN_AFTER_MS,
                )
            )
            command = [self.program, str(configuration), "--sentinel"]
            self.sentinels.append(spawn(command, directory / "sentinel.log", {}))
        for port in self.ports:
            await until(partial(self._is_settled, port), _SETTLED_SECONDS, "the Sentinels know all servers")
            self._listening.append(asyncio.create_task(self._listen(port)))

    async def _is_settled(self, port: int) -> bool:
        with contextlib.suppress(RedisError, OSError):
            async with redis.asyncio.Redis(port=port, decode_responses=True) as client:
                masters: Any = await client.sentinel_masters()
                known = masters[MASTER]
                return bool(known["num-slaves"] == known["num-other-sentinels"] == 2 and known["is_master"])
        return False

    async def _listen(self, port: int) -> None:
        """Notes when this Sentinel first says that there is another primary."""
        async with redis.asyncio.Redis(port=port, decode_responses=True) as client, client.pubsub() as pubsub:
            await pubsub.subscribe("+switch-master")
            async for message in pubsub.listen():
                if message["type"] == "message" and self.switched_at is None:
                    self.switched_at = time.monotonic()

    async def new_primary(self) -> Store:
        """The store that the Sentinels have made the primary, as soon as they say so."""
        await until(lambda: self.switched_at is not None, 30, "the Sentinels choose another primary")
        for store in self.stores[1:]:
            if (await store.client.info("replication"))["role"] == "master":
                return store
        raise AssertionError("no replica has become the primary")

    async def fail_over(self) -> None:
        """Asks the first Sentinel to make another server the primary, as for an update of the present one."""
        async with redis.asyncio.Redis(port=self.ports[0], decode_responses=True) as client:
            await client.execute_command("SENTINEL FAILOVER", MASTER)

    def freeze(self, store: Store) -> None:
        """Its process stands still, and its connections stay open."""
        assert store.process is not None
        store.process.send_signal(signal.SIGSTOP)

    def resume(self, store: Store) -> None:
        """Its process goes on, if it is still there."""
        if store.process is not None:
            store.process.send_signal(signal.SIGCONT)
