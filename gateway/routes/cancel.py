"""`POST /tasks/{task_id}/cancel` and `POST /tasks/cancel?label=…` without the ASGI application.

A cancel has to take effect at once, and that application may not be loaded yet. `tasks.py` describes these routes in
/openapi.json. Its own routes answer unusual requests: another method, an id or a label that is invalid or encoded.
"""

import re
from functools import partial
from http import HTTPStatus

from gateway.http.head import Target
from gateway.http.request import Request
from gateway.routes.plain import Answer, Route, as_json
from gateway.routes.status import PLAIN_LABEL, RETRY_AFTER_SECONDS, not_found, store_is_away
from gateway.tasks.document import found_in
from gateway.tasks.task import ID_PATTERN
from gateway.tracking.answers import StoreUnavailable
from gateway.tracking.tracker import Tracker

_PATH = re.compile(rf"/tasks/({ID_PATTERN})/cancel".encode())
_OF_A_LABEL = b"/tasks/cancel"
_LABEL = re.compile(f"label=({PLAIN_LABEL})".encode())


class CancelRoutes:
    """Finds the calls that cancel tasks of `tracker`."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def find(self, request: Request, target: Target) -> Route | None:
        """What answers a request; None if it is another route's, or an unusual one."""
        if request.method != "POST":
            return None
        if one := _PATH.fullmatch(target.path):
            return Route(partial(self._cancel, one[1].decode()), ("POST",))
        label = _LABEL.fullmatch(target.query or b"") if target.path == _OF_A_LABEL else None
        return None if label is None else Route(partial(self._cancel_label, label[1].decode()), ("POST",))

    async def _cancel(self, task_id: str, request: Request) -> Answer:
        """The final status, or the present one with 202 if the task has not ended within a second."""
        try:
            document = await self._tracker.cancel(task_id, request.reader)
        except StoreUnavailable as error:
            return _store_is_away(error)
        if document is None:
            return as_json({"detail": not_found(task_id)}, HTTPStatus.NOT_FOUND)
        body, summary = found_in(document)
        status = HTTPStatus.OK if summary.has_ended else HTTPStatus.ACCEPTED
        fields = [(b"content-type", b"application/json"), (b"etag", f'"{summary.event_id}"'.encode())]
        return Answer(status, fields, body)

    async def _cancel_label(self, label: str, request: Request) -> Answer:
        """How many tasks were asked to end."""
        try:
            return as_json({"cancelled": await self._tracker.answers.cancel_label(label, request.reader)})
        except StoreUnavailable as error:
            return _store_is_away(error)


def _store_is_away(error: StoreUnavailable) -> Answer:
    retry_after = (b"retry-after", b"%d" % RETRY_AFTER_SECONDS)
    return as_json({"detail": store_is_away(error)}, HTTPStatus.SERVICE_UNAVAILABLE, retry_after)
