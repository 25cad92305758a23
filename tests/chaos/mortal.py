"""Owns gateways that a test may kill, pause and start again; whatever becomes of them, `put_down` leaves nothing."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from tests.support.gateway import Gateway
from tests.support.process import kill

if TYPE_CHECKING:
    import pytest

    from tests.support.scripted import Upstream


class Mortal(Gateway):
    """A gateway process in front of a scripted upstream; it is not started yet."""

    def __init__(self, paths: pytest.TempPathFactory, upstream: Upstream, **settings: str) -> None:
        base = {"UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}"}
        super().__init__(paths.mktemp("gateway") / "gateway.log", **(base | settings))

    async def kill(self) -> None:
        """SIGKILL: it tells no one."""
        await kill(self.process)

    def pause(self) -> None:
        """SIGSTOP: it is there and does nothing."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT: it goes on where it was."""
        os.kill(self.process.pid, signal.SIGCONT)

    async def put_down(self) -> None:
        """Close what leads to it, and kill it if it still runs."""
        await self.http.aclose()
        await self.close_clients()
        if hasattr(self, "process") and self.process.poll() is None:
            await self.kill()
