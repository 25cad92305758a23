"""Looks into kept answers, wherever they are: held by this process, or in the store.

Owns nothing: each look is new, so a reader does not notice when an answer moves from memory to the store.
"""

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.errors import GatewayError, GenerationChanged, NotFound, ResponseGone, ResponseNotKept, StoreAway
from gateway.kept.answer import Answer
from gateway.kept.head import End, KeptHead, Refusal, head_in
from gateway.kept.keeping import Keeping
from gateway.store.answers import READ_BYTES, AnswerStore, StoredAnswer
from gateway.store.interface import StoreError, name_in, public_reason
from gateway.tasks.document import fields_of, has_ended, is_visible, rank_of
from gateway.tasks.stages import FINAL_RANK, Stage, State
from gateway.tasks.task import Kept
from gateway.tracking.answers import StoreUnavailable

_AWAY_SECONDS = 2.0  # for a read while the store is known to be away
# A look at another gateway's answer is repeated so soon; the longer nothing comes, the later.
_WAIT_SECONDS = 1.0
_SOONEST_SECONDS, _LATEST_SECONDS = 0.03, 0.25
# A task that has ended, and whose answer does not: its gateway died between the two.
_UNENDED_SECONDS = 10.0
# What a reader is told if no answer came, and the client was told nothing either.
_NEVER_CAME = Refusal(502, "upstream_error", "the task ended before its answer began")


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an answer, from an offset on.

    `generation` "": nothing of it is known yet. `length`: of the body so far. `piece`: what comes next, not all of it.
    `document`: the status, as the store has it, "" if this process knows it better.
    """

    generation: str
    head: KeptHead | None
    piece: bytes
    length: int
    end: End | None
    answer: Answer | None = None  # if this process holds it
    document: str = ""

    @property
    def has_begun(self) -> bool:
        """Whether the head of the answer is known."""
        return self.head is not None and self.head.status > 0

    @property
    def refusal(self) -> Refusal | None:
        """The error that stands in the place of the answer."""
        if self.end is None or self.has_begun:
            return None
        return (self.head and self.head.refusal) or _NEVER_CAME


class Looking:
    """Looks for readers of other tasks' answers. `reader`: the key whose tasks it may see, None for all."""

    def __init__(self, keeping: Keeping) -> None:
        self._keeping = keeping
        self._tracker = keeping.tracker
        self._tasks = keeping.tasks
        self._shared: dict[str, asyncio.Future[Look]] = {}  # looks under way, by task id

    async def look(self, task_id: str, reader: str | None, offset: int = 0, generation: str = "") -> Look:
        """What there is of the answer of a task. `generation` "": of the newest one.

        Raises NotFound, ResponseNotKept, ResponseGone, GenerationChanged, StoreAway.
        """
        answer = self._held(task_id, reader)
        found = await self._stored(task_id, reader, offset) if answer is None else _own(answer, offset)
        if generation and found.generation and found.generation != generation:
            raise GenerationChanged(f"the answer is of the generation {found.generation!r} now")
        return found

    def holds(self, task_id: str) -> bool:
        """Whether this process holds the newest answer of the task."""
        answer = self._keeping.find(task_id)
        return answer is not None and self._tasks.find(task_id) in (None, answer.task)

    async def look_together(self, task_id: str) -> Look:
        """As `look`, for all keys: requests that ask for one id at once share one look.

        Fifty retries of one call may come at once, and the first answer of the store is all that they need.
        """
        if self.holds(task_id):
            return await self.look(task_id, None)
        looking = self._shared.get(task_id)
        if looking is None:
            looking = self._shared[task_id] = asyncio.ensure_future(self.look(task_id, None))
            looking.add_done_callback(partial(self._looked, task_id))
        return await asyncio.shield(looking)

    def _looked(self, task_id: str, looking: "asyncio.Future[Look]") -> None:
        del self._shared[task_id]
        if not looking.cancelled():
            looking.exception()  # all who asked may have left

    def newest(self, task_id: str) -> object | None:
        """The newest request with this id that this process runs or remembers. It is to be compared alone."""
        return self._tasks.find(task_id)

    async def wait(self, look: Look, since: float, most: float | None = None) -> None:
        """Waits for more than `look` has found, at most `most` seconds after `since`.

        `since`: when something new came last, in monotonic seconds.
        """
        idle = time.monotonic() - since
        left = _WAIT_SECONDS if most is None else min(max(most - idle, 0), _WAIT_SECONDS)
        if look.answer is not None:
            await look.answer.wait(left)
        else:
            await asyncio.sleep(min(max(idle / 4, _SOONEST_SECONDS), _LATEST_SECONDS, left))

    @property
    def is_store_up(self) -> bool:
        """Whether the store is known to answer."""
        return self._tracker.is_store_up

    def document(self, look: Look) -> str:
        """The status document of the task that was looked at."""
        if look.answer is not None:
            return self._tasks.document(look.answer.task)
        return look.document

    def owner_and_state(self, look: Look) -> tuple[str, State]:
        """The name of the key of the task that was looked at ("" without one), and its state."""
        if look.answer is not None:
            return look.answer.task.owner, look.answer.task.state
        fields = fields_of(look.document) or {}
        return fields["extensions"].get("owner") or "", State(fields["state"])

    def attempt(self, look: Look) -> int:
        """The attempt that was looked at."""
        if look.answer is not None:
            return look.answer.task.likely_attempt
        return int((fields_of(look.document) or {})["extensions"]["attempt"])

    def has_started(self, look: Look) -> bool:
        """Whether the task that was looked at was handed over to Ollama by then."""
        if look.answer is not None:
            return look.answer.task.started_ms is not None
        return ((fields_of(look.document) or {}).get("extensions") or {}).get("started_ms") is not None

    def _held(self, task_id: str, reader: str | None) -> Answer | None:
        """The answer of the newest request of a task, if this process holds it. Raises NotFound, ResponseGone."""
        answer = self._keeping.find(task_id)
        if answer is None:
            return None
        newest = self._tasks.find(task_id) or answer.task
        if reader not in (None, newest.owner):
            raise _unknown(task_id)
        if newest is not answer.task and newest.response is None:
            raise _superseded(task_id)
        return answer if newest is answer.task else None

    async def _stored(self, task_id: str, reader: str | None, offset: int) -> Look:
        store = self._keeping.store
        if store is None:
            document = await self._document(task_id, reader)
            raise _no_answer(task_id, document)
        stored = await self._read(store, task_id, offset)
        if stored.document is None or not is_visible(stored.document, reader):
            document = await self._document(task_id, reader)
            if document is None or not _is_kept(document):
                raise _no_answer(task_id, document)
            # This process alone knows the task, or the store has it only now.
            stored = await self._read(store, task_id, offset)
            if stored.document is None and not has_ended(document):
                return Look("", None, b"", 0, None, document=document)
            if stored.document is None:
                raise _no_answer(task_id, document)
        return _found(task_id, stored, self._tracker.seconds())

    async def _read(self, store: AnswerStore, task_id: str, offset: int) -> StoredAnswer:
        try:
            async with asyncio.timeout(None if self._tracker.is_store_up else _AWAY_SECONDS):
                return await store.read(task_id, offset)
        except (StoreError, TimeoutError) as error:
            raise StoreAway(f"the status store is away: {public_reason(error)}") from error

    async def _document(self, task_id: str, reader: str | None) -> str | None:
        try:
            return await self._tracker.read(task_id, reader)
        except StoreUnavailable as error:
            raise StoreAway(f"the status store is away: {error}") from error


