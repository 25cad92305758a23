"""The process that serves: runs uvicorn's server with the application until the drain stops it.

Owns uvicorn, and the moment from which signals are handled. No other module knows uvicorn, except
`http/connection.py`, which uvicorn creates for each client.
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from socket import socket

import uvicorn

from gateway.app import create_app
from gateway.dispatch import Gateway
from gateway.http.connection import GatewayHttpProtocol
from gateway.http.limits import fitting_connections
from gateway.settings import Settings

_LEAST_SECONDS = 1  # uvicorn takes whole seconds, and 0 as no time at all


def serve(settings: Settings, listeners: list[socket]) -> int:
    """Serves until the process is told to stop. Returns the exit code. Signals have to be blocked, see __main__."""
    gateway = create_app(settings)
    connections = fitting_connections(settings.max_connections)
    gateway.let_wait(connections // 2)  # pollers that wait do not lock out requests
    config = _config(gateway, connections)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_Server(config, gateway).serve(sockets=listeners))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        gateway.drain.end()
    return 0


class _Server(uvicorn.Server):
    """uvicorn's server. The gateway's drain handles the signals, and tells the server when to stop."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._told = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Installs nothing: uvicorn's handlers would stop it at the first signal, and raise the signal again later."""
        yield

    async def main_loop(self) -> None:
        """Handles signals, also those that waited until now, and returns when it is told to stop.

        uvicorn's own loop wakes ten times a second: nine tenths of the CPU time of an idle gateway without a store.
        """
        loop, reload = asyncio.get_running_loop(), self._gateway.keyring.reload
        signal.signal(signal.SIGHUP, lambda *_: loop.call_soon_threadsafe(reload))
        self._gateway.drain.install(self)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        await self._told.wait()

    def stop(self, seconds: float) -> None:
        """Accepts no more connections. Answers that are still being written get `seconds`."""
        self.config.timeout_graceful_shutdown = max(_LEAST_SECONDS, int(seconds))
        self._told.set()

    def hurry(self) -> None:
        """Stops waiting for answers."""
        self.force_exit = True

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Waits for answers, unless it has to hurry. Then ends the application, which saves the statuses.

        uvicorn skips that end if it hurries. A second call of it changes nothing.
        """
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()


def _config(gateway: Gateway, max_connections: int) -> uvicorn.Config:
    return uvicorn.Config(
        gateway,
        workers=1,  # else uvicorn reads WEB_CONCURRENCY
        # a BufferedProtocol; uvicorn only creates and closes it
        http=partial(GatewayHttpProtocol, max_connections=max_connections),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_LEAST_SECONDS,
        backlog=2048,
    )
