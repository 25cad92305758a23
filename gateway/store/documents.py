"""Writing statuses: each document in one atomic step on one key, a batch of them and its place in the list in one trip.

The first word of an id of ours that is its last one, too, is a plain SET where nothing stands; all else goes through
transition.lua. Behind the documents of a batch the list is told of them, so all of it fails or succeeds together; a
claim, whose attempt the answer tells, follows at once. All may be repeated safely: what finds another's type of key, or
a record that is no document, in its way is written once more, over that. Part of store.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from gateway.store.index import OWN_PREFIX, Entry, entry_of, index_probe, index_step, steps_of_new
from gateway.store.interface import Record, StoreError, Then, Written
from gateway.store.malformed import Malformed
from gateway.store.pipeline import Command, Line, Replies, Script, WrongType, form
from gateway.tasks.document import fields_of
from gateway.tasks.task import FINAL_RANK, complete_document

DOCUMENT_PREFIX = "ts:ollama:"
SCRIPT = Script("transition")
_SET_NEW = form("SET", None, None, "EX", None, "NX")
_PROBE = OWN_PREFIX + "probe"
_PROBE_TTL_SECONDS = 60


class _Answer(NamedTuple):
    """What became of a record, and when, by the store's clock; that is of use for claims alone."""

    written: Written
    at_ms: int = 0


class _Again(NamedTuple):
    """It has to be written once more, by transition.lua: over a text of this SHA-1, which is no document."""

    judged: str = ""


