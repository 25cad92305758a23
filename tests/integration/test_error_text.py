"""Owns ERROR_TEXT_BYTES: so much of an answer of 400 or above is in its task's status."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import KEEP
from tests.support.outcome import failed, outcome
from tests.support.scripted import EVENTS, JSON, answering, head, sending
from tests.support.streams import BODY, CHAT, cancel
from tests.support.waiting import until
from tests.support.wire import chunk

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.scripted import Upstream
    from tests.support.store import Store

NOT_FOUND = b'{"error":{"message":"model \\"x\\" not found"}}'
WHERE = "ERROR_TEXT_BYTES is 0, so its text is not in the status"


@pytest.mark.parametrize("is_kept", [False, True])
async def test_the_status_has_the_error(launch: Launch, store: Store, upstream: Upstream, is_kept: bool) -> None:
    """The beginning of an error answer is in the status; the client gets all of it."""
    gateway = await launch(REDIS_URL=store.url, ERROR_TEXT_BYTES="20")
    upstream.default = answering(404, JSON, body=NOT_FOUND)
    answer = await gateway.ask("POST", CHAT, *((KEEP,) if is_kept else ()), body=BODY)
    assert (answer.status, answer.data) == (404, NOT_FOUND)
    document = await gateway.ended(answer.head.task_id)
    assert document["extensions"]["error_text"] == NOT_FOUND[:20].decode()
    assert (outcome(document), document["message"]) == (failed("upstream_status"), "the upstream answered HTTP 404")


async def test_pieces_and_broken_answers_have_their_text(launch: Launch, upstream: Upstream) -> None:
    """A body in chunks counts from its first byte on, also if it breaks off; an event stream, too."""
    gateway = await launch(ERROR_TEXT_BYTES="1024")
    pieces = chunk(NOT_FOUND[:7]) + chunk(NOT_FOUND[7:])
    start = head(500, EVENTS, (b"Transfer-Encoding", b"chunked"))
    upstream.then(sending(start, pieces, b"0\r\n\r\n"), sending(start, pieces, then="drop"))
    for reason in ("upstream_status", "upstream_truncated"):
        answer = await gateway.ask("POST", CHAT, body=BODY)
        document = await gateway.ended(answer.head.task_id)
        assert outcome(document) == failed(reason)
        assert document["extensions"]["error_text"] == NOT_FOUND.decode()


async def test_off_by_default(launch: Launch, upstream: Upstream) -> None:
    """Without the setting the status has no text, and its message says where to look."""
    gateway = await launch()
    upstream.default = answering(404, JSON, body=NOT_FOUND)
    document = await gateway.ended((await gateway.ask("POST", CHAT, body=BODY)).head.task_id)
    assert "error_text" not in document["extensions"]
    assert document["message"].endswith(WHERE)


async def test_what_has_no_text(launch: Launch, upstream: Upstream) -> None:
    """A good answer's text is never kept, nor that of a HEAD or an encoded one, nor a gateway's own error."""
    gateway = await launch(ERROR_TEXT_BYTES="1024")
    zipped = answering(500, JSON, (b"Content-Encoding", b"gzip"), body=gzip.compress(NOT_FOUND))
    upstream.then(
        answering(200, JSON, body=NOT_FOUND), zipped, answering(302, JSON, body=NOT_FOUND), sending(then="drop")
    )
    for _ in range(4):
        answer = await gateway.ask("POST", CHAT, body=BODY)
        assert "error_text" not in (await gateway.ended(answer.head.task_id))["extensions"]
    upstream.default = sending(head(404, JSON, (b"Content-Length", str(len(NOT_FOUND)).encode())))
    answer = await gateway.ask("HEAD", "/v1/models/x")
    document = await gateway.ended(answer.head.task_id)
    assert (outcome(document), "error_text" in document["extensions"]) == (failed("upstream_status"), False)


async def test_the_text_is_there_before_the_end(launch: Launch, upstream: Upstream) -> None:
    """A RUNNING task has the text of what has come, and keeps it if it is cancelled."""
    gateway = await launch(ERROR_TEXT_BYTES="1024")
    start = head(500, JSON, (b"Transfer-Encoding", b"chunked"))
    upstream.default = sending(start, chunk(NOT_FOUND), then="wait")
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", b"half"), body=BODY)
    assert (await client.head()).status == 500

    async def has_text() -> bool:
        document = await gateway.status("half")
        found = document["state"], document["extensions"].get("error_text")
        return found == ("RUNNING", NOT_FOUND.decode())

    await until(has_text, what="the text is in the status")
    assert (await cancel(gateway, "half")).status_code == 200
    document = await gateway.ended("half")
    assert (document["extensions"]["reason"], document["extensions"]["error_text"]) == ("cancelled", NOT_FOUND.decode())
