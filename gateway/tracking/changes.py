"""Pollers that wait for a status to change, and how they learn of it.

A change made by this process wakes them at once. For tasks of other gateways the store is read four times a second,
once for all that wait, and not at all while none waits. Knows events by their id only.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence

from gateway.store.interface import StoreError
from gateway.tasks.document import fields_of

_LOOK_SECONDS = 0.25
_CLOSED_SECONDS = 0.05  # the longest wait while the gateway stops


def event_id(document: str | None) -> str:
    """The event that a document tells of; "" for none."""
    return str((fields_of(document or "") or {}).get("event_id", ""))


class Changes:
    """`look` reads documents from the store; `own` are the ids whose changes are told by `changed`.

    `waiters` has the ids that are waited for; while it is empty, `changed` need not be called.
    """

    def __init__(self, look: Callable[[Sequence[str]], Awaitable[list[str | None]]], own: Container[str]) -> None:
        self._look = look
        self._own = own
        self.waiters: dict[str, dict[asyncio.Future[None], str]] = {}
        self._looking: asyncio.Task[None] | None = None
        self._is_closed = False

    async def wait(self, task_id: str, event: str, seconds: float) -> bool:
        """Waits until the event of `task_id` is no longer `event`, as far as is known. False after `seconds`."""
        if self._is_closed or seconds <= 0:
            await asyncio.sleep(min(max(seconds, 0), _CLOSED_SECONDS))
            return False
        waiter = asyncio.get_running_loop().create_future()
        self.waiters.setdefault(task_id, {})[waiter] = event
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_while_awaited())
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            waiters = self.waiters[task_id]
            del waiters[waiter]
            if not waiters:
                del self.waiters[task_id]
        return not self._is_closed

    def changed(self, task_id: str) -> None:
        """A task of this process has changed."""
        for waiter in self.waiters.get(task_id, ()):
            _wake(waiter)

    def close(self) -> None:
        """Ends all waits: the gateway is about to stop."""
        self._is_closed = True
        for task_id in self.waiters:
            self.changed(task_id)

    async def _look_while_awaited(self) -> None:
        try:
            while self.waiters:
                await asyncio.sleep(_LOOK_SECONDS)
                await self._look_once([task_id for task_id in self.waiters if task_id not in self._own])
        finally:
            self._looking = None

    async def _look_once(self, task_ids: list[str]) -> None:
        if not task_ids:
            return
        try:
            documents = await self._look(task_ids)
        except StoreError:
            return  # the next look may succeed; each wait ends with its time
        for task_id, document in zip(task_ids, documents, strict=True):
            event = event_id(document)
            for waiter, seen in self.waiters.get(task_id, {}).items():
                if seen != event:
                    _wake(waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
