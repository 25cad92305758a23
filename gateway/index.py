"""The order in which Redis lists the tasks: its keys, and what index.lua is told of a status. Part of store.

Sends nothing itself: documents tells the list of what it writes, store of what it finds.
"""

from collections.abc import Iterable
from itertools import chain
from typing import TypeAlias

from gateway.line import Command, Script
from gateway.records import Record

OWN_PREFIX = "tsx:ollama:"
INDEX_PREFIX = OWN_PREFIX + "{index}:"
BEATS, CANCELS = INDEX_PREFIX + "beats", INDEX_PREFIX + "cancels"
INDEX_KEYS = (INDEX_PREFIX + "all", INDEX_PREFIX + "entry", INDEX_PREFIX + "expiry", BEATS, CANCELS)
SCRIPT = Script("index")

_FORGOTTEN = 100  # how many expired entries go with a step

Entry: TypeAlias = tuple[str | int, ...]  # what index.lua is told of one task, in its order


def entry_of(record: Record, attempt: int, seen_ms: int | None = None) -> Entry:
    """What the list is told of a record.

    `seen_ms`: when its request was seen to hold the id, by the store's clock; None where that is not known, as
    transition.lua may refuse the record.
    """
    return (
        record.task_id,
        attempt,
        record.rank,
        f"{record.created_ms:013d}",
        record.state,
        record.owner,
        record.ttl_seconds,
        int(record.grace_seconds * 1000),
        "" if seen_ms is None else f"{seen_ms:013d}",
    )


def index_arguments(entries: Iterable[Entry], boot: str, ttl_seconds: int, forgotten: int = _FORGOTTEN) -> Command:
    """The arguments of index.lua for tasks of the process `boot`."""
    return (INDEX_PREFIX, ttl_seconds, forgotten, boot, *chain.from_iterable(entries))


def index_step(entries: Iterable[Entry], boot: str, ttl_seconds: int) -> Command:
    """One step that tells the list of all `entries`."""
    return ("EVALSHA", SCRIPT.digest, len(INDEX_KEYS), *INDEX_KEYS, *index_arguments(entries, boot, ttl_seconds))
