"""Owns what a reader of a kept answer gets: from any byte, at any gateway, live, and ended as the original.

Contract 9.3 and 9.4.
"""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.kept import (
    ASYNC,
    DONE_EVENT,
    EVENTS,
    KEEP,
    WHOLE,
    Kept,
    bearer,
    code_of,
    delete,
    ended_call,
    kept,
    new_id,
    read,
    route,
)
from tests.support.outcome import failed, outcome
from tests.support.scripted import CHUNKED, JSON, answering, head, sending, streaming
from tests.support.scripted import EVENTS as EVENT_STREAM
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until, within
from tests.support.wire import chunk

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.integration.conftest import Pair
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response

ORIGIN = (b"Origin", b"http://localhost:3000")


def generation(answer: Response) -> str:
    """The generation that the ETag of an answer names."""
    tag = answer.head.get("etag")
    assert tag is not None
    assert re.fullmatch(rb'"1-[0-9a-f]+"', tag), tag
    return tag.strip(b'"').decode()


# -- from a byte on --


async def test_it_is_read_from_any_byte(pair: Pair, upstream: Upstream) -> None:
    """`from=N` gives what is behind N bytes; its length gives 200 and nothing, more is 416."""
    task_id = await ended_call(pair.first, upstream)
    for gateway in pair:
        for offset in (0, 1, len(EVENTS[0]), len(WHOLE) - 1, len(WHOLE)):
            answer = await read(gateway, task_id, f"from={offset}")
            assert (answer.status, answer.data, answer.body.complete) == (200, WHOLE[offset:], True)
        assert code_of(await read(gateway, task_id, f"from={len(WHOLE) + 1}")) == (416, "offset_not_satisfiable")
        assert code_of(await read(gateway, task_id, "from=9999999999999999")) == (416, "offset_not_satisfiable")


async def test_it_is_read_live(pair: Pair, upstream: Upstream) -> None:
    """A reader gets each piece while the task runs, also if the client is there, and then the end."""
    call = await kept(pair.first, upstream)
    readers = [await gateway.send("GET", route(call.task_id)) for gateway in (*pair, *pair)]
    for event in EVENTS[:5]:
        call.script.piece(event)
        for reader in readers:
            await within(GUARD_SECONDS, reader.up_to(event))
    call.finish()
    for reader in readers:
        assert (await within(GUARD_SECONDS, reader.reader.readuntil(b"0\r\n\r\n"))).count(DONE_EVENT) == 1


async def test_an_offset_that_is_not_reached_waits(pair: Pair, upstream: Upstream) -> None:
    """Its head, too; it begins with exactly that byte."""
    call = await kept(pair.first, upstream)
    call.script.piece(EVENTS[0])
    await call.client.up_to(EVENTS[0])
    offset = len(EVENTS[0]) + 3
    readers = [asyncio.ensure_future(read(gateway, call.task_id, f"from={offset}")) for gateway in pair]
    waited = await pair.other.ask("GET", route(call.task_id, f"from={offset}&wait=1"))
    assert waited.status == 202
    assert not any(reader.done() for reader in readers)
    call.finish(*EVENTS[1:-1])
    for reader in readers:
        answer = await within(GUARD_SECONDS, reader)
        assert (answer.status, answer.data) == (200, WHOLE[offset:])


async def test_an_offset_behind_the_end_of_one_that_runs_is_416_at_its_end(pair: Pair, upstream: Upstream) -> None:
    """It waits as long as the task runs, and can never be satisfied then."""
    call = await kept(pair.first, upstream)
    reader = asyncio.ensure_future(read(pair.other, call.task_id, "from=1000"))
    call.finish()
    assert code_of(await within(GUARD_SECONDS, reader)) == (416, "offset_not_satisfiable")


