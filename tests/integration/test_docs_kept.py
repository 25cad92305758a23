"""Owns the promise of docs/kept.md: each example is cut out of the page and run; its tables are true."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from gateway.settings import SETTINGS
from gateway.tasks.task import Kept
from tests.chaos.mortal import Mortal
from tests.support.faults import Gate
from tests.support.installing import needed, openai_for_node
from tests.support.outcome import failed, outcome
from tests.support.pages import MODEL, blocks, here, output, page, running, table, the_block
from tests.support.process import ROOT
from tests.support.scripted import CHUNKED, JSON, Gated, answering, head, streaming
from tests.support.waiting import GUARD_SECONDS, until, within
from tests.support.wire import LAST_CHUNK, chunk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import Launch, NewStore
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Upstream
    from tests.support.store import Store
    from tests.support.wire import Field, Response

pytestmark = pytest.mark.timeout(300)

PAGE = page("docs/kept.md")
CHAT = "/v1/chat/completions"
KEEP = (b"X-Task-Keep", b"true")
ASYNC = (b"Prefer", b"respond-async")
TEXT = "Rayleigh scattering"
COMPLETION = json.dumps(
    {
        "id": "c", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": TEXT}}],
    }
).encode()  # fmt: skip
CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%b"},"finish_reason":null}]}\n\n'
)
EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(20)] + [b"data: [DONE]\n\n"]
ANSWERS = "| Code | Status | Means | Do |"
CALLS = "| Code of the call | Status | Means | Do |"


def named(task_id: str) -> Field:
    """The field that names a task."""
    return b"X-Task-Id", task_id.encode()


@asynccontextmanager
async def gate_to(gateway: Gateway) -> AsyncIterator[Gate]:
    """A network in front of the gateway that can break."""
    gate = Gate(gateway.port)
    await gate.open()
    try:
        yield gate
    finally:
        await gate.close()


@pytest.fixture
def answer(upstream: Upstream) -> Gated:
    """Ollama's next answer, a completion in two pieces that the test lets go."""
    gated = Gated(JSON)
    upstream.then(gated)
    return gated


async def begun(gateway: Gateway, gated: Gated, task_id: str, *fields: Field) -> None:
    """A task whose answer has begun, and whose client has left."""
    gated.head()
    client = await gateway.send("POST", CHAT, named(task_id), KEEP, *fields, body=b"{}")
    await client.head()
    await client.close()

    await goes_on_alone(gateway, task_id)


async def goes_on_alone(gateway: Gateway, task_id: str) -> None:
    """Waits until the task goes on without its client."""

    async def is_detached() -> bool:
        return bool((await gateway.http.get(f"/tasks/status/{task_id}")).json()["extensions"]["is_detached"])

    await until(is_detached)


async def read(gateway: Gateway, task_id: str, more: str = "", *fields: Field) -> Response:
    """What the route of the answer says."""
    return await gateway.ask("GET", f"/tasks/{task_id}/response{more}", *fields)


def code(response: Response) -> tuple[str, int]:
    """The code of an error, and its status."""
    return response.json()["error"]["code"], response.status


# -- survive my client --


async def survives(
    gateway: Gateway,
    upstream: Upstream,
    answer: Gated,
    task_id: str,
    example: str,
    *command: str,
    cwd: Path,
    has_head: bool,
) -> None:
    """Its connection breaks, in the answer or before it. It prints the whole answer, and Ollama has had one request."""
    number = len(upstream.exchanges)
    script = cwd / f"example-{task_id}.mjs"
    async with gate_to(gateway) as gate:
        script.write_text(here(example.replace(MODEL, "m"), gate.port))
        running = asyncio.ensure_future(output(*command, str(script), task_id, cwd=cwd))
        await gateway.at(task_id, "forwarding")
        if has_head:
            answer.head()
            answer.piece(COMPLETION[:20])
            await gateway.at(task_id, "streaming")
        gate.reset()
        await gate.heal()
        if not has_head:
            answer.head()
            answer.piece(COMPLETION[:20])
        answer.piece(COMPLETION[20:])
        answer.end()
        assert (await within(GUARD_SECONDS * 2, running, "the program ends")).strip() == TEXT
        assert (await output(*command, str(script), task_id, cwd=cwd)).strip() == TEXT, "a later run prints the same"
    script.unlink()
    status = await gateway.status(task_id)
    assert (status["state"], status["extensions"]["attempt"], len(upstream.exchanges)) == ("SUCCESS", 1, number + 1)


