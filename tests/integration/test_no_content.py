"""Owns the promise that no page, metric, log line, terminal output or stored value holds a prompt, an answer or a key.

Issue 6, acceptance 5. Conversations with marked words end in every way there is; then everything that can be looked at
is searched for them, and so is all that was ever said to the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import pytest
from redis.asyncio import Redis

from tests.support.pages import output
from tests.support.process import ROOT
from tests.support.scripted import JSON, answering, sending, streaming
from tests.support.waiting import until, within
from tests.support.wire import chunk, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Script, Upstream
    from tests.support.store import Store
    from tests.support.wire import Field

pytestmark = pytest.mark.timeout(300)

CHAT = "/v1/chat/completions"
PROMPT, ANSWER, COOKIE, CLOUD = "marked-prompt", "marked-answer", "marked-cookie", "sk-marked-cloud-0123"
KEY, FILED, WRONG = "sk-marked-given-0123", "sk-marked-filed-0123", "sk-marked-wrong-0123"
MARK = "marked-"  # all of them, and any part that keeps this much
BODY = f'{{"model":"m","messages":[{{"role":"user","content":"{PROMPT}"}}]}}'.encode()
DELTA = f'data: {{"choices":[{{"delta":{{"content":"{ANSWER}"}}}}]}}\n\n'.encode()
ERROR = f'data: {{"error":{{"message":"{ANSWER}"}}}}\n\n'.encode()
END = b"data: [DONE]\n\n"
GIVEN: Field = (b"Authorization", f"Bearer {KEY}".encode())
OTHERS: tuple[Field, ...] = ((b"X-Api-Key", CLOUD.encode()), (b"Cookie", f"session={COOKIE}".encode()))

ENDS: dict[str, Script] = {
    "done": answering(200, JSON, body=f'{{"text":"{ANSWER}"}}'.encode()),
    "done-stream": streaming(DELTA, END),
    "upstream_status": answering(500, JSON, body=f'{{"error":"{ANSWER}"}}'.encode()),
    "upstream_error": sending(f"{ANSWER}\r\n\r\n".encode(), then="drop"),
    "upstream_truncated": streaming(DELTA, then="drop"),
    "stream_error": streaming(DELTA, ERROR),
    "stream_incomplete": streaming(DELTA),
}


class Overheard:
    """All that is said to a store while it is listened to."""

    def __init__(self) -> None:
        self.said: list[str] = []

    @contextlib.asynccontextmanager
    async def listening(self, store: Store) -> AsyncIterator[None]:
        """Listen (MONITOR), from before the first command to the last."""
        patient = Redis(port=store.port, decode_responses=True, socket_timeout=None)  # silence is no failure
        async with patient, patient.monitor() as monitor:
            task = asyncio.create_task(self._listen(monitor))
            yield
            await store.client.echo("the end")
            await until(lambda: any("the end" in said for said in self.said), 30, "the last command is heard")
            task.cancel()

    async def _listen(self, monitor: AsyncIterator[object]) -> None:
        while True:
            heard = await monitor.next_command()  # type: ignore[attr-defined]
            self.said.append(str(heard["command"]))


@pytest.fixture(params=["text", "json"])
async def watched(
    request: pytest.FixtureRequest, launch: Launch, new_store: NewStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Gateway, Store, Overheard]]:
    """A gateway that logs all it can, in either form, with keys of both kinds, and a store that is listened to."""
    store, overheard = await new_store(), Overheard()
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"admin:{FILED}\n")
    async with overheard.listening(store):
        yield (
            await launch(
                REDIS_URL=store.url, GATEWAY_API_KEYS=f"alice:{KEY}", GATEWAY_API_KEYS_FILE=str(keys),
                LOG_LEVEL="debug", LOG_FORMAT=request.param, MAX_BODY_BYTES="5000",
            ),
            store,
            overheard,
        )  # fmt: skip


def named(task_id: str) -> Field:
    """The field that chooses the id."""
    return (b"X-Task-Id", task_id.encode())


async def converse(gateway: Gateway, upstream: Upstream) -> bytes:
    """Conversations that end in every way; all that clients were answered."""
    heard = b""
    for task_id, script in ENDS.items():
        upstream.then(script)
        heard += (await gateway.ask("POST", CHAT, GIVEN, *OTHERS, named(task_id), body=BODY)).data
    await end_from_outside(gateway, upstream)
    await be_refused(gateway)
    return heard


async def end_from_outside(gateway: Gateway, upstream: Upstream) -> None:
    """One conversation is cancelled, from another the client leaves; one stays in flight."""
    for task_id in ("cancelled", "client_disconnect", "in-flight"):
        stream = upstream.gated()
        client = await gateway.send("POST", CHAT, GIVEN, *OTHERS, named(task_id), body=BODY)
        stream.head()
        stream.piece(DELTA)
        await within(30, client.up_to(ANSWER.encode()), "the answer begins")
        if task_id == "cancelled":
            assert (await gateway.ask("POST", f"/tasks/{task_id}/cancel", GIVEN)).status == 200
        if task_id == "client_disconnect":
            await client.close()


async def be_refused(gateway: Gateway) -> None:
    """What is refused: a wrong key, a body too long, one with a malformed chunk, one that is no HTTP."""
    wrong = (b"Authorization", f"Bearer {WRONG}".encode())
    assert (await gateway.ask("POST", CHAT, wrong, body=BODY)).status == 401
    assert (await gateway.ask("POST", CHAT, GIVEN, named("long"), body=BODY * 100)).status == 413
    for wire in (
        request("POST", CHAT, GIVEN, named("bad-chunk"), (b"Transfer-Encoding", b"chunked")) + chunk(BODY) + BODY,
        BODY + b"\r\n\r\n",
        request("POST", f"{CHAT} {PROMPT}", GIVEN),
    ):
        client = await gateway.connect()
        await client.send(wire)
        await within(30, client.reader.read(), "it is refused")


async def pages(gateway: Gateway) -> AsyncIterator[tuple[str, str]]:
    """All that a browser or a program can ask for, asked by who may see everything: names and texts, heads too."""
    field = (b"Authorization", f"Bearer {FILED}".encode())
    targets = [
        "/", "/docs", "/openapi.json", "/metrics", "/livez", "/readyz", "/models/loaded", "/nodes", "/nowhere", "/v1",
        "/tasks/status", "/tasks/status?limit=1000&state=FAILED", "/tasks/status?limit=0", "/tasks/status/unknown",
        *(f"/dashboard/{path.name}" for path in (ROOT / "gateway" / "dashboard").iterdir()),
        *(f"/tasks/status/{task_id}" for task_id in (*ENDS, "cancelled", "client_disconnect", "in-flight")),
    ]  # fmt: skip
    for target in targets:
        answer = await gateway.ask("GET", target, field)
        yield target, (answer.head.raw + answer.data).decode()


def commands() -> Iterator[tuple[str, ...]]:
    """What the terminal can show of it."""
    for form in ((), ("--json",)):
        yield ("tasks", *form)
        yield ("status", "in-flight", "--wait", "0.1", *form)
        for task_id in (*ENDS, "unknown"):
            yield ("status", task_id, *form)
    yield ("cancel", "in-flight")


async def shown(gateway: Gateway, *words: str) -> str:
    """What a command of the terminal writes, whatever its exit code says."""
    line = ["sh", "-c", '"$@" || true', "sh", sys.executable, "-m", "gateway", *words]
    settings = {"OLLAMA_GATEWAY_URL": f"http://127.0.0.1:{gateway.port}", "OLLAMA_GATEWAY_KEY": FILED}
    return await output(*line, cwd=ROOT, settings=settings)


async def stored(store: Store) -> AsyncIterator[tuple[str, str]]:
    """Every key of the store with what it holds."""
    for key in await store.keys():
        yield str(key), f"{key!s} {await value(store, str(key))}"


async def value(store: Store, key: str) -> str:
    """What a key holds, as text."""
    match await store.client.type(key):
        case "string":
            return str(await store.client.get(key))
        case "hash":
            return str(await store.client.hgetall(key))
        case "zset":
            return str(await store.client.zrange(key, 0, -1))
        case kind:
            raise AssertionError(f"{key} is a {kind!r}, which this test cannot read")


async def test_nothing_holds_a_prompt_an_answer_or_a_key(
    watched: tuple[Gateway, Store, Overheard], upstream: Upstream
) -> None:
    """Whatever can be looked at, of tasks that run and of those that ended, holds none of the marked words."""
    gateway, store, overheard = watched
    answers = await converse(gateway, upstream)
    asked = b"".join(exchange.head.raw + bytes(exchange.body.data) for exchange in upstream.exchanges)
    assert answers.count(ANSWER.encode()) >= 5
    assert asked.count(PROMPT.encode()) >= len(ENDS) + 3
    assert COOKIE.encode() in asked
    found = {name: text async for name, text in pages(gateway)}
    for words in commands():
        found[" ".join(words)] = await shown(gateway, *words)
    found |= {name: text async for name, text in stored(store)}
    found |= {"log": gateway.log, "said to the store": "\n".join(overheard.said)}
    shows = {"/tasks/status": "upstream_truncated", "tasks": "upstream_truncated", "log": "stream_incomplete"}
    shows["said to the store"] = "ts:ollama:done-stream"
    assert [name for name, text in shows.items() if text not in found[name]] == []
    assert [name for name, text in found.items() if MARK in text] == []
