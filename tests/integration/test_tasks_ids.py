"""Owns the promises about task ids: given, made up, echoed, refused.

Contract section 4.1.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import openai
import pytest

from tests.support.scripted import answering, sending
from tests.support.store import DOCUMENTS

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response


CHAT = "/v1/chat/completions"
KEY = (b"Authorization", b"Bearer sk-of-the-ids-0123")

GOOD_IDS = [
    "a", "Z9", "0", "job.1", "a:b@c_d-e", "x" * 128, "550e8400-e29b-41d4-a716-446655440000", "A" + "._:@-" * 25,
    "null", "status", "0" * 128, "a--b..c__d::e@@f", "user@example.com",
    "urn:uuid:550e8400-e29b-41d4-a716-446655440000", "2026-08-01T10:00:00.000", "all", "z-", "z.", "z:", "z@_",
]  # fmt: skip

BAD_IDS = [
    b"-a", b".a", b"_a", b":a", b"@a", b"a b", b"a/b", b"a\\b", b"../x", b"a?b", b"a#b", b"a%20b", b"a,b",
    b"a;b", b"a=b", b"a&b", b"a+b", b"a*b", b"a!b", b"a'b", b'a"b', b"a(b)", b"a[b]", b"{a}",
    b"a~b", b"a$b", b"a<b>", b"caf\xc3\xa9", b"\xff", b"a\tb", b"x" * 129, b"x" * 5000, b"%61", b"a^b", b"a`b",
    b"*", b"a\xc3b", b"\xd9\xa3", b"a\xc2\xa0b", b"ts:ollama:x/..",
]  # fmt: skip


async def test_without_an_id_each_request_gets_a_uuid4(gateway: Gateway) -> None:
    """No X-Task-Id, or an empty one: a fresh UUID4 that the status route knows."""
    ids = [(await gateway.ask("GET", CHAT, *fields)).head.task_id for fields in ([], [(b"X-Task-Id", b"")])]
    assert len(set(ids)) == 2
    for task_id in ids:
        assert uuid.UUID(task_id).version == 4
        assert str(uuid.UUID(task_id)) == task_id
        assert (await gateway.status(task_id))["task_id"] == task_id


@pytest.mark.parametrize("task_id", GOOD_IDS, ids=range(len(GOOD_IDS)))
async def test_a_given_id_is_echoed_and_known(gateway: Gateway, task_id: str) -> None:
    """A valid id is on the response and its task can be asked for."""
    answer = await gateway.ask("GET", CHAT, (b"x-task-id", task_id.encode()))
    assert (answer.status, answer.head.task_id) == (200, task_id)
    status = await gateway.ask("GET", f"/tasks/status/{task_id}")
    assert (status.status, status.json()["task_id"]) == (200, task_id)


def assert_refused(answer: Response, upstream: Upstream) -> None:
    """400 invalid_task_id in OpenAI's shape, and nothing at the upstream."""
    assert answer.status == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("gateway_error", "invalid_task_id")
    assert upstream.exchanges == []


@pytest.mark.parametrize("task_id", BAD_IDS, ids=range(len(BAD_IDS)))
async def test_a_malformed_id_is_refused(tracked: Gateway, upstream: Upstream, store: Store, task_id: bytes) -> None:
    """Anything but a valid id is 400 before the upstream is touched, and leaves no key in the store."""
    before = await documents(store)
    assert_refused(await tracked.ask("POST", CHAT, (b"X-Task-Id", task_id), body=b"{}"), upstream)
    assert await documents(store) - before == set()


async def documents(store: Store) -> set[str]:
    """The keys of all documents there are."""
    return {key for key in await store.keys() if key.startswith(DOCUMENTS)}


async def test_there_are_forty_bad_and_twenty_good_ids() -> None:
    """Each is there once."""
    assert (len(set(BAD_IDS)), len(set(GOOD_IDS))) == (40, 20)


