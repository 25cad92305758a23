"""Writes kept answers to the store: what has come of all of them in 50 ms in one call, or 16 KiB of one at once.

No exchange waits for it. One call is under way at a time. After a failure all that is missing is written again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from gateway.kept.answer import Answer
from gateway.store.answers import AnswerStore, Part, Saved
from gateway.store.interface import StoreError
from gateway.tasks.task import Kept

log = logging.getLogger("gateway.kept")

LINGER_SECONDS = 0.05
_RETRY_SECONDS = 0.5
_CALL_BYTES = 256 * 1024  # in one call, if more than one answer is due


class Saver:
    """Writes what is due of `answers` (all that are held). `on_saved` is told of each answer after a part of it.

    Answers that run are renewed every `heartbeat_seconds`.
    """

    def __init__(
        self,
        store: AnswerStore,
        answers: Iterable[Answer],
        on_saved: Callable[[Answer], None],
        *,
        ttl_running_seconds: int,
        ttl_response_seconds: int,
        heartbeat_seconds: float,
    ) -> None:
        self._store = store
        self._answers = answers
        self._on_saved = on_saved
        self._ttls = ttl_running_seconds, ttl_response_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._due: dict[Answer, None] = {}
        self._is_writing = False
        self._next: asyncio.Handle | None = None  # the next call
        self._is_soon = False  # at the end of this turn of the loop, not after the linger
        self.failing_since: float | None = None  # monotonic seconds
        self.is_forbidden = False  # the account lacks a right, so waiting does not help
        self._is_forbidden_told = False

    def changed(self, answer: Answer) -> None:
        """Something of `answer` is to be written."""
        if answer not in self._due:
            if not answer.is_due:
                return
            self._due[answer] = None
        if self._is_writing or self._is_soon or (self.failing_since is not None and self._next is not None):
            return
        if answer.is_urgent:
            self._is_soon = True
            if self._next is not None:
                self._next.cancel()
            self._next = asyncio.get_running_loop().call_soon(self._write)
        elif self._next is None:
            self._next = asyncio.get_running_loop().call_later(LINGER_SECONDS, self._write)

    def discard(self, answer: Answer) -> None:
        """Nothing more of `answer` is to be written."""
        self._due.pop(answer, None)

    async def run(self) -> None:
        """Renews answers, as long as the gateway runs: a long silence must not let them expire."""
        while True:
            await asyncio.sleep(self._heartbeat_seconds)
            for answer in list(self._answers):
                if answer.is_writable:
                    self._due[answer] = None
            self._write()

    async def finish(self, seconds: float) -> None:
        """Writes what is left, for a bounded time."""
        end = time.monotonic() + seconds
        while (self._due or self._is_writing) and time.monotonic() < end:
            self._write()
            await asyncio.sleep(0.01)

    def _write(self) -> None:
        if self._next is not None:
            self._next.cancel()
        self._next, self._is_soon = None, False
        if self._is_writing or not self._due:
            return
        batch: list[tuple[Answer, Part]] = []
        size = 0
        for answer in list(self._due):
            part = answer.take_part(*self._ttls)
            if answer.is_dropped:
                continue  # it got too long, and is not due any more
            size += len(part.piece)
            if batch and size > _CALL_BYTES:
                break
            batch.append((answer, part))
        for answer, _ in batch:
            del self._due[answer]
        self._is_writing = True
        self._store.save([part for _, part in batch], partial(self._take, batch))

    def _take(self, batch: list[tuple[Answer, Part]], results: list[Saved] | StoreError) -> None:
        self._is_writing = False
        if isinstance(results, StoreError):
            self._fail(batch, results)
            return
        if self.failing_since is not None and batch:
            if not self.is_forbidden:  # else a part of an answer may go through, and the next one fail again
                log.info("the store takes kept answers again")
            self.failing_since, self.is_forbidden = None, False
        for (answer, part), result in zip(batch, results, strict=True):
            self._taken(answer, part, result)
        self._go_on()

    def _go_on(self) -> None:
        """Writes what has become due during the last call: at once if something of it is urgent."""
        for answer in self._due:
            self.changed(answer)
            if self._is_soon:
                break

    def _taken(self, answer: Answer, part: Part, result: Saved) -> None:
        if answer.is_dropped:
            return
        match result:
            case Saved.SAVED:
                answer.saved(part)
            case Saved.MISSING:
                answer.lost()
            case Saved.NO_ROOM | Saved.SUPERSEDED:
                answer.drop(Kept.NO_ROOM)
            case Saved.DROPPED:
                answer.drop(Kept.DELETED)
        if answer.is_ending and not answer.is_dropped:
            self._on_saved(answer)
        if answer.is_due:
            self._due[answer] = None

    def _fail(self, batch: list[tuple[Answer, Part]], error: StoreError) -> None:
        """Tries again later, in the same order."""
        self.is_forbidden = error.kind == "NOPERM"
        if self.failing_since is None:
            if not (self.is_forbidden and self._is_forbidden_told):
                log.warning("the store takes no kept answers: %s", error)
            self.failing_since = time.monotonic()
        self._is_forbidden_told = self._is_forbidden_told or self.is_forbidden
        self._due = {answer: None for answer, _ in batch if not answer.is_dropped} | self._due
        self._next = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._write)
