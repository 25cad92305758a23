"""The store: where statuses outlive a request. Redis (or Valkey) through redis-py; only line and places know that, too.

Owns reads, lists and the look for what was left behind: a task whose gateway went silent becomes lost here, whoever
notices first. Writing is documents', each step of which is atomic and may be repeated safely. Called by tracker alone:
its one writer calls `write`, the status routes' reads come through it too.
"""

import asyncio
import re
import time
from collections.abc import Callable, Container, Coroutine, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any, TypeVar, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from gateway.store import documents, index
from gateway.store.credentials import PasswordFile
from gateway.store.documents import DOCUMENT_PREFIX, Documents
from gateway.store.index import BEATS, CANCELS, INDEX_KEYS, OWN_PREFIX, entry_of, index_arguments
from gateway.store.interface import Page, Record, StoreError, Then, decode_cursor, encode_cursor, is_place, name_in
from gateway.store.malformed import Malformed
from gateway.store.pipeline import (
    COMMAND_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    Line,
    Replies,
    Script,
    mapped,
    uncancelled,
)
from gateway.store.places import Places
from gateway.tasks.document import fields_of, lost_document
from gateway.tasks.task import FINAL_RANK, State

_CANCEL_CHANNEL = OWN_PREFIX + "cancel"
_LOST_AFTER = re.compile(r'"lost_after_ms":(\d{1,15})\}\}$')
_INDEX_MARGIN_SECONDS = 3600
_CANCEL_SECONDS = 60  # how long a cancel waits for a gateway to find it; each looks once a second
_LISTEN_SECONDS = 60.0
_MAX_READERS = 32
_READER_SECONDS = 5.0
_PAGE_STEP = 128
_PAGE_BYTES = 4 * 1024 * 1024
_SWEEP = 1000
_SWEEPS = 10
_MOST_SKIPPED = 1000  # malformed records after which a page ends, with a cursor
_BURIED_AT_ONCE = 256
_CLOCK_STEP_SECONDS = 2.0
_CLOCK_SEEN_SECONDS = 5.0
_MALFORMED = ""  # in the place of a document: something stands there that is none

T = TypeVar("T")


