"""One gateway among those that share a store: the record that it writes of itself, its check, and its state.

Pure. Any client of the store can write there, so no code uses a record before `parse` has checked all of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import orjson

StoreView: TypeAlias = Literal["up", "down", "none"]

MAX_NAMES = 32  # of loaded models in a record
_MAX_NAME = 200
_MAX_TEXT = 128
_MAX_NUMBER = 2**53  # JavaScript represents whole numbers exactly up to here
_MAX_SILENT_MS = 24 * 3_600_000  # the longest heartbeat is an hour


class NodeState(StrEnum):
    """What the others know of a gateway."""

    UP = "up"
    DRAINING = "draining"  # it is about to stop, and said so
    LOST = "lost"  # it has said nothing for three of its heartbeats


@dataclass(frozen=True, slots=True)
class Node:
    """What a gateway tells of itself. It counts as lost if it then says nothing for longer than `silent_ms`."""

    instance: str
    version: str
    started_ms: int
    running: int
    waiting: int
    max_running: int  # 0: no bound
    models: tuple[str, ...]  # the names of those that Ollama has in memory
    store: StoreView  # as this gateway finds it
    is_draining: bool
    silent_ms: int

    def text(self) -> str:
        """The record in the store: JSON of all but the instance, which is the record's name there."""
        fields = {name: getattr(self, name) for name in _CHECKS}
        return orjson.dumps(fields | {"models": [name[:_MAX_NAME] for name in self.models[:MAX_NAMES]]}).decode()

    def state(self, silence_ms: float) -> NodeState:
        """Its state `silence_ms` after its last word."""
        if silence_ms > self.silent_ms:
            return NodeState.LOST
        return NodeState.DRAINING if self.is_draining else NodeState.UP


class Seen(NamedTuple):
    """A gateway as another one sees it. `age_ms` is the time since its last word."""

    node: Node
    state: NodeState
    age_ms: int


class Outage:
    """The store's last outage, as this gateway saw it. Its time does not count as silence: no gateway can speak then.

    Times are monotonic seconds of this process. An outage is counted from the last answer before it.
    """

    def __init__(self) -> None:
        self.is_away = False  # it failed when it was last asked
        self._heard_at = -inf  # its last answer
        self._away_from = self._back_at = -inf

    def answered(self, now: float) -> None:
        """The store has answered."""
        if self.is_away and self._heard_at > -inf:
            self._away_from, self._back_at = self._heard_at, now
        self.is_away, self._heard_at = False, now

    def failed(self) -> None:
        """The store could not be asked."""
        self.is_away = True

    def silence_ms(self, age_ms: int, now: float) -> float:
        """How long a gateway has been silent that said its last word `age_ms` ago, without the time of the outage."""
        said_at = now - age_ms / 1000
        if said_at >= self._back_at:
            return age_ms
        return age_ms - (self._back_at - max(said_at, self._away_from)) * 1000


def parse(instance: str, text: str) -> Node | None:
    """The gateway that the record `text` named `instance` describes; None if no gateway wrote it so.

    A later version may add fields.
    """
    try:
        fields = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not _is_text(instance) or not isinstance(fields, dict):
        return None
    if not all(name in fields and check(fields[name]) for name, check in _CHECKS.items()):
        return None
    known = {name: fields[name] for name in _CHECKS}
    return Node(**(known | {"instance": instance, "models": tuple(fields["models"])}))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isascii() and value.isprintable()


def _is_list_of_names(value: Any) -> bool:
    if not isinstance(value, list) or len(value) > MAX_NAMES:
        return False
    return all(isinstance(name, str) and len(name) <= _MAX_NAME for name in value)


def _whole(most: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= most  # a bool is no number


# The fields of a record, in the order in which they are written.
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "version": _is_text,
    "started_ms": _whole(_MAX_NUMBER),
    "running": _whole(_MAX_NUMBER),
    "waiting": _whole(_MAX_NUMBER),
    "max_running": _whole(_MAX_NUMBER),
    "models": _is_list_of_names,
    "store": lambda value: value in get_args(StoreView),
    "is_draining": lambda value: isinstance(value, bool),
    "silent_ms": _whole(_MAX_SILENT_MS),
}
