"""The tasks that this process knows itself, in flight or ended, by their ids and by the names of their requests.

A task in whose place something else stands in the store (`is_superseded`) is not among them: the store tells of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gateway.errors import Cancelled
from gateway.store.interface import id_in, request_name
from gateway.tracking.outbox import Outbox
from gateway.tracking.tracked import TrackedTask

_DROP = "!"  # no name of a request begins with it


@dataclass(frozen=True, slots=True)
class OwnTasks:
    """`in_flight` are the tasks that run, by id; `outbox` remembers those that have ended.

    As a container it has the names of their requests.
    """

    in_flight: Mapping[str, TrackedTask]
    outbox: Outbox
    boot: str

    def find(self, task_id: str) -> TrackedTask | None:
        """The task with this id."""
        own = self.in_flight.get(task_id) or self.outbox.remembered.get(task_id)
        return None if own is None or own.is_superseded else own

    def by_id(self) -> dict[str, TrackedTask]:
        """All of them."""
        known = self.outbox.remembered | dict(self.in_flight)
        return {task_id: task for task_id, task in known.items() if not task.is_superseded}

    def name(self, task: TrackedTask) -> str:
        """The name of the task's request."""
        return request_name(self.boot, task.created_ms, task.task_id)

    def __contains__(self, name: object) -> bool:
        """Whether this process runs or remembers the request of this name."""
        own = self.find(id_in(str(name)))
        return own is not None and self.name(own) == name

    def runs(self, task_id: str) -> bool:
        """Whether the task with this id runs here, so that this process knows each of its changes."""
        own = self.in_flight.get(task_id)
        return own is not None and not own.is_superseded

    def hear(self, message: str) -> None:
        """What another gateway asks for: the end of a request, or of its kept answer (see `dropping`)."""
        if not message.startswith(_DROP):
            self.cancel(message)
            return
        name = message.removeprefix(_DROP)
        task = self.in_flight.get(id_in(name))
        if task is not None and self.name(task) == name:
            task.drop_answer()

    def cancel(self, name: str) -> bool:
        """Ends the request of this name, if it is in flight here."""
        task = self.in_flight.get(id_in(name))
        if task is None or self.name(task) != name:
            return False
        task.cut(Cancelled())
        return True

    def cancel_label(self, label: str, reader: str | None) -> int:
        """Ends the requests of this label and of `reader` (None: all) that are in flight here. Returns how many.

        Ends those first that Ollama does not have. Otherwise one of them would get the place of a running one.
        """
        found = [task for task in self.in_flight.values() if task.label == label and reader in (None, task.owner)]
        for task in sorted(found, key=lambda task: task.started_ms is not None):
            task.cut(Cancelled())
        return len(found)

    def write_again(self, name: str) -> None:
        """Writes the task of this request again: the store has lost its newest status."""
        own = self.find(id_in(name))
        if own is not None and self.name(own) == name:
            own.forgotten()
            self.outbox.post_urgently(own)

    def write_all_again(self, since: float) -> None:
        """Writes all tasks again that the store may have lost: those in flight, and ends since this monotonic time."""
        self.outbox.post_again(self.in_flight.values(), since)


def dropping(name: str) -> str:
    """The message that asks for the end of the kept answer of the request of this name."""
    return _DROP + name
