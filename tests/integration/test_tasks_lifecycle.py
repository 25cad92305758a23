"""Owns the promises about one task: its document, its states on the way, and when a reader may rely on them.

Contract sections 4.2, 4.3, 4.5, 4.8 and 4.9. The store is read directly, as an older poller would.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.outcome import CLIENT_LEFT, DONE, failed, outcome
from tests.support.scripted import EVENTS, JSON, Gated, answering, sending, streaming
from tests.support.streams import held
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Field


CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[]}'
ALONE = pytest.mark.alone  # an answer of the store that comes after 250 ms would count as none
SHORT = {"HEARTBEAT_SEC": "1", "TTL_RUNNING": "60", "TTL_DONE": "600"}

KEYS: dict[str, type | tuple[type, ...]] = {
    "version": str,
    "event_type": str,
    "event_id": str,
    "algorithm_id": str,
    "task_id": str,
    "state": str,
    "stage": str,
    "message": str,
    "timestamp": int,
    "extensions": dict,
}
EXTENSIONS: dict[str, type | tuple[type, ...]] = {
    "method": str,
    "path": str,
    "query": str,
    "stream": bool,
    "status_code": int,
    "reason": (str, type(None)),
    "created_ms": int,
    "started_ms": int,
    "first_byte_ms": int,
    "finished_ms": int,
    "request_bytes": int,
    "response_bytes": int,
    "attempt": int,
    "instance": str,
}


def named(task_id: str) -> Field:
    """The field that names a task."""
    return b"X-Task-Id", task_id.encode()


async def begin(gateway: Gateway, task_id: str, stream: Gated, upstream: Upstream) -> Client:
    """A request that has reached a gated upstream."""
    upstream.then(stream)
    index = len(upstream.exchanges)
    client = await gateway.send("POST", CHAT, named(task_id), body=BODY)
    await upstream.exchange(index)
    return client


def assert_types(values: dict[str, Any], expected: dict[str, type | tuple[type, ...]]) -> None:
    """Each expected key is there with a value of its type."""
    wrong = {key: values.get(key) for key, kind in expected.items() if not isinstance(values.get(key), kind)}
    assert not wrong
    assert expected.keys() <= values.keys()


async def test_the_documents_shape(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A finished task's document has exactly these keys, and these extensions, with these types."""
    await gateway.ask("POST", CHAT + "?a=1&&b=%2F", named(fresh_id), body=BODY)
    document = await gateway.status(fresh_id)
    extensions = document["extensions"]
    assert document.keys() == KEYS.keys()
    assert_types(document, KEYS)
    assert_types(extensions, EXTENSIONS)
    assert (document["version"], document["event_type"]) == ("1.0", "task.status.update")
    assert document["algorithm_id"] == "ollama-openai"
    assert document["task_id"] == fresh_id
    assert str(uuid.UUID(document["event_id"])) == document["event_id"]
    assert document["message"]
    assert (extensions["method"], extensions["path"], extensions["query"]) == ("POST", CHAT, "a=1&&b=%2F")
    assert (extensions["status_code"], extensions["reason"], extensions["attempt"]) == (200, None, 1)
    assert (extensions["request_bytes"], extensions["response_bytes"]) == (len(BODY), 2)


