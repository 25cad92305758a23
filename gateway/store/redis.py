"""The store in Redis (or Valkey).

Puts its parts together: the writer's own connection, the reads, the lists, and the search for orphans. Each write is
one atomic step in a Lua script and may be repeated. layout.py and lists.lua say what Redis holds.
"""

import asyncio
import time
from collections.abc import Callable, Container, Coroutine, Sequence
from contextlib import suppress
from typing import Any, cast

from gateway.store.address import Access
from gateway.store.connecting import Connector
from gateway.store.interface import Incomplete, Page, Peeked, PeekedPage, Record, StoreError, ignore
from gateway.store.layout import OWN_PREFIX, SHARED_KEYS, Script, label_list_name, list_names
from gateway.store.malformed import Malformed
from gateway.store.orphans import Orphans
from gateway.store.pages import Pages, start_of
from gateway.store.peeks import Peeks
from gateway.store.pipeline import COMMAND_TIMEOUT_SECONDS, Pipeline, Replies, mapped
from gateway.store.reader import Reader
from gateway.store.rebuild import Rebuild
from gateway.store.redis_nodes import RedisNodes
from gateway.store.statuses import MEND, PROBE, STATUS, Statuses
from gateway.tasks.stages import State

CANCEL_CHANNEL = OWN_PREFIX + "cancel"
_LISTS_MARGIN_SECONDS = 3600
_CANCEL_SECONDS = 60  # how long a cancel waits for a gateway to find it; each looks once a second
_QUIET_SECONDS = 2.0  # a silent channel is subscribed to again: the reply shows that the connection works
_REBUILD_SECONDS = 1.0  # how long a page waits for lists that are being rebuilt