async def test_it_ends_as_the_original_did(pair: Pair, upstream: Upstream) -> None:
    """One that broke off is broken off for its readers, live and later, and no terminator is forged."""
    upstream.then(streaming(*EVENTS[:3], then="reset"))
    task_id = new_id()
    client = await pair.first.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=BODY)
    await client.answer()
    assert outcome(await pair.ended(task_id)) == failed("upstream_truncated")
    for gateway in pair:
        for offset in (0, 5, len(b"".join(EVENTS[:3]))):
            answer = await read(gateway, task_id, f"from={offset}")
            assert (answer.status, answer.data) == (200, b"".join(EVENTS[:3])[offset:])
            assert not answer.body.complete
        assert code_of(await read(gateway, task_id, "from=1000")) == (416, "offset_not_satisfiable")


async def test_a_live_reader_is_broken_off_with_the_original(pair: Pair, upstream: Upstream) -> None:
    """At any gateway."""
    call = await kept(pair.first, upstream)
    readers = [await gateway.send("GET", route(call.task_id)) for gateway in pair]
    call.script.piece(EVENTS[0])
    for reader in readers:
        await reader.up_to(EVENTS[0])
    call.exchange.reset()
    for reader in readers:
        rest = await within(GUARD_SECONDS, reader.reader.read())
        assert b"0\r\n\r\n" not in rest


async def test_a_short_body_of_known_length_is_broken_off(pair: Pair, upstream: Upstream) -> None:
    """With a Content-Length, too."""
    upstream.then(sending(head(200, JSON, (b"Content-Length", b"10")), b"12345", then="drop"))
    task_id = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    await pair.ended(task_id)
    for gateway in pair:
        answer = await read(gateway, task_id)
        assert (answer.status, answer.data, answer.body.complete) == (200, b"12345", False)


# -- the head --


async def test_status_and_fields_are_the_upstreams(pair: Pair, upstream: Upstream) -> None:
    """Order and duplicates are kept; what concerned one client alone is not, and Date and framing are the reader's."""
    fields: list[Field] = [
        (b"X-B", b"1"), (b"X-A", b"2"), (b"X-B", b"3"), (b"X-Umlaut", b"\xe4"), (b"Content-Encoding", b"zstd"),
        (b"Set-Cookie", b"a=b"), (b"Set-Cookie2", b"c=d"), (b"Authentication-Info", b"e"),
        (b"Proxy-Authenticate", b"f"), (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"Server", b"own"),
        (b"ETag", b'"own"'), (b"Cache-Control", b"public"),
    ]  # fmt: skip
    upstream.then(answering(418, JSON, *fields, body=b"{ }"))
    first = await pair.first.ask("POST", CHAT, KEEP, body=BODY)
    assert first.head.get("set-cookie") == b"a=b"
    for gateway in pair:
        answer = await read(gateway, first.head.task_id)
        names = [name for name, _ in answer.head.lowered]
        assert (answer.status, answer.data) == (418, b"{ }")
        assert [pair for pair in answer.head.lowered if pair[0].startswith(b"x-") and len(pair[0]) == 3] == [
            (b"x-b", b"1"), (b"x-a", b"2"), (b"x-b", b"3")
        ]  # fmt: skip
        assert answer.head.get("x-umlaut") == b"\xe4"
        assert answer.head.get("content-encoding") == b"zstd"
        assert answer.head.get("content-length") == b"3"
        assert not {b"set-cookie", b"set-cookie2", b"authentication-info", b"proxy-authenticate"} & set(names)
        for own in ("date", "etag", "x-task-id", "cache-control"):
            assert len(answer.head.all(own)) == 1, own
        assert answer.head.get("date") != b"Thu, 01 Jan 1970 00:00:00 GMT"
        assert answer.head.get("cache-control") == b"no-store"
        assert answer.head.get("x-content-type-options") == b"nosniff"
        assert generation(answer)


