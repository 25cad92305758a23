"""Following tasks from afar: until one has ended, or all of them for as long as somebody looks.

One task is waited for by the gateway's own `wait`, the list asked for again every two seconds, by its ETag. Called by
cli.
"""

import time
from collections.abc import Callable
from typing import Protocol

from gateway.cli.client import Away, Client, Document, Page, has_ended

_LONGEST_WAIT_SECONDS = 30.0  # below the minute after which proxies call a connection idle
_AGAIN_SECONDS = 2.0


class View(Protocol):
    """Where a list is shown that goes on changing."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> object: ...

    def show(self, page: Page, trouble: str) -> None:
        """The tasks, newest first, as they are now; `trouble` says why they are not, "" where all is well."""


def ended(client: Client, task_id: str, seconds: float, tell: Callable[[Document], None]) -> Document:
    """The status of a task when it has ended, or as it is after so many seconds. `tell` gets each one before that."""
    end = time.monotonic() + seconds
    document: Document | None = client.document(task_id)
    while True:
        if document is not None:
            last = document
            tell(last)
        left = min(end - time.monotonic(), _LONGEST_WAIT_SECONDS)
        if has_ended(last) or left <= 0:
            return last
        document = client.document(task_id, left, last["event_id"])


def follow(client: Client, limit: int, state: str | None, view: View) -> None:
    """Shows the newest tasks, and goes on when the gateway was away in between. Raises Away where it is at first."""
    page = client.page(limit, state)
    trouble = ""
    with view:
        while True:
            view.show(page, trouble)
            time.sleep(_AGAIN_SECONDS)
            try:
                page, trouble = client.page(limit, state), ""
            except Away as error:
                trouble = str(error)