@pytest.mark.parametrize("has_head", [False, True])
async def test_the_python_example_survives_its_connection(
    tracked: Gateway, upstream: Upstream, answer: Gated, fresh_id: str, tmp_path: Path, has_head: bool
) -> None:
    """openai-python repeats the call by itself and joins it."""
    example = the_block(PAGE, "python", "answer = client")
    await survives(tracked, upstream, answer, fresh_id, example, sys.executable, cwd=tmp_path, has_head=has_head)


async def test_the_javascript_example_survives_its_connection(
    tracked: Gateway, upstream: Upstream, answer: Gated, fresh_id: str, pytestconfig: pytest.Config
) -> None:
    """openai-node repeats the call by itself, as long as no head has come, and joins it."""
    directory, example = await openai_for_node(pytestconfig), the_block(PAGE, "js", "import OpenAI")
    await survives(tracked, upstream, answer, fresh_id, example, needed("node"), cwd=directory, has_head=False)


@pytest.mark.parametrize("is_same", [True, False])
async def test_the_stream_example_prints_each_chunk_once(
    tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path, is_same: bool
) -> None:
    """Its connection breaks: it reads the same answer again and prints only new chunks. A new answer is an error."""
    number = len(upstream.exchanges)
    gated = Gated()
    upstream.then(gated)
    example = the_block(PAGE, "python", "def chunks").replace(MODEL, "m")
    async with gate_to(tracked) as gate, running(here(example, gate.port), tmp_path, fresh_id) as process:
        assert process.stdout is not None
        gated.head()
        gated.piece(CHUNK % b"The ")
        gated.piece(CHUNK % b"sky ")
        assert await within(GUARD_SECONDS, process.stdout.readexactly(8), "two chunks are printed") == b"The sky "
        if not is_same:
            assert (await tracked.http.post(f"/tasks/{fresh_id}/cancel")).status_code == 200
            written = await within(GUARD_SECONDS, process.stdout.read(), "it ends")
            assert written.endswith(b"RuntimeError: this is a new answer\n")
            return
        gate.reset()
        await gate.heal()
        gated.piece(CHUNK % b"is blue.")
        gated.piece(EVENTS[-1])
        gated.end()
        assert await within(GUARD_SECONDS * 2, process.stdout.read(), "it ends") == b"is blue.\n"
        code = await within(GUARD_SECONDS, process.wait(), "it has ended")
    assert (code, len(upstream.exchanges)) == (0, number + 1)


# -- read on where it stopped --


