"""Owns the promises of the terminal's commands: they say what is, to people and to scripts, and exit codes tell states.

The command is a process of its own, in front of a real gateway with a real store and a scripted upstream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gateway.tasks.stages import Stage
from tests.support.forged import document, forge_document, lost_document
from tests.support.ports import refusing_port
from tests.support.process import ROOT, environment
from tests.support.scripted import JSON, Gated, answering
from tests.support.served import Served
from tests.support.terminal import COMMAND, Live, Said, said
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store

    Ask = Callable[..., Awaitable["Said"]]


CHAT = "/v1/chat/completions"
END = b"data: [DONE]\n\n"


@pytest.fixture
async def ask(tracked: Gateway) -> Ask:
    """Runs commands that ask the gateway of this test."""

    async def run(*words: str, **settings: str) -> Said:
        return await said(*words, **{"GATEWAY_PORT": str(tracked.port), **settings})

    return run


@pytest.fixture
async def stream(tracked: Gateway, upstream: Upstream, fresh_id: str) -> AsyncIterator[Gated]:
    """A task in flight, its id `fresh_id`, that the test ends or leaves to the fixture."""
    gated = upstream.gated()
    gated.head()
    fields = [(b"X-Task-Id", fresh_id.encode()), (b"Content-Length", b"0")]
    client = asyncio.create_task(tracked.ask("POST", CHAT, *fields))
    await tracked.at(fresh_id, "streaming")
    yield gated
    client.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):  # broken off, cancelled: the test has seen to it
        await client


async def ended_task(gateway: Gateway, upstream: Upstream, task_id: str, status: int = 200) -> None:
    """A task that is over."""
    upstream.then(answering(status, JSON, body=b"{}"))
    await gateway.ask("GET", "/v1/thing", (b"X-Task-Id", task_id.encode()))
    await gateway.ended(task_id)


@pytest.mark.parametrize(("status", "state", "code"), [(200, "SUCCESS", 0), (500, "FAILED", 1)])
async def test_status_tells_how_it_ended(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str, status: int, state: str, code: int
) -> None:
    """SUCCESS is 0 and FAILED 1, with the document for scripts and all its facts for people."""
    await ended_task(tracked, upstream, fresh_id, status)
    found = await ask("status", fresh_id, "--json")
    assert (found.code, found.json) == (code, await tracked.status(fresh_id))
    found = await ask("status", fresh_id)
    assert found.code == code
    facts = dict(line.split(maxsplit=1) for line in found.out.splitlines() if not line.startswith("first byte"))
    assert facts["task"].strip() == fresh_id
    assert facts["state"].strip() == state
    assert facts["request"].startswith("GET /v1/thing")
    assert facts["answer"].startswith(f"status {status}")
    advice = [line.split()[-1] for line in found.out.splitlines() if line.startswith("what to do ")]
    assert advice == ([f"http://127.0.0.1:{tracked.port}/#/tasks/{fresh_id}"] if state == "FAILED" else [])


async def test_status_of_a_task_in_flight_is_3(ask: Ask, stream: Gated, fresh_id: str) -> None:
    """Not ended is 3, also after a wait that was too short."""
    found = await ask("status", fresh_id, "--json")
    assert (found.code, found.json["state"]) == (3, "RUNNING")
    found = await ask("status", fresh_id, "--wait", "0.3", "--json")
    assert (found.code, found.json["stage"]) == (3, "streaming")


async def test_status_waits_for_the_end(tracked: Gateway, stream: Gated, fresh_id: str) -> None:
    """`--wait` shows what the task is at, and comes back when it has ended, with the state that it ended in."""
    async with Live(tracked.port, "status", fresh_id, "--wait", is_terminal=True) as waiting:
        await waiting.shows(f"{fresh_id}: RUNNING streaming")
        stream.piece(END)
        stream.end()
        assert await within(30, waiting.process.wait()) == 0
        await waiting.shows("SUCCESS", "complete")


async def test_one_connection_carries_all_questions(upstream: Upstream) -> None:
    """`--wait` asks with what it knows, and only after the answer to the question before; so does `--watch`."""
    found, end = document("one"), document("one", Stage.DONE)
    url, known = f"http://127.0.0.1:{upstream.port}", b'"%s"' % found["event_id"].encode()
    tag = (b"ETag", known)
    upstream.then(
        answering(200, JSON, tag, body=json.dumps(found).encode()),
        answering(304, tag),
        answering(200, JSON, body=json.dumps(end).encode()),
    )
    assert (await said("status", "one", "--wait", "--url", url)).code == 0
    assert [exchange.head.get("If-None-Match") for exchange in upstream.exchanges] == [None, known, known]
    assert {exchange.head.target for exchange in upstream.exchanges[1:]} == {b"/tasks/status/one?wait=30.000"}
    assert len({exchange.connection.number for exchange in upstream.exchanges}) == 1
    await upstream.forget()

    page = json.dumps({"items": [found], "count": 1, "next_cursor": None}).encode()
    upstream.then(answering(200, JSON, (b"ETag", b'"page"'), body=page))
    upstream.default = answering(304, (b"ETag", b'"page"'))
    async with Live(upstream.port, "tasks", "--watch", is_terminal=True) as watch:
        await upstream.exchange(2)
        await watch.shows("1 of 1 in flight")
        assert await watch.interrupted() == 0
    assert [exchange.head.get("If-None-Match") for exchange in upstream.exchanges[:3]] == [None, b'"page"', b'"page"']
    assert len({exchange.connection.number for exchange in upstream.exchanges}) == 1


async def test_an_unknown_task_is_4(ask: Ask, fresh_id: str) -> None:
    """No such task is 4, on the standard error, for status, for waiting and for cancel."""
    for words in (["status", fresh_id], ["status", fresh_id, "--wait"], ["cancel", fresh_id, "--json"]):
        found = await ask(*words)
        assert (found.code, found.out) == (4, "")
        assert fresh_id in found.error


async def test_cancel_ends_a_task(ask: Ask, stream: Gated, fresh_id: str, tracked: Gateway) -> None:
    """Cancelling ends it and is 0; once more changes nothing and is 0 again; its status is then 1."""
    first = await ask("cancel", fresh_id, "--json")
    assert (first.code, first.json["state"], first.json["extensions"]["reason"]) == (0, "FAILED", "cancelled")
    again = await ask("cancel", fresh_id, "--json")
    assert (again.code, again.json) == (0, first.json)
    assert (await ask("status", fresh_id)).code == 1


async def answers_lists(gateway: Gateway) -> bool:
    """Whether the gateway can list tasks now."""
    return (await gateway.http.get("/tasks/status")).status_code == 200


async def test_tasks_lists_the_newest(ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Newest first, as many as asked for, of one state if asked for; one page of JSON for scripts."""
    for number in range(3):
        await ended_task(tracked, upstream, f"{fresh_id}-{number}", 500 if number == 1 else 200)
    await until(lambda: answers_lists(tracked), what="the store is up: a busy machine makes it look slow")
    found = await ask("tasks", "--limit", "2")
    assert found.code == 0, found.error
    header, *rows = found.out.splitlines()
    assert header.split()[:4] == ["TASK", "STATE", "STAGE", "REQUEST"]
    assert [row.split()[0] for row in rows] == [f"{fresh_id}-2", f"{fresh_id}-1"]
    assert rows[1].split()[1:3] == ["FAILED", "upstream_status"]
    found = await ask("tasks", "--state", "failed", "--limit", "1", "--json")
    assert (found.code, [item["task_id"] for item in found.json["items"]]) == (0, [f"{fresh_id}-1"])


