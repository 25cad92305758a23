"""Owns the promises of `ollama-gateway response`: the kept bytes and no others, to their end, and exit codes that tell.

The command is a process of its own, in front of a real gateway with a real store and a scripted upstream.
"""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.chaos.mortal import Mortal
from tests.support.faults import Gate
from tests.support.ports import refusing_port
from tests.support.scripted import JSON, answering, sending, streaming
from tests.support.scripted import head as head_of
from tests.support.store import DOCUMENTS
from tests.support.terminal import Live, said
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Gated, Script, Upstream
    from tests.support.store import Store
    from tests.support.terminal import Said

    Ask = Callable[..., Awaitable[Said]]

CHAT = "/v1/chat/completions"
EVENTS = [b'data: {"n":%d}\n\n' % n for n in range(40)] + [b"data: [DONE]\n\n"]
WHOLE = b"".join(EVENTS)
FIRST, REST = WHOLE[:101], WHOLE[101:]


@pytest.fixture
async def ask(tracked: Gateway) -> Ask:
    """Runs `response` with the gateway of this test."""

    async def run(*words: str) -> Said:
        return await said("response", *words, GATEWAY_PORT=str(tracked.port))

    return run


def fields(task_id: str) -> list[tuple[bytes, bytes]]:
    """What asks the gateway to keep the answer of this task."""
    return [(b"X-Task-Id", task_id.encode()), (b"X-Task-Keep", b"true")]


async def kept(gateway: Gateway, upstream: Upstream, task_id: str, script: Script) -> None:
    """A task that has ended, with its answer kept."""
    upstream.then(script)
    await gateway.ask("POST", CHAT, *fields(task_id), body=b"{}")
    await gateway.ended(task_id)


@pytest.fixture
async def detached(tracked: Gateway, upstream: Upstream, fresh_id: str) -> AsyncIterator[Gated]:
    """A task that runs without its client; its answer is as far as FIRST."""
    gated = upstream.gated()
    gated.head()
    gated.piece(FIRST)
    client = await tracked.send("POST", CHAT, *fields(fresh_id), body=b"{}")
    await client.up_to(FIRST[-20:])
    await client.close()
    await until(partial(is_detached, tracked, fresh_id), what="the task goes on without its client")
    yield gated
    gated.end()


async def is_detached(gateway: Gateway, task_id: str) -> bool:
    """Whether the task has lost its client."""
    more = (await gateway.status(task_id))["extensions"]
    return bool(more["is_detached"]) and more["response_bytes"] == len(FIRST)


