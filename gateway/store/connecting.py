"""Makes redis-py's connections to a store: plain or with TLS, to one server or to the primary that Sentinel names.

The password is read for each connection, so that it can be replaced while the gateway runs.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.maint_notifications import MaintNotificationsConfig

from gateway.store.address import Access, Host, parse_address
from gateway.store.credentials import PasswordFile
from gateway.store.reasons import CERTIFICATE, LIBRARY_ERRORS, Unreachable, kind_of, reason_of
from gateway.store.tls import TlsFiles

# Sentinels are asked side by side. Their answer has to leave time for the connection and the command, which are bounded
# by a second together.
_ASKING_SECONDS = 0.6
# The wait for others after the first answer: one may have heard of a failover that the first has not.
_NEWER_SECONDS = 0.05
_CHECK_SECONDS = 1.0  # between two questions whether there is another primary

# redis-py would tell the server its name, and ask for notices of maintenance. The account would need rights for that.
_NOTHING_MORE = {"driver_info": None, "maint_notifications_config": MaintNotificationsConfig(enabled=False)}
_CLOSED_WORDS = ("Error while reading", "Connection closed by server")
_CLOSED = "it closed the connection after the TLS handshake: a client certificate may be missing or not accepted"

P = TypeVar("P", bound=ConnectionPool)
_State: TypeAlias = dict[str, Any]  # what a Sentinel says of a master
_States: TypeAlias = dict[str, _State]  # by their names


class Connector:
    """Makes pools of connections to the store of `access`; a URL is enough for a plain one.

    The parts of a process that use one store share one, so that Sentinel is asked once.
    """

    def __init__(self, access: Access | str) -> None:
        access = access if isinstance(access, Access) else Access(access)
        address = parse_address(access.url)
        self._options: dict[str, Any] = {"db": address.database, **_NOTHING_MORE}
        self._options |= _login(address.user or access.user, address.password, access.password_file)
        self._tls = TlsFiles(access) if address.has_tls else None
        self._sentinels: _Sentinels | None = None
        self._pools: list[ConnectionPool] = []
        self._on_moved: list[Callable[[], object]] = []
        self._checking: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._checked_at = float("-inf")
        self.moves = 0  # how often Sentinel has named another primary
        if self._tls is not None:
            self._options["tls"] = self._tls
        if address.master:
            login = _login(
                access.sentinel_user,
                access.sentinel_password,
                access.sentinel_password_file,
                "REDIS_SENTINEL_PASSWORD_FILE",
            )
            self._sentinels = _Sentinels(address.master, address.hosts, login, self._tls, self._move)
        else:
            [(self._options["host"], self._options["port"])] = address.hosts

    @classmethod
    def to(cls, access: "Access | str | Connector") -> "Connector":
        """The connector itself, or a new one."""
        return access if isinstance(access, Connector) else cls(access)

    def pool(self, **options: Any) -> ConnectionPool:
        """A pool for a caller that makes its connections itself."""
        return self._made(SentinelConnectionPool if self._sentinels else ConnectionPool, options)

    def blocking_pool(self, **options: Any) -> BlockingConnectionPool:
        """A pool whose callers wait for a free connection."""
        return self._made(_BlockingPrimaryPool if self._sentinels else BlockingConnectionPool, options)

    def _made(self, pool: type[P], options: dict[str, Any]) -> P:
        options = self._options | options
        if self._sentinels is None:
            made = pool(connection_class=_TlsConnection if self._tls else Connection, **options)
        else:
            options |= {"service_name": self._sentinels.master, "sentinel_manager": self._sentinels}
            made = pool(connection_class=_TlsToPrimary if self._tls else _ToPrimary, **options)
        self._pools.append(made)
        return made

    def on_moved(self, callback: Callable[[], object]) -> None:
        """Has `callback` called when Sentinel names another primary: then connections to the old one are no use."""
        self._on_moved.append(callback)

    def check_primary(self) -> None:
        """Has Sentinel asked, at most once a second, whether there is another primary by now.

        After a failover by hand the old primary takes writes for ten seconds or more, which are lost.
        """
        if self._sentinels is not None and time.monotonic() - self._checked_at >= _CHECK_SECONDS:
            self._checked_at = time.monotonic()
            self._checking = asyncio.get_running_loop().create_task(self._sentinels.check())

    async def close(self) -> None:
        """Ends the question that is under way."""
        for task in (self._checking, self._closing):
            if task is not None:
                task.cancel()
                await asyncio.wait([task])
        if self._sentinels is not None:
            await self._sentinels.close()

    def _move(self) -> None:
        """Sentinel has named another primary."""
        self.moves += 1
        for callback in self._on_moved:
            callback()
        self._closing = asyncio.get_running_loop().create_task(self._close_idle())

    async def _close_idle(self) -> None:
        """Closes the pools' idle connections, and has the others closed after their present use."""
        for pool in self._pools:
            await pool.update_active_connections_for_reconnect()  # type: ignore[no-untyped-call]
            await pool.disconnect(inuse_connections=False)