async def test_no_tasks_is_said(launch: Launch) -> None:
    """An empty list is no failure."""
    gateway = await launch()
    found = await said("tasks", "--url", f"http://127.0.0.1:{gateway.port}")
    assert (found.code, found.out.strip()) == (0, "no tasks")


async def test_a_gateway_that_is_away_is_5() -> None:
    """Refused connections, and servers that are no gateway, are 5, with one line that names the address."""
    with refusing_port() as port:
        for words in (["tasks"], ["tasks", "--watch", "--json"], ["status", "x", "--wait"], ["cancel", "x"]):
            found = await said(*words, OLLAMA_GATEWAY_URL=f"http://127.0.0.1:{port}")
            assert (found.code, found.out) == (5, "")
            assert f"http://127.0.0.1:{port} does not answer" in found.error
            assert found.error.count("\n") == 1


@pytest.mark.parametrize(
    "script",
    [answering(200, body=b"<html>\x1b[31m"), answering(404, body=b"none"), answering(302, (b"Location", b"/"))],
)
async def test_another_server_is_5(upstream: Upstream, script: Any) -> None:
    """What does not answer as a gateway does is refused, and its bytes do not drive the terminal."""
    upstream.default = script
    for words in (["tasks"], ["status", "x"]):
        found = await said(*words, "--url", f"http://127.0.0.1:{upstream.port}")
        assert (found.code, found.out) == (5, "")
        assert "\x1b" not in found.error
    assert len(upstream.exchanges) == 2, "no redirect was followed"


