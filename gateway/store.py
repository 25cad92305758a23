"""The store: where statuses outlive a request. Redis (or Valkey) through redis-py, the only module that knows it.

Owns the keys, their TTLs and the two Lua scripts; decides nothing about a task. Every write is one atomic step on
one key (transition.lua), every batch ends with one step on the index (index.lua); both may be repeated safely.
Called by tracker alone: its one writer calls `put`, the status routes' reads come through it too.
"""

import asyncio
import base64
import binascii
import re
import time
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, TypeVar, cast

import orjson
from hiredis import pack_command
from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError

from gateway.task import ID_PATTERN, State

DOCUMENT_PREFIX = "ts:ollama:"
INDEX_PREFIX = "tsx:ollama:{index}:"

_STATE_KEYS = {state: number for number, state in enumerate(State, start=2)}
_INDEX_KEYS = [INDEX_PREFIX + name for name in ("all", *State, "entry", "expiry")]
_MEMBER = re.compile(rf"\d{{13}}:{ID_PATTERN}")
_COMMAND_TIMEOUT_SECONDS = 1.0
_CONNECT_TIMEOUT_SECONDS = 1.0
_INDEX_MARGIN_SECONDS = 3600
_MAX_READERS = 1024
_REASON_CHARACTERS = 120

T = TypeVar("T")


class StoreError(Exception):
    """The store could not be asked: away, too slow, or refusing."""


class InvalidCursor(ValueError):
    """A list cursor that no list of ours has given out."""


@dataclass(frozen=True, slots=True)
class Record:
    """One status as it is written. `head` is the document without its attempt (see `Task.document_head`)."""

    task_id: str
    head: str
    attempt: int  # 0: claim the id, the store tells the number
    rank: int
    state: State
    created_ms: int
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a record: whether it stands in the store now, and the attempt that does."""

    is_written: bool
    attempt: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some documents, newest first, and the cursor of the next page (None at the end)."""

    documents: list[str]
    next_cursor: str | None


class Store(Protocol):
    """Where the tracker keeps statuses. Every method but `close` raises StoreError when the store is away."""

    async def put(self, records: Sequence[Record]) -> list[Written]: ...
    async def read(self, task_id: str) -> str | None: ...
    async def page(self, limit: int, state: State | None, cursor: str | None) -> Page: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...


def member(created_ms: int, task_id: str) -> str:
    """A task's place in the list order: sorts by creation, then by id."""
    return f"{created_ms:013d}:{task_id}"


