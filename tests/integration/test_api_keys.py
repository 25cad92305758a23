"""Owns the promises about API keys: who is let in, whose a task is, and that a key goes nowhere.

Contract section 7 and 2.2; issue 4, part 2. Real gateways with a real store.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from tests.support.gateway import refused_start
from tests.support.scripted import EVENTS, answering, sending, streaming
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response


CHAT = "/v1/chat/completions"
ALICE, BOB, ADMIN, NAMELESS = (
    "sk-alice-0123456789",
    "sk-bob-0123456789",
    "sk-admin-0123456789",
    "sk-nameless-0123456789",
)
KEYS = f"alice:{ALICE},bob:{BOB},admin:{ADMIN},{NAMELESS}"


def bearer(key: str) -> Field:
    """The field in which OpenAI's clients send a key."""
    return (b"Authorization", f"Bearer {key}".encode())


def x_api_key(key: str) -> Field:
    """The field in which Anthropic's clients send a key."""
    return (b"X-Api-Key", key.encode())


@pytest.fixture
async def keyed(gateways: Launch, store: Store) -> Gateway:
    """A gateway with keys and the session's store; it logs all it can."""
    return await gateways(REDIS_URL=store.url, GATEWAY_API_KEYS=KEYS, LOG_LEVEL="debug")


# -- who is let in --

CLOSED = [
    ("GET", "/v1/models"), ("POST", CHAT), ("HEAD", "/v1/x"), ("OPTIONS", "/v1/x"), ("DELETE", "/v1/x"),
    ("GET", "/v1/"),
    ("GET", "/v1"), ("GET", "/v1/../api/tags"), ("DELETE", "/v1/%2e%2e/api/delete"), ("GET", "/%76%31/models"),
    ("TRACE", "/v1/x"), ("GET", "/tasks/status"), ("GET", "/tasks/status/some-id"), ("GET", "/tasks/status/a%20b"),
    ("POST", "/tasks/some-id/cancel"), ("POST", "/tasks/cancel?label=x"), ("GET", "/metrics"), ("GET", "/openapi.json"),
    ("GET", "/docs"), ("GET", "/nodes"),
    ("GET", "/nowhere"), ("GET", "/api/tags"), ("GET", "/livez/"), ("GET", "//livez"), ("GET", "/%6civez"),
    ("GET", "/livez/x"), ("GET", "/livezx"), ("GET", "/readyz%3Fx"), ("GET", "/v1/livez"),
]  # fmt: skip


def assert_unauthorized(answer: Response, upstream: Upstream) -> None:
    """401 in OpenAI's shape that names the scheme, no task, and nothing at the upstream."""
    assert answer.status == 401
    assert answer.head.all("www-authenticate") == [b"Bearer"]
    assert answer.head.all("x-task-id") == []
    assert len(answer.head.all("date")) == 1
    assert upstream.exchanges == []


@pytest.mark.parametrize(("method", "target"), CLOSED)
async def test_without_a_key_every_route_is_401(keyed: Gateway, upstream: Upstream, method: str, target: str) -> None:
    """Every path, also one that is not there, is 401 before anything else is said about it."""
    answer = await keyed.ask(method, target)
    assert_unauthorized(answer, upstream)
    if method != "HEAD":
        error = answer.json()["error"]
        assert (error["type"], error["code"]) == ("gateway_error", "unauthorized")


@pytest.mark.parametrize("target", ["/livez", "/readyz", "/livez?x=1"])
async def test_the_health_routes_need_no_key(keyed: Gateway, target: str) -> None:
    """What decides about starts and restarts has no key."""
    assert (await keyed.ask("GET", target)).status == 200


WRONG: list[list[Field]] = [
    [bearer("sk-unknown-0123456789")], [bearer(ALICE[:-1])], [bearer(ALICE + "x")], [bearer(ALICE.upper())],
    [bearer(f"alice:{ALICE}")], [bearer("")], [(b"Authorization", ALICE.encode())],
    [(b"Authorization", f"Basic {ALICE}".encode())], [(b"X-Api-Key", f"Bearer {ALICE}".encode())],
    [bearer(ALICE), bearer(ALICE)], [bearer(ALICE), bearer("other")], [(b"Cookie", f"key={ALICE}".encode())],
    [(b"Proxy-Authorization", f"Bearer {ALICE}".encode())],
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=range(len(WRONG)))
async def test_a_wrong_key_is_401(keyed: Gateway, upstream: Upstream, fields: list[Field]) -> None:
    """Neither a wrong key nor a right one in a wrong place lets anybody in."""
    assert_unauthorized(await keyed.ask("POST", CHAT, *fields, body=b"{}"), upstream)


