"""The lookout: asks the store for tasks of silent gateways and for requests to cancel. Probes a store that is away.

Owns two loops, which never end by themselves: `watch` and `listen`. `Condition` decides what a failure means.
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
    """Watches the store and listens to it. `on_failure` is called with the reason if the store could not be asked.

    `exempt` returns the names of requests that must not be called lost. `on_cancel` is called with the name of each
    request to cancel, `on_silent` with each name in `exempt` for which the store lacks heartbeats.
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
        self.has_looked = asyncio.Event()  # the store has answered or failed once

    async def watch(self) -> None:
        """Looks once a second. Probes twice a second while the store is away."""
        has_ended_earlier_run = False
        await self._look(self._probe)
        self.has_looked.set()
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
        """Tries all commands that the gateway needs."""
        started = time.monotonic()
        await self._store.probe()
        self._condition.pass_probe(time.monotonic() - started)

    async def listen(self) -> None:
        """Gets requests to cancel at once, from the channel. While that fails, `watch` finds them within a second."""
        while True:
            try:
                await self._store.listen(self._on_cancel)
            except StoreError as error:
                self._tell_polling(error)
            except Exception:
                log.exception("listening for cancels failed inside the gateway; trying again")
            await asyncio.sleep(WATCH_SECONDS)

    def _tell_polling(self, error: StoreError) -> None:
        """Warns once of a missing right. A connection that broke needs no line here: `Condition` logs it."""
        if error.kind == "NOPERM" and not self._is_polling_told:
            self._is_polling_told = True
            log.warning("the store forbids to subscribe (%s); cancels are looked for once a second", error)
        else:
            log.debug("not listening for cancels: %s", error)
