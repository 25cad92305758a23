"""The gateway's start: checks the settings, has the port bound, and serves.

Imports nothing that serves before the port is bound: wrong settings and a port in use end it at once. Exit codes: 0
after a normal stop, 1 where the port cannot be had, 2 for wrong settings.
"""

import gc
import logging
import sys
from socket import socket

from gateway import __version__, logs
from gateway.process.listening import CannotListen, is_loopback, listen, url_of
from gateway.settings import InvalidSettings, Settings, load, start_warnings

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
        log.warning(
            "no API keys are set: any client that reaches this gateway may use the models and read all statuses"
        )
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


def _serve(settings: Settings, listeners: list[socket]) -> int:
    """Imports what serves. Nothing of that becomes garbage, and looking for some would take a sixth of the start."""
    gc.disable()
    from gateway.process.server import serve

    gc.freeze()  # else the next look would be at all of it
    gc.enable()
    return serve(settings, listeners)
