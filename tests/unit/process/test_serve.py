"""Owns what is so between the program's start and its serving; whole programs are started in the integration tests."""

from __future__ import annotations

import subprocess
import sys

from tests.support.ports import free_port
from tests.support.process import ROOT, environment

# In a process of its own: what is frozen stays so.
START = """
import gc, gateway.process.server, gateway.process.start
gateway.process.server.serve = lambda *_: print(gc.isenabled(), gc.get_freeze_count() > 10_000) or 0
print(gateway.process.start.main())
"""


def test_the_collector_is_on_when_it_serves() -> None:
    """Garbage is looked for from then on, but not among what was imported."""
    settings = {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(free_port()), "LOG_LEVEL": "error"}
    started = subprocess.run(
        [sys.executable, "-c", START], cwd=ROOT, env=environment(settings), capture_output=True, text=True, timeout=120
    )
    assert (started.stdout, started.stderr) == ("True True\n0\n", "")
