"""Owns the promise that SUCCESS means it: which endings are a success, which a failure, and why.

Contract section 4.4, as a table of path, events and outcome, and acceptance 6.
"""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.support.outcome import DONE, failed, outcome
from tests.support.scripted import CHUNKED, EVENTS, JSON, answering, head, sending, streaming
from tests.support.wire import LAST_CHUNK, chunk

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


BODY = b'{"model":"m","stream":true}'
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES, OTHER = "/v1/responses", "/v1/messages", "/v1/audio/transcriptions"

DELTA = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
FINISH = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
DONE_EVENT = b"data: [DONE]\n\n"
CREATED = b'event: response.created\ndata: {"type":"response.created"}\n\n'
COMPLETED = b'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n'
INCOMPLETE = b'event: response.incomplete\ndata: {"type":"response.incomplete","response":{}}\n\n'
RESPONSE_FAILED = b'event: response.failed\ndata: {"type":"response.failed","response":{}}\n\n'
RESPONSE_ERROR = b'event: error\ndata: {"type":"error","message":"no"}\n\n'
MESSAGE_START = b'event: message_start\ndata: {"type":"message_start"}\n\n'
MESSAGE_STOP = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
MESSAGE_ERROR = b'event: error\ndata: {"type":"error","error":{"type":"api_error"}}\n\n'
ERROR = b'data: {"error":{"message":"died","type":"api_error"}}\n\n'
QUOTED = b'data: {"choices":[{"delta":{"content":"data: [DONE]\\n\\n"}}]}\n\n'
QUOTED_STOP = b'event: content_block_delta\ndata: {"delta":{"text":"event: message_stop"}}\n\n'
CUT = failed("stream_incomplete")
BROKEN = failed("stream_error")

ENDINGS = {
    "chat done": (CHAT, [DELTA, FINISH, DONE_EVENT], DONE),
    "chat done in one piece": (CHAT, [DELTA + FINISH + DONE_EVENT], DONE),
    "chat done with CRLF": (CHAT, [DELTA, b"data: [DONE]\r\n\r\n"], DONE),
    "chat done without a blank": (CHAT, [DELTA, b"data:[DONE]\n\n"], DONE),
    "chat done without a line end": (CHAT, [DELTA, b"data: [DONE]"], DONE),
    "chat done and a comment": (CHAT, [DELTA, DONE_EVENT, b": bye\n\n"], DONE),
    "chat with a query": (CHAT + "?a=1", [DELTA, DONE_EVENT], DONE),
    "chat cut": (CHAT, [DELTA, FINISH], CUT),
    "chat empty": (CHAT, [], CUT),
    "chat quotes the end": (CHAT, [DELTA, QUOTED], CUT),
    "chat error": (CHAT, [DELTA, ERROR], BROKEN),
    "chat ends like messages": (CHAT, [DELTA, MESSAGE_STOP], CUT),
    "completions done": (COMPLETIONS, [DELTA, DONE_EVENT], DONE),
    "completions cut": (COMPLETIONS, [DELTA], CUT),
    "completions error": (COMPLETIONS, [DELTA, ERROR], BROKEN),
    "responses completed": (RESPONSES, [CREATED, COMPLETED], DONE),
    "responses incomplete": (RESPONSES, [CREATED, INCOMPLETE], DONE),
    "responses failed": (RESPONSES, [CREATED, RESPONSE_FAILED], BROKEN),
    "responses error": (RESPONSES, [CREATED, RESPONSE_ERROR], BROKEN),
    "responses cut": (RESPONSES, [CREATED], CUT),
    "responses end like chat": (RESPONSES, [CREATED, DONE_EVENT], CUT),
    "responses by data alone": (RESPONSES, [b'data: {"type":"response.completed","response":{}}\n\n'], DONE),
    "messages stop": (MESSAGES, [MESSAGE_START, MESSAGE_STOP], DONE),
    "messages error": (MESSAGES, [MESSAGE_START, MESSAGE_ERROR], BROKEN),
    "messages cut": (MESSAGES, [MESSAGE_START], CUT),
    "messages quote the end": (MESSAGES, [MESSAGE_START, QUOTED_STOP], CUT),
    "other path": (OTHER, [DELTA], DONE),
    "other path, empty": (OTHER, [], DONE),
    # Field order, white space, key order and line ends of an event make no difference, nor does its size.
    "an error behind the id": (CHAT, [DELTA, b'data: {"id":"x","error":{"message":"no"}}\n\n'], BROKEN),
    "an error with white space": (COMPLETIONS, [DELTA, b'data: { "error" : {"message":"no"} }\r\n\r\n'], BROKEN),
    "an error that is null": (CHAT, [b'data: {"error":null,"choices":[]}\n\n', DONE_EVENT], DONE),
    "an error that is null, without an end": (CHAT, [b'data: {"error":null,"choices":[]}\n\n'], CUT),
    "an error's field line": (CHAT, [DELTA, b'error: {"code":500,"message":"no"}\n\n'], BROKEN),
    "a field line that is no object": (CHAT, [DELTA, b"error: no\n\n", DONE_EVENT], DONE),
    "an error's name behind its data": (CHAT, [DELTA, b'data: {"message":"no"}\nevent: error\n\n'], BROKEN),
    "a name behind its data": (MESSAGES, [MESSAGE_START, b"data: {}\revent: message_stop\r\r"], DONE),
    "a type with white space": (RESPONSES, [CREATED, b'data: {"type": "response.completed"}\n\n'], DONE),
    "a failure with white space": (RESPONSES, [CREATED, b'data: {"a": [], "type": "response.failed"}\n\n'], BROKEN),
    "a type that comes last": (MESSAGES, [MESSAGE_START, b'data: {"a":{},"type":"message_stop"}\n\n'], DONE),
    "data over lines": (RESPONSES, [CREATED, b'data: {"type":\n', b'data: "response.completed"}\n\n'], DONE),
    "a byte order mark": (CHAT, [b"\xef\xbb\xbf" + DONE_EVENT], DONE),
    "an end larger than is held": (
        RESPONSES,
        [b'data: {"response":"' + b"error " * 20_000 + b'",', b'"type":"response.completed"}\n\n'],
        DONE,
    ),
    "chat done byte by byte": (CHAT, [bytes([byte]) for byte in DELTA + DONE_EVENT], DONE),
    "responses completed byte by byte": (RESPONSES, [bytes([byte]) for byte in DELTA + COMPLETED], DONE),
    "messages stop byte by byte": (MESSAGES, [bytes([byte]) for byte in DELTA + MESSAGE_STOP], DONE),
}


