"""One process that serves: uvicorn's server around the app, from the first signal that may come to the last byte.

The only module that knows uvicorn, but for the protocol in server. Called by serve, in its own process or in each fork.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn

from gateway.app import app_of_environment
from gateway.http.connection import GatewayHttpProtocol
from gateway.http.limits import fitting_connections

log = logging.getLogger("gateway")

_STOPPING = (signal.SIGTERM, signal.SIGINT)
# When gateway.stopping has ended the requests, uvicorn gives the answers still being written this long.
_LEFTOVER_SECONDS = 1


def serve(
    listeners: list[socket.socket], max_connections: int, counts_file: Path | None = None, parent: int | None = None
) -> int:
    """Serves until it is told to stop; the exit code. Takes up the signals that waited until now, see __main__.

    `counts_file` is what several workers share, see ledger; `parent` ends with the process that started them.
    """
    config = _config(max_connections, counts_file)
    server = _Server(config)
    # Before uvicorn has handlers of its own; and behind, when it raises what stopped it once more: the exit code is 0.
    for number in _STOPPING:
        signal.signal(number, server.handle_exit)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the keys are about to be read anyway
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        if parent is not None:
            runner.get_loop().add_reader(parent, partial(_stop_now, runner.get_loop(), parent))
        runner.run(server.serve(sockets=listeners))
        signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOPPING, signal.SIGHUP))  # the handlers go, and all is done
    return 0


class _Server(uvicorn.Server):
    """uvicorn's, but for its pulse, and for what a further Ctrl-C brings about: it would skip the application's end.

    It looks ten times a second whether to stop: nine tenths of what an idle gateway costs without a store.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._wake: Callable[[], object] | None = None  # while it waits

    async def main_loop(self) -> None:
        """Until it is told to stop."""
        stopping = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, stopping.set)
        if not self.should_exit:
            await stopping.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Also called by the interpreter, between any two steps of the loop's."""
        super().handle_exit(sig, frame)
        if self._wake is not None:
            self._wake()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for answers that are still being written, unless it is forced; then statuses are saved, always."""
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()


def _config(max_connections: int, counts_file: Path | None) -> uvicorn.Config:
    return uvicorn.Config(
        partial(app_of_environment, counts_file),
        factory=True,
        workers=1,
        # a BufferedProtocol, which uvicorn only makes and closes
        http=partial(GatewayHttpProtocol, max_connections=fitting_connections(max_connections)),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=_LEFTOVER_SECONDS,
        backlog=2048,
    )


def _stop_now(loop: asyncio.AbstractEventLoop, parent: int) -> None:
    """The parent was killed. Nothing is drained: whoever is started in its place needs the port, and soon gives up."""
    loop.remove_reader(parent)
    log.error("the parent process is gone: stopping at once")
    for _ in range(3):  # a second one ends the notice, if there is any, and a third one what runs
        signal.raise_signal(signal.SIGINT)