def _login(user: str, password: str, file: Path | None, name: str = "REDIS_PASSWORD_FILE") -> dict[str, Any]:
    """redis-py's options for a login; `name` is the setting of the file."""
    if file is not None:
        return {"credential_provider": PasswordFile(file, user, name)}
    return {"username": user or None, "password": password or None}


class _TlsConnection(SSLConnection):
    """A connection with the context of `tls`."""

    def __init__(self, *, tls: TlsFiles, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    async def connect(self) -> None:
        """Reads the files if it has to connect."""
        if self.is_connected:
            return
        self.ssl_context.context = await self._tls.context()
        try:
            await super().connect()  # type: ignore[no-untyped-call]
        except RedisConnectionError as error:
            if kind_of(error) or not any(words in str(error) for words in _CLOSED_WORDS):
                raise
            # With TLS 1.3 the server judges the client's certificate after the handshake, and its reset may overtake
            # its reason.
            raise Unreachable(_CLOSED, CERTIFICATE) from error


class _ToPrimary(SentinelManagedConnection):
    """A connection to the server that Sentinel names, if that server is the primary."""

    async def connect_to(self, address: Host) -> None:
        """Connects. Raises Unreachable if the server is a replica: Sentinel may not know yet, or not the server."""
        await super().connect_to(address)  # type: ignore[no-untyped-call]
        # HELLO needs no right that connecting does not need.
        await self.send_command("HELLO", check_health=False)
        reply: dict[str | bytes, str | bytes] = await self.read_response()
        if (reply.get("role") or reply.get(b"role")) not in ("master", b"master"):
            await self.disconnect()
            raise Unreachable("Sentinel names a server that is a replica", "READONLY")


class _TlsToPrimary(_TlsConnection, _ToPrimary, SentinelManagedSSLConnection):
    """The same with TLS."""


class _BlockingPrimaryPool(SentinelConnectionPool, BlockingConnectionPool):
    """The pool of Sentinel's connections whose callers wait for a free one."""


class _Primary(NamedTuple):
    """What Sentinels say: where the primary is, the number of the last failover, and whether that has ended."""

    host: Host
    epoch: int
    is_settled: bool


class _Sentinels(Sentinel):
    """Asks all Sentinels at once: redis-py asks one after another, and a dead one takes all the time there is."""

    def __init__(
        self,
        master: str,
        hosts: tuple[Host, ...],
        login: dict[str, Any],
        tls: TlsFiles | None,
        on_moved: Callable[[], object],
    ) -> None:
        super().__init__([])  # type: ignore[no-untyped-call]
        options = {
            **login,
            **_NOTHING_MORE,
            "socket_connect_timeout": _ASKING_SECONDS,
            "socket_timeout": _ASKING_SECONDS,
        }
        options |= {"retry": Retry(NoBackoff(), 0), "connection_class": _TlsConnection if tls else Connection}
        if tls is not None:
            options["tls"] = tls
        self.sentinels = [
            Redis(connection_pool=ConnectionPool(host=host, port=port, **options)) for host, port in hosts
        ]
        self.master = master
        self._on_moved = on_moved
        self._asking: asyncio.Task[_Primary | Unreachable] | None = None
        self._primary: _Primary | None = None  # that connections go to

    async def discover_master(self, service_name: str) -> Host:
        """The address of the primary `service_name`, which is always `master`. Raises Unreachable."""
        found = await self._found(service_name)
        if isinstance(found, Unreachable):
            raise found
        self._lead_to(found)
        return found.host

    async def check(self) -> None:
        """Asks whether a failover has made another server the primary."""
        found = await self._found(self.master)
        if not isinstance(found, Unreachable) and found.is_settled:
            self._lead_to(found)

    def _lead_to(self, found: "_Primary") -> None:
        """New connections lead to `found`. If older ones lead elsewhere, they are no use any more."""
        present = self._primary
        if present is not None and found.epoch < present.epoch:
            return  # these Sentinels have not heard of the last failover
        self._primary = found
        if present is not None and found.host != present.host:
            self._on_moved()

    async def close(self) -> None:
        """Ends the question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _found(self, master: str) -> "_Primary | Unreachable":
        """All who ask at the same time share one question."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.get_running_loop().create_task(self._ask(master))
        return await asyncio.shield(self._asking)

    async def _ask(self, master: str) -> "_Primary | Unreachable":
        """Returns an error instead of raising it: all callers may have left."""
        asked = [asyncio.ensure_future(_masters(sentinel)) for sentinel in self.sentinels]
        await _until_found(asked, master)
        answers = [task.result() for task in asked if task.done()]
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, Exception)]
        known = [answer[master] for answer in answers if not isinstance(answer, Exception) and master in answer]
        if known:
            return self._primary_in(known, master)
        if len(errors) < len(answers):
            return Unreachable(f"Sentinel knows no master of the name {master}", "SENTINEL")
        why = errors[0]
        return Unreachable(f"no Sentinel can be asked: {reason_of(why)}", kind_of(why) or "SENTINEL")

    def _primary_in(self, known: list[_State], master: str) -> "_Primary | Unreachable":
        """By the newest failover of which a Sentinel has heard. Of those that have heard of it, one may call it up.

        While a failover is in progress, the Sentinel that leads it has the new epoch with the old address.
        """
        newest = max(int(state["config-epoch"]) for state in known)
        heard = [state for state in known if int(state["config-epoch"]) == newest]
        for state in sorted(heard, key=_is_in_progress):
            if self.check_master_state(state, master):
                return _Primary((str(state["ip"]), int(state["port"])), newest, not _is_in_progress(state))
        return Unreachable(f"Sentinel says that the primary of {master} is down")


def _is_in_progress(state: _State) -> bool:
    return "failover_in_progress" in state["flags"]


async def _masters(sentinel: Redis) -> _States | Exception:
    """What a Sentinel knows, by the names of its masters, or why it cannot be asked."""
    try:
        async with asyncio.timeout(_ASKING_SECONDS):
            return cast("_States", await sentinel.sentinel_masters())
    except (*LIBRARY_ERRORS, TimeoutError) as error:
        return error
    finally:
        # Kept connections could be dead at the next failover.
        await sentinel.connection_pool.disconnect(inuse_connections=False)


async def _until_found(asked: list[asyncio.Task[_States | Exception]], master: str) -> None:
    """Waits for the first answer that has `master`, then for others for a moment; else for all."""
    pending, seconds = set(asked), None
    while pending:
        done, pending = await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return
        answers = [task.result() for task in done]
        if any(not isinstance(answer, Exception) and master in answer for answer in answers):
            seconds = _NEWER_SECONDS
