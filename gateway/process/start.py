"""The gateway's start: checks the settings, has the port bound, and has it served by this process or by several.

Imports nothing that serves before it knows which: the parent of several workers only waits, and stays small. Exit
codes: 0 after a normal stop, 1 where the port cannot be had or a worker cannot start, 2 for wrong settings. Called by
__main__ where there are no arguments.
"""

import gc
import logging
import os
import sys
from pathlib import Path
from socket import socket

from gateway import __version__, logs
from gateway.process.listening import CannotListen, is_loopback, listen, url_of
from gateway.settings import InvalidSettings, Settings, load, share_run, start_warnings

log = logging.getLogger("gateway")


def main() -> int:
    """Serves; gives the exit code."""
    settings = _settings()
    if settings is None:
        return 2
    logs.set_up(settings.log_level, settings.log_format)
    for warning in start_warnings():
        log.warning(warning)
    try:
        listeners = listen(settings.gateway_host, settings.gateway_port)
    except CannotListen as error:
        log.error("cannot listen on %s:%d: %s", settings.gateway_host, settings.gateway_port, error)
        return 1
    log.info("version %s listens on %s", __version__, " and ".join(url_of(listener) for listener in listeners))
    if not (settings.api_keys or settings.api_keys_file or all(map(is_loopback, listeners))):
        log.warning("no API keys are set: whoever reaches this gateway may use the models and read all statuses")
    if settings.gateway_workers > 1:
        return _serve_with_workers(settings, listeners)
    return _serve(settings, listeners)


def check() -> int:
    """Says what is wrong with the settings, and starts nothing; gives the exit code."""
    return 0 if _settings() else 2


def _settings() -> Settings | None:
    """None where they are wrong, which has been said then."""
    try:
        return load()
    except InvalidSettings as error:
        print(*(f"gateway: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return None


def _serve(
    settings: Settings, listeners: list[socket], counts_file: Path | None = None, parent: int | None = None
) -> int:
    """Imports what serves. Nothing of that becomes garbage, and looking for some would take a sixth of the start."""
    gc.disable()
    from gateway.process.server import serve

    gc.freeze()  # else the next look would be at all of it
    gc.enable()
    return serve(listeners, settings.max_connections, counts_file, parent)


def _serve_with_workers(settings: Settings, listeners: list[socket]) -> int:
    from gateway.process.prefork import Workers

    share_run(settings)
    # Memory with a descriptor, which the workers inherit: see ledger.
    counts_file = Path(f"/proc/self/fd/{os.memfd_create('ollama-gateway-counts')}")

    def work(parent: int) -> int:
        return _serve(settings, listeners, counts_file, parent)

    def let_go() -> None:
        for listener in listeners:
            listener.close()

    # Else connections would still be taken, and never answered, when the workers close their listeners.
    return Workers(settings.gateway_workers, work, let_go).run()