@pytest.mark.parametrize("second", [b"two", b"one", b""])
async def test_two_ids_are_refused(tracked: Gateway, upstream: Upstream, second: bytes) -> None:
    """Two X-Task-Id fields are 400, even when they agree."""
    fields = (b"X-Task-Id", b"one"), (b"x-task-id", second)
    assert_refused(await tracked.ask("POST", CHAT, *fields, body=b"{}"), upstream)


async def test_a_refused_request_leaves_its_connection_usable(tracked: Gateway, upstream: Upstream) -> None:
    """After a refused id, body and all, the same connection serves the next request."""
    client = await tracked.connect()
    refused = await client.ask("POST", CHAT, (b"X-Task-Id", b"a b"), body=b"x" * 1000)
    assert refused.status == 400
    assert (await client.ask("POST", CHAT, body=b"{}")).status == 200


REFUSED: list[tuple[int, str, str, list[Field], bytes]] = [
    (401, "POST", CHAT, [], b"{}"),
    (401, "TRACE", CHAT, [], b""),
    (403, "POST", CHAT, [KEY, (b"Origin", b"https://evil.example")], b"{}"),
    (404, "GET", "/v1", [KEY], b""),
    (404, "GET", "/%76%31/models", [KEY], b""),
    (400, "GET", "/v1/../x", [KEY], b""),
    (405, "TRACE", CHAT, [KEY], b""),
    (413, "POST", CHAT, [KEY], bytes(2000)),
]


@pytest.mark.parametrize(("status", "method", "target", "fields", "body"), REFUSED, ids=range(len(REFUSED)))
async def test_a_refusal_names_the_task_that_was_asked_for(
    gateways: Launch, upstream: Upstream, status: int, method: str, target: str, fields: list[Field], body: bytes
) -> None:
    """Whatever refuses a request with a valid id says which; an id that is none is never echoed."""
    gateway = await gateways(GATEWAY_API_KEYS="sk-of-the-ids-0123", MAX_BODY_BYTES="1000")
    named = await gateway.ask(method, target, *fields, (b"X-Task-Id", b"asked-for"), body=body)
    assert (named.status, named.head.all("x-task-id")) == (status, [b"asked-for"])
    for odd in ([(b"X-Task-Id", b"a b")], [(b"X-Task-Id", b"a")] * 2, [(b"X-Task-Id", b"")], []):
        assert (await gateway.ask(method, target, *fields, *odd, body=body)).head.all("x-task-id") == []
    assert upstream.exchanges == []


@pytest.mark.parametrize("retries", [0, 2])
async def test_openais_client_does_not_repeat_a_409(
    gateway: Gateway, upstream: Upstream, fresh_id: str, retries: int
) -> None:
    """An id in flight stays so while the client waits: the answer says not to try again, and names the id."""
    upstream.gated()
    await gateway.send("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    await upstream.exchange()
    asked: list[Any] = []

    async def keep(answer: Any) -> None:
        asked.append(answer)

    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False, event_hooks={"response": [keep]}) as http,
        openai.AsyncOpenAI(base_url=gateway.base_url, api_key="x", max_retries=retries, http_client=http) as client,
    ):
        with pytest.raises(openai.ConflictError):
            await client.models.list(extra_headers={"X-Task-Id": fresh_id})
    assert [(one.headers["x-should-retry"], one.headers["x-task-id"]) for one in asked] == [("false", fresh_id)]
    assert len(upstream.exchanges) == 1


async def test_the_id_is_on_error_answers_too(gateway: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """The upstream's 500 and our 502 both name the task."""
    upstream.then(answering(500, body=b"no"), sending(then="drop"))
    for status, number in ((500, "1"), (502, "2")):
        answer = await gateway.ask("POST", CHAT, (b"X-Task-Id", (fresh_id + number).encode()), body=b"{}")
        assert (answer.status, answer.head.task_id) == (status, fresh_id + number)