async def test_a_stream_is_not_buffered_by_proxies(pair: Pair, upstream: Upstream) -> None:
    """`X-Accel-Buffering: no`, as on the first answer."""
    task_id = await ended_call(pair.first, upstream)
    answer = await read(pair.other, task_id)
    assert answer.head.all("x-accel-buffering") == [b"no"]
    assert answer.head.get("content-type") == b"text/event-stream"


async def test_a_document_navigation_gets_a_sandbox(pair: Pair, upstream: Upstream) -> None:
    """What a model has written never runs with the gateway's origin."""
    upstream.then(answering(200, (b"Content-Type", b"text/html"), body=b"<script>"))
    task_id = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    answer = await read(pair.other, task_id, "", (b"Sec-Fetch-Dest", b"document"))
    assert answer.head.all("content-security-policy") == [b"sandbox"]


async def test_answers_without_a_body(pair: Pair, upstream: Upstream) -> None:
    """204 and an empty 200 are kept as such."""
    for status in (204, 200):
        upstream.then(answering(status))
        task_id = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
        for gateway in pair:
            answer = await read(gateway, task_id)
            assert (answer.status, answer.data, answer.body.complete) == (status, b"", True)


async def test_an_answer_to_head_is_a_head(pair: Pair, upstream: Upstream) -> None:
    """A kept HEAD keeps the fields; its reader gets no body and no forged length."""
    upstream.then(sending(head(200, JSON, (b"Content-Length", b"5"))))
    first = await pair.first.ask("HEAD", "/v1/own", KEEP)
    for gateway in pair:
        answer = await read(gateway, first.head.task_id)
        assert (answer.status, answer.data, answer.body.complete) == (200, b"", True)


async def test_head_is_as_get_without_a_body(pair: Pair, upstream: Upstream) -> None:
    """The same fields, of one that has ended and of one that runs."""
    task_id = await ended_call(pair.first, upstream)
    for gateway in pair:
        got, headed = await read(gateway, task_id), await read(gateway, task_id, method="HEAD")
        assert (headed.status, headed.data) == (200, b"")
        assert [name for name, _ in headed.head.lowered] == [name for name, _ in got.head.lowered]
        assert headed.head.get("content-length") == b"%d" % len(WHOLE)
        assert (await read(gateway, task_id, "from=7", method="HEAD")).head.get("content-length") == b"%d" % (
            len(WHOLE) - 7
        )
    call = await kept(pair.first, upstream)
    assert (await within(GUARD_SECONDS, read(pair.other, call.task_id, method="HEAD"))).status == 200
    call.finish()
    await pair.ended(call.task_id)


# -- generations --


async def test_the_etag_names_the_generation(pair: Pair, upstream: Upstream) -> None:
    """The same at both gateways and at all offsets, live and later; a resume with it goes on, another one is 412."""
    call = await kept(pair.first, upstream)
    call.script.piece(EVENTS[0])
    await call.client.up_to(EVENTS[0])
    live = await pair.other.send("GET", route(call.task_id))
    tag = (await live.head()).get("etag")
    assert tag is not None
    name = tag.strip(b'"').decode()
    call.finish(*EVENTS[1:-1])
    await pair.ended(call.task_id)
    for gateway in pair:
        right: list[tuple[str, list[Field]]] = [
            ("from=3", [(b"If-Match", tag)]), (f"from=3&generation={name}", []),
            ("from=3", [(b"If-Match", b'"x", ' + tag)]), ("from=3", [(b"If-Match", b"*")]),
            ("from=3", [(b"If-Match", b'"x"'), (b"If-Match", tag)]),
        ]  # fmt: skip
        for query, fields in right:
            answer = await read(gateway, call.task_id, query, *fields)
            assert (answer.status, answer.data, answer.head.get("etag")) == (200, WHOLE[3:], tag), (query, fields)
        wrong: list[tuple[str, list[Field]]] = [
            ("from=3", [(b"If-Match", b'"1-0000000000000000"')]), ("generation=1-0000000000000000", []),
            ("from=3", [(b"If-Match", b'"' + tag.strip(b'"')[:-1] + b'"')]), ("from=3", [(b"If-Match", b"W/" + tag)]),
            ("from=3", [(b"If-Match", b'""')]), ("from=3", [(b"If-Match", b"nonsense")]),
        ]  # fmt: skip
        for query, fields in wrong:
            answer = await read(gateway, call.task_id, query, *fields)
            assert code_of(answer) == (412, "generation_changed"), (query, fields)


