"""Kept answers in Redis (or Valkey). answers.lua says what Redis holds; each script is one atomic step.

Parts go over a connection of their own, so that large bodies never delay a status. Reads share a pool.
"""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

from redis.exceptions import ResponseError

from gateway.store.address import Access
from gateway.store.answers import READ_BYTES, Part, Saved, StoredAnswer, ThenSaved
from gateway.store.connecting import Connector
from gateway.store.interface import StoreError
from gateway.store.layout import DOCUMENT_PREFIX, SHARED_ANSWER_KEYS, Script
from gateway.store.malformed import Malformed
from gateway.store.pipeline import Command, Pipeline, Replies, WrongType
from gateway.store.reader import Reader
from gateway.store.reasons import is_wrong_type
from gateway.tasks.document import fields_of

_SAVE, _READ, _DROP, _MEND = map(Script, ("answer_save", "answer_read", "answer_drop", "answer_mend"))


class RedisAnswers:
    """Implements `AnswerStore`. All answers together have at most `max_stored_bytes`, those of one owner half of that.

    `access` says how to get into the store; a URL is enough for a plain one.
    """

    def __init__(self, access: Access | Connector | str, *, max_stored_bytes: int) -> None:
        self._max_stored_bytes = max_stored_bytes
        self._malformed = Malformed()
        self._connector = connector = Connector.to(access)
        self._pipeline = Pipeline(connector, [_SAVE.text, _MEND.text])
        self._reader = Reader(connector, self._malformed, is_raw=True)

    # -- writing --

    def save(self, parts: Sequence[Part], then: ThenSaved) -> None:
        """Writes all parts by one call of a script, each in one atomic step. Calls `then` once."""
        if not parts:
            then([])
            return
        command = _command(_SAVE, self._max_stored_bytes, *chain.from_iterable(map(_arguments, parts)))
        self._pipeline.ask([command], partial(self._take, command, parts, then))

    def _take(self, command: Command, parts: Sequence[Part], then: ThenSaved, replies: Replies) -> None:
        """Takes the reply to `command`. If a key has another type, deletes that key and sends the command again."""
        if isinstance(replies, WrongType):
            names = chain.from_iterable((part.task_id, part.generation) for part in parts)
            self._pipeline.ask([_command(_MEND, *names), command], partial(self._take_saved, parts, then))
        else:
            self._take_saved(parts, then, replies)

    def _take_saved(self, parts: Sequence[Part], then: ThenSaved, replies: Replies) -> None:
        """Takes the reply to answer_save.lua, and before it that to answer_mend.lua, if that was sent."""
        if isinstance(replies, StoreError):
            then(replies)
            return
        try:
            *gone, (results, malformed) = replies
            saved = [Saved(result) for _, result in zip(parts, results, strict=True)]
            self._report([*chain.from_iterable(gone), *malformed])
        except (ValueError, TypeError) as error:
            failure = StoreError(f"a reply that cannot be understood: {error!s:.80}")
            self._pipeline.fail(failure)
            then(failure)
        else:
            then(saved)

    # -- reading and deleting --

    async def read(self, task_id: str, offset: int) -> StoredAnswer:
        """What there is of the newest answer of a task. Raises StoreError.

        If Redis evicted the body alone, there is a head and no length.
        """
        text, generation, head, length, piece = await self._run(_READ, task_id, task_id, offset, READ_BYTES)
        document = None if text is None else text.decode(errors="surrogateescape")
        if document is not None and fields_of(document, task_id) is None:
            self._malformed.report(DOCUMENT_PREFIX + task_id)
            document = None
        try:
            return StoredAnswer(document, generation.decode(), head.decode(), length, piece)
        except UnicodeDecodeError:  # no gateway wrote this head
            return StoredAnswer(document, "", "", 0, b"")

    async def drop(self, task_id: str, generation: str, event_id: str) -> bool:
        """Deletes an answer, and says so in the status document, as `AnswerStore` says. Raises StoreError."""
        was_there, malformed = await self._run(_DROP, task_id, task_id, generation, event_id)
        self._report(malformed)
        return bool(was_there)

    async def _run(self, script: Script, task_id: str, *arguments: str | int) -> Any:
        return await self._reader.asked(self._mending(script, task_id, arguments))

    async def _mending(self, script: Script, task_id: str, arguments: Sequence[str | int]) -> Any:
        """Runs a script. If a key has another type, deletes that key and runs the script again."""
        try:
            return await self._reader.run(script, SHARED_ANSWER_KEYS, arguments)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
        self._report(await self._reader.run(_MEND, SHARED_ANSWER_KEYS, [task_id, ""]))
        return await self._reader.run(script, SHARED_ANSWER_KEYS, arguments)

    def _report(self, keys: Sequence[str | bytes]) -> None:
        for key in keys:
            self._malformed.report(key.decode(errors="replace") if isinstance(key, bytes) else str(key))

    async def close(self) -> None:
        """Closes all connections. What is still being saved is answered with a StoreError."""
        await self._pipeline.close()
        await self._reader.close()
        await self._connector.close()


def _command(script: Script, *arguments: str | int | bytes) -> Command:
    return ("EVALSHA", script.digest, len(SHARED_ANSWER_KEYS), *SHARED_ANSWER_KEYS, *arguments)


def _arguments(part: Part) -> Command:
    """A part's arguments for answer_save.lua, in its order."""
    return (
        part.task_id,
        part.owner,
        part.generation,
        part.created_ms,
        part.head,
        part.offset,
        part.piece,
        int(part.is_end),
        part.ttl_seconds,
    )