async def test_keys_come_from_the_environment_or_a_file(launch: Launch, tmp_path: Path) -> None:
    """With API keys on: none is 5 with a hint, a right one from either place is 0; no output holds it."""
    gateway = await launch(GATEWAY_API_KEYS="admin:some-secret-key")
    settings = {"GATEWAY_PORT": str(gateway.port)}
    refused = await said("tasks", **settings)
    assert refused.code == 5
    assert "OLLAMA_GATEWAY_KEY" in refused.error
    file = tmp_path / "key"
    file.write_text("some-secret-key\n")
    right = [await said("tasks", **settings, OLLAMA_GATEWAY_KEY="some-secret-key")]
    right += [await said("tasks", "--key-file", str(file), **settings)]
    file.write_bytes(b"\xef\xbb\xbfsome-secret-key\r\n")  # as Windows' editors write it
    right += [await said("tasks", "--key-file", str(file), **settings)]
    assert [found.code for found in right] == [0, 0, 0]
    wrong = await said("tasks", **settings, OLLAMA_GATEWAY_KEY="some-other-key")
    assert wrong.code == 5
    assert "secret" not in "".join(found.out + found.error for found in [refused, *right])
    assert "some-other-key" not in wrong.out + wrong.error


async def test_no_proxy_gets_the_key(tracked: Gateway) -> None:
    """A proxy of the environment is not used: this is between the terminal and its gateway."""
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:1")
    assert (await said("tasks", GATEWAY_PORT=str(tracked.port), **proxies)).code == 0