async def test_a_new_attempt_is_a_new_generation(pair: Pair, upstream: Upstream) -> None:
    """After FAILED the id is used anew: a resume of the old answer is 412, so the two are never glued together."""
    task_id = new_id()
    name = (b"X-Task-Id", task_id.encode())
    upstream.then(streaming(*EVENTS[:3], then="drop"), streaming(*EVENTS))
    await pair.first.ask("POST", CHAT, name, KEEP, body=BODY)
    await pair.ended(task_id)
    part = await read(pair.other, task_id)
    tag = part.head.get("etag")
    assert tag is not None
    again = await pair.other.ask("POST", CHAT, name, KEEP, body=BODY)
    assert (again.status, again.data, again.head.get("x-task-joined")) == (200, WHOLE, None)
    for gateway in pair:
        answer = await read(gateway, task_id, f"from={len(part.data)}", (b"If-Match", tag))
        assert code_of(answer) == (412, "generation_changed")
        whole = await read(gateway, task_id)
        assert (whole.data, whole.head.get("etag") != tag) == (WHOLE, True)


# -- waiting --


async def test_a_reader_waits_for_the_head_as_the_client_did(pair: Pair, upstream: Upstream) -> None:
    """Without `wait` there is no limit; with it, 202 with the status document and Retry-After when it is over."""
    call = Kept(pair.first, upstream)
    await call.ask()
    readers = [asyncio.ensure_future(read(gateway, call.task_id)) for gateway in pair]
    for gateway in pair:
        begun = time.monotonic()
        answer = await read(gateway, call.task_id, "wait=1")
        assert time.monotonic() - begun >= 0.9
        assert (answer.status, answer.json()["task_id"]) == (202, call.task_id)
        assert answer.json()["state"] == "RUNNING"
        assert int(answer.head.get("retry-after") or b"0") > 0
        assert (await within(GUARD_SECONDS, read(gateway, call.task_id, "wait=0"))).status == 202
    assert not any(reader.done() for reader in readers)
    waiting = [asyncio.ensure_future(read(gateway, call.task_id, "wait=60")) for gateway in pair]
    call.script.head()
    call.finish(*EVENTS[:-1])
    for reader in (*readers, *waiting):
        assert (await within(GUARD_SECONDS, reader)).data == WHOLE


async def test_if_no_head_comes_a_reader_gets_the_error_of_the_client(pair: Pair, upstream: Upstream) -> None:
    """The same status, code and message, from then on."""
    upstream.then(sending(b"nonsense\r\n\r\n", then="drop"))
    call = Kept(pair.first, upstream)
    client = await pair.first.send("POST", CHAT, call.name, KEEP, body=BODY)
    first = await client.answer()
    assert code_of(first) == (502, "upstream_error")
    await pair.ended(call.task_id)
    for gateway in pair:
        answer = await read(gateway, call.task_id)
        assert (answer.status, answer.json()) == (502, first.json())
        assert answer.head.task_id == call.task_id


# -- ranges --


