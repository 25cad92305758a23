"""Tells the other gateways of this one: with every heartbeat, when the drain begins, when the store is back.

Owns the loop that does it. It delays no request, and a stop only for a bounded moment.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from gateway.metrics.counts import Counts
from gateway.nodes.node import Node, Outage, Seen, StoreView, parse
from gateway.store.interface import StoreError
from gateway.store.nodes import NodeStore, StoredNode

log = logging.getLogger("gateway.nodes")

_KEPT_MS = 600_000  # how long a record outlives the last word, at least
_ASK_SECONDS = 1.0
_LEAVE_SECONDS = 0.5
_MODELS_SECONDS = 0.25  # a heartbeat does not wait longer for Ollama; a later answer is in the next one
_LOOK_MODELS_SECONDS = 1.0
_TICK_SECONDS = 0.5  # how often the loop looks whether the store is back
_RETRY_SECONDS = 2.0  # after a failure of a store that is not away
_LINE_SECONDS = 60.0  # between two lines of one kind
_MISSING_RIGHT = ("NOPERM", "ERR")  # some servers say ERR if the right is missing in a script
_OVERWRITTEN_OFTEN = 2  # once may be the former run of this gateway, which stops

T = TypeVar("T")


class Announcer:
    """Tells the others what `own` says, with the present numbers. `run` is its loop, `close` takes the record away.

    `store` is None without a store: there are no others then. `load` gives the numbers of running and waiting requests,
    `loaded_models` the names of the models that Ollama has in memory. `is_store_up` says whether the store takes
    writes: if not, it is not asked.
    """

    def __init__(
        self,
        store: NodeStore | None,
        own: Node,
        *,
        load: Callable[[], tuple[int, int]],
        loaded_models: Callable[[], Awaitable[Sequence[str]]],
        is_store_up: Callable[[], bool],
        heartbeat_seconds: float,
        counts: Counts,
    ) -> None:
        self._store = store
        self._own = own
        self._load = load
        self._models = _Models(loaded_models)
        self._is_store_up = is_store_up
        self._heartbeat_seconds = heartbeat_seconds
        self._counts = counts
        self._outage = Outage()
        self._wake = asyncio.Event()
        self._telling = asyncio.Lock()
        self._is_leaving = False
        self._has_told = False  # the store has taken the record once
        self._overwritten = 0  # how often another process had written it meanwhile
        self._lines = _Lines()
        self._count([])

    # -- telling --

    async def run(self) -> None:
        """Tells the others, until `close`. Ends at once without a store."""
        while self._store is not None and not self._is_leaving:
            began = time.monotonic()
            if not self._own.is_draining:
                await self._models.refresh(min(_MODELS_SECONDS, self._heartbeat_seconds / 2))
            self._wake.clear()
            try:
                is_told = await self._tell(self._store)
            except Exception:
                is_told = False
                log.exception("telling the other gateways failed inside the gateway; trying again")
            wait_seconds = self._heartbeat_seconds if is_told else min(self._heartbeat_seconds, _RETRY_SECONDS)
            await self._pause(began + wait_seconds, is_told=is_told)

    def drain(self) -> None:
        """The gateway is about to stop: tells the others at once."""
        self._own = replace(self._own, is_draining=True)
        self._count([])
        self._wake.set()

    async def close(self) -> None:
        """Takes this gateway's record away. Takes half a second at most."""
        self._is_leaving = True
        self._wake.set()
        if self._store is None or not self._is_store_up():
            return
        try:
            async with asyncio.timeout(_LEAVE_SECONDS), self._telling:
                await self._store.leave()
        except (StoreError, TimeoutError) as error:
            log.debug("the record of this gateway stays until it expires: %s", error)
        except Exception:  # statuses have to be saved after this
            log.exception("leaving the other gateways failed inside the gateway")

    async def _pause(self, due: float, *, is_told: bool) -> None:
        """Waits until `due`, for a change that has to be told, or for a store that failed meanwhile or is back."""
        was_up = self._is_store_up()
        while not self._wake.is_set() and (left := due - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(left, _TICK_SECONDS))
            is_up = self._is_store_up()
            if is_up and (not was_up or (is_told and self._outage.is_away)):
                return
            was_up = is_up

    async def _tell(self, store: NodeStore) -> bool:
        """Writes the own record, and counts the gateways that are there. Whether that succeeded."""
        if not self._is_store_up():
            self._fail(None)
            return False
        async with self._telling:
            if self._is_leaving:
                return False
            kept_ms = max(_KEPT_MS, 2 * self._own.silent_ms)
            told = await self._ask(store.tell(self._present("up").text(), kept_ms))
        if told is None:
            return False
        self._overwritten += told.is_taken and self._has_told
        self._has_told = True
        if self._overwritten >= _OVERWRITTEN_OFTEN and self._lines.take("instance"):
            log.warning(
                "another gateway calls itself %s, too; GATEWAY_INSTANCE has to be unique per store", self._own.instance
            )
        self._count(self._others(store, told.nodes))
        return True

    # -- looking --

    async def table(self) -> list[Seen]:
        """This gateway and all that it knows of, by instance. This one alone without a store, or while it is away."""
        await self._models.refresh(_LOOK_MODELS_SECONDS)
        if self._store is None:
            return [self._seen("none")]
        if not self._is_store_up():
            return [self._seen("down")]
        found = await self._ask(self._store.look())
        if found is None:
            return [self._seen("down")]
        if all(instance != self._own.instance for instance, _, _ in found):
            self._wake.set()  # the store came back empty, and was not seen to be away
        return sorted([self._seen("up"), *self._others(self._store, found)], key=lambda seen: seen.node.instance)

    def _others(self, store: NodeStore, found: Sequence[StoredNode]) -> list[Seen]:
        """The other gateways. Leaves out malformed records, and reports them."""
        now, others = time.monotonic(), []
        for instance, age_ms, record in found:
            node = parse(instance, record)
            if node is None:
                store.report(instance)
            elif instance != self._own.instance:
                others.append(Seen(node, node.state(self._outage.silence_ms(age_ms, now)), age_ms))
        return others

    def _present(self, store: StoreView) -> Node:
        """What this gateway says of itself now."""
        running, waiting = self._load()
        return replace(self._own, running=running, waiting=waiting, models=self._models.names, store=store)

    def _seen(self, store: StoreView) -> Seen:
        """This gateway's row of the table."""
        own = self._present(store)
        return Seen(own, own.state(0), 0)

    # -- the store --

    async def _ask(self, answer: Awaitable[T]) -> T | None:
        """The store's answer; None if it fails or takes too long."""
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                found = await answer
        except (StoreError, TimeoutError) as error:
            self._fail(error)
            return None
        self._outage.answered(time.monotonic())
        return found

    def _fail(self, error: Exception | None) -> None:
        """The store was not asked, or gave no answer. A missing right is logged; the tracker logs all else."""
        self._outage.failed()
        self._count([])
        if isinstance(error, StoreError) and error.kind in _MISSING_RIGHT and self._lines.take("refusal"):
            log.warning("the store does not keep the table of gateways, GET /nodes shows this one alone: %s", error)

    def _count(self, others: Sequence[Seen]) -> None:
        """Sets the metric: this gateway and `others`, by state."""
        self._counts.show_nodes(Counter([self._own.state(0), *(seen.state for seen in others)]))


class _Models:
    """The names of the models that Ollama has in memory, as far as it has answered."""

    def __init__(self, ask: Callable[[], Awaitable[Sequence[str]]]) -> None:
        self.names: tuple[str, ...] = ()
        self._ask = ask
        self._asking: asyncio.Task[None] | None = None

    async def refresh(self, seconds: float) -> None:
        """Asks again, and waits up to `seconds` for the answer."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._take())
        await asyncio.wait([self._asking], timeout=seconds)

    async def _take(self) -> None:
        self.names = tuple(await self._ask())


class _Lines:
    """Which log lines are due: those of one kind at most once a minute."""

    def __init__(self) -> None:
        self._told_at: dict[str, float] = {}

    def take(self, kind: str) -> bool:
        """Whether a line of this kind is due. If it is, it counts as logged from then on."""
        now = time.monotonic()
        if now - self._told_at.get(kind, float("-inf")) < _LINE_SECONDS:
            return False
        self._told_at[kind] = now
        return True
