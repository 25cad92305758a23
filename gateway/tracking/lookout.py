"""The look-out: asks the store what other gateways left behind and what is to be cancelled; probes one that is away.

Owns two loops, which never end by themselves: one looks, one listens. `Condition` decides what a failure means.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Container

from gateway.store.interface import Store, StoreError
from gateway.tracking.condition import Condition

log = logging.getLogger("gateway.tracker")

WATCH_SECONDS = 1.0
RETRY_SECONDS = 0.5  # how often a store that is away is asked again


class Lookout:
    """Looks and listens. `on_failure` is told why the store could not be asked.

    `exempt` gives the names of requests that are not to be called lost; `on_cancel` is called with the names of those
    to be cancelled, `on_silent` with those of `exempt` that the store takes for silent.
    """

    def __init__(
        self,
        store: Store,
        condition: Condition,
        *,
        exempt: Callable[[], Container[str]],
        on_cancel: Callable[[str], object],
        on_silent: Callable[[str], object],
        on_failure: Callable[[StoreError], None],
    ) -> None:
        self._store = store
        self._condition = condition
        self._exempt = exempt
        self._on_cancel = on_cancel
        self._on_silent = on_silent
        self._on_failure = on_failure
        self._is_polling_told = False

    async def watch(self) -> None:
        """Once a second; twice, while the store is away."""
        has_ended_earlier_run = False
        await self._look(self._probe)
        while True:
            if not self._condition.is_up:
                await self._look(self._probe)
            else:
                has_ended_earlier_run = has_ended_earlier_run or await self._look(self._store.end_earlier_run)
                await self._look(self._watch)
            self._condition.tell()
            await asyncio.sleep(WATCH_SECONDS if self._condition.is_up else RETRY_SECONDS)

    async def _look(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except StoreError as error:
            self._on_failure(error)
        except Exception:
            log.exception("looking after the store failed inside the gateway; trying again")
        else:
            return True
        return False

    async def _watch(self) -> None:
        for name in await self._store.watch(self._exempt(), self._on_silent):
            self._on_cancel(name)

    async def _probe(self) -> None:
        """Finds out whether the store takes all that is asked of it."""
        started = time.monotonic()
        await self._store.ping()
        self._condition.pass_probe(time.monotonic() - started)

    async def listen(self) -> None:
        """Hears at once what is to be cancelled; while that fails, `watch` finds it a little later."""
        while True:
            try:
                await self._store.listen(self._on_cancel)
            except StoreError as error:
                self._tell_polling(error)
            except Exception:
                log.exception("listening for cancels failed inside the gateway; trying again")
            await asyncio.sleep(WATCH_SECONDS)

    def _tell_polling(self, error: StoreError) -> None:
        """Warns once of a right that is missing. A connection that broke is the condition's matter."""
        if error.kind == "NOPERM" and not self._is_polling_told:
            self._is_polling_told = True
            log.warning("the store forbids to subscribe (%s); cancels are looked for once a second", error)
        else:
            log.debug("not listening for cancels: %s", error)