async def test_a_range_resumes_one_that_ended_whole(pair: Pair, upstream: Upstream) -> None:
    """`Range: bytes=N-` is 206 with Content-Range; at or behind the end 416, as `curl -C -` expects."""
    task_id = await ended_call(pair.first, upstream)
    size = len(WHOLE)
    for gateway in pair:
        for first in (0, 10, size - 1):
            answer = await read(gateway, task_id, "", (b"Range", b"bytes=%d-" % first))
            assert (answer.status, answer.data) == (206, WHOLE[first:])
            assert answer.head.get("content-range") == b"bytes %d-%d/%d" % (first, size - 1, size)
            assert answer.head.get("content-length") == b"%d" % (size - first)
        for first in (size, size + 1, 10**12):
            answer = await read(gateway, task_id, "", (b"Range", b"bytes=%d-" % first))
            assert code_of(answer) == (416, "offset_not_satisfiable")
            assert answer.head.get("content-range") == b"bytes */%d" % size
        headed = await read(gateway, task_id, "", (b"Range", b"bytes=10-"), method="HEAD")
        assert headed.status in (200, 206)


@pytest.mark.parametrize(
    "value", [b"bytes=0-9", b"bytes=-5", b"bytes=1-,3-", b"lines=1-", b"bytes=x-", b"bytes 1-", b"", b"bytes=5-2"]
)
async def test_other_ranges_are_ignored(tracked: Gateway, upstream: Upstream, value: bytes) -> None:
    """All but `bytes=N-` gets the whole answer."""
    task_id = await ended_call(tracked, upstream)
    answer = await read(tracked, task_id, "", (b"Range", value))
    assert (answer.status, answer.data, answer.head.get("content-range")) == (200, WHOLE, None)


async def test_a_range_counts_for_a_200_that_ended_whole_alone(pair: Pair, upstream: Upstream) -> None:
    """Not while it runs, not for one that broke off, not for another status."""
    ranged = (b"Range", b"bytes=5-")
    call = await kept(pair.first, upstream)
    reading = [await gateway.send("GET", route(call.task_id), ranged) for gateway in pair]
    for reader in reading:
        assert (await reader.head()).status == 200
    call.finish()
    await pair.ended(call.task_id)
    upstream.then(streaming(*EVENTS[:3], then="drop"))
    broken = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    upstream.then(answering(404, JSON, body=b"0123456789"))
    error = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    await pair.ended(broken)
    for gateway in pair:
        answer = await read(gateway, broken, "", ranged)
        assert (answer.status, answer.data, answer.body.complete) == (200, b"".join(EVENTS[:3]), False)
        answer = await read(gateway, error, "", ranged)
        assert (answer.status, answer.data) == (404, b"0123456789")


async def test_if_range_names_the_generation(pair: Pair, upstream: Upstream) -> None:
    """With another one the whole answer comes (RFC 9110 13.1.5); a weak tag never counts."""
    task_id = await ended_call(pair.first, upstream)
    tag = (await read(pair.first, task_id)).head.get("etag") or b""
    ranged = (b"Range", b"bytes=5-")
    for gateway in pair:
        answer = await read(gateway, task_id, "", ranged, (b"If-Range", tag))
        assert (answer.status, answer.data) == (206, WHOLE[5:])
        for other in (b'"1-0"', b"W/" + tag, b"Thu, 01 Jan 1970 00:00:00 GMT"):
            answer = await read(gateway, task_id, "", ranged, (b"If-Range", other))
            assert (answer.status, answer.data) == (200, WHOLE), other


# -- errors --


@pytest.mark.parametrize(
    "query",
    ["from=", "from=-1", "from=x", "from=1.5", "from=+1", "from=1&from=2", "from=99999999999999999", "wait=", "wait=-1",
     "wait=61", "wait=x", "wait=60.5", "wait=1&wait=1", "wait=nan", "wait=inf", "wait=1e1"],
)  # fmt: skip
async def test_a_bad_parameter_is_422(pair: Pair, upstream: Upstream, query: str) -> None:
    """With the error's own shape."""
    task_id = await ended_call(pair.first, upstream)
    assert code_of(await read(pair.other, task_id, query)) == (422, "invalid_parameter")


