"""Loads the ASGI application of the other routes with the first request for one of them.

FastAPI and what it brings take 18 MiB and half a second of CPU. A gateway that only relays, and answers pollers, health
checks and Prometheus, never loads it.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.metrics.counts import Counts
from gateway.tracking.tracker import Tracker

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send


class RoutesOnDemand:
    """An ASGI application that `build` makes when it is needed: once, in a thread, so that relayed answers go on."""

    def __init__(self, build: "Callable[[], FastAPI]") -> None:
        self.build = build
        self._loading: asyncio.Task[FastAPI] | None = None

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        loading = self._loading = self._loading or asyncio.create_task(asyncio.to_thread(self.build))
        try:
            application = await asyncio.shield(loading)
        except Exception:  # files may have been short, or memory: the next request tries again
            if self._loading is loading:
                self._loading = None
            raise
        await application(scope, receive, send)


def load_application(tracker: Tracker, counts: Counts) -> "FastAPI":
    """Loads FastAPI, and makes the application."""
    from gateway.routes.application import build

    return build(tracker, counts)