@pytest.mark.parametrize("end", ["live", "ended", "broken"])
async def test_the_curl_examples_read_on(launch: Launch, upstream: Upstream, tmp_path: Path, end: str) -> None:
    """curl is killed in the answer. The next one, or the command, appends the rest, live or later. Broken: code 18."""
    gateway = await launch()
    gated = Gated()
    upstream.then(gated)
    call, rest, sizes, command = (
        here(example.replace(MODEL, "m"), gateway.port) for example in blocks(PAGE, "sh", "sky.txt")
    )
    file, whole = tmp_path / "sky.txt", b"".join(EVENTS[:-1] if end == "broken" else EVENTS)
    curl = await asyncio.create_subprocess_exec("bash", "-c", f"exec {call}", cwd=tmp_path)
    try:
        gated.head()
        gated.piece(EVENTS[0])
        await until(lambda: file.exists() and file.read_bytes() == EVENTS[0], what="curl writes its file")
    finally:
        curl.kill()
        await curl.wait()
    await goes_on_alone(gateway, "sky-3")
    reading = asyncio.ensure_future(output("bash", "-c", rest, cwd=tmp_path)) if end != "ended" else None
    gated.piece(whole[len(EVENTS[0]) :])
    if end == "broken":
        await until(lambda: file.read_bytes() == whole, what="the rest arrives live")
        assert (await gateway.http.post("/tasks/sky-3/cancel")).status_code == 200
        assert reading is not None
        with pytest.raises(AssertionError, match=r"curl: \(18\)"):
            await reading
        return
    gated.end()
    assert await (reading or output("bash", "-c", rest, cwd=tmp_path)) == ""
    assert file.read_bytes() == whole
    shown = await output("bash", "-c", sizes, cwd=tmp_path)
    assert shown.splitlines() == ['"state":"SUCCESS"', f'"response_bytes":{len(whole)}', f"{len(whole)} sky.txt"]
    file.write_bytes(whole[:7])
    installed = command.replace(".venv/bin/python", sys.executable)
    assert installed != command
    await output("bash", "-c", installed, cwd=tmp_path, settings={"PYTHONPATH": str(ROOT)})
    assert file.read_bytes() == whole


@pytest.mark.parametrize("has_length", [True, False], ids=["length", "chunks"])
@pytest.mark.parametrize("end", ["whole", "broken"])
async def test_the_python_example_appends_the_rest(
    launch: Launch, upstream: Upstream, tmp_path: Path, end: str, *, has_length: bool
) -> None:
    """Its connection breaks: it goes on at the byte where it stopped. An answer that never ends whole is an error."""
    gateway, goes_on = await launch(), asyncio.Event()
    whole, file = b"".join(EVENTS), tmp_path / "sky.txt"
    half = len(whole) // 2

    async def script(exchange: Exchange) -> None:
        await exchange.read()
        framing = (b"Content-Length", b"%d" % len(whole)) if has_length else CHUNKED
        await exchange.send(head(200, JSON, framing) + (whole[:half] if has_length else chunk(whole[:half])))
        await goes_on.wait()
        await exchange.send(whole[half:] if has_length else chunk(whole[half:]) + LAST_CHUNK)

    upstream.then(script)
    client = await gateway.send("POST", CHAT, named("sky-3"), KEEP, body=b"{}")
    await client.head()
    await client.close()
    await goes_on_alone(gateway, "sky-3")
    file.write_bytes(whole[:7])
    async with gate_to(gateway) as gate:
        example = here(the_block(PAGE, "python", "has_come"), gate.port)
        running = asyncio.ensure_future(output(sys.executable, "-c", example, "sky-3", "sky.txt", cwd=tmp_path))
        await until(lambda: running.done() or len(file.read_bytes()) == half, what="it reads")
        gate.reset()
        await gate.heal()
        if end == "whole":
            goes_on.set()
            assert await running == ""
            assert file.read_bytes() == whole
        else:
            assert (await gateway.http.post("/tasks/sky-3/cancel")).status_code == 200
            with pytest.raises(AssertionError, match="the answer is incomplete"):
                await running
            assert file.read_bytes() == whole[:half]


# -- submit and fetch later --


async def test_the_curl_examples_submit_fetch_and_delete(tracked: Gateway, answer: Gated, tmp_path: Path) -> None:
    """202 with the status; later the answer, in two parts too; once deleted it is gone."""
    submit = here(the_block(PAGE, "sh", "respond-async").replace(MODEL, "m"), tracked.port)
    fetch, delete = (
        here(example, tracked.port)
        for example in blocks(PAGE, "sh", "report-18/response")
        if "respond-async" not in example
    )
    accepted = json.loads(await output("bash", "-c", submit, cwd=tmp_path))
    assert (accepted["task_id"], accepted["extensions"]["is_detached"]) == ("report-18", True)
    fetching = asyncio.ensure_future(output("bash", "-c", fetch, cwd=tmp_path))
    answer.head()
    answer.piece(COMPLETION)
    answer.end()
    assert json.loads(await fetching) == json.loads(COMPLETION)
    part = tmp_path / "FILE"
    part.write_bytes(COMPLETION[:7])
    assert "curl -C - -o FILE" in PAGE
    await output("bash", "-c", fetch.replace("curl ", "curl -C - -o FILE "), cwd=tmp_path)
    assert part.read_bytes() == COMPLETION
    await output("bash", "-c", delete, cwd=tmp_path)
    assert code(await read(tracked, "report-18")) == ("response_gone", 410)


