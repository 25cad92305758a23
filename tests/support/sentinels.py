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

    from tests.support.certificates import Authority

MASTER = "main"
DOWN_AFTER_MS = 1000
_SETTLED_SECONDS = 60.0
_CONFIGURATION = """
{kind} {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {master} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {master} {down_after}
sentinel failover-timeout {master} 10000
sentinel parallel-syncs {master} 2
"""


class Watched:
    """The servers and their Sentinels. `primary` is the store that was the primary at the start."""

    def __init__(self, directory: Path, program: str, authority: Authority | None = None) -> None:
        self.directory = directory
        self.program = program
        self._tls = () if authority is None else (authority.certificate, *authority.issue("all"))
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
        scheme = "rediss" if self._tls else "redis"
        return f"{scheme}+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.ports)}/{MASTER}"

    @property
    def tls_settings(self) -> dict[str, str]:
        """The gateway's files for TLS, if the servers speak it."""
        return dict(zip(("REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"), map(str, self._tls), strict=False))

    def sentinel(self, port: int) -> redis.asyncio.Redis:
        """A client of one Sentinel."""
        if not self._tls:
            return redis.asyncio.Redis(port=port, decode_responses=True)
        authority, certificate, key = map(str, self._tls)
        return redis.asyncio.Redis(
            port=port, decode_responses=True, ssl=True, ssl_ca_certs=authority, ssl_certfile=certificate,
            ssl_keyfile=key,
        )  # fmt: skip

    def _tls_options(self) -> dict[str, str]:
        """The servers' options for TLS: towards clients, each other and the Sentinels."""
        if not self._tls:
            return {}
        names = ("tls-ca-cert-file", "tls-cert-file", "tls-key-file")
        return {**dict(zip(names, map(str, self._tls), strict=True)), "tls-replication": "yes"}

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
        watched_ports: list[int] = []
        for number in range(3):
            directory = self.directory / f"store-{number}"
            directory.mkdir()
            self.stores.append(Store(directory, self.program))
            watched_ports.append(free_port() if self._tls else self.stores[-1].port)
            more = ["--replicaof", "127.0.0.1", str(watched_ports[0])] if number else []
            if self._tls:
                more += ["--tls-port", str(watched_ports[-1])]
            for name, value in self._tls_options().items():
                more += [f"--{name}", value]
            # Without a wait for further replicas a synchronisation takes no five seconds.
            await self.stores[-1].start(*more, "--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1",
                                        "--min-replicas-max-lag", "10", "--repl-timeout", "20")  # fmt: skip
        for number, port in enumerate(self.ports):
            directory = self.directory / f"sentinel-{number}"
            directory.mkdir()
            configuration = directory / "sentinel.conf"
            configuration.write_text(
                _CONFIGURATION.format(
                    kind="port 0\ntls-port" if self._tls else "port",
                    port=port,
                    directory=directory,
                    master=MASTER,
                    primary=watched_ports[0],
                    down_after=DOWN_AFTER_MS,
                )
            )
            with configuration.open("a") as file:
                file.writelines(f"{name} {value}\n" for name, value in self._tls_options().items())
            command = [self.program, str(configuration), "--sentinel"]
            self.sentinels.append(spawn(command, directory / "sentinel.log", {}))
        for port in self.ports:
            await until(partial(self._is_settled, port), _SETTLED_SECONDS, "the Sentinels know all servers")
            self._listening.append(asyncio.create_task(self._listen(port)))

    async def _is_settled(self, port: int) -> bool:
        with contextlib.suppress(RedisError, OSError):
            async with self.sentinel(port) as client:
                masters: Any = await client.sentinel_masters()
                known = masters[MASTER]
                return bool(known["num-slaves"] == known["num-other-sentinels"] == 2 and known["is_master"])
        return False

    async def _listen(self, port: int) -> None:
        """Notes when this Sentinel first says that there is another primary."""
        async with self.sentinel(port) as client, client.pubsub() as pubsub:
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
        async with self.sentinel(self.ports[0]) as client:
            await client.execute_command("SENTINEL FAILOVER", MASTER)

    def freeze(self, store: Store) -> None:
        """Its process stands still, and its connections stay open."""
        assert store.process is not None
        store.process.send_signal(signal.SIGSTOP)

    def resume(self, store: Store) -> None:
        """Its process goes on, if it is still there."""
        if store.process is not None:
            store.process.send_signal(signal.SIGCONT)