async def test_what_is_not_there_is_404(pair: Pair, upstream: Upstream) -> None:
    """An unknown id, and a task whose answer was not to be kept; a malformed id is 400."""
    unkept = (await pair.first.ask("POST", CHAT, body=BODY)).head.task_id
    for gateway in pair:
        assert code_of(await read(gateway, new_id())) == (404, "not_found")
        assert code_of(await read(gateway, unkept)) == (404, "response_not_kept")
        assert code_of(await delete(gateway, new_id())) == (404, "not_found")
        assert code_of(await delete(gateway, unkept)) == (404, "response_not_kept")
        assert code_of(await read(gateway, "-x")) == (400, "invalid_task_id")


async def test_other_methods_are_405(tracked: Gateway, upstream: Upstream) -> None:
    """Only GET, HEAD and DELETE."""
    task_id = await ended_call(tracked, upstream)
    for method in ("POST", "PUT", "PATCH"):
        assert (await tracked.ask(method, route(task_id), body=b"")).status == 405


async def test_the_id_status_cannot_be_kept(pair: Pair, upstream: Upstream) -> None:
    """Its route is the status route's: 400, kept or asynchronous; not kept it is an id as any other."""
    name = (b"X-Task-Id", b"status")
    for field in (KEEP, ASYNC):
        assert code_of(await pair.first.ask("POST", CHAT, name, field, body=BODY)) == (400, "invalid_task_id")
    assert upstream.exchanges == []
    assert (await pair.first.ask("POST", CHAT, name, body=BODY)).status == 200


async def test_an_id_with_escapes_is_found(pair: Pair, upstream: Upstream) -> None:
    """In the route the id may be percent-encoded."""
    task_id = new_id() + ":a@b"
    upstream.then(streaming(*EVENTS))
    await pair.first.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), KEEP, body=BODY)
    for gateway in pair:
        for written in (task_id, task_id.replace(":", "%3A").replace("@", "%40")):
            assert (await read(gateway, written)).data == WHOLE


async def test_after_a_newer_attempt_that_is_not_kept_it_is_gone(pair: Pair, upstream: Upstream) -> None:
    """An answer belongs to its attempt."""
    task_id = await ended_call(pair.first, upstream)
    assert (await read(pair.other, task_id)).data == WHOLE
    again = await pair.other.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=BODY)
    assert again.status == 200
    await pair.ended(task_id)
    for gateway in pair:
        assert code_of(await read(gateway, task_id)) == (410, "response_gone")


async def test_a_document_that_says_kept_without_its_bytes_is_gone(two: Pair, store: Store, upstream: Upstream) -> None:
    """Redis may have evicted them: 410, whichever of the keys is gone."""
    for which in (".*body.*", ".*answer:.*", ".*"):
        task_id = await ended_call(two.first, upstream)
        await until(partial(_is_stored, store, task_id), what="the store has all of it")
        keys = [key for key in await store.keys() if task_id in key and key.startswith("tsx:")]
        gone = [key for key in keys if re.fullmatch(which, key) and ("body" in key or "answer:" in key)]
        assert gone
        await store.client.delete(*gone)
        for gateway in two:
            assert code_of(await read(gateway, task_id)) == (410, "response_gone"), which


async def _is_stored(store: Store, task_id: str) -> bool:
    heads = [str(await store.client.get(key)) for key in await store.keys() if f"answer:{task_id}" in key]
    return any('"end":"whole"' in head for head in heads)


# -- whose it is --