async def test_the_python_example_submits_and_fetches(
    tracked: Gateway, upstream: Upstream, answer: Gated, fresh_id: str, tmp_path: Path
) -> None:
    """It asks again while there is no answer, and prints it when it is there."""
    number = len(upstream.exchanges)
    example = here(the_block(PAGE, "python", "respond-async").replace(MODEL, "m"), tracked.port)
    assert "?wait=30" in example
    impatient = example.replace("?wait=30", "?wait=0.1")
    running = asyncio.ensure_future(output(sys.executable, "-c", impatient, fresh_id, cwd=tmp_path))
    await gateway_has(tracked, fresh_id)
    answer.head()
    answer.piece(COMPLETION)
    answer.end()
    assert (await within(GUARD_SECONDS, running, "it ends")).strip() == TEXT
    assert (await output(sys.executable, "-c", example, fresh_id, cwd=tmp_path)).strip() == TEXT
    assert len(upstream.exchanges) == number + 1, "the second submission joined"


async def gateway_has(gateway: Gateway, task_id: str) -> None:
    """Waits until the task is with Ollama, without its client."""
    assert (await gateway.at(task_id, "forwarding"))["extensions"]["is_detached"]


async def test_what_respond_async_is_answered(tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """202 with the status document, Location and Preference-Applied; no Prefer reaches Ollama."""
    number = len(upstream.exchanges)
    upstream.then(answering(200, JSON, body=COMPLETION))
    accepted = await tracked.ask("POST", CHAT, named(fresh_id), ASYNC, body=b"{}")
    assert (accepted.status, accepted.json()["extensions"]["response"]) == (202, "kept")
    assert accepted.head.all("location") == [f"/tasks/{fresh_id}/response".encode()]
    assert accepted.head.all("preference-applied") == [b"respond-async"]
    assert (await read(tracked, fresh_id)).data == COMPLETION
    fields = (await upstream.exchange(number)).head.lowered
    assert {b"prefer", b"x-task-keep"}.isdisjoint(name for name, _ in fields)


# -- resume in a browser --


@pytest.mark.parametrize("end", ["whole", "broken"])
async def test_the_fetch_example_reads_on(launch: Launch, upstream: Upstream, tmp_path: Path, end: str) -> None:
    """Its connection breaks: it goes on at the byte where it stopped. An answer that never ends whole is an error."""
    for _ in range(3):
        if await has_read_on(launch, upstream, tmp_path, end):
            return
    raise AssertionError("node never said anything")


async def has_read_on(launch: Launch, upstream: Upstream, tmp_path: Path, end: str) -> bool:
    """The rule. False if node ended without a word: its fetch may leave a read unsettled when a connection is reset."""
    gateway = await launch()
    gated = Gated()
    upstream.then(gated)
    await begun(gateway, gated, "report-18")
    script = tmp_path / "example.mjs"
    async with gate_to(gateway) as gate:
        script.write_text(here(the_block(PAGE, "js", "answerOf"), gate.port))
        running = asyncio.ensure_future(output(needed("node"), str(script), cwd=tmp_path))
        for event in EVENTS[:10]:
            gated.piece(event)
        await until(lambda: gate.lines or running.done(), what="it reads")
        gate.reset()
        await gate.heal()
        for event in EVENTS[10:-1]:
            gated.piece(event)
        if end == "whole":
            gated.piece(EVENTS[-1])
            gated.end()
        else:
            assert (await gateway.http.post("/tasks/report-18/cancel")).status_code == 200
        [result] = await asyncio.gather(running, return_exceptions=True)
        if isinstance(result, AssertionError) and not str(result):
            return False
        if end == "whole":
            assert result == b"".join(EVENTS).decode() + "\n"
        else:
            assert isinstance(result, AssertionError)
            assert "the answer is incomplete" in str(result)
        return True


# -- the tables --


async def test_a_reader_begins_where_it_asks_and_reads_live(
    tracked: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """An offset that is not reached yet waits; one at the end is an empty 200; no head within `wait` is 202."""
    gated = Gated()
    upstream.then(gated)
    client = await tracked.send("POST", CHAT, named(fresh_id), KEEP, body=b"{}")
    await tracked.at(fresh_id, "forwarding")
    early = await read(tracked, fresh_id, "?wait=0.1")
    assert (early.status, early.json()["stage"], early.head.all("retry-after")) == (202, "forwarding", [b"1"])
    whole = b"".join(EVENTS)
    gated.head()
    gated.piece(EVENTS[0])
    readers = [asyncio.ensure_future(read(tracked, fresh_id, f"?from={n}")) for n in (0, 3, len(whole) - 1, len(whole))]
    for event in EVENTS[1:]:
        gated.piece(event)
    gated.end()
    assert (await client.answer()).data == whole
    assert [(await reader).data for reader in readers] == [whole, whole[3:], whole[-1:], b""]
    ended = await read(tracked, fresh_id, f"?from={len(whole)}")
    assert (ended.status, ended.data) == (200, b"")


async def test_a_range_counts_for_an_answer_that_has_ended(tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """206 from a byte on, if If-Range names the generation; other forms of Range are ignored; HEAD has no body."""
    upstream.then(answering(200, JSON, body=COMPLETION))
    await tracked.ask("POST", CHAT, named(fresh_id), KEEP, body=b"{}")
    tag = (await read(tracked, fresh_id)).head.all("etag")[0]
    for fields, expected in (
        ([(b"Range", b"bytes=5-")], (206, COMPLETION[5:])),
        ([(b"Range", b"bytes=5-"), (b"If-Range", tag)], (206, COMPLETION[5:])),
        ([(b"Range", b"bytes=5-"), (b"If-Range", b'"other"')], (200, COMPLETION)),
        ([(b"Range", b"bytes=5-9")], (200, COMPLETION)),
        ([(b"If-Match", tag)], (200, COMPLETION)),
    ):
        part = await read(tracked, fresh_id, "", *fields)
        assert (part.status, part.data) == expected, fields
    asked = await tracked.ask("HEAD", f"/tasks/{fresh_id}/response")
    assert (asked.status, asked.data, asked.head.all("content-length")) == (200, b"", [b"%d" % len(COMPLETION)])


async def test_each_error_of_the_route_is_as_the_table_says(
    launch: Launch, new_store: NewStore, upstream: Upstream
) -> None:
    """Every code of the table comes with its status, and the route describes no other."""
    store = await new_store()
    gateway = await launch(REDIS_URL=store.url)
    for task_id, fields in (("one", [KEEP]), ("two", []), ("gone", [KEEP])):
        upstream.then(answering(200, JSON, body=COMPLETION))
        await gateway.ask("POST", CHAT, named(task_id), *fields, body=b"{}")
    assert (await gateway.ask("DELETE", "/tasks/gone/response")).status == 204
    size = len(COMPLETION)
    seen = [
        code(await read(gateway, "a%20b")),
        code(await read(gateway, "unknown")),
        code(await read(gateway, "two")),
        code(await read(gateway, "gone")),
        code(await read(gateway, "one", "", (b"If-Match", b'"1-0"'))),
        code(await read(gateway, "one", f"?from={size + 1}")),
        code(await read(gateway, "one", "?from=-1")),
    ]
    for more in ("?wait=61", "?wait=x", "?generation=%22", "?from=1&from=2"):
        assert code(await read(gateway, "one", more)) == ("invalid_parameter", 422)
    assert code(await read(gateway, "one", "?generation=1-0")) == ("generation_changed", 412)
    beyond = await read(gateway, "one", "", (b"Range", b"bytes=%d-" % size))
    assert code(beyond) == ("offset_not_satisfiable", 416)
    assert beyond.head.all("content-range") == [b"bytes */%d" % size]
    assert code(await gateway.ask("DELETE", "/tasks/gone/response")) == ("response_gone", 410)
    await store.kill()
    away = await read(gateway, "one")
    assert away.head.all("retry-after")
    seen.append(code(away))
    assert seen == [(row[0], int(row[1])) for row in table(PAGE, ANSWERS)]
    described = (await gateway.http.get("/openapi.json")).json()["paths"]["/tasks/{task_id}/response"]["get"]
    assert {status for status in described["responses"] if status > "206"} == {str(status) for _, status in seen}


async def test_each_error_of_the_call_is_as_the_table_says(launch: Launch, upstream: Upstream) -> None:
    """Every code of the second table comes with its status."""
    off, roomy = await launch(MAX_RESPONSE_BYTES="0"), await launch(MAX_RESPONSE_BYTES="100")
    full = await launch(MAX_RESPONSE_BYTES="100", MAX_KEPT_BYTES="150")
    asked: list[tuple[Gateway, str, Field, bytes]] = [
        (off, "a", KEEP, b"{}"),
        (roomy, "status", KEEP, b"{}"),
        (roomy, "long", ASYNC, b"x" * 101),
        (full, "kept", KEEP, b"{ }"),
        (full, "late", ASYNC, b"{}"),
    ]
    upstream.then(answering(200, JSON, body=b"x" * 60))
    await full.ask("POST", CHAT, named("kept"), KEEP, body=b"{}")
    seen = [code(await at.ask("POST", CHAT, named(name), field, body=body)) for at, name, field, body in asked]
    assert seen == [(row[0], int(row[1])) for row in table(PAGE, CALLS)]
    for fields in ([(b"X-Task-Keep", b"yes")], [KEEP, KEEP]):
        assert code(await roomy.ask("POST", CHAT, *fields, body=b"{}")) == ("invalid_header", 400)


@pytest.mark.parametrize(("target", "body"), [("/v1/completions", b"{}"), (CHAT + "?a=b", b"{}"), (CHAT, b"{ }")])
async def test_an_id_stands_for_one_request(
    tracked: Gateway, upstream: Upstream, fresh_id: str, target: str, body: bytes
) -> None:
    """The same request again gets the answer, marked as joined; another target or body is 422."""
    upstream.then(answering(200, JSON, body=COMPLETION))
    first = await tracked.ask("POST", CHAT, named(fresh_id), KEEP, body=b"{}")
    again = await tracked.ask("POST", CHAT, named(fresh_id), KEEP, body=b"{}")
    assert (first.data, again.data) == (COMPLETION, COMPLETION)
    assert (first.head.all("x-task-joined"), again.head.all("x-task-joined")) == ([], [b"true"])
    other = await tracked.ask("POST", target, named(fresh_id), KEEP, body=body)
    assert code(other) == ("task_id_reused", 422)


async def test_too_long_an_answer_is_dropped(launch: Launch, upstream: Upstream) -> None:
    """With its client there it gets all of it, and `response` says so; without a client the task ends."""
    gateway = await launch(MAX_RESPONSE_BYTES="100")
    upstream.then(streaming(*EVENTS))
    got = await gateway.ask("POST", CHAT, named("here"), KEEP, body=b"{}")
    assert got.data == b"".join(EVENTS)
    status = await gateway.status("here")
    assert (status["state"], status["extensions"]["response"]) == ("SUCCESS", "too_large")
    assert code(await read(gateway, "here")) == ("response_gone", 410)
    gated = Gated()
    upstream.then(gated)
    await begun(gateway, gated, "left")
    gated.piece(b"x" * 101)
    status = await gateway.ended("left")
    assert (outcome(status), status["extensions"]["response"]) == (failed("response_too_large"), "too_large")


async def test_without_room_a_call_is_made_and_not_kept(launch: Launch, upstream: Upstream) -> None:
    """`no_room` with X-Task-Keep; 503 with Retry-After for respond-async; a body over the bound is 413."""
    gateway = await launch(MAX_RESPONSE_BYTES="100", MAX_KEPT_BYTES="150")
    upstream.then(answering(200, JSON, body=b"x" * 60), answering(200, JSON, body=b"{}"))
    await gateway.ask("POST", CHAT, named("one"), KEEP, body=b"{}")
    got = await gateway.ask("POST", CHAT, named("two"), KEEP, body=b"{}")
    assert (got.status, (await gateway.status("two"))["extensions"]["response"]) == (200, "no_room")
    refused = await gateway.ask("POST", CHAT, named("three"), ASYNC, body=b"{}")
    assert (code(refused), len(refused.head.all("retry-after"))) == (("keep_unavailable", 503), 1)
    assert (await gateway.ask("DELETE", "/tasks/one/response")).status == 204
    large = await gateway.ask("POST", CHAT, named("four"), ASYNC, body=b"x" * 101)
    assert code(large) == ("body_too_large", 413)


async def broken_off(pieces: AsyncIterator[bytes]) -> bytes:
    """What comes of an answer until it is broken off."""
    part = b""
    try:
        async for piece in pieces:
            part += piece
    except httpx.TransportError:
        return part
    raise AssertionError("the answer ended whole")


@pytest.fixture
async def mortal(upstream: Upstream, store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mortal]:
    """A gateway that may be killed, or stopped by a signal."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "2", "DRAIN_SEC": "1"}
    mortal = Mortal(tmp_path_factory, upstream, **settings)
    await mortal.start()
    yield mortal
    await mortal.put_down()


@pytest.mark.parametrize(("event", "reason"), [("cancel", "cancelled"), ("drain", "shutdown"), ("kill", "lost")])
async def test_what_there_is_of_a_failed_call_can_be_read(
    launch: Launch, mortal: Mortal, store: Store, upstream: Upstream, fresh_id: str, event: str, reason: str
) -> None:
    """A cancel, the end of the drain, a killed gateway: a reader elsewhere is broken off, and later ones are too."""
    other = await launch(REDIS_URL=store.url, HEARTBEAT_SEC="2")
    gated = Gated()
    upstream.then(gated)
    await begun(mortal, gated, fresh_id)
    gated.piece(EVENTS[0])
    async with other.http.stream("GET", f"/tasks/{fresh_id}/response") as reading:
        pieces = reading.aiter_raw()
        assert await anext(pieces) == EVENTS[0]
        if event == "cancel":
            assert (await mortal.http.post(f"/tasks/{fresh_id}/cancel")).status_code == 200
        else:
            mortal.process.send_signal(signal.SIGTERM if event == "drain" else signal.SIGKILL)
        assert await within(GUARD_SECONDS, broken_off(pieces), "the reader is broken off") == b""
    extensions = (await other.ended(fresh_id))["extensions"]
    assert (extensions["reason"], extensions["response"]) == (reason, "kept")
    async with other.http.stream("GET", f"/tasks/{fresh_id}/response") as reading:
        assert await broken_off(reading.aiter_raw()) == EVENTS[0]


async def test_in_a_drain_readers_end_with_their_task(launch: Launch, upstream: Upstream, fresh_id: str) -> None:
    """A retry that would join is refused with 503 as any other request."""
    gateway = await launch(DRAIN_SEC="20")
    gated = Gated()
    upstream.then(gated)
    await begun(gateway, gated, fresh_id)
    gated.piece(EVENTS[0])
    async with gateway.http.stream("GET", f"/tasks/{fresh_id}/response") as reading:
        pieces = reading.aiter_raw()
        assert await anext(pieces) == EVENTS[0]
        gateway.process.send_signal(signal.SIGTERM)

        async def is_draining() -> bool:
            return (await gateway.http.get("/readyz")).status_code == 503

        await until(is_draining)
        refused = await gateway.ask("POST", CHAT, named(fresh_id), KEEP, body=b"{}")
        assert code(refused) == ("shutting_down", 503)
        gated.piece(EVENTS[-1])
        gated.end()
        assert [piece async for piece in pieces] == [EVENTS[-1]]


async def test_while_the_store_is_away_its_own_gateway_answers(
    launch: Launch, new_store: NewStore, upstream: Upstream, fresh_id: str
) -> None:
    """The call goes on and is read from memory; another gateway is 503, and breaks its readers off after 5 s."""
    store = await new_store()
    own, other = await launch(REDIS_URL=store.url), await launch(REDIS_URL=store.url)
    gated = Gated()
    upstream.then(gated)
    await begun(own, gated, fresh_id)
    gated.piece(EVENTS[0])
    async with other.http.stream("GET", f"/tasks/{fresh_id}/response") as reading:
        pieces = reading.aiter_raw()
        assert await anext(pieces) == EVENTS[0]
        await store.kill()
        gated.piece(EVENTS[-1])
        gated.end()
        assert (await read(own, fresh_id)).data == EVENTS[0] + EVENTS[-1]
        away = await read(other, fresh_id)
        assert (code(away), len(away.head.all("retry-after"))) == (("store_unavailable", 503), 1)
        with pytest.raises(httpx.TransportError):
            await within(GUARD_SECONDS, anext(pieces), "the reader is broken off")


async def test_nothing_is_kept_where_that_is_off(launch: Launch, upstream: Upstream) -> None:
    """MAX_RESPONSE_BYTES=0: the field is 400, the preference is not honoured and goes on to Ollama."""
    gateway = await launch(MAX_RESPONSE_BYTES="0")
    assert code(await gateway.ask("POST", CHAT, KEEP, body=b"{}")) == ("invalid_header", 400)
    number = len(upstream.exchanges)
    got = await gateway.ask("POST", CHAT, named("a"), ASYNC, body=b"{}")
    assert (got.status, got.head.all("preference-applied")) == (200, [])
    assert ASYNC[1] in [value for name, value in (await upstream.exchange(number)).head.lowered if name == b"prefer"]
    assert code(await read(gateway, "a")) == ("response_not_kept", 404)


async def test_the_reserved_id_cannot_be_kept(tracked: Gateway) -> None:
    """`/tasks/status/response` is the status of a task called `response`."""
    assert code(await tracked.ask("POST", CHAT, named("status"), KEEP, body=b"{}")) == ("invalid_task_id", 400)
    assert code(await tracked.ask("POST", CHAT, named("status"), ASYNC, body=b"{}")) == ("invalid_task_id", 400)
    assert (await tracked.ask("POST", CHAT, named("status"), body=b"{}")).status == 200


async def test_the_page_names_what_there_is() -> None:
    """Each value of `response` once, beside `null`; the settings with their defaults; the examples that are run."""
    assert [row[0] for row in table(PAGE, "| `extensions.response` | Means |")] == ["null", *Kept]
    defaults = {setting.name: setting.default for setting in SETTINGS}
    shown: dict[str, Any] = {"16 MiB": 2**24, "256 MiB": 2**28, "64 MiB": 2**26, "an hour": 3600}
    rows = table(PAGE, "| Setting | Default | Bounds |")
    assert {row[0]: str(shown[row[1]]) for row in rows} == {
        name: defaults[name]
        for name in ("MAX_RESPONSE_BYTES", "MAX_KEPT_BYTES", "MAX_STORED_RESPONSE_BYTES", "TTL_RESPONSE")
    }
    counted = {language: len(blocks(PAGE, language)) for language in ("python", "js", "sh")}
    assert (counted, PAGE.count("\n```")) == ({"python": 4, "js": 2, "sh": 7}, 26)