class Documents:
    """Writes for the process `boot` over `line`; the list lives for `index_ttl_seconds`.

    `server_seconds` is Unix time by the server's clock, None while that is not known.
    """

    def __init__(
        self,
        line: Line,
        boot: str,
        index_ttl_seconds: int,
        server_seconds: Callable[[], float | None],
        malformed: Malformed,
    ) -> None:
        self._line = line
        self._boot = boot
        self._index_ttl_seconds = index_ttl_seconds
        self._server_seconds = server_seconds
        self._malformed = malformed
        # Claims that were granted when the list could not be told: the next batch does.
        self._unlisted: list[Entry] = []

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record, and calls `then` once with what became of them, or with why it is not known."""
        if not records:
            then([])
            return
        # A plain SET that finds something is decided after its batch; where an id is twice in it, order matters.
        is_any_twice = len(records) > 1 and len({record.task_id for record in records}) < len(records)
        plain = [not is_any_twice and _is_plain(record) for record in records]
        commands = [self._command(record, is_plain) for record, is_plain in zip(records, plain, strict=True)]
        repeated, self._unlisted = self._unlisted, []
        steps = self._list_steps(records, repeated, are_new=all(plain))
        self._line.ask([*commands, *steps], partial(self._take, records, plain, repeated, then))

    def probe(self, then: Callable[[Replies], None]) -> None:
        """Asks all that writing asks, on a key of our own that expires and on keys that it leaves as they were.

        No document has "-" for its id, so that SET … XX writes nothing; but the server refuses it like any other.
        """
        written = (0, 0, _PROBE_TTL_SECONDS, self._boot, 0, "", 0)  # what becomes of that is no document
        self._line.ask(
            [
                ("SET", DOCUMENT_PREFIX + "-", "", "EX", _PROBE_TTL_SECONDS, "XX"),
                ("SET", _PROBE, self._boot, "EX", _PROBE_TTL_SECONDS, "NX"),
                ("EVALSHA", SCRIPT.digest, 1, _PROBE, "", *written),
                *index_probe(self._boot, self._index_ttl_seconds),
            ],
            then,
        )

    def _list_steps(
        self, records: Sequence[Record], repeated: list[Entry], *, are_new: bool
    ) -> Sequence[Command | bytes]:
        if are_new and not repeated and (now_seconds := self._server_seconds()) is not None:
            return steps_of_new(records, now_seconds, self._index_ttl_seconds)
        entries = repeated + [entry_of(record, record.attempt) for record in records if record.attempt]
        return [index_step(entries, self._boot, self._index_ttl_seconds)] if entries else []

    def _command(self, r: Record, is_plain: bool) -> Command | bytes:
        key = DOCUMENT_PREFIX + r.task_id
        if is_plain:
            name, document = key.encode(), complete_document(r.head, r.attempt).encode()
            ttl = b"%d" % r.ttl_seconds
            return _SET_NEW % (len(name), name, len(document), document, len(ttl), ttl)
        grace_ms = int(r.grace_seconds * 1000)
        arguments = (r.head, r.attempt, r.rank, r.ttl_seconds, self._boot, r.created_ms, r.owner, grace_ms, r.judged)
        return ("EVALSHA", SCRIPT.digest, 1, key, *arguments)

    def _take(
        self, records: Sequence[Record], plain: list[bool], repeated: list[Entry], then: Then, replies: Replies
    ) -> None:
        if all(plain) and not isinstance(replies, StoreError) and replies[: len(records)] == ["OK"] * len(records):
            then([_SET.written] * len(records))  # nearly always
            return
        if isinstance(replies, WrongType) and any(plain):
            # A key of the list has another type: index.lua puts that right, plain commands do not.
            self._unlisted = repeated + self._unlisted
            self.write([record._replace(is_new=False) for record in records], then)
            return
        answers = replies if isinstance(replies, StoreError) else self._understood(records, plain, replies)
        if isinstance(answers, StoreError):
            self._unlisted = repeated + self._unlisted
            then(answers)
            return
        self._list_claims(records, answers)
        again = {n: answer for n, answer in enumerate(answers) if isinstance(answer, _Again)}
        take = partial(_complete, answers, list(again), then)
        if again:
            self.write([records[n]._replace(is_new=False, judged=again[n].judged) for n in again], take)
        else:
            take([])

    def _understood(
        self, records: Sequence[Record], plain: list[bool], replies: list[Any]
    ) -> list[_Answer | _Again] | StoreError:
        """The answers to a batch; what says something else is no store's that can be trusted with another command."""
        self._tell_malformed(replies[len(records) :])
        try:
            return [
                self._answer(record, is_plain, reply)
                for record, is_plain, reply in zip(records, plain, replies, strict=False)
            ]
        except ValueError as error:
            failure = StoreError(str(error))
            self._line.fail(failure)
            return failure

    def _answer(self, record: Record, is_plain: bool, reply: Any) -> _Answer | _Again:
        """What a reply to SET or to transition.lua says. SET finds anything in its way, perhaps this very document.

        Raises ValueError.
        """
        match is_plain, reply:
            case True, "OK":
                return _SET
            case True, None:
                return _Again()
            case False, [1, int(attempt), int(at_ms), *over_malformed]:
                if over_malformed:
                    self._malformed.tell(DOCUMENT_PREFIX + record.task_id)
                return _Answer(Written(True, attempt), at_ms)
            case False, [0, int(attempt), int(at_ms), str(document), str(digest)]:
                if record.judged or fields_of(document, record.task_id) is not None:
                    return _Answer(Written(False, attempt), at_ms)
                self._malformed.tell(DOCUMENT_PREFIX + record.task_id)
                return _Again(digest)
        raise ValueError(f"a reply that cannot be understood: {reply!r:.80}")

    def _tell_malformed(self, replies: Sequence[Any]) -> None:
        """Of the list's steps index.lua alone answers with a list: what it found malformed, behind a number."""
        for reply in replies:
            if isinstance(reply, list):
                for name in reply[1:]:
                    self._malformed.tell(str(name))

    def _list_claims(self, records: Sequence[Record], answers: Sequence[_Answer | _Again]) -> None:
        """Tells the list of the claims that were granted, before anything else of them can be written."""
        granted = [
            entry_of(record, answer.written.attempt, answer.at_ms)
            for record, answer in zip(records, answers, strict=True)
            if record.attempt == 0 and isinstance(answer, _Answer) and answer.written.is_written
        ]
        if granted:
            step = index_step(granted, self._boot, self._index_ttl_seconds)
            self._line.ask([step], partial(self._take_listed, granted))

    def _take_listed(self, granted: list[Entry], replies: Replies) -> None:
        if isinstance(replies, StoreError):
            self._unlisted += granted
        else:
            self._tell_malformed(replies)


def _is_plain(r: Record) -> bool:
    """Whether nothing of this request was written before, nor will be after; and its id is nobody else's."""
    return r.is_new and r.attempt == 1 and r.rank == FINAL_RANK


_SET = _Answer(Written(True, 1))


def _complete(answers: list[_Answer | _Again], again: list[int], then: Then, found: list[Written] | StoreError) -> None:
    """Tells what became of a batch, once it is known of those that were written once more."""
    if isinstance(found, StoreError):
        then(found)
        return
    decided = dict(zip(again, found, strict=True))
    then([answer.written if isinstance(answer, _Answer) else decided[n] for n, answer in enumerate(answers)])
