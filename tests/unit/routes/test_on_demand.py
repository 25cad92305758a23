"""Owns how the ASGI application comes to be: with the first question for it, once."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.routes.on_demand import RoutesOnDemand
from tests.support.waiting import GUARD_SECONDS, until

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Send


async def answered(routes: RoutesOnDemand, scope: dict[str, Any]) -> None:
    """Asks, with no client behind it."""
    await routes(scope, cast("Receive", None), cast("Send", None))


async def test_it_is_built_once_and_not_in_the_event_loops_thread() -> None:
    """Requests that come while it is built get the same application; the event loop goes on meanwhile."""
    go_on, built, seen = threading.Event(), [], []

    async def application(scope: dict[str, Any], *_: object) -> None:
        seen.append(scope["path"])

    def build() -> FastAPI:
        built.append(threading.get_ident())
        assert go_on.wait(GUARD_SECONDS)
        return cast("FastAPI", application)

    routes = RoutesOnDemand(build)
    assert built == []
    asked = [asyncio.create_task(answered(routes, {"path": path})) for path in ("/a", "/b")]
    await until(lambda: bool(built), GUARD_SECONDS, "the build has begun")
    asked[0].cancel()  # a request that ends does not end the build for the others
    go_on.set()
    await asked[1]
    await answered(routes, {"path": "/c"})
    assert seen == ["/b", "/c"]
    assert len(built) == 1
    assert built[0] != threading.get_ident()


async def test_a_build_that_fails_fails_each_request() -> None:
    """The error reaches the caller, which logs it and answers 500."""

    def build() -> FastAPI:
        raise RuntimeError("no such library")

    routes = RoutesOnDemand(build)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no such library"):
            await answered(routes, {})


async def test_a_build_that_failed_is_tried_again() -> None:
    """A moment without memory or free files does not break the routes for good."""
    results: list[object] = [OSError(24, "too many open files")]
    seen = []

    async def application(scope: dict[str, Any], *_: object) -> None:
        seen.append(scope["path"])

    def build() -> FastAPI:
        if results:
            raise cast("OSError", results.pop())
        return cast("FastAPI", application)

    routes = RoutesOnDemand(build)
    with pytest.raises(OSError, match="too many"):
        await answered(routes, {"path": "/a"})
    await answered(routes, {"path": "/b"})
    assert seen == ["/b"]