def _is_kept(document: str) -> bool:
    return bool((fields_of(document) or {}).get("extensions", {}).get("response") == Kept.KEPT)


def _own(answer: Answer, offset: int) -> Look:
    piece = bytes(memoryview(answer.body)[offset : offset + READ_BYTES])
    return Look(answer.generation, answer.head, piece, len(answer.body), answer.head.end, answer)


def _found(task_id: str, stored: StoredAnswer, now: float) -> Look:
    """What the store has. `now` is in Unix seconds. Raises what `look` does."""
    document = stored.document or ""
    fields = fields_of(document) or {}
    response = fields["extensions"].get("response")
    if response is None and stored.generation:
        raise _superseded(task_id)
    if response != Kept.KEPT:
        raise _no_answer(task_id, document)
    is_final = rank_of(fields) == FINAL_RANK  # unlike `has_ended`, also for a presumed loss: no part comes for now
    head = head_in(stored.head) if stored.head else None
    if head is None or head.name != name_in(fields):
        if is_final and fields["stage"] != Stage.LOST:
            raise _no_answer(task_id, document)
        return Look("", None, b"", 0, End.BROKEN if is_final else None, document=document)
    if head.end is not None and stored.length < head.total:
        raise _no_answer(task_id, document)  # Redis has evicted the body
    end = head.end or (End.BROKEN if is_final and _is_over(fields, now) else None)
    return Look(stored.generation, head, stored.piece, stored.length, end, document=document)


def _is_over(fields: dict[str, Any], now: float) -> bool:
    """Whether nothing more of the answer can be expected, although its end is not there."""
    if fields["stage"] == Stage.LOST:
        return True
    finished_ms = fields["extensions"].get("finished_ms") or 0
    return now - finished_ms / 1000 > _UNENDED_SECONDS


def _no_answer(task_id: str, document: str | None) -> GatewayError:
    """Why there is no answer of the task."""
    if document is None:
        return _unknown(task_id)
    response = (fields_of(document) or {}).get("extensions", {}).get("response")
    if response is None:
        return ResponseNotKept(f"the answer of the task {task_id!r} was not to be kept; X-Task-Keep: true asks for it")
    if response == Kept.KEPT:
        return ResponseGone(f"the answer of the task {task_id!r} was kept, and is no longer")
    return ResponseGone(f"the answer of the task {task_id!r} is not kept: {response}")


def _superseded(task_id: str) -> ResponseGone:
    return ResponseGone(f"a newer request of the task {task_id!r} is not kept, and the answer before it is gone")


def _unknown(task_id: str) -> NotFound:
    return NotFound(f"no task {task_id!r}; it never was, or its status has expired")
