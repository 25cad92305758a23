"""Writing the documents: each in one atomic step on one key, a batch of them in one round trip.

The first word of an id of ours that is its last one, too, is a plain SET where nothing stands; all else goes through
transition.lua. Both may be repeated safely. Part of store, whose index is told of what was written.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from gateway.index import Index
from gateway.line import Command, Line, Replies, Script
from gateway.records import Record, StoreError, Then, Written
from gateway.task import FINAL_RANK, complete_document

DOCUMENT_PREFIX = "ts:ollama:"
SCRIPT = Script("transition")


class Documents:
    """Writes for the process `boot` over `line`."""

    def __init__(self, line: Line, index: Index, boot: str) -> None:
        self._line = line
        self._index = index
        self._boot = boot

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record, and calls `then` once with what became of them, or with why it is not known."""
        if not records:
            then([])
            return
        self._index.repeat_failed()
        self._line.ask([self._command(record) for record in records], partial(self._take, records, then))

    def _command(self, r: Record) -> Command:
        key = DOCUMENT_PREFIX + r.task_id
        if _is_plain(r):
            return ("SET", key, complete_document(r.head, r.attempt), "EX", r.ttl_seconds, "NX")
        grace_ms = int(r.grace_seconds * 1000)
        arguments = (r.head, r.attempt, r.rank, r.ttl_seconds, self._boot, r.created_ms, r.owner, grace_ms)
        return ("EVALSHA", SCRIPT.digest, 1, key, *arguments)

    def _take(self, records: Sequence[Record], then: Then, replies: Replies) -> None:
        if isinstance(replies, StoreError):
            then(replies)
            return
        written = [_result(reply) for reply in replies]
        for record, result in zip(records, written, strict=True):
            if result.is_written:
                self._index.gather(record, result.attempt, is_granted=record.attempt == 0)
            elif (
                record.attempt and result is not _STANDS
            ):  # it may stand there since a batch that broke off before the list was told
                self._index.gather(record, record.attempt, is_granted=False)
        missed = [n for n, result in enumerate(written) if result is _STANDS]
        if missed:
            self.write([replace(records[n], is_new=False) for n in missed], partial(_complete, written, missed, then))
        else:
            then(written)


def _is_plain(r: Record) -> bool:
    """Whether nothing of this request was written before, nor will be after; and its id is nobody else's."""
    return r.is_new and r.attempt == 1 and r.rank == FINAL_RANK


_SET = Written(True, 1)
_STANDS = Written(False, 0)  # something does already, perhaps this very document: transition.lua knows


def _result(reply: Any) -> Written:
    """What a reply to SET (its status or nothing) or to transition.lua (a pair) says."""
    if reply is None:
        return _STANDS
    return _SET if reply == "OK" else Written(bool(reply[0]), reply[1])


def _complete(written: list[Written], missed: list[int], then: Then, found: list[Written] | StoreError) -> None:
    if isinstance(found, StoreError):
        then(found)
        return
    for n, result in zip(missed, found, strict=True):
        written[n] = result
    then(written)