class RedisStore:
    """Statuses in Redis or Valkey. `boot` names this process, so that the store can tell its claims from others'.

    `boot` is `<site>-<run>-<process>`. If `instance` has tasks in flight at this site from another run, that run is
    dead. `access` says how to get into the store; a URL is enough for a plain one.
    """

    def __init__(
        self,
        access: Access | Connector | str,
        *,
        boot: str,
        longest_ttl_seconds: int,
        ttl_done_seconds: int = 86_400,
        grace_seconds: float = 30,
        instance: str = "",
    ) -> None:
        self.answers_at_once = False
        lists_ttl_seconds = longest_ttl_seconds + _LISTS_MARGIN_SECONDS
        malformed = Malformed()
        self._connector = connector = Connector.to(access)
        self._pipeline = Pipeline(connector, [STATUS.text, PROBE.text, MEND.text])
        self._statuses = Statuses(self._pipeline, boot, lists_ttl_seconds, malformed)
        self.write = self._statuses.write  # a task's status and its place in the lists, in one atomic step
        self._reader = Reader(connector, malformed, grace_seconds=grace_seconds)
        self.clock = self._reader.clock
        self._orphans = Orphans(
            self._reader,
            malformed,
            self.clock,
            boot=boot,
            instance=instance,
            ttl_done_seconds=ttl_done_seconds,
            lists_ttl_seconds=lists_ttl_seconds,
        )
        self._pages = Pages(self._reader, malformed, self._orphans.settle)
        self._peeks = Peeks(connector, self.clock)
        self._rebuild = Rebuild(
            self._reader, boot, lists_ttl_seconds, lambda: (self._pipeline.is_open, self._pipeline.connections)
        )
        self._cancel = Script("cancel")
        self.nodes = RedisNodes(self._reader, malformed, instance=instance, boot=boot)

    @property
    def lost(self) -> int:
        """How many tasks of other gateways this process has made lost."""
        return self._orphans.lost

    @property
    def connections(self) -> int:
        """How often the writer has connected."""
        return self._pipeline.connections

    # -- the writer --

    async def probe(self) -> None:
        """Tries writing, watching and reading: a server may accept some commands only. Raises StoreError."""
        replies: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        self._statuses.probe(lambda found: None if replies.done() else replies.set_result(found))
        found = await replies
        if isinstance(found, StoreError):
            raise found
        await self._reader.asked(self._probe_reads())

    async def _probe_reads(self) -> None:
        await self._reader.documents(["-"])
        await self._orphans.look(exempt=None)
        with suppress(Incomplete):
            await self._pages.read(1, list_names(State.PENDING, None), start_of(None), None)

    def replace_end(self, record: Record) -> None:
        """Does nothing: RedisAnswers changes the document of an ended task whose answer is dropped."""

    # -- reads --

    async def read(self, task_ids: Sequence[str], exempt: Container[str] | None = None) -> list[str | None]:
        """The documents of `task_ids`, in that order; None for a task without a well-formed document."""
        documents = await self._reader.asked(self._orphans.documents(task_ids, exempt))
        return [document or None for document in documents]

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        label: str = "",
        exempt: Container[str] | None = None,
    ) -> Page:
        """Up to `limit` documents (of `owner`, of `label`), newest first, after `cursor`.

        Waits up to a second for lists that are being rebuilt. Raises InvalidCursor and StoreError (Incomplete).
        """
        start, names = start_of(cursor), _lists(state, owner, label)
        deadline = time.monotonic() + _REBUILD_SECONDS
        while True:
            try:
                return await self._reader.asked(self._pages.read(limit, names, start, exempt, state=state, label=label))
            except Incomplete:
                left_seconds = deadline - time.monotonic()
                if left_seconds <= 0:
                    raise
                await self._rebuild.wait(left_seconds, names)

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Calls `then` with the status of a task."""
        self._peeks.document(task_id, then)

    def peek_page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        then: Callable[[PeekedPage], None],
        *,
        owner: str | None = None,
        label: str = "",
    ) -> None:
        """Calls `then` with a page. Raises InvalidCursor."""
        self._peeks.page(limit, _lists(state, owner, label), start_of(cursor), then, state=state, label=label)

    # -- orphans and cancels --

    async def presumed(self) -> list[str]:
        """The documents of the tasks that are presumed lost."""
        return await self._reader.asked(self._orphans.presumed())

    async def end_earlier_run(self) -> None:
        """Makes lost for good the tasks that an earlier run of this gateway, at the same site, left behind."""
        await self._reader.asked(self._orphans.end_earlier_run())

    async def watch(self, exempt: Container[str], on_silent: Callable[[str], object] = ignore) -> list[str]:
        """Makes silent tasks lost. Returns the names of requests to cancel. Starts a rebuild if lists lack tasks."""
        self._connector.check_primary()
        cancels, is_complete = await self._reader.asked(self._orphans.look(exempt, on_silent))
        if not is_complete:
            self._rebuild.begin()
        return cancels

    # -- cancelling --

    async def ask_cancel(self, name: str) -> None:
        """Asks all gateways to cancel `name`. Those that listen hear it at once, the others within a second."""
        await self._reader.asked(self._reader.evaluate(self._cancel, SHARED_KEYS, [name, _CANCEL_SECONDS]))
        with suppress(StoreError):  # publishing may be forbidden; if subscribing is, too, the lookout logs it
            publishing = self._reader.redis.publish(CANCEL_CHANNEL, name)
            await self._reader.asked(cast("Coroutine[Any, Any, Any]", publishing))

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Calls `on_cancel` with each name that a gateway asks to cancel. Raises StoreError if the connection ends."""
        moves = self._connector.moves
        async with self._reader.redis.pubsub() as pubsub:
            await mapped(pubsub.subscribe(CANCEL_CHANNEL))
            is_confirmed = False
            while True:
                seconds = _QUIET_SECONDS if is_confirmed else COMMAND_TIMEOUT_SECONDS
                message = await mapped(pubsub.get_message(timeout=seconds))
                if self._connector.moves != moves or (message is None and not is_confirmed):
                    raise StoreError("no answer in time, or another primary")
                is_confirmed = message is not None
                if message is None:
                    await mapped(pubsub.subscribe(CANCEL_CHANNEL))
                elif message["type"] == "message":
                    on_cancel(message["data"])

    def tell(self, message: str) -> None:
        """Sends all gateways a message."""
        self._peeks.publish(CANCEL_CHANNEL, message)

    async def close(self) -> None:
        """Stops rebuilding, and closes all connections."""
        await self._rebuild.close()
        await self._peeks.close()
        await self._pipeline.close()
        await self._reader.close()
        await self._connector.close()


def _lists(state: State | None, owner: str | None, label: str) -> list[str]:
    """The names of the lists that together have the tasks of a page."""
    return [label_list_name(label, owner)] if label else list_names(state, owner)
