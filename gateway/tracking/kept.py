"""The tasks whose answers are kept: what changes in their statuses, and when their ends may be written."""

from dataclasses import dataclass

from gateway.store.interface import Store
from gateway.tracking.changes import Changes
from gateway.tracking.outbox import Outbox
from gateway.tracking.own import OwnTasks, dropping
from gateway.tracking.tracked import Documents, TrackedTask


@dataclass(frozen=True, slots=True)
class KeptTasks:
    """Those of one process. Writes through `outbox`, and wakes the pollers in `changes`."""

    outbox: Outbox
    changes: Changes
    store: Store
    documents: Documents
    own: OwnTasks

    def find(self, task_id: str) -> TrackedTask | None:
        """The task with this id, if this process runs or remembers it."""
        return self.own.find(task_id)

    def name(self, task: TrackedTask) -> str:
        """The name of the task's request."""
        return self.own.name(task)

    def document(self, task: TrackedTask) -> str:
        """The status document of a task as this process knows it."""
        return self.documents.document(task)

    def detach(self, task: TrackedTask) -> None:
        """The task goes on without its client."""
        if task.detach():
            self.outbox.post(task)
            self.changes.changed(task.task_id)

    def response_changed(self, task: TrackedTask) -> None:
        """What is kept of the task's answer has changed (`task.keep`), perhaps after its end."""
        if task.finished_ms is None:
            self.outbox.post(task)
        elif task.is_saved and self.store.answers_at_once:
            self.store.replace_end(self.documents.record(task))
        self.changes.changed(task.task_id)
        self.release_end(task)

    def release_end(self, task: TrackedTask) -> None:
        """The store has what has to be there before the task's end, or will never have it."""
        if task.release_end():
            self.outbox.post_urgently(task)

    async def ask_to_drop(self, name: str) -> None:
        """Asks all gateways to keep the answer of this request no longer. Raises StoreError."""
        await self.store.ask_cancel(dropping(name))