async def test_a_request_cannot_drive_the_terminal(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Escape sequences and markup in path and query come out as the text that they are."""
    upstream.then(answering(200, JSON, body=b"{}"))
    target = b"/v1/[red]%1b[31m\x1b[31mx?q=[link=http://h]\x9b31m".replace(b"\x1b", b"%1B").replace(b"\x9b", b"%9B")
    await tracked.ask("GET", target, (b"X-Task-Id", fresh_id.encode()))
    await tracked.ended(fresh_id)
    table, facts = await ask("tasks", "--limit", "1"), await ask("status", fresh_id)
    for found in (table, facts):
        assert found.code == 0
        assert "/v1/[red]%1b[31m%1B[31mx" in found.out
        assert found.out.replace("\n", "").isprintable()


async def test_a_waiting_tasks_position_and_label_are_shown(launch: Launch, upstream: Upstream) -> None:
    """In the list, in the detail, and live while a command waits for the task's end."""
    upstream.default = served = Served()
    gateway = await launch(MAX_RUNNING="1", HEARTBEAT_SEC="0.5")
    settings = {"GATEWAY_PORT": str(gateway.port)}
    for number in range(3):
        fields = [(b"X-Task-Id", b"in-line-%d" % number), (b"X-Task-Label", b"job:%d" % number)]
        await gateway.send("POST", CHAT, *fields, body=b"{}")
        await until(partial(is_known, gateway, f"in-line-{number}"), what="the task is known")
    await served.holds(1)
    found = await said("tasks", **settings)
    rows = found.out.splitlines()
    assert re.search(r"^in-line-2 +PENDING +queued 2 of 2 +POST \S+ +job:2 ", rows[1])
    assert re.search(r"^in-line-0 +RUNNING +forwarding +POST \S+ +job:0 ", rows[3])
    facts = (await said("status", "in-line-2", **settings)).out
    assert re.search(r"^queue +position 2 of 2 *$", facts, re.MULTILINE)
    assert re.search(r"^label +job:2 *$", facts, re.MULTILINE)
    async with Live(gateway.port, "status", "in-line-2", "--wait", is_terminal=True) as waiting:
        await waiting.shows("PENDING queued 2 of 2")
        served.finish()
        await waiting.shows("PENDING queued 1 of 1")
        await served.has_seen(2)
        served.finish()
        await served.has_seen(3)
        served.finish()
        assert await within(30, waiting.process.wait()) == 0
        await waiting.shows("SUCCESS")


async def is_known(gateway: Gateway, task_id: str) -> bool:
    """Whether the gateway knows the task."""
    return (await gateway.http.get(f"/tasks/status/{task_id}")).status_code == 200


async def test_nodes_lists_the_gateways(launch: Launch, store: Store) -> None:
    """All that share the store, for people and, as the gateway's answer, for scripts."""
    names = [f"gateway-{number}.test:11535" for number in range(2)]
    gateways = [await launch(REDIS_URL=store.url, GATEWAY_INSTANCE=name, HEARTBEAT_SEC="0.5") for name in names]
    settings = {"GATEWAY_PORT": str(gateways[0].port)}

    async def are_listed() -> bool:
        found = await said("nodes", **settings)
        assert found.code == 0
        return all(re.search(rf"^{name} +up +up +0 +0 +\d+ s ago ", found.out, re.MULTILINE) for name in names)

    await until(are_listed, what="both are listed")
    found = await said("nodes", "--json", **settings)
    assert set(names) <= {item["instance"] for item in found.json["items"]}


async def test_nodes_is_for_admin_alone(launch: Launch) -> None:
    """With API keys another key is 5, with the gateway's words on standard error."""
    gateway = await launch(GATEWAY_API_KEYS="alice:key-of-alice,admin:key-of-admin")
    settings = {"GATEWAY_PORT": str(gateway.port)}
    found = await said("nodes", **settings, OLLAMA_GATEWAY_KEY="key-of-alice")
    assert (found.code, found.out) == (5, "")
    assert "answers 403: " in found.error
    assert (await said("nodes", **settings, OLLAMA_GATEWAY_KEY="key-of-admin")).code == 0


# -- a presumed loss --


@pytest.fixture
async def presumed(tracked: Gateway, store: Store, fresh_id: str) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """A task that is presumed lost. The function writes another version of it."""

    created_ms = int(time.time() * 1000)

    async def put(found: dict[str, Any]) -> None:
        found["extensions"]["created_ms"] = created_ms
        await forge_document(store.client, fresh_id, json.dumps(found, separators=(",", ":")), created_ms)

    await put(lost_document(fresh_id, is_presumed=True))
    yield put
    await put(lost_document(fresh_id, is_presumed=False))


async def test_a_presumed_loss_has_not_ended(ask: Ask, presumed: object, fresh_id: str) -> None:
    """It is 3, and is shown as `lost?` with what that means, in the list, too; scripts find it in the document."""
    facts = await ask("status", fresh_id)
    assert facts.code == 3
    assert re.search(r"^reason +lost\? *$", facts.out, re.MULTILINE)
    assert "which may still run it" in facts.out
    found = await ask("status", fresh_id, "--json")
    assert (found.code, found.json["extensions"]["is_presumed"]) == (3, True)
    found = await ask("status", fresh_id, "--wait", "0.3")
    assert found.code == 3
    found = await ask("tasks", "--limit", "1000")
    assert re.search(rf"^{fresh_id} +FAILED +lost\? ", found.out, re.MULTILINE)
    assert "lost?: no word from the task's gateway" in found.out


async def test_a_wait_outlasts_a_presumed_loss(
    tracked: Gateway, presumed: Callable[..., Awaitable[None]], fresh_id: str
) -> None:
    """`--wait` shows that the loss is presumed, then that the task runs again, and returns with its real end."""
    async with Live(tracked.port, "status", fresh_id, "--wait", is_terminal=True) as waiting:
        await waiting.shows(f"{fresh_id}: FAILED lost?")
        await presumed(document(fresh_id))
        await waiting.shows(f"{fresh_id}: RUNNING streaming")
        await presumed(document(fresh_id, Stage.DONE))
        assert await within(60, waiting.process.wait()) == 0
        await waiting.shows("SUCCESS")


async def test_a_certain_loss_is_1(ask: Ask, presumed: Callable[..., Awaitable[None]], fresh_id: str) -> None:
    """So it is for documents of earlier gateways, which do not tell."""
    for is_presumed in (False, None):
        await presumed(lost_document(fresh_id, is_presumed=is_presumed))
        found = await ask("status", fresh_id, "--wait")
        assert found.code == 1
        assert re.search(r"^reason +lost *$", found.out, re.MULTILINE)


# -- watching --


async def test_watch_follows_on_a_terminal(tracked: Gateway, upstream: Upstream, stream: Gated, fresh_id: str) -> None:
    """A task in flight is shown, and how it ends; Ctrl-C is the way out, with 0 and the cursor back."""
    async with Live(tracked.port, "tasks", "--watch", "--limit", "5", is_terminal=True) as watch:
        await until(lambda: re.search(rf"{fresh_id}\s+\S+RUNNING\S+\s+streaming", watch.read()), 30, "its row")
        await watch.shows(" in flight")
        stream.piece(END)
        stream.end()
        await until(lambda: re.search(rf"{fresh_id}\s+\S+SUCCESS", watch.read()), 30, "its row says SUCCESS")
        assert await watch.interrupted() == 0
        await watch.shows("\x1b[?25h")


def screen_of(watch: Live) -> list[str]:
    """The lines that were painted last, without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", watch.read().rpartition("\x1b[H")[2]).replace("\r", "").split("\n")


async def test_watch_fits_its_window(tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """A list is as large as the window, before and after a resize; Ctrl-C leaves the screen as it was before."""
    ids = [f"{fresh_id}-with-a-long-end-{number}" for number in range(12)]
    for task_id in ids:
        await ended_task(tracked, upstream, task_id)
    async with Live(tracked.port, "tasks", "--watch", "--limit", "12", is_terminal=True, size=(60, 10)) as watch:

        def is_painted(columns: int, rows: int, *texts: str) -> bool:
            screen = screen_of(watch)
            is_right = len(screen) == rows and {len(line) for line in screen} == {columns}
            return is_right and all(any(text in line for line in screen) for text in texts)

        await until(lambda: is_painted(60, 10, "SUCCESS", "and 6 more", "left out: "), 30, "60 columns, 10 rows")
        watch.resize(150, 20)
        await until(lambda: is_painted(150, 20, ids[0], "FIRST BYTE", "0 of 12 in flight"), 30, "150 columns, 20 rows")
        watch.resize(20, 5)
        await until(lambda: is_painted(20, 5, "TASK", "and 11 more", "…"), 30, "20 columns, 5 rows")
        watch.resize(80, 24)
        await until(lambda: is_painted(80, 24, "REQUEST", "0 of 12 in flight"), 30, "80 columns, 24 rows")
        assert await watch.interrupted() == 0
        out = watch.read()
        assert out.index("\x1b[?1049h") < out.index("\x1b[H") < out.rindex("\x1b[?1049l"), "a screen of its own"
        assert out.rindex("\x1b[?25h") > out.rindex("\x1b[?25l"), "the cursor is back"
        assert out.rindex("\x1b[?1049l") > out.rindex("TASK"), "nothing is written to the first screen"


async def test_watch_that_is_terminated_leaves_a_clean_screen(tracked: Gateway) -> None:
    """SIGTERM, as of `timeout`: the screen and the cursor are as before, and the code is 143."""
    async with Live(tracked.port, "tasks", "--watch", is_terminal=True, size=(80, 24)) as watch:
        await watch.shows("in flight")
        watch.process.terminate()
        assert await watch.ended() == 143
        await watch.shows("\x1b[?1049l", "\x1b[?25h")


async def test_watch_on_a_dumb_terminal_is_plain(tracked: Gateway, stream: Gated, fresh_id: str) -> None:
    """TERM=dumb: the list is printed again when there is an event, without escape codes."""
    words = ("tasks", "--watch", "--limit", "1", "--columns", "state,task,stage")
    async with Live(tracked.port, *words, is_terminal=True, size=(80, 24), term="dumb") as watch:
        await watch.shows("RUNNING", fresh_id)
        stream.piece(END)
        stream.end()
        await watch.shows("SUCCESS")
        assert await watch.interrupted() == 0
        text = watch.read().replace("\r\n", "\n")
    assert text.replace("\n", "").isprintable()
    lists = [part.splitlines() for part in text.strip("\n").split("\n\n")]
    assert [[row.split() for row in rows[:2]] for rows in lists] == [
        [["STATE", "TASK", "STAGE"], ["RUNNING", fresh_id, "streaming"]],
        [["STATE", "TASK", "STAGE"], ["SUCCESS", fresh_id, "done"]],
    ]


async def test_watch_as_json_is_one_line_for_each_event(tracked: Gateway, stream: Gated, fresh_id: str) -> None:
    """Scripts get each event of a task once, oldest first, and nothing in between; a signal ends it with 0."""
    async with Live(tracked.port, "tasks", "--watch", "--json", "--limit", "3", is_terminal=False) as watch:
        await watch.shows(fresh_id)
        stream.piece(END)
        stream.end()
        await until(lambda: watch.read().count(fresh_id) == 2, 30, "another event of this task")
        assert await watch.interrupted() == 0
    events = [json.loads(line) for line in watch.read().splitlines()]
    assert [(e["state"], e["stage"]) for e in events if e["task_id"] == fresh_id] == [
        ("RUNNING", "streaming"),
        ("SUCCESS", "done"),
    ]
    assert len({e["event_id"] for e in events}) == len(events)


async def test_watch_goes_on_when_the_gateway_comes_back(launch: Launch, tmp_path: Path) -> None:
    """A gateway that is away for a while is said to be, in place of an end."""
    gateway = await launch()
    async with Live(gateway.port, "tasks", "--watch", is_terminal=True) as watch:
        await watch.shows("0 of 0 in flight")
        gateway.process.terminate()
        await until(lambda: gateway.process.poll() is not None, 30, "it has stopped")
        await watch.shows("does not answer")
        await gateway.start()
        before = len(watch.read())
        await until(lambda: "0 of 0 in flight" in watch.read()[before:], 30, "it is back")
        assert await watch.interrupted() == 0


async def test_watch_without_a_terminal_wants_json(ask: Ask) -> None:
    """A table that moves is nothing for a file: 2, and what to do instead."""
    found = await ask("tasks", "--watch")
    assert (found.code, found.out) == (2, "")
    assert "--json" in found.error


async def test_a_reader_that_leaves_is_no_failure_of_a_task(ask: Ask, tracked: Gateway, upstream: Upstream) -> None:
    """`… | head -0`: the exit code is what shells give for it, 141, not that of a FAILED task."""
    reader, writer = os.pipe()
    os.close(reader)
    for words in (["tasks"], ["tasks", "--json"]):
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *words, cwd=ROOT, env=environment({"GATEWAY_PORT": str(tracked.port)}), stdout=writer,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, error = await within(30, process.communicate())
        assert (process.returncode, error) == (141, b"")
    os.close(writer)
