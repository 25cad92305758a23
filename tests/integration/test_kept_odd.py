"""Owns what is odd about kept answers: conditions, early answers, queues and stores that fail (contract section 9)."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted import JSON, answering, head, sending
from tests.support.waiting import until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")

CHAT = "/v1/chat/completions"
KEEP = (b"X-Task-Keep", b"true")
ASYNC = (b"Prefer", b"respond-async")


def send(store: Store, what: signal.Signals) -> None:
    """Send a signal to the store's process."""
    assert store.process is not None
    store.process.send_signal(what)


def with_id(task_id: str) -> tuple[bytes, bytes]:
    return (b"X-Task-Id", task_id.encode())


async def test_a_range_may_begin_far_into_the_answer(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """`Range: bytes=N-` gives the bytes from N on, for an N beyond what one look at the answer finds."""
    body = bytes(range(256)) * 1024
    upstream.then(answering(200, JSON, body=body))
    await gateway.ask("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")
    for first in (65535, 65536, 65537, 200_000, len(body) - 1):
        part = await gateway.ask("GET", f"/tasks/{fresh_id}/response", (b"Range", b"bytes=%d-" % first))
        assert (part.status, part.body.complete) == (206, True)
        assert part.data == body[first:]


@pytest.mark.parametrize("tag", [b'W/"%b"', b"%b"])
async def test_an_if_match_without_a_strong_tag_never_matches(
    gateway: Gateway, upstream: Upstream, fresh_id: str, tag: bytes
) -> None:
    """A reader that sends If-Match never gets an answer that the field does not name."""
    upstream.then(answering(200, JSON, body=b"first"))
    await gateway.ask("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")
    whole = await gateway.ask("GET", f"/tasks/{fresh_id}/response")
    generation = (whole.head.get("etag") or b"").strip(b'"')
    other = await gateway.ask("GET", f"/tasks/{fresh_id}/response?from=2", (b"If-Match", tag % (generation + b"0")))
    assert other.status == 412


async def test_a_retry_of_a_request_that_was_never_whole_is_a_new_attempt(
    gateway: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Ollama may answer before the body is here. Such a request cannot be compared, so a retry begins again."""
    upstream.then(sending(head(200, JSON, (b"Content-Length", b"2")) + b"{}", read=False, then="drop"))
    client = await gateway.connect()
    await client.send(request("POST", CHAT, with_id(fresh_id), KEEP, (b"Content-Length", b"100")) + b"{")
    early = await client.answer("POST")
    assert early.data == b"{}"
    await client.close()
    await gateway.ended(fresh_id)
    upstream.then(answering(200, JSON, body=b"second"))
    again = await within(30, gateway.ask("POST", CHAT, with_id(fresh_id), KEEP, body=b"{" + b" " * 99))
    assert (again.status, again.data) == (200, b"second")


async def test_a_joiner_is_compared_while_the_first_request_waits_for_its_place(
    gateways: Launch, store: Store, upstream: Upstream, fresh_id: str
) -> None:
    """A whole request in the queue can be joined at once: another body is refused, respond-async is accepted."""
    gateway = await gateways(REDIS_URL=store.url, MAX_RUNNING="1")
    running = upstream.gated()
    await gateway.send("POST", CHAT, body=b"{}")
    await upstream.exchange()
    await gateway.send("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")
    await gateway.at(fresh_id, "queued")
    other = await within(30, gateway.ask("POST", CHAT, with_id(fresh_id), KEEP, body=b"{ }"))
    assert other.status == 422
    accepted = await within(30, gateway.ask("POST", CHAT, with_id(fresh_id), ASYNC, body=b"{}"))
    assert accepted.status == 202
    running.head()
    running.end()
    await gateway.ended(fresh_id)


async def test_a_joined_head_request_gets_the_same_fields(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """The answer to HEAD has the Content-Length of the answer to GET; a joiner gets it, too."""
    upstream.default = sending(head(200, JSON, (b"Content-Length", b"1234")))
    first = await gateway.ask("HEAD", "/v1/models/x", with_id(fresh_id), KEEP)
    await gateway.ended(fresh_id)
    joined = await gateway.ask("HEAD", "/v1/models/x", with_id(fresh_id), KEEP)
    assert joined.head.get("x-task-joined") == b"true"
    assert joined.head.get("content-length") == first.head.get("content-length") == b"1234"


async def test_answers_are_written_at_once_after_a_failure_in_which_all_were_dropped(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """A store that failed when there was nothing left to write takes the next answer at once."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url, HEARTBEAT_SEC="60", TTL_RUNNING="3600")
    script = upstream.gated()
    client = await gateway.send("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")
    script.head()
    script.piece(b"data: 1\n\n")
    await client.up_to(b"data: 1")
    await store.client.config_set("maxmemory", "1")
    script.piece(b"data: 2\n\n")
    await until(lambda: "takes no kept answers" in gateway.log, 30)
    answer = await gateway.ask("DELETE", f"/tasks/{fresh_id}/response")
    assert answer.status in (204, 503)
    script.end()
    await store.client.config_set("maxmemory", "0")
    upstream.then(answering(200, JSON, body=b"next"))
    await gateway.ask("POST", CHAT, with_id(fresh_id + "-next"), KEEP, body=b"{}")

    async def is_stored() -> bool:
        return '"state":"SUCCESS"' in (await store.raw(fresh_id + "-next") or "")

    await until(is_stored, 30)  # long before the next heartbeat
    assert (await gateway.status(fresh_id + "-next"))["extensions"]["response"] == "kept"


@pytest.mark.alone  # it looks at tenths of a second
async def test_a_frozen_store_delays_a_kept_call_as_little_as_any(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """All waits of one request for the store together take 300 ms, also with the look for an earlier request."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    upstream.default = answering(200, JSON, body=b"{}")
    await gateway.ask("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")

    async def is_up() -> bool:
        return bool((await gateway.http.get("/readyz")).json()["store"] == "up")

    took = []
    for n in range(3):  # the machine may be busy, but not each time
        await until(is_up, 15)
        send(store, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = await gateway.ask("POST", CHAT, with_id(f"{fresh_id}{n}"), KEEP, body=b"{}")
            took.append(time.monotonic() - began)
        finally:
            send(store, signal.SIGCONT)
        assert answer.status == 200
    assert min(took) < 0.45


async def test_an_accepting_client_without_an_id_that_leaves_too_early_ends_its_task(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """A client that sent no id and leaves before its 202 cannot know the id, so the task is of no use."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)

    async def is_held() -> bool:
        held: int = (await gateway.http.get("/readyz")).json()["kept"]["answers"]
        return held > 0

    send(store, signal.SIGSTOP)
    try:
        client = await gateway.send("POST", CHAT, ASYNC, body=b"{}")
        await until(is_held, what="the gateway has the request")
        client.reset()
        await until(lambda: "client_disconnect" in gateway.log, what="the gateway has noticed that the client left")
    finally:
        send(store, signal.SIGCONT)

    async def listed() -> Any:
        answer = await gateway.http.get("/tasks/status")
        return answer.status_code == 200 and answer.json()["items"]

    (document,) = await until(listed, 30)
    document = await gateway.ended(document["task_id"])
    assert document["extensions"]["reason"] == "client_disconnect"
    assert not upstream.exchanges


async def test_the_answer_of_a_request_that_the_store_refused_late_replaces_no_other(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """Of two requests that began with one id while the store was frozen, the one that has the id is kept."""
    store = await new_store()
    gateways = [await launch(REDIS_URL=store.url) for _ in range(2)]
    scripts = [upstream.gated(), upstream.gated()]
    clients = []
    send(store, signal.SIGSTOP)
    try:
        for n, gateway in enumerate(gateways):
            clients.append(await gateway.send("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}"))
            await upstream.exchange(n)
    finally:
        send(store, signal.SIGCONT)

    async def instance() -> str | None:
        return (
            None
            if await store.raw(fresh_id) is None
            else str((await store.document(fresh_id))["extensions"]["instance"])
        )

    owner = 0 if (await until(instance, 30)).endswith(f":{gateways[0].port}") else 1

    async def is_let_go() -> bool:
        held: int = (await gateways[1 - owner].http.get("/readyz")).json()["kept"]["answers"]
        return held == 0

    await until(is_let_go, what="the other one has learnt of it")
    for n in (1 - owner, owner):
        scripts[n].head()
        scripts[n].piece(b"data: %d\n\n" % n)
        await clients[n].up_to(b"data: %d" % n)
    for n in (1 - owner, owner):
        scripts[n].piece(b"data: [DONE]\n\n")
        scripts[n].end()
        await clients[n].up_to(b"[DONE]")
    await gateways[owner].ended(fresh_id)
    for gateway in gateways:
        answer = await gateway.ask("GET", f"/tasks/{fresh_id}/response")
        assert answer.data == b"data: %d\n\ndata: [DONE]\n\n" % owner

    async def holds_nothing() -> bool:
        held = [(await gateway.http.get("/readyz")).json()["kept"]["answers"] for gateway in gateways]
        return held == [0, 0]

    await until(holds_nothing)


async def test_a_deleted_answer_frees_its_place_also_behind_the_end_event(
    gateways: Launch, upstream: Upstream, fresh_id: str
) -> None:
    """Ollama may be silent behind `[DONE]`. If the client has left, DELETE ends that wait, and the place is free."""
    gateway = await gateways(MAX_RUNNING="1")
    script = upstream.gated()
    client = await gateway.send("POST", CHAT, with_id(fresh_id), KEEP, body=b"{}")
    script.head()
    script.piece(b"data: [DONE]\n\n")
    await client.up_to(b"[DONE]")
    await client.close()
    await gateway.at(fresh_id, "done")
    assert (await gateway.ask("DELETE", f"/tasks/{fresh_id}/response")).status == 204
    assert (await within(5, gateway.ask("POST", CHAT, body=b"{}"))).status == 200