@pytest.mark.parametrize(("path", "events", "expected"), ENDINGS.values(), ids=ENDINGS.keys())
async def test_how_a_stream_ends_decides(
    gateway: Gateway, upstream: Upstream, path: str, events: list[bytes], expected: tuple[str, str, str | None]
) -> None:
    """A path's own end event is SUCCESS, an error event stream_error, an end without either incomplete."""
    upstream.then(streaming(*events))
    answer = await gateway.ask("POST", path, body=BODY)
    assert (answer.data, answer.body.complete) == (b"".join(events), True)
    assert outcome(await gateway.status(answer.head.task_id)) == expected


@pytest.mark.parametrize("then", ["drop", "reset"])
async def test_a_break_after_an_error_event_leaves_it_an_error(gateway: Gateway, upstream: Upstream, then: str) -> None:
    """What breaks behind a final error no longer counts: the task stays FAILED stream_error."""
    upstream.then(streaming(CREATED, RESPONSE_FAILED, then=then))
    answer = await gateway.ask("POST", RESPONSES, body=BODY)
    assert answer.body.complete is False
    assert outcome(await gateway.ended(answer.head.task_id)) == BROKEN


@pytest.mark.parametrize("then", ["drop", "reset"])
@pytest.mark.parametrize(("path", "end"), [(CHAT, DONE_EVENT), (RESPONSES, COMPLETED), (MESSAGES, MESSAGE_STOP)])
async def test_a_break_after_the_end_event_no_longer_counts(
    gateway: Gateway, upstream: Upstream, path: str, end: bytes, then: str
) -> None:
    """The end event was seen, then the upstream breaks off: SUCCESS, no forged terminator, and no line of a failure."""
    upstream.then(streaming(DELTA, end, then=then))
    answer = await gateway.ask("POST", path, body=BODY)
    assert answer.body.complete is False
    assert outcome(await gateway.ended(answer.head.task_id)) == DONE
    assert f"task {answer.head.task_id} failed" not in gateway.log


