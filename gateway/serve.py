"""The gateway itself: checks the settings, binds the port and serves until SIGTERM or SIGINT.

The only module that knows uvicorn, but for the protocol in server. Exit codes: 0 after a normal stop, 1 where the port
cannot be had, 2 for wrong settings. Called by __main__ where there are no arguments.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from gateway import __version__, logs
from gateway.app import app_of_environment
from gateway.ledger import shared_file
from gateway.limits import fitting_connections
from gateway.server import GatewayHttpProtocol
from gateway.settings import InvalidSettings, Settings, load, share_run

log = logging.getLogger("gateway")

# When gateway.drain has ended the requests, uvicorn gives the answers still being written this long.
_LEFTOVER_SECONDS = 1
# A worker that does not answer its parent for so long is replaced; importing alone takes seconds on a busy machine.
_WORKER_SILENCE_SECONDS = 60
# A client that vanished without a word is noticed after two minutes of silence, not when its answer has been generated.
_KEEPALIVE = (
    ((socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPIDLE), 60),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPINTVL), 15),
    ((socket.IPPROTO_TCP, socket.TCP_KEEPCNT), 4),
)


def main() -> int:
    """Serves; gives the exit code."""
    try:
        settings = load()
    except InvalidSettings as error:
        print(*(f"gateway: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    logs.set_up(settings.log_level, settings.log_format)
    try:
        listener = _bind(settings)
    except OSError as error:
        log.error("cannot listen on %s:%d: %s", settings.gateway_host, settings.gateway_port, error.strerror)
        return 1
    log.info("version %s listens on http://%s:%d", __version__, settings.gateway_host, settings.gateway_port)
    if not (settings.api_keys or settings.api_keys_file or _is_loopback(settings.gateway_host)):
        log.warning("no API keys are set: whoever reaches this gateway may use the models and read all statuses")
    if settings.gateway_workers > 1:
        return _serve_with_workers(settings, listener)
    return _serve(_config(settings), listener)


def _config(settings: Settings, counts_file: Path | None = None) -> uvicorn.Config:
    return uvicorn.Config(
        partial(app_of_environment, counts_file),
        factory=True,
        workers=settings.gateway_workers,
        # a BufferedProtocol, which uvicorn only makes and closes
        http=partial(GatewayHttpProtocol, max_connections=fitting_connections(settings.max_connections)),  # type: ignore[arg-type]
        loop="uvloop",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_worker_healthcheck=_WORKER_SILENCE_SECONDS,
        timeout_graceful_shutdown=_LEFTOVER_SECONDS,
        backlog=2048,
    )


def _bind(settings: Settings) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        settings.gateway_host, settings.gateway_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for option, value in _KEEPALIVE:  # what is accepted has them, too
        listener.setsockopt(*option, value)
    listener.bind(address)
    listener.set_inheritable(True)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(config: uvicorn.Config, listener: socket.socket) -> int:
    server = uvicorn.Server(config)
    # uvicorn raises the signal that stopped it once more; by then all is done, and the exit code is to be 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    return 0


def _serve_with_workers(settings: Settings, listener: socket.socket) -> int:
    share_run(settings)
    try:
        with shared_file() as counts_file:
            _Workers(_config(settings, counts_file), sockets=[listener]).run()
    except OSError as error:
        log.error("cannot make the file that workers count in: %s", error)
        return 1
    return 0


class _Workers(Multiprocess):
    """Passes SIGHUP on, where uvicorn would replace the workers and cut their streams; their number stays."""

    def handle_hup(self) -> None:
        """Each worker reads the API keys again. One that is starting would die of the signal, and reads them anyway."""
        for worker in self.processes:
            if worker.pid is not None and worker.is_ready(timeout=1):
                os.kill(worker.pid, signal.SIGHUP)

    def handle_ttin(self) -> None:
        """Signals do not add workers."""

    def handle_ttou(self) -> None:
        """Nor do they take any away, with the streams it has."""
