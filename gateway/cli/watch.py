"""Follows tasks of a gateway: one task until it has ended, or the list until the user stops.

For one task it uses the gateway's `wait` parameter; while the task is in the queue it asks every two seconds, because
positions wake no `wait`. A presumed loss is no end: it asks every two seconds, because an earlier gateway answers the
`wait` for one at once. For the list it asks every two seconds, with the ETag.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.cli.client import Away, Client, Document, Page, has_ended
from gateway.tasks.document import is_presumed

_LONGEST_WAIT_SECONDS = 30.0  # many proxies close a connection that is idle for a minute
_AGAIN_SECONDS = 2.0


class View(Protocol):
    """Shows a list that changes."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> object: ...

    def show(self, page: Page, trouble: str) -> None:
        """Shows the tasks, newest first. `trouble` says why they are not up to date; "" if they are."""


def ended(client: Client, task_id: str, seconds: float, tell: Callable[[Document], None]) -> Document:
    """A task's status once it has ended, or after `seconds`. `tell` gets each status. Raises UnknownTask and Away."""
    end = time.monotonic() + seconds
    document: Document | None = client.document(task_id)
    while True:
        if document is not None:
            last = document
            tell(last)
        left = min(end - time.monotonic(), _LONGEST_WAIT_SECONDS)
        if has_ended(last) or left <= 0:
            return last
        if is_presumed(last):
            time.sleep(min(left, _AGAIN_SECONDS))
            document = client.document(task_id)
        elif last["extensions"].get("queue_position") is not None:
            document = client.document(task_id, min(left, _AGAIN_SECONDS))
        else:
            document = client.document(task_id, left, last["event_id"])


def follow(client: Client, limit: int, only: Mapping[str, str], view: View) -> None:
    """Shows the newest tasks until interrupted. Raises Away if the first answer fails; later failures are shown."""
    page = client.page(limit, only)
    trouble = ""
    with view:
        while True:
            view.show(page, trouble)
            time.sleep(_AGAIN_SECONDS)
            try:
                page, trouble = client.page(limit, only), ""
            except Away as error:
                trouble = str(error)