async def test_a_key_in_the_query_is_none(keyed: Gateway, upstream: Upstream) -> None:
    """A key in the address would end up in logs of others: it does not count."""
    assert_unauthorized(await keyed.ask("GET", f"/v1/models?api_key={ALICE}&key={ALICE}"), upstream)


@pytest.mark.parametrize("fields", [(), ((b"Expect", b"100-continue"),)], ids=["plain", "expecting"])
async def test_401_does_not_wait_for_the_body(keyed: Gateway, upstream: Upstream, fields: tuple[Field, ...]) -> None:
    """An upload without a key is refused by its head; the client is not even told to go on."""
    client = await keyed.send("POST", CHAT, (b"Content-Length", b"100000000"), *fields)
    assert_unauthorized(await within(30, client.answer(), "the refusal"), upstream)


async def test_a_refused_client_may_try_again(keyed: Gateway, upstream: Upstream) -> None:
    """After a 401, body and all, the same connection serves a request with a key."""
    client = await keyed.connect()
    assert (await client.ask("POST", CHAT, body=b"x" * 1000)).status == 401
    assert (await client.ask("POST", CHAT, bearer(ALICE), body=b"{}")).status == 200
    assert len(upstream.exchanges) == 1


async def test_openais_client_takes_a_key(keyed: Gateway, upstream: Upstream) -> None:
    """The official client works with a key, and tells a wrong one apart from other errors."""
    async with openai.AsyncOpenAI(base_url=keyed.base_url, api_key=ALICE) as client:
        assert (await client.models.list()).data == []
    async with openai.AsyncOpenAI(base_url=keyed.base_url, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="a valid API key is needed"):
            await client.models.list()


# -- what goes on --

OTHERS = (b"X-Api-Key", b"someone-elses-key")
CARRIERS: list[tuple[list[Field], list[Field]]] = [
    ([bearer(ALICE)], []),
    ([x_api_key(ALICE)], []),
    ([(b"authorization", b"bEaReR  " + ALICE.encode())], []),
    ([bearer(ALICE), x_api_key(BOB)], []),
    ([bearer(ALICE), OTHERS], [OTHERS]),
    ([bearer("sk-of-the-cloud"), x_api_key(ALICE)], [bearer("sk-of-the-cloud")]),
    ([(b"Authorization", b"Basic eDp5"), x_api_key(NAMELESS)], [(b"Authorization", b"Basic eDp5")]),
    ([(b"Connection", b"authorization"), bearer(ALICE)], []),
]


@pytest.mark.parametrize(("sent", "passed"), CARRIERS, ids=range(len(CARRIERS)))
async def test_the_key_is_not_passed_on(
    keyed: Gateway, upstream: Upstream, sent: list[Field], passed: list[Field]
) -> None:
    """The field that carried a key of ours stays here; the other one passes unchanged, and so do all others."""
    around: list[Field] = [(b"X-Before", b"1"), (b"X-After", b"2")]
    assert (await keyed.ask("POST", CHAT, around[0], *sent, around[1], body=b"{}")).status == 200
    got = upstream.exchanges[0].head.lowered
    expected = [(name.lower(), value) for name, value in (around[0], *passed, around[1])]
    assert [pair for pair in got if pair[0] not in (b"host", b"content-length")] == expected


async def test_without_keys_credentials_are_ollamas(tracked: Gateway, upstream: Upstream) -> None:
    """Where keys are off, no field is ours: both credentials pass."""
    await tracked.ask("GET", CHAT, bearer(ALICE), OTHERS)
    got = upstream.exchanges[0].head
    assert (got.all("authorization"), got.all("x-api-key")) == ([bearer(ALICE)[1]], [OTHERS[1]])


# -- whose a task is --