async def test_the_owner_rule_holds(gateways: Launch, store: Store, upstream: Upstream) -> None:
    """With keys an answer is its key's and the admin's alone: 404 for others, 401 without one."""
    keys = {"GATEWAY_API_KEYS": "alice:sk-of-alice-kept,bob:sk-of-bob-kept,admin:sk-of-admin-kept"}
    first = await gateways(REDIS_URL=store.url, **keys)
    other = await gateways(REDIS_URL=store.url, GATEWAY_INSTANCE="another:11535", **keys)
    alice, bob, admin = (bearer(f"sk-of-{name}-kept") for name in ("alice", "bob", "admin"))
    running = await kept(first, upstream, alice)
    running.script.piece(EVENTS[0])
    await running.client.up_to(EVENTS[0])
    ended = await ended_call(first, upstream, alice)
    for gateway in (first, other):
        for task_id in (running.task_id, ended):
            assert code_of(await read(gateway, task_id)) == (401, "unauthorized")
            assert code_of(await read(gateway, task_id, "", bob)) == (404, "not_found")
            assert code_of(await delete(gateway, task_id, bob)) == (404, "not_found")
            assert code_of(await delete(gateway, task_id)) == (401, "unauthorized")
        assert (await read(gateway, ended, "", alice)).data == WHOLE
        assert (await read(gateway, ended, "", admin)).data == WHOLE
    readers = [await gateway.send("GET", route(running.task_id), alice) for gateway in (first, other)]
    running.finish(*EVENTS[1:-1])
    for reader in readers:
        assert (await reader.answer()).data == WHOLE
    assert (await delete(other, ended, alice)).status == 204


# -- browsers --


async def test_a_page_may_read_what_it_needs(pair: Pair, upstream: Upstream) -> None:
    """The gateway's CORS: Ollama's own fields do not count, and all that a resume needs is exposed."""
    fields: list[Field] = [(b"Access-Control-Allow-Origin", b"https://own.example"), (b"Vary", b"Own")]
    upstream.then(answering(200, JSON, *fields, body=b"{ }"))
    task_id = (await pair.first.ask("POST", CHAT, KEEP, ORIGIN, body=BODY)).head.task_id
    for gateway in pair:
        answer = await read(gateway, task_id, "", ORIGIN)
        assert answer.head.all("access-control-allow-origin") == [ORIGIN[1]]
        exposed = {
            name.strip().lower() for name in (answer.head.get("access-control-expose-headers") or b"").split(b",")
        }
        assert exposed >= {
            b"x-task-id", b"x-task-joined", b"etag", b"location", b"retry-after", b"content-range",
            b"preference-applied",
        }  # fmt: skip
        other = await read(gateway, task_id, "", (b"Origin", b"https://elsewhere.example"))
        assert code_of(other) == (403, "origin_not_allowed")
        preflight = await gateway.ask(
            "OPTIONS", route(task_id), ORIGIN, (b"Access-Control-Request-Method", b"DELETE"),
            (b"Access-Control-Request-Headers", b"if-match"),
        )  # fmt: skip
        assert preflight.status in (200, 204)
        assert preflight.head.get("access-control-allow-origin") == ORIGIN[1]
        forged = await read(gateway, task_id, "", (b"Sec-Fetch-Site", b"cross-site"))
        assert code_of(forged) == (403, "origin_not_allowed")


# -- at any speed --


async def test_a_stalled_reader_costs_the_others_nothing(pair: Pair, upstream: Upstream) -> None:
    """The client and another reader get all while one reads nothing."""
    size = 64 * 1024
    pieces = 100
    call = Kept(pair.first, upstream)
    await call.ask()
    call.script.head()
    stalled = [await gateway.connect(receive_buffer=4096) for gateway in pair]
    for one in stalled:
        one.stop_reading()
        await one.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % route(call.task_id).encode())
    readers = [asyncio.ensure_future(read(gateway, call.task_id)) for gateway in pair]
    for number in range(pieces):
        call.script.piece(bytes([number]) * size)
    call.script.end()
    first = await within(GUARD_SECONDS, call.client.answer())
    for reader in readers:
        answer = await within(GUARD_SECONDS, reader)
        assert (answer.body.sha256, answer.body.size) == (first.body.sha256, size * pieces)
    for one in stalled:
        one.go_on_reading()
        late = await within(GUARD_SECONDS, one.answer())
        assert late.body.sha256 == first.body.sha256