async def test_the_documents_times_are_in_order(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Created, started, first byte and finish follow each other, in Unix milliseconds of now."""
    before = time.time_ns() // 1_000_000
    await gateway.ask("POST", CHAT, named(fresh_id), body=BODY)
    after = time.time_ns() // 1_000_000
    document = await gateway.status(fresh_id)
    names = ("created_ms", "started_ms", "first_byte_ms", "finished_ms")
    times = [document["extensions"][name] for name in names]
    assert [before - 1, *times, after + 1] == sorted([before - 1, *times, after + 1])
    assert before / 1000 - 1 <= document["timestamp"] <= after / 1000 + 1


async def test_the_store_holds_what_the_route_answers(tracked: Gateway, store: Store, fresh_id: str) -> None:
    """The string at ts:ollama:<id> and the status route's body are the same bytes."""
    await tracked.ask("POST", CHAT, named(fresh_id), body=BODY)
    await store.ended(fresh_id)
    answer = await tracked.http.get(f"/tasks/status/{fresh_id}")
    assert answer.headers["content-type"] == "application/json"
    assert answer.text == await store.raw(fresh_id)


async def test_the_algorithm_id_is_a_setting(launch: Launch, store: Store, fresh_id: str) -> None:
    """ALGORITHM_ID is what the document says."""
    gateway = await launch(REDIS_URL=store.url, ALGORITHM_ID="another-name")
    await gateway.ask("POST", CHAT, named(fresh_id), body=BODY)
    assert (await gateway.status(fresh_id))["algorithm_id"] == "another-name"


async def test_the_states_of_a_stream(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """RUNNING forwarding, then RUNNING streaming, then SUCCESS done, each with an event_id of its own."""
    stream = Gated()
    client = await begin(gateway, fresh_id, stream, upstream)
    forwarding = await gateway.at(fresh_id, "forwarding")
    stream.head()
    await client.head()
    stream.piece(b"data: {}\n\n")
    await client.piece()
    running = await gateway.status(fresh_id)
    stream.piece(b"data: [DONE]\n\n")
    await client.up_to(b"[DONE]\n\n")
    final = await gateway.status(fresh_id)
    stream.end()
    assert [(d["state"], d["stage"]) for d in (forwarding, running, final)] == [
        ("RUNNING", "forwarding"),
        ("RUNNING", "streaming"),
        ("SUCCESS", "done"),
    ]
    assert [d["extensions"]["stream"] for d in (forwarding, running, final)] == [False, True, True]
    assert len({d["event_id"] for d in (forwarding, running, final)}) == 3
    assert [d["extensions"]["status_code"] for d in (forwarding, running)] == [None, 200]
    assert forwarding["extensions"]["first_byte_ms"] is None
    assert running["extensions"]["finished_ms"] is None


@ALONE
async def test_running_is_stored_when_the_client_has_the_head(
    tracked: Gateway, upstream: Upstream, store: Store
) -> None:
    """A client that holds a response head finds RUNNING in the store, by a generated id too; a stream is streaming."""
    for kind in (JSON, EVENTS):
        stream = upstream.gated(kind)
        client = await tracked.send("POST", CHAT, body=BODY)
        stream.head()
        document = await store.document((await client.head()).task_id)
        assert document["state"] == "RUNNING"
        assert kind is JSON or document["stage"] == "streaming"
        stream.end()
        await client.close()


@ALONE
async def test_the_end_is_stored_when_the_client_has_the_last_byte(
    tracked: Gateway, upstream: Upstream, store: Store
) -> None:
    """A client that holds a whole answer finds the terminal state in the store, at once."""
    for _ in range(20):
        upstream.then(answering(200, JSON, body=b"{}"))
        client = await tracked.connect()
        answer = await client.ask("POST", CHAT, body=BODY)
        assert outcome(await store.document(answer.head.task_id)) == DONE
        await client.close()


@ALONE
async def test_the_end_is_stored_with_the_piece_that_holds_the_end_event(
    tracked: Gateway, upstream: Upstream, store: Store
) -> None:
    """A client that holds [DONE] finds SUCCESS in the store while the upstream still owes its terminator."""
    stream = upstream.gated()
    client = await tracked.send("POST", CHAT, body=BODY)
    stream.head()
    head = await client.head()
    stream.piece(b'data: {"n":1}\n\n')
    await client.up_to(b"\n\n")
    assert (await store.document(head.task_id))["state"] == "RUNNING"
    stream.piece(b"data: [DONE]\n\n")
    await client.up_to(b"[DONE]\n\n")
    assert outcome(await store.document(head.task_id)) == DONE
    stream.end()
    assert (await client.up_to(b"0\r\n\r\n")).endswith(b"0\r\n\r\n")


@ALONE
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n"])
async def test_a_failure_is_stored_when_the_client_has_the_last_byte(
    tracked: Gateway, upstream: Upstream, store: Store, end: bytes
) -> None:
    """A stream without its end event is FAILED in the store when the client has the terminator."""
    upstream.then(streaming(b'data: {"n":1}' + end))
    answer = await tracked.ask("POST", CHAT, body=BODY)
    assert outcome(await store.document(answer.head.task_id)) == failed("stream_incomplete")


async def test_bytes_are_counted_both_ways(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """request_bytes and response_bytes are the bodies' bytes without their framing."""
    upstream.then(streaming(b"data: {}\n\n", b"data: [DONE]\n\n"))
    await gateway.ask("POST", CHAT, named(fresh_id), chunks=[b"123", b"45"])
    extensions = (await gateway.status(fresh_id))["extensions"]
    assert (extensions["request_bytes"], extensions["response_bytes"]) == (5, 24)


@pytest.mark.parametrize(("settings", "running", "done"), [({}, 3600, 86400), (SHORT, 60, 600)])
async def test_running_and_done_have_their_ttls(
    gateways: Launch, upstream: Upstream, store: Store, settings: dict[str, str], running: int, done: int
) -> None:
    """A running task's key lives TTL_RUNNING, 3600 s by default, a finished one's TTL_DONE, 86400 s by default."""
    stream = await held(await gateways(REDIS_URL=store.url, **settings), upstream)
    await until(lambda: store.raw(stream.task_id), what="it is stored")
    assert running - 5 <= await store.ttl(stream.task_id) <= running
    stream.script.piece(b"data: [DONE]\n\n")
    await stream.client.up_to(b"[DONE]")
    await store.ended(stream.task_id)
    assert done - 5 <= await store.ttl(stream.task_id) <= done
    stream.script.end()


@pytest.fixture
async def beating(gateways: Launch, store: Store) -> Gateway:
    """A gateway with a heartbeat each second and short lives for its documents."""
    return await gateways(REDIS_URL=store.url, **SHORT)


async def test_the_heartbeat_moves_the_timestamp_only(
    beating: Gateway, upstream: Upstream, store: Store, fresh_id: str
) -> None:
    """While nothing flows, before the head, beats move the timestamp and keep event_id and all else."""
    client = await begin(beating, fresh_id, Gated(), upstream)

    async def forwarding() -> dict[str, Any] | None:
        document = json.loads(await store.raw(fresh_id) or "{}")
        return document if document.get("stage") == "forwarding" else None

    first = await until(forwarding, 30)

    async def moved() -> dict[str, Any] | None:
        document = await store.document(fresh_id)
        return document if document["timestamp"] >= first["timestamp"] + 2 else None

    later = await until(moved, 30, "two heartbeats")
    assert later["extensions"].pop("lost_after_ms") > first["extensions"].pop("lost_after_ms")
    assert {**later, "timestamp": 0} == {**first, "timestamp": 0}
    await client.close()
    assert outcome(await beating.ended(fresh_id)) == CLIENT_LEFT


async def test_the_heartbeat_restores_a_lost_key(
    beating: Gateway, upstream: Upstream, store: Store, fresh_id: str
) -> None:
    """A running task's key that vanished comes back with its TTL, in the middle of a silent stream."""
    stream = Gated()
    client = await begin(beating, fresh_id, stream, upstream)
    stream.head()
    await client.head()
    await until(lambda: store.client.delete(f"ts:ollama:{fresh_id}"), what="it was stored")
    await until(lambda: store.raw(fresh_id), 30, "the key is back")
    assert (await store.document(fresh_id))["state"] == "RUNNING"
    assert 55 <= await store.ttl(fresh_id) <= 60


async def test_the_heartbeat_renews_the_ttl(beating: Gateway, upstream: Upstream, store: Store, fresh_id: str) -> None:
    """Each beat gives a running task its whole TTL again."""
    stream = Gated()
    client = await begin(beating, fresh_id, stream, upstream)
    stream.head()
    await client.head()
    await until(lambda: store.client.expire(f"ts:ollama:{fresh_id}", 20), what="it is stored")

    async def is_renewed() -> bool:
        return await store.ttl(fresh_id) > 50

    await until(is_renewed, 30, "the TTL is renewed")


async def test_an_ended_task_has_no_heartbeat(
    beating: Gateway, upstream: Upstream, store: Store, fresh_id: str
) -> None:
    """After the end beats stop: another task's beats go by and the document stays as it was."""
    await beating.ask("POST", CHAT, named(fresh_id), body=BODY)
    await store.ended(fresh_id)
    final = await store.raw(fresh_id)
    witness = str(uuid.uuid4())
    await begin(beating, witness, Gated(), upstream)
    await until(lambda: store.raw(witness), 30)
    begun = (await store.document(witness))["timestamp"]

    async def has_beaten_twice() -> bool:
        return bool((await store.document(witness))["timestamp"] >= begun + 2)

    await until(has_beaten_twice, 30)
    assert await store.raw(fresh_id) == final


async def test_an_id_in_flight_cannot_be_used_again(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """The same id while its task runs is 409 task_id_in_use, without an upstream call, and the first goes on."""
    stream = Gated()
    client = await begin(gateway, fresh_id, stream, upstream)
    second = await gateway.ask("POST", CHAT, named(fresh_id), body=BODY)
    assert (second.status, second.json()["error"]["code"]) == (409, "task_id_in_use")
    assert second.head.task_id == fresh_id
    assert len(upstream.exchanges) == 1
    stream.head()
    stream.piece(b"data: [DONE]\n\n")
    stream.end()
    assert (await client.answer()).body.complete
    document = await gateway.status(fresh_id)
    assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 1)


async def test_a_second_attempt_counts(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """The same id after a terminal state is a new attempt with times of its own."""
    upstream.then(answering(500, body=b"no"))
    await gateway.ask("POST", CHAT, named(fresh_id), body=BODY)
    first = await gateway.status(fresh_id)
    await gateway.ask("POST", CHAT, named(fresh_id), body=BODY)
    second = await gateway.status(fresh_id)
    assert (outcome(first), first["extensions"]["attempt"]) == (failed("upstream_status"), 1)
    assert (outcome(second), second["extensions"]["attempt"]) == (DONE, 2)
    assert second["extensions"]["created_ms"] >= first["extensions"]["finished_ms"]
    assert second["event_id"] != first["event_id"]


async def test_an_id_may_be_used_again_at_once(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Requests with one id, each sent when the last is answered, are all served, however fast they follow."""
    client = await gateway.connect()
    answers = [await client.ask("GET", CHAT, named(fresh_id)) for _ in range(200)]
    assert {answer.status for answer in answers} == {200}
    assert (await gateway.status(fresh_id))["extensions"]["attempt"] == 200


SECRETS = ("zebra-prompt", "zebra-answer", "zebra-bearer", "zebra-cookie", "zebra-query")


async def test_prompts_and_credentials_are_kept_nowhere(
    launch: Launch, upstream: Upstream, store: Store, fresh_id: str
) -> None:
    """Bodies, Authorization, cookies and query credentials are neither in the store nor in a debug log."""
    gateway = await launch(REDIS_URL=store.url, LOG_LEVEL="debug")
    upstream.then(answering(200, JSON, body=b'{"text":"zebra-answer"}'), answering(500, body=b"zebra-answer"))
    fields = (b"Authorization", b"Bearer zebra-bearer"), (b"Cookie", b"s=zebra-cookie")
    target = CHAT + "?api_key=zebra-query"
    for suffix in ("a", "b"):
        await gateway.ask("POST", target, *fields, named(fresh_id + suffix), body=b'{"prompt":"zebra-prompt"}')
    dump = ""
    for key in await store.keys():
        if await store.client.type(key) == "string":
            dump += key + str(await store.client.get(key))
    assert fresh_id in dump
    assert [secret for secret in SECRETS if secret in dump] == []
    assert [secret for secret in SECRETS if secret in gateway.log] == []


async def test_query_credentials_are_redacted_in_the_document_only(
    gateway: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Values of credential-like query keys are replaced in the document; the upstream gets them all."""
    query = "model=x&api_key=s3cret-1&key=s3cret-2&a=%2F&token=s3cret-3&access_token=s3cret-4&Api-Key=s3cret-5"
    await gateway.ask("GET", f"{CHAT}?{query}", named(fresh_id))
    kept = (await gateway.status(fresh_id))["extensions"]["query"]
    assert upstream.exchanges[0].head.target == f"{CHAT}?{query}".encode()
    assert "s3cret" not in kept
    pairs = [pair.split("=", 1) for pair in kept.split("&")]
    assert [key for key, _ in pairs] == ["model", "api_key", "key", "a", "token", "access_token", "Api-Key"]
    assert (pairs[0], pairs[3]) == (["model", "x"], ["a", "%2F"])


async def test_every_key_is_ours_and_has_a_ttl(tracked: Gateway, store: Store) -> None:
    """Under ts:ollama: there are documents only, all else is under tsx:ollama:, and every key has a TTL."""
    await tracked.ask("POST", CHAT, body=BODY)
    keys = await store.keys()
    assert keys
    for key in keys:
        assert key.startswith(("ts:ollama:", "tsx:ollama:"))
        assert await store.client.ttl(key) != -1, key  # -2: it has expired since
        if key.startswith("ts:ollama:") and (text := await store.client.get(key)):
            assert json.loads(text)["task_id"] == key.removeprefix("ts:ollama:")


async def test_a_silent_request_is_running_not_pending(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A request the upstream has but does not answer is RUNNING forwarding and has its start."""
    upstream.then(sending(then="wait"))
    await gateway.send("POST", CHAT, named(fresh_id), body=BODY)
    await upstream.exchange()
    document = await gateway.at(fresh_id, "forwarding")
    assert document["state"] == "RUNNING"
    assert document["extensions"]["started_ms"] >= document["extensions"]["created_ms"]