async def test_a_task_is_its_keys_own(keyed: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Its owner and admin get the status; to all others it is as unknown as one that never was."""
    await keyed.ask("POST", CHAT, bearer(ALICE), (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    target = f"/tasks/status/{fresh_id}"
    for key, status in ((ALICE, 200), (ADMIN, 200), (BOB, 404), (NAMELESS, 404)):
        assert (await keyed.ask("GET", target, x_api_key(key))).status == status, key
    foreign = await keyed.ask("GET", target, bearer(BOB))
    unknown = await keyed.ask("GET", target + "0", bearer(BOB))
    assert foreign.data.replace(fresh_id.encode(), b"") == unknown.data.replace(f"{fresh_id}0".encode(), b"")
    assert [name for name, _ in foreign.head.lowered] == [name for name, _ in unknown.head.lowered]


async def test_a_list_shows_ones_own_tasks(keyed: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Others' tasks are not listed and do not count, with a filter or without; admin sees all."""
    mine = {ALICE: [f"{fresh_id}-a{n}" for n in range(3)], BOB: [f"{fresh_id}-b{n}" for n in range(3)]}
    for n in range(3):
        for key, ids in mine.items():
            await keyed.ask("POST", CHAT, bearer(key), (b"X-Task-Id", ids[n].encode()), body=b"{}")
    for query in ("limit=1000", "limit=1000&state=SUCCESS", "limit=2"):
        for key, ids in [*mine.items(), (ADMIN, mine[ALICE] + mine[BOB])]:
            seen = [task_id for task_id in await listed(keyed, key, query) if task_id.startswith(fresh_id)]
            assert sorted(seen) == ids, (query, key)


async def listed(gateway: Gateway, key: str, query: str) -> list[str]:
    """The ids on all pages of the list that a key gets."""
    found: list[str] = []
    cursor = ""
    while True:
        page = (await gateway.ask("GET", f"/tasks/status?{query}&cursor={cursor}", bearer(key))).json()
        found += [item["task_id"] for item in page["items"]]
        assert page["count"] == len(page["items"])
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


async def test_a_foreign_task_cannot_be_cancelled(keyed: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A cancel call of another key is 404 and changes nothing; the owner's works."""
    gated = upstream.gated()
    client = await keyed.send("POST", CHAT, bearer(ALICE), (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    exchange = await upstream.exchange()
    gated.head()
    assert (await client.head()).status == 200
    cancel = f"/tasks/{fresh_id}/cancel"
    assert (await keyed.ask("POST", cancel, bearer(BOB))).status == 404
    gated.piece(b"data: still here\n\n")
    assert b"still here" in await within(30, client.up_to(b"\n\n"), "the stream goes on")
    assert not exchange.closed.is_set()
    assert (await keyed.ask("POST", cancel, bearer(ALICE))).status == 200
    await within(30, exchange.closed.wait(), "the cancelled request's connection is closed")


async def test_a_foreign_id_cannot_be_taken(keyed: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """An id under which another key's status is stored is 409, nothing is called, and that status stays."""
    field = (b"X-Task-Id", fresh_id.encode())
    assert (await keyed.ask("POST", CHAT, bearer(ALICE), field, body=b"{}")).status == 200
    before = (await keyed.ask("GET", f"/tasks/status/{fresh_id}", bearer(ALICE))).data
    refused = await keyed.ask("POST", CHAT, bearer(BOB), field, body=b"{}")
    assert (refused.status, refused.json()["error"]["code"]) == (409, "task_id_in_use")
    assert len(upstream.exchanges) == 1
    assert (await keyed.ask("GET", f"/tasks/status/{fresh_id}", bearer(ALICE))).data == before


# -- the key goes nowhere --


async def stored_text(store: Store) -> str:
    """Every key of the store and all that it holds."""
    text = []
    for key in await store.keys():
        text.append(key)
        kind = str(await store.client.type(key))
        if kind == "string":
            text.append(str(await store.client.get(key)))
        elif kind == "hash":
            text.append(repr(await store.client.hgetall(key)))
        elif kind == "zset":
            text.append(repr(await store.client.zrange(key, 0, -1)))
        elif kind == "set":
            text.append(repr(await store.client.smembers(key)))
        else:
            raise AssertionError(f"{key} is a {kind}, which this test cannot read")
    return "\n".join(text)


async def test_the_key_is_found_nowhere(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """After good and bad ends of all kinds, no key is in the store, the log, an answer or at the upstream."""
    store = await new_store()
    path = tmp_path / "keys"
    path.write_text(f"filed:{NAMELESS}\n")
    gateway = await launch(
        REDIS_URL=store.url, GATEWAY_API_KEYS=f"alice:{ALICE},{BOB}", GATEWAY_API_KEYS_FILE=str(path),
        LOG_LEVEL="debug", MAX_BODY_BYTES="1000",
    )  # fmt: skip
    heard = b""
    for number, field in enumerate([bearer(ALICE), x_api_key(BOB), bearer(NAMELESS)]):
        upstream.then(
            streaming(b"data: [DONE]\n\n", fields=(EVENTS,)),
            answering(500, body=b"no"),
            sending(then="reset"),
            sending(b"garbage\r\n\r\n", then="drop"),
            streaming(b"data: x\n\n", fields=(EVENTS,), then="drop"),
        )
        for task in range(5):
            task_id = (b"X-Task-Id", f"{fresh_id}-{number}-{task}".encode())
            heard += (await gateway.ask("POST", CHAT, field, task_id, body=b"{}")).data
        for method, target, more in (
            ("GET", "/v1/models", ()), ("GET", "/v1/../x", ()), ("GET", "/nowhere", ()), ("TRACE", "/v1/x", ()),
            ("GET", "/tasks/status?limit=0", ()), ("GET", "/tasks/status", ()), ("GET", "/openapi.json", ()),
            ("GET", "/tasks/status/unknown", ()), ("GET", CHAT, ((b"X-Task-Id", b"a b"),)),
            ("GET", CHAT, ((b"Origin", b"https://evil.example"),)), ("GET", CHAT, (field,)),
            ("POST", CHAT, ((b"Content-Length", b"2000"),)),
        ):  # fmt: skip
            answer = await gateway.ask(method, target, field, *more)
            heard += answer.head.raw + answer.data
    path.write_text("too short\n")
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: "GATEWAY_API_KEYS_FILE" in gateway.log, 30, "the broken file is told")
    upwards = b"".join(exchange.head.raw + bytes(exchange.body.data) for exchange in upstream.exchanges)
    assert len(upstream.exchanges) >= 15
    kept = await stored_text(store)
    assert f"{fresh_id}-2-4" in kept
    for key in (ALICE, BOB, NAMELESS):
        assert key.encode() not in upwards
        assert key.encode() not in heard
        assert key not in kept
        assert key not in gateway.log


async def test_a_wrong_list_of_keys_is_not_shown() -> None:
    """A start with a wrong key names the variable and the place, and shows no key."""
    code, output = await refused_start(GATEWAY_API_KEYS=f"alice:{ALICE},bob:short")
    assert code == 2
    assert "GATEWAY_API_KEYS=*** is not valid (entry 2 is no key)" in output
    assert ALICE not in output
    assert "short" not in output


# -- the file --


@pytest.mark.alone  # within two seconds
async def test_keys_from_a_file_change_without_a_restart(launch: Launch, upstream: Upstream, tmp_path: Path) -> None:
    """A new file is in force within two seconds, SIGHUP is at once, and a broken one leaves the keys as they are."""
    path = tmp_path / "keys"
    path.write_text(f"# who\n\nalice:{ALICE}\n")
    gateway = await launch(GATEWAY_API_KEYS_FILE=str(path))

    async def status(key: str) -> int:
        return (await gateway.ask("GET", CHAT, bearer(key))).status

    assert (await status(ALICE), await status(BOB)) == (200, 401)
    path.write_text(f"bob:{BOB}\n")

    async def is_bobs() -> bool:
        return await status(BOB) == 200

    await until(is_bobs, 2, "the new key is in force")
    assert await status(ALICE) == 401
    path.write_text("bob:x\n")
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: "line 1 is no key" in gateway.log, 2, "the broken file is told")
    assert (await status(ALICE), await status(BOB)) == (401, 200)
    path.write_text(f"alice:{ALICE}\n")
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: gateway.log.count("API keys in force") >= 3, 2, "SIGHUP is heard")
    assert (await status(ALICE), await status(BOB)) == (200, 401)


async def test_a_fifo_in_the_files_place_holds_nobody(launch: Launch, upstream: Upstream, tmp_path: Path) -> None:
    """While a FIFO stands where the keys were, requests and SIGHUP go on, with the keys as they were."""
    path = tmp_path / "keys"
    path.write_text(f"alice:{ALICE}\n")
    gateway = await launch(GATEWAY_API_KEYS_FILE=str(path))
    path.unlink()
    os.mkfifo(path)
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: "it is not a regular file" in gateway.log, 30, "it is told")
    answer = await within(30, gateway.ask("GET", CHAT, bearer(ALICE)), "an answer")
    assert answer.status == 200
    path.unlink()
    path.write_text(f"bob:{BOB}\n")

    async def is_gone() -> bool:
        return (await gateway.ask("GET", CHAT, bearer(ALICE))).status == 401

    await until(is_gone, 30, "the next file is in force")


async def test_sighup_disturbs_no_stream(launch: Launch, upstream: Upstream, tmp_path: Path) -> None:
    """On SIGHUP the keys are read again, and what runs goes on."""
    path = tmp_path / "keys"
    path.write_text(f"alice:{ALICE}\n")
    gateway = await launch(GATEWAY_API_KEYS_FILE=str(path))
    stream = upstream.gated()
    client = await gateway.send("POST", CHAT, bearer(ALICE), body=b"{}")
    await upstream.exchange()
    stream.head()
    assert (await within(30, client.head(), "the head")).status == 200
    gateway.process.send_signal(signal.SIGHUP)
    await until(lambda: gateway.log.count("API keys in force") >= 2, 30, "SIGHUP is heard")
    stream.piece(b"data: [DONE]\n\n")
    stream.end()
    assert await within(30, client.up_to(b"0\r\n\r\n"), "the end")


# -- off by default --


@pytest.mark.parametrize(
    ("settings", "warns"),
    [({"GATEWAY_HOST": "0.0.0.0"}, True), ({"GATEWAY_HOST": "0.0.0.0", "GATEWAY_API_KEYS": KEYS}, False), ({}, False)],
)
async def test_the_start_says_that_strangers_may_come(launch: Launch, settings: dict[str, str], warns: bool) -> None:
    """Without keys and on more than loopback, one warning says what that means."""
    gateway = await launch(**settings)
    lines = [line for line in gateway.log.splitlines() if "API keys" in line and "WARNING" in line]
    assert len(lines) == warns


async def test_documents_without_keys_have_no_owner(tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Where keys are off, everybody's tasks are everybody's to see."""
    await tracked.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    document = (await tracked.ask("GET", f"/tasks/status/{fresh_id}", bearer(ALICE))).data
    assert json.loads(document)["extensions"].get("owner") is None


# -- a noisy key beside a quiet one --

FLOOD, LONG_TARGET = 500, CHAT.encode() + b"?x=" + b"y" * 60_000
SMALL_STORE_BYTES = 16 * 1024 * 1024  # the targets of the flood are twice as long


async def test_a_flood_of_long_targets_evicts_nothing_of_another_key(launch: Launch, new_store: NewStore) -> None:
    """What one key's requests leave in a store of a bounded size is small, however long their targets are."""
    store = await new_store()
    await store.client.config_set("maxmemory", str(SMALL_STORE_BYTES))
    await store.client.config_set("maxmemory-policy", "volatile-lru")
    gateway = await launch(REDIS_URL=store.url, GATEWAY_API_KEYS=KEYS)
    await gateway.ask("GET", CHAT, bearer(BOB), (b"X-Task-Id", b"quiet"))
    client = await gateway.connect()
    for _ in range(FLOOD):
        assert (await client.ask("GET", LONG_TARGET, bearer(ALICE))).status == 200
    assert (await store.document("quiet"))["state"] == "SUCCESS"
    headers = {"Authorization": f"Bearer {BOB}"}
    assert (await gateway.http.get("/tasks/status/quiet", headers=headers)).status_code == 200
    listed = (await gateway.http.get("/tasks/status", headers=headers)).json()["items"]
    assert [task["task_id"] for task in listed] == ["quiet"]
    assert (await store.client.info("stats"))["evicted_keys"] == 0
