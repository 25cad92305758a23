"""Claims the ids that clients choose: one request at a time holds an id, over all gateways.

The store decides. If the id is in flight at another gateway, the claim waits a moment for that end: a client library
sends its retry while the other gateway still tears the first request down (contract 4.7).
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from gateway.store.interface import Store, StoreError
from gateway.tasks.document import has_ended, is_visible
from gateway.tracking.tracked import TrackedTask
from gateway.tracking.writer import StoreWriter

log = logging.getLogger("gateway.tracker")

END_SECONDS = 1.0  # how long a claim waits for the end of another gateway's request
_LOOK_SECONDS = 0.1

Then = Callable[[bool], None]


class Claims:
    """The claims of one gateway. `leave` is told of each task that was refused.

    A task has to be in flight by then: a second request with its id is refused without asking the store.
    """

    def __init__(self, writer: StoreWriter, store: Store, leave: Callable[[TrackedTask], None]) -> None:
        self._writer = writer
        self._store = store
        self._leave = leave
        self._waiting: set[asyncio.Task[None]] = set()

    def claim(self, task: TrackedTask, then: Then) -> None:
        """Claims the id of `task` and calls `then` once: whether the request may go on.

        That is when the store has answered, or when the bounded wait for it is over; at once while the store is away.
        A request whose client leaves meanwhile is not told.
        """
        self._ask(task, then, time.monotonic() + END_SECONDS)

    def _ask(self, task: TrackedTask, then: Then, until: float) -> None:
        self._writer.wait_for(task, 0, partial(self._answered, task, then, until))

    def _answered(self, task: TrackedTask, then: Then, until: float) -> None:
        if not task.is_refused:
            then(True)
        elif time.monotonic() < until and not self._store.answers_at_once:  # that store has one gateway alone
            waiting = asyncio.get_running_loop().create_task(self._wait_and_ask_again(task, then, until))
            self._waiting.add(waiting)
            waiting.add_done_callback(self._waiting.discard)
        else:
            self._refuse(task, then)

    async def _wait_and_ask_again(self, task: TrackedTask, then: Then, until: float) -> None:
        has_come_free = False
        try:
            has_come_free = await self._comes_free(task, until)
        except StoreError as error:
            log.debug("task %s: no word of the request that holds its id: %s", task.task_id, error)
        except Exception:
            log.exception("task %s failed inside the gateway", task.task_id)
        if task.is_final:
            return  # its client has left, or it was cancelled
        if has_come_free:
            task.claim_again()
            self._ask(task, then, until)
        else:
            self._refuse(task, then)

    async def _comes_free(self, task: TrackedTask, until: float) -> bool:
        """Whether the request that holds the id ends in time. The end of another key's request is not waited for."""
        while not task.is_final:
            [document] = await self._store.read([task.task_id])
            if document is None or has_ended(document):
                return document is None or is_visible(document, task.owner or None)
            if not is_visible(document, task.owner or None) or time.monotonic() >= until:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _refuse(self, task: TrackedTask, then: Then) -> None:
        self._leave(task)
        then(False)