async def test_the_kept_bytes_come_out(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """All of them or those from a byte on, to standard output or a file, with 0; `status` says that it is kept."""
    await kept(tracked, upstream, fresh_id, streaming(*EVENTS))
    found = await ask(fresh_id)
    assert (found.code, found.out, found.error) == (0, WHOLE.decode(), "")
    assert (await ask(fresh_id, "--from", "101")).out == REST.decode()
    at_end = await ask(fresh_id, "--from", str(len(WHOLE)))
    assert (at_end.code, at_end.out) == (0, "")
    file = tmp_path / "answer"
    file.write_bytes(b"an older one, which is longer than the answer" * 100)
    found = await ask(fresh_id, "--follow", "-o", str(file))
    assert (found.code, found.out, found.error) == (0, "", "")
    assert file.read_bytes() == WHOLE
    facts = (await said("status", fresh_id, GATEWAY_PORT=str(tracked.port))).out
    assert [line.rstrip() for line in facts.splitlines() if line.startswith(("kept", "detached"))] == [
        "kept        yes: the answer is kept",
        "detached    -",
    ]


async def test_bytes_that_are_no_text_stay_as_they_are(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """The answer may be anything: nothing is decoded."""
    body = bytes(range(256)) * 300
    await kept(tracked, upstream, fresh_id, answering(200, (b"Content-Encoding", b"gzip"), body=body))
    file = tmp_path / "answer"
    assert (await ask(fresh_id, "-o", str(file))).code == 0
    assert file.read_bytes() == body


async def test_a_file_is_continued_only_where_it_ends(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str, tmp_path: Path
) -> None:
    """`-o FILE --from N` wants a FILE of N bytes. Any other is 2, and stays as it is; so does one before an error."""
    await kept(tracked, upstream, fresh_id, streaming(*EVENTS))
    file = tmp_path / "answer"
    file.write_bytes(FIRST)
    for offset in ("100", "102", "0"):
        found = await ask(fresh_id, "--from", offset, "-o", str(file))
        assert (found.code, found.out) == (2, "")
        assert f"{file} has 101 bytes" in found.error
        assert file.read_bytes() == FIRST
    assert (await ask(fresh_id, "--from", "101", "-o", str(file))).code == 0
    assert file.read_bytes() == WHOLE
    assert (await ask("no-such-task", "-o", str(file))).code == 4
    assert file.read_bytes() == WHOLE
    found = await ask(fresh_id, "-o", str(tmp_path))
    assert (found.code, found.error) == (2, f"ollama-gateway: {tmp_path}: Is a directory\n")


async def test_a_task_that_runs_is_read_as_far_as_it_is(
    ask: Ask, tracked: Gateway, detached: Gated, fresh_id: str
) -> None:
    """Without --follow what there is now, with 3 and how to read on; then the rest of the same answer."""
    found = await ask(fresh_id)
    assert (found.code, found.out) == (3, FIRST.decode())
    assert "the task goes on (RUNNING streaming)" in found.error
    words = found.error.split("--from ")[1].split(" reads on")[0].split()
    assert words[:2] == ["101", "--generation"]
    again = await ask(fresh_id, "--from", words[0], "--generation", words[2])
    assert (again.code, again.out) == (3, "")
    facts = (await said("status", fresh_id, GATEWAY_PORT=str(tracked.port))).out
    assert re.search("^detached +yes", facts, re.MULTILINE)
    detached.piece(REST)
    detached.end()
    await tracked.ended(fresh_id)
    rest = await ask(fresh_id, "--from", words[0], "--generation", words[2])
    assert (rest.code, rest.out, rest.error) == (0, REST.decode(), "")


async def test_an_answer_is_followed_live(tracked: Gateway, detached: Gated, fresh_id: str) -> None:
    """With --follow each piece is written when it comes, and the end of the task ends the command."""
    async with Live(tracked.port, "response", fresh_id, "--follow", is_terminal=False) as reading:
        await until(lambda: reading.read() == FIRST.decode(), what="what there is")
        detached.piece(REST[:50])
        await until(lambda: reading.read() == WHOLE[:151].decode(), what="the next piece")
        detached.piece(REST[50:])
        detached.end()
        assert await within(30, reading.process.wait(), "the command ends") == 0
        assert reading.read() == WHOLE.decode()


async def test_an_answer_that_has_not_begun_is_waited_for(
    ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str
) -> None:
    """Without --follow it is 3 at once; with it the command waits for the answer."""
    gated = upstream.gated()
    await tracked.ask("POST", CHAT, *fields(fresh_id), (b"Prefer", b"respond-async"), body=b"{}")
    found = await ask(fresh_id)
    assert (found.code, found.out) == (3, "")
    async with Live(tracked.port, "response", fresh_id, "--follow", is_terminal=False) as reading:
        gated.head()
        gated.piece(WHOLE)
        gated.end()
        assert await within(30, reading.process.wait(), "the command ends") == 0
        assert reading.read() == WHOLE.decode()


async def test_a_terminal_gets_text_alone(tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """On a terminal an answer's control characters are escaped: a model's words must not drive it."""
    script = answering(200, JSON, body="a\tb é\n".encode() + b"\x1b]0;owned\x07 \xff")
    await kept(tracked, upstream, fresh_id, script)
    async with Live(tracked.port, "response", fresh_id, is_terminal=True) as reading:
        assert await within(30, reading.process.wait(), "the command ends") == 0
        await reading.shows("é", r"\x1b]0;owned\x07 \xff")
        assert "\x1b" not in reading.read()


@pytest.fixture
async def silent(
    tmp_path_factory: pytest.TempPathFactory, upstream: Upstream, store: Store, tracked: Gateway, fresh_id: str
) -> AsyncIterator[Callable[..., Awaitable[None]]]:
    """A kept call whose gateway is killed when its answer is as far as FIRST. The function says what is known of it."""
    mortal = Mortal(tmp_path_factory, upstream, REDIS_URL=store.url, HEARTBEAT_SEC="0.5")
    await mortal.start()
    gated = upstream.gated()
    gated.head()
    gated.piece(FIRST)
    client = await mortal.send("POST", CHAT, *fields(fresh_id), body=b"{}")
    await client.up_to(FIRST[-20:])
    await until(partial(is_kept_so_far, tracked, fresh_id), what="the store has the first part")
    await mortal.kill()
    await tracked.at(fresh_id, "lost")

    async def say(*, is_presumed: bool) -> None:
        found = json.loads(await store.client.get(DOCUMENTS + fresh_id) or "")
        found["extensions"]["is_presumed"] = is_presumed
        found["event_id"] = f"{fresh_id}-{is_presumed}"
        text = json.dumps(found, separators=(",", ":"))
        await store.client.set(DOCUMENTS + fresh_id, text, keepttl=True)

    await say(is_presumed=True)
    yield say
    await mortal.put_down()


async def is_kept_so_far(gateway: Gateway, task_id: str) -> bool:
    """Whether another gateway can read the first part of the answer."""
    answer = await gateway.http.get(f"/tasks/status/{task_id}")
    return answer.status_code == 200 and answer.json()["extensions"]["response_bytes"] == len(FIRST)


async def test_what_is_kept_of_a_presumed_loss_comes_out(
    ask: Ask, silent: Callable[..., Awaitable[None]], fresh_id: str
) -> None:
    """What there is, with 3 and what is known of the task; once the loss is certain, the same with 1."""
    found = await ask(fresh_id)
    assert (found.code, found.out) == (3, FIRST.decode())
    assert "no word from the task's gateway, which may still run it; this is its answer up to byte 101" in found.error
    await silent(is_presumed=False)
    found = await ask(fresh_id)
    assert (found.code, found.out) == (1, FIRST.decode())
    assert "the answer was broken off after 101 bytes (FAILED lost)" in found.error


async def test_a_presumed_loss_is_followed(
    tracked: Gateway, silent: Callable[..., Awaitable[None]], fresh_id: str, tmp_path: Path
) -> None:
    """--follow waits for word of the task. The loss that is certain ends it."""
    file = tmp_path / "answer"
    async with Live(tracked.port, "response", fresh_id, "--follow", "-o", str(file), is_terminal=False) as reading:
        await until(lambda: file.exists() and file.read_bytes() == FIRST, what="what there is")
        assert reading.process.stderr is not None
        await within(30, reading.process.stderr.readuntil(b"waiting\n"), "it says that it waits")
        await silent(is_presumed=False)
        assert await within(30, reading.process.wait(), "the command ends") == 1
    assert file.read_bytes() == FIRST


@pytest.mark.parametrize("how", ["500", "broken"])
async def test_a_failed_task_is_1(ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str, how: str) -> None:
    """What Ollama sent is written; the code is 1, and an answer that was broken off is said to be."""
    broken = sending(head_of(200, JSON, (b"Content-Length", b"1000")) + b"part", then="drop")
    await kept(tracked, upstream, fresh_id, broken if how == "broken" else answering(500, JSON, body=b"part"))
    found = await ask(fresh_id)
    assert (found.code, found.out) == (1, "part")
    is_said = "the answer was broken off after 4 bytes (FAILED upstream_truncated)" in found.error
    assert is_said if how == "broken" else found.error == ""


async def test_a_task_without_an_answer_is_1(launch: Launch, fresh_id: str) -> None:
    """If no answer came, the command says what the client got in its place."""
    with refusing_port() as port:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{port}")
        await gateway.ask("POST", CHAT, *fields(fresh_id), body=b"{}")
        await gateway.ended(fresh_id)
        found = await said("response", fresh_id, GATEWAY_PORT=str(gateway.port))
    assert (found.code, found.out) == (1, "")
    assert "the task has ended without an answer: " in found.error
    assert "503" in found.error


async def test_what_is_not_kept_is_4(ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """No such task, an answer that was not to be kept, and one that is deleted: 4, and which of them it is."""
    assert (await ask("no-such-task")).code == 4
    upstream.then(answering(200, JSON, body=b"{}"))
    await tracked.ask("POST", CHAT, (b"X-Task-Id", fresh_id.encode()), body=b"{}")
    found = await ask(fresh_id)
    assert (found.code, found.out) == (4, "")
    assert "was not to be kept" in found.error
    assert (await ask(fresh_id, "--delete")).code == 4

    other = f"{fresh_id}-kept"
    await kept(tracked, upstream, other, streaming(*EVENTS))
    found = await ask(other, "--delete")
    assert (found.code, found.out) == (0, f"deleted the answer of {other}\n")
    for words in ([other], [other, "--delete"]):
        found = await ask(*words)
        assert (found.code, found.out) == (4, "")
        assert "is not kept: deleted" in found.error
    facts = (await said("status", other, GATEWAY_PORT=str(tracked.port))).out
    assert re.search("^kept +no: the answer was deleted", facts, re.MULTILINE)


async def test_an_offset_behind_the_end_is_2(ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """There is no such byte, and there never will be."""
    await kept(tracked, upstream, fresh_id, streaming(*EVENTS))
    found = await ask(fresh_id, "--from", str(len(WHOLE) + 1))
    assert (found.code, found.out) == (2, "")
    assert f"ends behind {len(WHOLE)} bytes" in found.error


@pytest.fixture
async def gate(tracked: Gateway) -> AsyncIterator[Gate]:
    """A network between the command and the gateway, which the test breaks."""
    gate = Gate(tracked.port)
    await gate.open()
    yield gate
    await gate.close()


async def test_a_broken_connection_is_taken_up_again(
    gate: Gate, detached: Gated, fresh_id: str, tmp_path: Path
) -> None:
    """The command says that the connection broke, and reads on: no byte is missing and none comes twice."""
    file = tmp_path / "answer"
    async with Live(gate.port, "response", fresh_id, "--follow", "-o", str(file), is_terminal=False) as reading:
        await until(lambda: file.exists() and file.read_bytes() == FIRST, what="what there is")
        gate.reset()
        detached.piece(REST[:50])
        await gate.heal()
        await until(lambda: file.read_bytes() == WHOLE[:151], what="it has read on")
        gate.reset()
        detached.piece(REST[50:])
        detached.end()
        await gate.heal()
        assert await within(30, reading.process.wait(), "the command ends") == 0
        _, complaint = await reading.process.communicate()
    assert file.read_bytes() == WHOLE
    assert b"the connection broke after 101 bytes" in complaint


async def test_two_answers_are_never_joined(
    gate: Gate, tracked: Gateway, upstream: Upstream, detached: Gated, fresh_id: str, tmp_path: Path
) -> None:
    """A new attempt of the task, begun while the connection was broken: 5, and the file has the old bytes alone."""
    file = tmp_path / "answer"
    async with Live(gate.port, "response", fresh_id, "--follow", "-o", str(file), is_terminal=False) as reading:
        await until(lambda: file.exists() and file.read_bytes() == FIRST, what="what there is")
        gate.reset()
        await tracked.http.post(f"/tasks/{fresh_id}/cancel")
        await tracked.ended(fresh_id)
        await kept(tracked, upstream, fresh_id, streaming(*EVENTS))
        await gate.heal()
        assert await within(30, reading.process.wait(), "the command ends") == 5
        _, complaint = await reading.process.communicate()
    assert file.read_bytes() == FIRST
    assert b"of the generation" in complaint


async def test_progress_is_for_terminals(ask: Ask, tracked: Gateway, upstream: Upstream, fresh_id: str) -> None:
    """Without a terminal standard error stays empty."""
    await kept(tracked, upstream, fresh_id, answering(200, JSON, body=b"x" * 3_000_000))
    found = await ask(fresh_id)
    assert (found.code, len(found.out), found.error) == (0, 3_000_000, "")
