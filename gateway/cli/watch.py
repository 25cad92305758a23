"""Follows tasks of a gateway: one task until it has ended, or the list until the user stops.

For one task it uses the gateway's `wait` parameter, with the event that it knows in If-None-Match. While the task is in
the queue it asks every two seconds without that event, because positions wake no `wait`. For the list it asks every two
seconds, with the ETag. One question at a time, on one connection.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from gateway.cli.client import Away, Client, Document, Page, has_ended

AGAIN_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 30.0  # many proxies close a connection that is idle for a minute
_MOST_AT_ONCE = 3


class Pace:
    """When the next question goes out, for questions that the gateway answers when there is news.

    The gateway may answer before its time, with news or without: without, if too many clients wait, or if it is an
    earlier version. News may be followed by a question at once, a few times in a row. Otherwise the next question
    begins two seconds after the one before at the soonest.
    """

    def __init__(self) -> None:
        self._at_once = 0

    def pause_seconds(self, took_seconds: float, *, is_new: bool) -> float:
        """How long to pause after an answer that took so long."""
        if took_seconds >= AGAIN_SECONDS:
            self._at_once = 0
            return 0.0
        if is_new and self._at_once < _MOST_AT_ONCE:
            self._at_once += 1
            return 0.0
        return AGAIN_SECONDS - took_seconds


class View(Protocol):
    """Shows a list that changes."""

    def __enter__(self) -> object: ...

    def __exit__(self, *error: object) -> object: ...

    def show(self, page: Page, trouble: str) -> None:
        """Shows the tasks, newest first. `trouble` says why they are not up to date; "" if they are."""


def ended(client: Client, task_id: str, seconds: float, tell: Callable[[Document], None]) -> Document:
    """A task's status once it has ended, or after `seconds`. `tell` gets each status. Raises UnknownTask and Away."""
    end = time.monotonic() + seconds
    pace, pause_seconds = Pace(), 0.0
    last = client.document(task_id)
    tell(last)
    while not has_ended(last) and (left := end - time.monotonic()) > 0:
        if pause_seconds:
            time.sleep(min(pause_seconds, left))
        asked_at = time.monotonic()
        document = _next(client, task_id, last, max(end - asked_at, 0.0)) or last
        is_new = document["event_id"] != last["event_id"]
        pause_seconds = pace.pause_seconds(time.monotonic() - asked_at, is_new=is_new)
        if document is not last:
            last = document
            tell(last)
    return last


def _next(client: Client, task_id: str, last: Document, left: float) -> Document | None:
    """The task's status after some time, or when there is another event. None if nothing has changed."""
    if last["extensions"].get("queue_position") is not None:
        return client.document(task_id, min(left, AGAIN_SECONDS))
    return client.news(task_id, min(left, _LONGEST_WAIT_SECONDS), last["event_id"])


def follow(client: Client, limit: int, only: Mapping[str, str], view: View) -> None:
    """Shows the newest tasks until interrupted. Raises Away if the first answer fails; later failures are shown."""
    page = client.page(limit, only)
    trouble = ""
    with view:
        while True:
            view.show(page, trouble)
            time.sleep(AGAIN_SECONDS)
            try:
                page, trouble = client.page(limit, only), ""
            except Away as error:
                trouble = str(error)