def encode_cursor(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The place that `encode_cursor` was given. Raises InvalidCursor."""
    try:
        place = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, UnicodeError) as error:
        raise InvalidCursor(cursor) from error
    if not _MEMBER.fullmatch(place):
        raise InvalidCursor(cursor)
    return place


class RedisStore:
    """Statuses in Redis or Valkey. `boot` names this process, so that the store can tell its claims from others'."""

    def __init__(self, url: str, *, boot: str, longest_ttl_seconds: int) -> None:
        self._boot = boot
        self._index_ttl_seconds = longest_ttl_seconds + _INDEX_MARGIN_SECONDS
        self._transition = files("gateway").joinpath("transition.lua").read_text()
        self._index = files("gateway").joinpath("index.lua").read_text()
        self._scripts: tuple[str, str] | None = None  # SHA-1 of both, once this server has them
        self._redis = Redis.from_url(
            url,
            decode_responses=True,
            encoding_errors="replace",  # somebody else's value is no reason to fail
            socket_timeout=_COMMAND_TIMEOUT_SECONDS,
            max_connections=_MAX_READERS,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._line: Connection = ConnectionPool.from_url(
            url,
            decode_responses=True,
            socket_connect_timeout=_CONNECT_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ).make_connection()  # type: ignore[no-untyped-call]

    async def put(self, records: Sequence[Record]) -> list[Written]:
        """Writes each record in one atomic step and brings the index up to date, in one round trip.

        Safe to repeat when it is not known whether it happened.
        """
        try:
            return await self._put(records)
        except NoScriptError:
            self._scripts = None
        except (RedisError, OSError) as error:
            raise StoreError(_reason(error)) from error
        return await _mapped(self._put(records))  # the server has forgotten the scripts: once more, with them

    async def _put(self, records: Sequence[Record]) -> list[Written]:
        transition, index = self._scripts or await self._load_scripts()
        commands: list[tuple[str | int, ...]] = [
            ("EVALSHA", transition, 1, DOCUMENT_PREFIX + r.task_id, *self._transition_arguments(r)) for r in records
        ]
        own = [record for record in records if record.attempt]
        replies = await self._write([*commands, *self._index_commands(index, own)])
        written = [Written(bool(is_written), attempt) for is_written, attempt in replies[: len(records)]]
        # Whether a claim may enter the index is known only now; what else is refused, the index refuses itself.
        claimed = [r for r, w in zip(records, written, strict=True) if not r.attempt and w.is_written]
        if claimed:
            await self._write(self._index_commands(index, claimed))
        return written

    def _index_commands(self, index: str, records: Sequence[Record]) -> list[tuple[str | int, ...]]:
        if not records:
            return []
        return [("EVALSHA", index, len(_INDEX_KEYS), *_INDEX_KEYS, *self._index_arguments(records))]

    def _transition_arguments(self, r: Record) -> tuple[str | int, ...]:
        return r.head, r.attempt, r.rank, r.ttl_seconds, self._boot, r.created_ms

    async def _write(self, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
        """The replies to `commands`, sent at once on the writer's own connection.

        One deadline for all of them; a third of what redis-py's pipeline costs for a batch of one. The
        connection never outlives a failure, so no reply can reach a later command.
        """
        try:
            async with asyncio.timeout(_COMMAND_TIMEOUT_SECONDS):
                if not self._line.is_connected:
                    await self._line.connect()  # type: ignore[no-untyped-call]
                await self._line.send_packed_command(
                    b"".join(pack_command(cast("tuple[Any]", command)) for command in commands), check_health=False
                )
                return [await self._line.read_response() for _ in commands]
        except BaseException:
            await self._line.disconnect(nowait=True)
            raise

    def _index_arguments(self, records: Sequence[Record]) -> list[str | int]:
        now = int(time.time())
        arguments: list[str | int] = [now, self._index_ttl_seconds]
        for r in records:
            arguments += (r.task_id, r.created_ms, r.rank, _STATE_KEYS[r.state], now + r.ttl_seconds)
        return arguments

    async def _load_scripts(self) -> tuple[str, str]:
        transition, index = await self._write([("SCRIPT", "LOAD", text) for text in (self._transition, self._index)])
        self._scripts = (transition, index)
        return self._scripts

    async def read(self, task_id: str) -> str | None:
        """The document of `task_id`, or None."""
        [document] = await _uncancelled(_mapped(self._documents([task_id])))
        return document

    async def page(self, limit: int, state: State | None, cursor: str | None) -> Page:
        """Up to `limit` documents, newest first, from behind `cursor` on. Raises InvalidCursor."""
        start = "(" + decode_cursor(cursor) if cursor else "+"
        return await _uncancelled(_mapped(self._page(limit, state, start)))

    async def _page(self, limit: int, state: State | None, start: str) -> Page:
        """Walks the index until `limit` documents are found that still are what the index says of them."""
        key = INDEX_PREFIX + (state or "all")
        found: list[tuple[str, str]] = []
        while len(found) <= limit:
            wanted = limit + 1 - len(found)
            places = cast(
                "list[str]",
                await self._redis.zrange(key, start, "-", desc=True, bylex=True, offset=0, num=wanted),
            )
            found += await self._documents_at(key, places, state)
            if len(places) < wanted:
                break
            start = "(" + places[-1]
        documents = [document for _, document in found[:limit]]
        return Page(documents, encode_cursor(found[limit - 1][0]) if len(found) > limit else None)

    async def _documents_at(self, key: str, places: list[str], state: State | None) -> list[tuple[str, str]]:
        """The documents that stand at `places`; places whose document is gone leave the index."""
        if not places:
            return []
        documents = dict(zip(places, await self._documents([place[14:] for place in places]), strict=True))
        gone = [place for place, document in documents.items() if document is None]
        if gone:
            await self._redis.zrem(key, *gone)
        return [(p, d) for p, d in documents.items() if d is not None and _stands_at(p, d, state)]

    async def _documents(self, task_ids: Sequence[str]) -> list[str | None]:
        """What stands under each id; None where that is nothing, or not a document of anybody's."""
        pipe = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipe.get(DOCUMENT_PREFIX + task_id)
        return [_document(reply) for reply in await pipe.execute(raise_on_error=False)]

    async def ping(self) -> None:
        """Asks for a sign of life."""
        await _uncancelled(_mapped(cast("Awaitable[Any]", self._redis.ping())))

    async def close(self) -> None:
        await self._line.disconnect()
        await self._redis.aclose()


def _document(reply: str | Exception | None) -> str | None:
    """A reply to GET as a document. Raises the error it is, but for a key of another type."""
    if isinstance(reply, Exception):
        if str(reply).startswith("WRONGTYPE"):
            return None
        raise reply
    return reply if reply is not None and _fields_of(reply) is not None else None


def _fields_of(document: str) -> dict[str, Any] | None:
    """The fields of a status document; None where it is none."""
    try:
        fields = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    is_document = isinstance(fields, dict) and isinstance(fields.get("extensions"), dict)
    return fields if is_document else None


def _stands_at(place: str, document: str, state: State | None) -> bool:
    """Whether `document` is of the creation and state under which the index holds it.

    The index lags a document by an instant, and a new attempt leaves the old place.
    """
    fields = _fields_of(document) or {}
    is_same = fields.get("extensions", {}).get("created_ms") == int(place[:13])
    return is_same and (state is None or fields.get("state") == state)


async def _mapped(answer: Awaitable[T]) -> T:
    """`answer`, the library's and the system's errors mapped to StoreError."""
    try:
        return await answer
    except (RedisError, OSError) as error:
        raise StoreError(_reason(error)) from error


async def _uncancelled(answer: Coroutine[Any, Any, T]) -> T:
    """Lets a command finish when its request is cancelled, so that its reply cannot reach the next caller."""
    return await asyncio.shield(asyncio.ensure_future(answer))


def _reason(error: BaseException) -> str:
    """What went wrong, short enough for a log line: some of Redis's errors are a paragraph of advice."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return text if len(text) <= _REASON_CHARACTERS else text[:_REASON_CHARACTERS] + "…"
