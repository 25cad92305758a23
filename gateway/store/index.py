"""The order in which Redis lists the tasks: its keys, and how the list is told of a status. Part of store.

index.lua compares what it is told with what is listed; of requests that nobody has heard of before, plain commands list
the same in a third of the server's time. Sends nothing itself: documents tells the list of what it writes, store of
what it finds.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import TypeAlias

from gateway.store.interface import Record, place
from gateway.store.pipeline import Command, Script, form
from gateway.tasks.task import State

OWN_PREFIX = "tsx:ollama:"
INDEX_PREFIX = OWN_PREFIX + "{index}:"
BEATS, CANCELS = INDEX_PREFIX + "beats", INDEX_PREFIX + "cancels"
_ENTRY, _EXPIRY = INDEX_PREFIX + "entry", INDEX_PREFIX + "expiry"
INDEX_KEYS = (INDEX_PREFIX + "all", _ENTRY, _EXPIRY, BEATS, CANCELS)
SCRIPT = Script("index")

_PROBE_HASH, _PROBE_SET = INDEX_PREFIX + "probe:hash", INDEX_PREFIX + "probe:set"
_PROBE_TTL_SECONDS = 60
_LONG_AGO_SECONDS = 10**10
_FORGOTTEN = 100  # how many expired entries go with a step

Entry: TypeAlias = tuple[str | int, ...]  # what index.lua is told of one task, in its order


def list_key(state: str | None, owner: str | None) -> str:
    """The list of the tasks of a state (none: of all) and an owner (none: of all)."""
    return INDEX_PREFIX + (state or "all") + (f"@{owner}" if owner else "")


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


def index_probe(boot: str, ttl_seconds: int) -> list[Command]:
    """Steps that ask of the server all that a list is told, and leave it as it was.

    What is listed had expired before all else, so the same step of the script forgets it.
    """
    expired = ("-", 1, 3, f"{0:013d}", State.FAILED, "", -_LONG_AGO_SECONDS, 0, "")
    return [
        index_step([expired], boot, ttl_seconds),
        ("HSETNX", _PROBE_HASH, "-", ""),
        ("HDEL", _PROBE_HASH, "-"),
        ("ZADD", _PROBE_SET, "NX", 0, "-"),
        ("ZSCORE", _PROBE_SET, "-"),
        ("ZREM", _PROBE_SET, "-"),
        ("ZCOUNT", _PROBE_SET, 0, 0),
        ("ZREMRANGEBYSCORE", _PROBE_SET, 0, 0),
        ("EXPIRE", _PROBE_HASH, _PROBE_TTL_SECONDS),  # where what was made could not be taken back
        ("EXPIRE", _PROBE_SET, _PROBE_TTL_SECONDS),
    ]


def steps_of_new(records: Sequence[Record], now_seconds: float, ttl_seconds: int) -> list[bytes]:
    """Steps that list requests whose first status is their last, as index.lua would where it finds nothing of them.

    `now_seconds` is Unix time by the server's clock, which index.lua looks at by itself. May come again.
    """
    steps: list[bytes] = []
    lives: dict[bytes, None] = {}
    for r in records:
        forms, expires = _forms(r.state, r.owner, ttl_seconds)
        task_id, at = r.task_id.encode(), place(r.created_ms, r.task_id).encode()
        entry = f"{r.attempt}:{r.rank}:{r.created_ms:013d}:{r.state}:{r.owner}".encode()
        until = b"%d" % (now_seconds + r.ttl_seconds)
        steps.append(_NEW_ENTRY % (len(task_id), task_id, len(entry), entry))
        steps.append(_NEW_EXPIRY % (len(until), until, len(task_id), task_id))
        steps += [form % (len(at), at) for form in forms]
        lives.update(expires)
    return [*steps, *lives]


# A client may have sent an id of ours again before we could write its first end: the entry is the later request's then.
# Who reads the list passes over a place without one, and clears it away once there is no document of that id.
_NEW_ENTRY = form("HSETNX", _ENTRY, None, None)
_NEW_EXPIRY = form("ZADD", _EXPIRY, "NX", None, None)


@lru_cache(maxsize=256)
def _forms(state: str, owner: str, ttl_seconds: int) -> tuple[list[bytes], dict[bytes, None]]:
    """Steps to a place in each list of a task, to be filled in with it; and those by which all the keys live on."""
    keys = [list_key(which, whose) for whose in sorted({"", owner}) for which in ("", state)]
    lives = [form("EXPIRE", key, str(ttl_seconds)) % () for key in (_ENTRY, _EXPIRY, *keys)]
    return [form("ZADD", key, "0", None) for key in keys], dict.fromkeys(lives)