async def test_a_stream_that_ends_with_the_connection(gateway: Gateway, upstream: Upstream) -> None:
    """A stream without framing counts by its end event, too."""
    upstream.then(sending(head(200, EVENTS), DELTA, DONE_EVENT, then="drop"))
    done = await gateway.ask("POST", CHAT, body=BODY)
    upstream.then(sending(head(200, EVENTS), DELTA, then="drop"))
    cut = await gateway.ask("POST", CHAT, body=BODY)
    assert outcome(await gateway.ended(done.head.task_id)) == DONE
    assert outcome(await gateway.ended(cut.head.task_id)) == CUT


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("POST", 204)])
async def test_a_stream_without_a_body_needs_no_end_event(
    gateway: Gateway, upstream: Upstream, method: str, status: int
) -> None:
    """Where no body can come, an event stream is complete with its head."""
    upstream.then(sending(b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\n\r\n" % status))
    answer = await gateway.ask(method, CHAT)
    assert answer.status == status
    assert (await gateway.ended(answer.head.task_id))["state"] == "SUCCESS"


async def test_an_encoded_stream_counts_by_its_clean_end(gateway: Gateway, upstream: Upstream) -> None:
    """A stream with a Content-Encoding cannot be looked into: a clean end is SUCCESS, a break is not."""
    fields = EVENTS, (b"Content-Encoding", b"gzip")
    body = gzip.compress(DELTA)
    upstream.then(streaming(body, fields=fields), streaming(body, fields=fields, then="drop"))
    whole = await gateway.ask("POST", CHAT, body=BODY)
    broken = await gateway.ask("POST", CHAT, body=BODY)
    assert whole.data == body
    assert outcome(await gateway.ended(whole.head.task_id)) == DONE
    assert outcome(await gateway.ended(broken.head.task_id)) == failed("upstream_truncated")


@pytest.mark.parametrize("kind", [b"text/event-stream; charset=utf-8", b"Text/Event-Stream", b"text/event-stream;x=y"])
async def test_an_event_stream_is_known_by_its_type(tracked: Gateway, upstream: Upstream, kind: bytes) -> None:
    """Parameters and case of the content type make no difference."""
    upstream.then(streaming(DELTA, fields=((b"Content-Type", kind),)))
    answer = await tracked.ask("POST", CHAT, body=BODY)
    document = await tracked.status(answer.head.task_id)
    assert (outcome(document), document["extensions"]["stream"]) == (CUT, True)


async def test_whether_it_streams_is_known_from_the_response(tracked: Gateway, upstream: Upstream) -> None:
    """A body that asks for a stream and gets plain JSON is no stream, and its clean end is a success."""
    upstream.then(sending(head(200, JSON, CHUNKED), chunk(b"{}"), LAST_CHUNK))
    answer = await tracked.ask("POST", CHAT, body=BODY)
    document = await tracked.status(answer.head.task_id)
    assert (outcome(document), document["extensions"]["stream"]) == (DONE, False)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 300, 304, 400, 401, 404, 413, 429, 500, 503])
async def test_a_whole_answer_counts_by_its_status(tracked: Gateway, upstream: Upstream, status: int) -> None:
    """A complete 2xx is SUCCESS, any other status FAILED upstream_status; the status is in the document."""
    body = b"" if status == 304 else b"{}"
    upstream.then(sending(head(204)) if status == 204 else answering(status, JSON, body=body))
    answer = await tracked.ask("POST", CHAT, body=BODY)
    document = await tracked.status(answer.head.task_id)
    assert outcome(document) == (DONE if status < 300 else failed("upstream_status"))
    assert document["extensions"]["status_code"] == status


async def test_an_error_in_an_event_stream_with_an_error_status(tracked: Gateway, upstream: Upstream) -> None:
    """A 4xx event stream is upstream_status, whatever it says."""
    upstream.then(sending(head(429, EVENTS, CHUNKED), chunk(ERROR), LAST_CHUNK))
    answer = await tracked.ask("POST", CHAT, body=BODY)
    assert outcome(await tracked.status(answer.head.task_id)) == failed("upstream_status")