class RedisStore:
    """Statuses in Redis or Valkey. `boot` names this process, so that the store can tell its claims from others'.

    It is `<place>-<run>-<process>`: what `instance` left behind in another run at this place is dead for certain.
    With a `password_file` the `url` has neither user nor password; it is read again for each connection.
    """

    def __init__(
        self,
        url: str,
        *,
        boot: str,
        longest_ttl_seconds: int,
        ttl_done_seconds: int = 86_400,
        grace_seconds: float = 30,
        instance: str = "",
        user: str = "",
        password_file: Path | None = None,
    ) -> None:
        self.lost = 0
        self.answers_at_once = False
        self._boot = boot
        self._instance = instance
        self._ttl_done_seconds = ttl_done_seconds
        self._grace_seconds = grace_seconds
        self._clock_offset_seconds = inf  # of the server's clock to the monotonic one here, when last seen
        self._clock_seen_at = -inf  # by this machine's, Unix seconds
        self._steady_at = 0.0
        self._index_ttl_seconds = longest_ttl_seconds + _INDEX_MARGIN_SECONDS
        self._watch, self._replace, self._cancel = map(Script, ("watch", "replace", "cancel"))
        self._malformed = Malformed()
        credentials = PasswordFile(password_file, user) if password_file else None
        self._line = Line(url, [documents.SCRIPT, index.SCRIPT], credentials=credentials)
        self._writer = Documents(self._line, boot, self._index_ttl_seconds, self._server_seconds, self._malformed)
        # A burst of polls waits for one of these for a moment, instead of opening a connection each.
        self._pool = BlockingConnectionPool.from_url(
            url,
            timeout=_READER_SECONDS,
            decode_responses=True,
            encoding_errors="surrogateescape",  # another's value is no reason to fail, and goes back as it came
            socket_timeout=COMMAND_TIMEOUT_SECONDS,
            max_connections=_MAX_READERS,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError, RuntimeError)),  # type: ignore[arg-type]
            credential_provider=credentials,
        )
        self._redis = Redis(connection_pool=self._pool)
        self._places = Places(self._redis, self._malformed)

    # -- the writer --

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes each record in one atomic step, all of them and their places in the list in one round trip."""
        self._writer.write(records, then)

    # -- reads --

    async def read(self, task_ids: Sequence[str], spared: Container[str] | None = None) -> list[str | None]:
        """The documents of `task_ids`; None where there is none, or what is there has not a document's shape."""
        return [document or None for document in await self._asked(self._documents(task_ids, spared))]

    async def page(
        self,
        limit: int,
        state: State | None,
        cursor: str | None,
        *,
        owner: str | None = None,
        spared: Container[str] | None = None,
    ) -> Page:
        """Up to `limit` documents (of `owner`), newest first, from behind `cursor` on. Raises InvalidCursor."""
        start = "(" + decode_cursor(cursor) if cursor else "+"
        key = index.list_key(state, owner)
        return await self._asked(self._page(key, limit, state, start, spared))

    async def _page(self, key: str, limit: int, state: State | None, start: str, spared: Container[str] | None) -> Page:
        """Walks the index until `limit` documents are found that still are what the index says of them."""
        found: list[tuple[str, str]] = []
        skipped: dict[str, str] = {}  # the id of a malformed record, or what is no place -> where that was
        step, size, is_end, last = _PAGE_STEP, 0, False, ""
        while not is_end and len(found) <= limit and size <= _PAGE_BYTES and len(skipped) < _MOST_SKIPPED:
            wanted = min(step, limit + 1 - len(found)) if step == _PAGE_STEP else step
            places = await self._places.read(key, start, wanted)
            here = await self._documents_at(key, places, state, spared, skipped)
            found += here
            size += sum(len(document) for _, document in here)
            is_end = len(places) < wanted
            start = "(" + places[-1] if places else start
            last = next(filter(is_place, reversed(places)), last)
            step = _PAGE_STEP if here else _SWEEP  # nothing but places whose documents are gone: past them, quickly
        last = found[limit - 1][0] if len(found) > limit else last
        is_last = is_end and len(found) <= limit
        # What is behind the page is the next one's; what is no place is gone by then.
        left_out = sum(is_last or place >= last or not is_place(place) for place in skipped.values())
        return Page([document for _, document in found[:limit]], None if is_last else encode_cursor(last), left_out)

    async def _documents_at(
        self, key: str, places: list[str], state: State | None, spared: Container[str] | None, skipped: dict[str, str]
    ) -> list[tuple[str, str]]:
        """The documents that stand at `places`; places whose document is gone, and what is no place, leave the index.

        What is malformed goes into `skipped`.
        """
        odd = [place for place in places if not is_place(place)]
        for place in odd:
            self._malformed.tell(f"{key} {place}")
            skipped[place] = place
        right = [place for place in places if is_place(place)] if odd else places
        documents = dict(zip(right, await self._documents([place[14:] for place in right], spared), strict=True))
        gone = [place for place, document in documents.items() if document is None]
        with suppress(ResponseError):  # a server that takes no writes still answers what it has
            await self._places.remove(key, gone + odd)
        skipped |= {place[14:]: place for place, document in documents.items() if document == _MALFORMED}
        return [(p, d) for p, d in documents.items() if d and _stands_at(p, d, state)]

    async def _documents(self, task_ids: Sequence[str], spared: Container[str] | None) -> list[str | None]:
        """What stands under each id: None where that is nothing, _MALFORMED where it is no document."""
        if not task_ids:
            return []
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for task_id in task_ids:
            pipe.get(DOCUMENT_PREFIX + task_id)
        (seconds, microseconds), *replies = await pipe.execute(raise_on_error=False)
        documents = [self._document(task_id, reply) for task_id, reply in zip(task_ids, replies, strict=True)]
        now_ms = seconds * 1000 + microseconds // 1000
        if not self._is_clock_steady(now_ms) or spared is None:
            return documents
        return [
            await self._make_lost(document, spared) if document and _is_silent(document, now_ms) else document
            for document in documents
        ]

    def _document(self, task_id: str, reply: str | Exception | None) -> str | None:
        """A reply to GET as a document. Raises the error it is, but for a key of another type."""
        if reply is None:
            return None
        if isinstance(reply, str) and fields_of(reply, task_id) is not None:
            return reply
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply
        self._malformed.tell(DOCUMENT_PREFIX + task_id)
        return _MALFORMED

    # -- what was left behind --

    def _is_clock_steady(self, now_ms: int) -> bool:
        """False for a while after the server's clock stepped forward: then everybody looks late."""
        now = time.monotonic()
        offset_seconds = now_ms / 1000 - now
        if offset_seconds - self._clock_offset_seconds > _CLOCK_STEP_SECONDS:
            self._steady_at = now + self._grace_seconds
        self._clock_offset_seconds, self._clock_seen_at = offset_seconds, time.time()
        return now >= self._steady_at

    def _server_seconds(self) -> float | None:
        """Unix time by the server's clock; None before the first look at it, and where the last one is not of just now.

        Each second brings another, but while this machine sleeps no monotonic clock goes on.
        """
        is_recent = 0 <= time.time() - self._clock_seen_at <= _CLOCK_SEEN_SECONDS
        return time.monotonic() + self._clock_offset_seconds if is_recent else None

    async def _make_lost(self, document: str, spared: Container[str] = ()) -> str | None:
        """FAILED lost in the place of `document`; whoever wrote it meanwhile keeps what he wrote."""
        fields = fields_of(document)
        if fields is None or name_in(fields) in spared:
            return document
        lost = lost_document(fields, time.time())
        key = DOCUMENT_PREFIX + fields["task_id"]
        replaced_ms = await self._eval(self._replace, [key], [document, lost, self._ttl_done_seconds])
        if not replaced_ms:
            [found] = await self._documents([fields["task_id"]], None)
            return found
        self.lost += 1
        await self._list_ended(lost, replaced_ms)
        return lost

    async def _list_ended(self, document: str, seen_ms: int) -> None:
        """Brings the index up to date with a final document that stood in the store at `seen_ms`, by its clock."""
        fields = fields_of(document)
        if fields is None:
            return
        extensions = fields["extensions"]
        state, owner = State(fields["state"]), extensions.get("owner") or ""
        record = Record(
            fields["task_id"], "", 0, FINAL_RANK, state, extensions["created_ms"], self._ttl_done_seconds, owner
        )
        boot = str(extensions.get("boot"))
        entry = entry_of(record, extensions["attempt"], seen_ms)
        await self._eval(index.SCRIPT, INDEX_KEYS, index_arguments([entry], boot, self._index_ttl_seconds))

    async def bury(self) -> None:
        """Makes lost what a former run of this gateway left in flight: nobody else can have written that."""
        await self._asked(self._bury())

    async def _bury(self) -> None:
        await self._silent_and_cancelled()  # puts the key right
        task_ids = cast("list[str]", await self._redis.zrange(BEATS, 0, -1))
        for start in range(0, len(task_ids), _BURIED_AT_ONCE):
            for document in await self._documents(task_ids[start : start + _BURIED_AT_ONCE], None):
                if document and self._is_former_self(document):
                    await self._make_lost(document)

    def _is_former_self(self, document: str) -> bool:
        extensions = (fields_of(document) or {}).get("extensions", {})
        own, theirs = self._boot.split("-"), str(extensions.get("boot")).split("-")
        is_same_place = extensions.get("instance") == self._instance and own[:1] == theirs[:1]
        is_other_run = len(own) == len(theirs) == 3 and own[1] != theirs[1]
        return is_same_place and is_other_run and _LOST_AFTER.search(document) is not None

    async def watch(self, spared: Container[str], on_spared: Callable[[str], object] = str) -> list[str]:
        """Makes lost what has been silent for too long; answers what is to be cancelled."""
        return await self._asked(self._look(spared, on_spared))

    async def _look(self, spared: Container[str], on_spared: Callable[[str], object]) -> list[str]:
        silent, cancels, now_ms = await self._silent_and_cancelled()
        if self._is_clock_steady(now_ms) and silent:
            documents = await self._documents(silent, spared)
            ended = {t: d for t, d in zip(silent, documents, strict=True) if not d or not _is_running(d)}
            for document in filter(None, ended.values()):
                await self._list_ended(document, now_ms)  # whoever ended it did not come so far
            if ended:
                await self._redis.zrem(BEATS, *ended)
            for document in filter(None, documents):
                if _is_silent(document, now_ms):
                    on_spared(name_in(fields_of(document) or {}))
        await self._sweep()
        return cancels

    async def _silent_and_cancelled(self) -> tuple[list[str], list[str], int]:
        """Ids that are silent for too long, names to cancel, and the moment by the server's clock, Unix ms."""
        silent, cancels, now_ms, mended = await self._eval(self._watch, [BEATS, CANCELS], [])
        for key in mended:
            self._malformed.tell(key)
        return silent, cancels, now_ms

    async def _sweep(self) -> None:
        """Expired entries leave the index also when nobody writes; many of them in several steps."""
        for _ in range(_SWEEPS):
            arguments = index_arguments([], self._boot, self._index_ttl_seconds, _SWEEP)
            gone, *malformed = await self._eval(index.SCRIPT, INDEX_KEYS, arguments)
            for name in malformed:
                self._malformed.tell(name)
            if gone < _SWEEP:
                break

    # -- cancelling --

    async def ask_cancel(self, name: str) -> None:
        """Tells all gateways to cancel `name`: at once those that listen, the others when they look."""
        await self._asked(self._eval(self._cancel, [CANCELS], [name, _CANCEL_SECONDS]))
        with suppress(StoreError):  # publishing may be forbidden: the lookout says so, where subscribing is, too
            await self._asked(cast("Coroutine[Any, Any, Any]", self._redis.publish(_CANCEL_CHANNEL, name)))

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Calls `on_cancel` with each name that anybody asks to cancel. Raises StoreError when the connection ends."""
        async with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:
            await mapped(pubsub.subscribe(_CANCEL_CHANNEL))
            while True:
                message = await mapped(pubsub.get_message(timeout=_LISTEN_SECONDS))
                if message is not None:
                    on_cancel(message["data"])

    # -- the rest --

    @property
    def connections(self) -> int:
        """How often it has connected in order to write."""
        return self._line.connections

    async def _asked(self, answer: Coroutine[Any, Any, T]) -> T:
        """`answer`; after a failure no connection that lay idle is trusted, for it may be as dead."""
        try:
            return await uncancelled(mapped(answer))
        except StoreError:
            await self._pool.disconnect(inuse_connections=False)
            raise

    async def _eval(self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]) -> Any:
        return await self._redis.eval(script.text, len(keys), *keys, *map(str, arguments))

    async def ping(self) -> None:
        """Does what writing, looking and reading do: a server may take some commands and refuse others."""
        replies: asyncio.Future[Replies] = asyncio.get_running_loop().create_future()
        self._writer.probe(lambda found: None if replies.done() else replies.set_result(found))
        found = await replies
        if isinstance(found, StoreError):
            raise found
        await self._asked(self._probe_reads())

    async def _probe_reads(self) -> None:
        await self._redis.zrange(BEATS, 0, 0)
        await self._redis.zrem(BEATS, "-")
        await self._documents(["-"], None)
        await self._eval(self._watch, [BEATS, CANCELS], [])
        await self._sweep()

    async def close(self) -> None:
        await self._line.close()
        await self._redis.aclose()
        await self._pool.disconnect()


def _is_running(document: str) -> bool:
    return _LOST_AFTER.search(document) is not None


def _is_silent(document: str, now_ms: int) -> bool:
    """Whether the gateway that runs this task should have written by now. An ended task may be silent."""
    lost_after = _LOST_AFTER.search(document, max(0, len(document) - 40))
    return lost_after is not None and int(lost_after[1]) < now_ms


def _stands_at(place: str, document: str, state: State | None) -> bool:
    """Whether `document` is of the creation and state under which the index holds it.

    The index lags a document by an instant, and a new attempt leaves the old place.
    """
    fields = fields_of(document) or {}
    is_same = fields.get("extensions", {}).get("created_ms") == int(place[:13])
    return is_same and (state is None or fields.get("state") == state)
