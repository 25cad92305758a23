"""Writes statuses to Redis: a batch is one call of status.lua, each record of it one atomic step.

Writing a record again changes nothing. A malformed text under a task's key is overwritten, and logged once.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any, cast

from gateway.store.interface import Record, StoreError, Then, Written
from gateway.store.layout import DOCUMENT_PREFIX, OWN_PREFIX, SHARED_KEYS, Script, list_names
from gateway.store.malformed import Malformed
from gateway.store.pipeline import Command, Pipeline, Replies, WrongType
from gateway.tasks.document import complete_document, fields_of
from gateway.tasks.stages import FINAL_RANK

STATUS, PROBE, MEND = map(Script, ("status", "probe", "mend"))
_PROBE_KEYS = (OWN_PREFIX + "probe", DOCUMENT_PREFIX + "-")
_PROBE_TTL_SECONDS = 60
_NOTHING = "-"  # nothing is expected in a record's place; "" is a document


class Statuses:
    """Writes for the process `boot` through `pipeline`. The lists expire after `lists_ttl_seconds`, unless renewed."""

    def __init__(self, pipeline: Pipeline, boot: str, lists_ttl_seconds: int, malformed: Malformed) -> None:
        self._pipeline = pipeline
        self._boot = boot
        self._lists_ttl_seconds = lists_ttl_seconds
        self._malformed = malformed

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record, and calls `then` once: with one result per record, or with a StoreError."""
        if records:
            self._write(records, repeat(None, len(records)), then)
        else:
            then([])

    def _write(self, records: Sequence[Record], malformed: Iterable[str | None], then: Then) -> None:
        """`malformed`: the SHA-1 of the malformed text that stands in each record's place; None if none does."""
        keys = [DOCUMENT_PREFIX + record.task_id for record in records]
        arguments = chain.from_iterable(map(_arguments, records, malformed))
        command: Command = (
            "EVALSHA", STATUS.digest, len(keys) + 1, *keys, SHARED_KEYS[0], self._boot, self._lists_ttl_seconds,
            *arguments,
        )  # fmt: skip
        self._ask(command, records, partial(self._take, records, then))

    def _ask(self, command: Command, records: Sequence[Record], then: Callable[[Replies], None]) -> None:
        """Sends a script's command. If a key has another type, deletes that key and sends the command again."""

        def mended(replies: Replies) -> None:
            if isinstance(replies, list):
                for key in replies[0]:
                    self._malformed.report(key)
            then(replies if isinstance(replies, StoreError) else replies[1:])

        def take(replies: Replies) -> None:
            if isinstance(replies, WrongType):
                owners = {"", *(record.owner for record in records)}
                names = [name for owner in owners for name in list_names(None, owner)]
                self._pipeline.ask([("EVALSHA", MEND.digest, 0, *names), command], mended)
            else:
                then(replies)

        self._pipeline.ask([command], take)

    def probe(self, then: Callable[[Replies], None]) -> None:
        """Runs every command that writing needs, and leaves nothing behind. Calls `then` as `Pipeline.ask` does."""
        arguments = (_PROBE_TTL_SECONDS, self._lists_ttl_seconds)
        self._ask(("EVALSHA", PROBE.digest, len(_PROBE_KEYS), *_PROBE_KEYS, *arguments), [], then)

    def _take(self, records: Sequence[Record], then: Then, replies: Replies) -> None:
        if isinstance(replies, StoreError):
            then(replies)
            return
        try:
            [answers] = replies
            if len(answers) != len(records):
                raise ValueError(f"{len(answers)} answers to {len(records)} records")
            written = list(map(self._written, records, answers))
        except (ValueError, TypeError) as error:
            failure = StoreError(f"a reply that cannot be understood: {error!s:.80}")
            self._pipeline.fail(failure)
            then(failure)
            return
        again = [number for number, result in enumerate(written) if isinstance(result, str)]
        if again:
            malformed = [str(written[number]) for number in again]
            self._write([records[number] for number in again], malformed, partial(_complete, written, again, then))
        else:
            then(cast("list[Written]", written))

    def _written(self, record: Record, answer: Any) -> Written | str:
        """The result of one record, or the SHA-1 of the malformed text that has to be overwritten first.

        Raises ValueError if status.lua cannot have returned `answer`.
        """
        match answer:
            case int(attempt):
                return Written(True, attempt)
            case [int(attempt), "presumed"]:
                return Written(True, attempt, was_presumed=True)
            case [int(attempt), "malformed"]:
                self._malformed.report(DOCUMENT_PREFIX + record.task_id)
                return Written(True, attempt)
            case [int(attempt), str(document), str(digest)]:
                if fields_of(document, record.task_id) is not None:
                    return Written(False, attempt)
                self._malformed.report(DOCUMENT_PREFIX + record.task_id)
                return digest
        raise ValueError(repr(answer))


def _arguments(record: Record, malformed: str | None) -> Command:
    """A record's arguments for status.lua, in its order. `malformed` is as in `Statuses._write`."""
    is_known_end = record.rank == FINAL_RANK and record.attempt > 0
    return (
        complete_document(record.head, record.attempt) if is_known_end else record.head,
        record.attempt,
        record.rank,
        record.state,
        f"{record.created_ms:013d}",
        record.owner,
        record.ttl_seconds,
        int(record.grace_seconds * 1000),
        malformed or (_NOTHING if record.is_first else ""),
        record.label,
    )


def _complete(written: list[Any], again: list[int], then: Then, found: list[Written] | StoreError) -> None:
    """Calls `then` with all results of a batch, once those of the records that were written again are known."""
    if isinstance(found, StoreError):
        then(found)
        return
    for number, result in zip(again, found, strict=True):
        written[number] = result
    then(written)