async def test_a_reader_that_leaves_ends_nothing(pair: Pair, upstream: Upstream) -> None:
    """Neither the task nor other readers."""
    call = await kept(pair.first, upstream)
    await call.leave()
    leaving = [await gateway.send("GET", route(call.task_id)) for gateway in pair]
    call.script.piece(EVENTS[0])
    for reader in leaving:
        await reader.up_to(EVENTS[0])
        reader.reset()
    call.finish(*EVENTS[1:-1])
    for gateway in pair:
        assert (await within(GUARD_SECONDS, read(gateway, call.task_id))).data == WHOLE


async def test_one_connection_reads_and_asks_on(pair: Pair, upstream: Upstream) -> None:
    """Reads are ordinary requests of a kept-alive connection, pipelined too."""
    task_id = await ended_call(pair.first, upstream)
    client = await pair.other.connect()
    target = route(task_id).encode()
    await client.send(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % target * 3)
    assert [(await client.answer()).data for _ in range(3)] == [WHOLE] * 3
    assert (await client.ask("GET", f"/tasks/status/{task_id}")).status == 200


async def test_a_client_of_http_1_0_reads_to_the_end(pair: Pair, upstream: Upstream) -> None:
    """Without chunks; its connection ends with the answer."""
    task_id = await ended_call(pair.first, upstream)
    client = await pair.other.connect()
    await client.send(b"GET %b HTTP/1.0\r\nHost: localhost\r\n\r\n" % route(task_id).encode())
    answer = await client.answer()
    assert answer.data == WHOLE
    assert answer.head.get("transfer-encoding") is None
    assert await client.at_end()


async def test_an_end_without_the_end_event_is_whole_for_readers(pair: Pair, upstream: Upstream) -> None:
    """The message ended cleanly, the task did not: FAILED `stream_incomplete`, and readers get a whole message."""
    upstream.then(streaming(*EVENTS[:3]))
    task_id = (await pair.first.ask("POST", CHAT, KEEP, body=BODY)).head.task_id
    assert outcome(await pair.ended(task_id)) == failed("stream_incomplete")
    for gateway in pair:
        answer = await read(gateway, task_id)
        assert (answer.data, answer.body.complete) == (b"".join(EVENTS[:3]), True)


async def test_what_comes_behind_the_end_event_is_kept_too(pair: Pair, upstream: Upstream) -> None:
    """The task is SUCCESS with its end event; what Ollama still sends belongs to the answer."""
    more = b": more\n\n"
    call = await kept(pair.first, upstream)
    call.script.piece(DONE_EVENT)
    await call.client.up_to(DONE_EVENT)
    await pair.ended(call.task_id)
    assert (await pair.other.status(call.task_id))["state"] == "SUCCESS"
    early = await pair.other.send("GET", route(call.task_id))
    await early.up_to(DONE_EVENT)
    call.script.piece(more)
    call.script.end()
    assert more in await within(GUARD_SECONDS, early.up_to(b"0\r\n\r\n"))
    for gateway in pair:
        assert (await read(gateway, call.task_id)).data == DONE_EVENT + more


async def test_a_break_behind_the_end_event_breaks_readers_off(pair: Pair, upstream: Upstream) -> None:
    """The task stays SUCCESS; its message was broken off, for readers, too."""
    upstream.then(sending(head(200, EVENT_STREAM, CHUNKED), chunk(DONE_EVENT), then="reset"))
    client = await pair.first.send("POST", CHAT, KEEP, body=BODY)
    first = await client.head()
    body = await client.rest(first)
    document = await pair.ended(first.task_id)
    assert document["state"] == "SUCCESS"
    for gateway in pair:
        answer = await within(GUARD_SECONDS, read(gateway, first.task_id))
        assert (answer.data, answer.body.complete) == (DONE_EVENT, body.body.complete)
