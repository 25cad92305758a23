"""Owns every wait of the tests: a condition is polled until it holds or a limit is over.

No test file sleeps by itself; it names what it waits for and for how long at most. A limit that no promise asks for
only ends a wait that is in vain: it is GUARD_SECONDS, which a busy machine does not reach. A shorter one is a promise.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")
STEP_SECONDS = 0.01
GUARD_SECONDS = 30.0


async def until(predicate: Callable[[], Any], seconds: float = GUARD_SECONDS, what: str = "") -> Any:
    """The first true value of `predicate` (plain or async); AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = predicate()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what or predicate}")
        await asyncio.sleep(STEP_SECONDS)


async def until_steady(measure: Callable[[], T], steady_seconds: float, seconds: float = GUARD_SECONDS) -> T:
    """The value of `measure` once it has not changed for `steady_seconds`."""
    end = time.monotonic() + seconds
    value, since = measure(), time.monotonic()
    while time.monotonic() - since < steady_seconds:
        if time.monotonic() > end:
            raise AssertionError(f"still changing after {seconds} s: {value}")
        await asyncio.sleep(STEP_SECONDS)
        if (new := measure()) != value:
            value, since = new, time.monotonic()
    return value


async def next_turn() -> None:
    """Let the loop do what it has to do now."""
    await asyncio.sleep(0)


async def next_millisecond() -> None:
    """Wait until the wall clock shows another millisecond, so that what follows is younger than what was."""
    left_ns = 1_000_000 - time.time_ns() % 1_000_000
    await asyncio.sleep((left_ns + 100_000) / 1e9)


async def within(seconds: float, awaitable: Awaitable[T], what: str = "") -> T:
    """The result of `awaitable`; AssertionError when it takes longer than `seconds`."""
    try:
        return await asyncio.wait_for(awaitable, seconds)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what or awaitable}") from None
