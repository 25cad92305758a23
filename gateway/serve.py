"""The gateway's start: checks the settings, binds the port, and has it served by this process or by several.

Imports nothing that serves before it knows which: the parent of several workers only waits, and stays small. Exit
codes: 0 after a normal stop, 1 where the port cannot be had or a worker cannot start, 2 for wrong settings. Called by
__main__ where there are no arguments.
"""

import gc
import logging
import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path

from gateway import __version__, logs
from gateway.settings import InvalidSettings, Settings, load, share_run, start_warnings
from gateway.vanished import keep_alive

log = logging.getLogger("gateway")


def main() -> int:
    """Serves; gives the exit code."""
    try:
        settings = load()
    except InvalidSettings as error:
        print(*(f"gateway: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 2
    logs.set_up(settings.log_level, settings.log_format)
    for warning in start_warnings():
        log.warning(warning)
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
    return _serve(settings, listener)


def _bind(settings: Settings) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        settings.gateway_host, settings.gateway_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    keep_alive(listener)
    listener.bind(address)
    return listener


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(
    settings: Settings, listener: socket.socket, counts_file: Path | None = None, parent: int | None = None
) -> int:
    """Imports what serves. Nothing of that becomes garbage, and looking for some would take a sixth of the start."""
    gc.disable()
    from gateway.worker import serve

    gc.freeze()  # else the next look would be at all of it
    gc.enable()
    return serve(listener, settings.max_connections, counts_file, parent)


def _serve_with_workers(settings: Settings, listener: socket.socket) -> int:
    from gateway.prefork import Workers

    share_run(settings)
    # Memory with a descriptor, which the workers inherit: see ledger.
    counts_file = Path(f"/proc/self/fd/{os.memfd_create('ollama-gateway-counts')}")

    def work(parent: int) -> int:
        return _serve(settings, listener, counts_file, parent)

    # Else connections would still be taken, and never answered, when the workers close their listeners.
    return Workers(settings.gateway_workers, work, let_go=listener.close).run()
