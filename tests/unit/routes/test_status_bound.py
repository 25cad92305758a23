"""Owns what a status poll does when the plain read is not clear."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway.http.head import parse_target
from gateway.routes.status import StatusRoute
from gateway.store.interface import Unclear
from tests.support.forged import document
from tests.unit.routes.test_plain import Client, answered

if TYPE_CHECKING:
    from gateway.tracking.answers import Answers


class _UnclearAnswers:
    """Answers whose plain read is never clear; `asked` has the other questions."""

    def __init__(self, *, is_full: bool) -> None:
        self.asked: list[str] = []
        self.changes = SimpleNamespace(is_full=is_full)
        self._document = json.dumps(document("mine"))

    def peek(self, _: str, then: Any) -> None:
        """Not clear."""
        then(Unclear("a test"))

    async def read(self, *_: Any) -> str:
        """A status of the moment."""
        self.asked.append("read")
        return self._document

    async def wait(self, *_: Any) -> str:
        """A status after a wait."""
        self.asked.append("wait")
        return self._document


@pytest.mark.parametrize(("is_full", "asked"), [(False, "wait"), (True, "read")])
async def test_an_unclear_status_is_waited_for_only_while_there_is_room(*, is_full: bool, asked: str) -> None:
    """A poller whose status is not clear waits, but not if as many wait as may: then it is answered at once."""
    answers = _UnclearAnswers(is_full=is_full)
    client = Client(target=b"/tasks/status/mine?wait=9")
    assert StatusRoute(cast("Answers", answers)).open(client.request, parse_target(client.request.target))
    assert (await answered(client)).status == 200
    assert answers.asked == [asked]
