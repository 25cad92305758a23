"""The gateway's start: checks the settings, binds the port, and serves.

Imports the application only after the port is bound, so wrong settings or a port in use end the process at once. Exit
codes: 0 after a normal stop, 1 if the port cannot be bound, 2 for wrong settings.
"""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

from gateway import __version__, logs
from gateway.process.listening import CannotListen, is_loopback, listen, url_of
from gateway.settings import InvalidSettings, Settings, load, start_warnings

log = logging.getLogger("gateway")


def main() -> int:
    """Serves. Returns the exit code."""
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
    """Prints what is wrong with the settings, and starts nothing. Returns the exit code."""
    return 0 if _settings() else 2


def _settings() -> Settings | None:
    """The settings. If they are wrong, prints the errors and returns None."""
    try:
        return load()
    except InvalidSettings as error:
        print(*(f"gateway: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return None


def _serve(settings: Settings, listeners: list[socket]) -> int:
    """Imports the application, without garbage collection: it would find nothing, and take a sixth of the start."""
    gc.disable()
    with _without_telemetry():
        from gateway.process.server import serve

    gc.freeze()  # else the next collection would look at all modules
    gc.enable()
    return serve(settings, listeners)


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Modules that are imported meanwhile do not find OpenTelemetry.

    redis-py imports its SDK where that is installed, as in the image, for metrics that are off here. That takes 9 MiB,
    and a quarter of the start.
    """
    sys.modules["opentelemetry"] = None  # type: ignore[assignment] # documented: an import of it fails
    try:
        yield
    finally:
        del sys.modules["opentelemetry"]
