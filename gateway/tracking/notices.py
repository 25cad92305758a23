"""What gateways tell each other, so that a poller at one of them learns at once of a change at another one.

The poller's gateway asks about the task. The gateway that runs it tells when the store has another status. Both
messages go over the channel of the cancels, many names in one. Without a poller nothing is sent. A message may be lost,
so `Changes` also reads the status itself.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.store.interface import id_in, request_name
from gateway.tasks.document import Found
from gateway.tracking.own import OwnTasks
from gateway.tracking.tracked import TrackedTask

_ASK, _TOLD = "?", "="  # no name of a request begins with one of them
_GATHER_SECONDS = 0.003
_MOST_NAMES = 100  # in one message
_KEPT_SECONDS = 90  # how long this gateway tells of a task after it was asked: longer than a poller waits
_AGAIN_SECONDS = 20  # then the next poller that waits for the same event of a task makes this gateway ask again
_MOST_ASKED = 10_000


class Notices:
    """Sends by `tell`. `own` are this process's tasks; `on_change` is called with the id of a task that changed.

    While `asked` is empty, `written` need not be called.
    """

    def __init__(self, tell: Callable[[str], None], own: OwnTasks, on_change: Callable[[str], None]) -> None:
        self._tell = tell
        self._own = own
        self._on_change = on_change
        self.asked: dict[str, tuple[str, float]] = {}  # by others: name of the request -> event they know, until when
        self._asking: dict[str, tuple[str, float]] = {}  # by this process: the same, and since when
        self._to_send: dict[str, list[str]] = {_ASK: [], _TOLD: []}
        self._is_sending = False

    def ask(self, found: Found) -> None:
        """Asks the gateway that runs the task of `found` to tell when it has another event."""
        summary, now = found[1], time.monotonic()
        name = request_name(summary.boot, summary.created_ms, summary.task_id)
        event, since = self._asking.get(name, ("", 0.0))
        if event != summary.event_id or since < now - _AGAIN_SECONDS:
            _put(self._asking, name, (summary.event_id, now))
            self._send(_ASK, f"{name} {summary.event_id}")

    def hear(self, message: str) -> bool:
        """Takes a message from the channel, from any gateway. False if it is another kind of message."""
        kind, names = message[:1], message[1:].split("\n", _MOST_NAMES)[:_MOST_NAMES]  # no gateway sends more
        if kind == _ASK:
            for line in names:
                self._hear_asked(*line.partition(" ")[::2])
        elif kind == _TOLD:
            for name in names:
                self._on_change(id_in(name))
        return kind in (_ASK, _TOLD)

    def _hear_asked(self, name: str, event: str) -> None:
        task = self._own.find(id_in(name))
        if task is None or name not in self._own:
            return
        _put(self.asked, name, (event, time.monotonic() + _KEPT_SECONDS))
        self._tell_of(name, task)

    def written(self, task: TrackedTask) -> None:
        """The store has a status of a task of this process."""
        name = self._own.name(task)
        if name in self.asked:
            self._tell_of(name, task)

    def _tell_of(self, name: str, task: TrackedTask) -> None:
        event, until = self.asked[name]
        if task.event_id != event:
            self._send(_TOLD, name)
        if (task.is_final and task.is_saved) or until < time.monotonic():
            del self.asked[name]

    def _send(self, kind: str, name: str) -> None:
        self._to_send[kind].append(name)
        if not self._is_sending:
            self._is_sending = True
            asyncio.get_running_loop().call_later(_GATHER_SECONDS, self._send_all)

    def _send_all(self) -> None:
        self._is_sending = False
        for kind, names in self._to_send.items():
            for start in range(0, len(names), _MOST_NAMES):
                self._tell(kind + "\n".join(names[start : start + _MOST_NAMES]))
            names.clear()


def _put(table: dict[str, tuple[str, float]], name: str, value: tuple[str, float]) -> None:
    """Puts a name at the end of a bounded table; the oldest one leaves."""
    table.pop(name, None)
    table[name] = value
    if len(table) > _MOST_ASKED:
        del table[next(iter(table))]
