"""What a request may cost, counted and not timed: a machine that is busy or slow changes none of these figures.

Each limit is what was measured, plus a tenth where it is not a whole number. After a change that is meant to cost more
or less, `python -m pytest tests/integration/test_cost.py -s` prints the figures to write down here. What they mean in
microseconds is in docs/benchmarks.md.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support.counted import ROUNDS, Cost, Counted, least, shortest
from tests.support.process import ROOT
from tests.support.scripted import JSON, Gated, answering
from tests.support.wire import Client, request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.conftest import NewStore
    from tests.support.scripted import Upstream
    from tests.support.wire import Field

pytestmark = pytest.mark.alone

CHAT = "/v1/chat/completions"
BODY = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"hello"}}]}'
EVENT = b'data: {"choices":[{"delta":{"content":"hello"}}]}\n\n'
REQUESTS = 200
PIECES = 200
STREAMS = 20

# Measured on Python 3.11, where a list comprehension counts as a call; the limit is a tenth more.
CALLS_PER_REQUEST = 184 * 1.1
CALLS_PER_CLAIMED_REQUEST = 244 * 1.1
CALLS_PER_PIECE = 5 * 1.1
CALLS_PER_PLACE = 12 * 1.1  # with a queue in which none waits
# Measured, for a stream with a chosen id: the files of the gateway that it enters, and the calls from one into another.
FILES_PER_STREAM = 30
CALLS_BETWEEN_FILES = 151
CALLS_PER_KEPT_PIECE = 10 * 1.1  # of an answer that is kept
# Measured, and allowed: a little of the background may fall into each of three rounds, but nothing in every request.
WHOLE = 0.5
A_LITTLE = 0.05
# The document, its id and the list's commands; this request's head and path are short.
STORE_BYTES_PER_REQUEST = 955 * 1.1


@pytest.fixture
async def counted(
    upstream: Upstream, new_store: NewStore, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Counted]:
    """A gateway that counts, with connections open and scripts loaded."""
    log = tmp_path_factory.mktemp("counted") / "gateway.log"
    gateway = Counted(log, await new_store(), UPSTREAM_BASE=f"http://127.0.0.1:{upstream.port}")
    await gateway.start()
    yield gateway
    await gateway.stop()


async def ask(client: Client, count: int, name: str = "") -> None:
    """Small requests one after another; with a `name` each has an id of its own."""
    for number in range(count):
        fields = [(b"X-Task-Id", f"{name}-{number}".encode())] if name else []
        answer = await client.ask("POST", CHAT, *fields, body=BODY)
        assert (answer.status, answer.data) == (200, ANSWER)


async def stream(client: Client, script: Gated, pieces: int, *named: Field) -> None:
    """One event stream, each piece sent when the one before has come through, the first with the head.

    So the gateway reads as often in each round: what one write sends is read at once.
    """
    await client.send(request("POST", CHAT, *named, body=BODY))
    script.head(EVENT)
    await client.up_to(EVENT + b"\r\n")
    for _ in range(pieces - 1):
        script.piece(EVENT)
        await client.up_to(EVENT + b"\r\n")
    script.end(b"data: [DONE]\n\n")
    await client.up_to(b"0\r\n\r\n")


async def cost_per_request(counted: Counted, upstream: Upstream, name: str = "") -> Cost:
    """The least that one request cost, of some rounds over one connection."""
    upstream.default = answering(200, JSON, body=ANSWER)
    client = await counted.connect()
    await ask(client, 20, name and "warm")
    rounds = [
        (await counted.cost_of(partial(ask, client, REQUESTS, name and f"{name}-{n}"))).per(REQUESTS)
        for n in range(ROUNDS)
    ]
    print(*rounds, sep="\n")
    return least(rounds)


async def test_a_small_request_costs_no_more(counted: Counted, upstream: Upstream) -> None:
    """A request is relayed by no task of its own, three writes and three reads, and one script.

    One call of the system is not counted here: the poll that looks into a kept connection before it is used again.
    """
    cost = await cost_per_request(counted, upstream)
    assert cost.calls <= CALLS_PER_REQUEST
    assert cost.tasks < WHOLE
    assert cost.writes <= 3 + WHOLE, "one to Ollama, one to the store, one to the client"
    assert cost.reads <= 3 + WHOLE
    assert cost.scripts <= 1 + A_LITTLE, "a status and its place in the lists"
    assert cost.commands <= 6 + WHOLE, "the script, its time, SET, expiry, the list's place and size"
    assert cost.store_bytes <= STORE_BYTES_PER_REQUEST


async def test_a_request_that_names_its_task_costs_two_more_round_trips(counted: Counted, upstream: Upstream) -> None:
    """Its id is claimed first, and its end follows."""
    cost = await cost_per_request(counted, upstream, "named")
    assert cost.calls <= CALLS_PER_CLAIMED_REQUEST
    assert cost.tasks < WHOLE
    assert cost.writes <= 4 + WHOLE
    assert cost.reads <= 4 + WHOLE
    assert cost.scripts <= 2 + A_LITTLE, "one for each of the two"
    assert cost.commands <= 20 + WHOLE


async def test_a_queue_with_free_places_costs_a_few_steps(
    upstream: Upstream, new_store: NewStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With MAX_RUNNING a request takes a place and gives it back, and nothing else."""
    log = tmp_path_factory.mktemp("counted") / "gateway.log"
    settings = {"UPSTREAM_BASE": f"http://127.0.0.1:{upstream.port}", "MAX_RUNNING": "64"}
    gateway = await Counted(log, await new_store(), **settings).start()
    cost = await cost_per_request(gateway, upstream)
    await gateway.stop()
    assert cost.calls <= CALLS_PER_REQUEST + CALLS_PER_PLACE
    assert cost.tasks < WHOLE
    assert (cost.writes, cost.reads) <= (3 + WHOLE, 3 + WHOLE)


async def test_a_piece_costs_no_more(counted: Counted, upstream: Upstream) -> None:
    """A piece of a stream is relayed by one read and one write, without a task or a word to the store."""
    client = await counted.connect()

    async def streamed(pieces: int) -> Cost:
        script = upstream.gated()
        return await counted.cost_of(lambda: stream(client, script, pieces))

    await streamed(10)
    rounds = [(await streamed(PIECES + 10) - await streamed(10)).per(PIECES) for _ in range(ROUNDS)]
    print(*rounds, sep="\n")
    cost = least(rounds)
    assert cost.calls <= CALLS_PER_PIECE
    assert cost.tasks < WHOLE
    assert cost.writes <= 1 + WHOLE
    assert cost.reads <= 1 + WHOLE
    assert cost.scripts < WHOLE
    assert cost.store_bytes < 1


async def test_a_kept_piece_costs_a_few_steps_more(counted: Counted, upstream: Upstream) -> None:
    """A piece of an answer that is kept goes to the store with others, and the client waits for none of that."""
    client = await counted.connect()

    async def streamed(pieces: int) -> Cost:
        script = upstream.gated()
        return await counted.cost_of(lambda: stream(client, script, pieces, (b"X-Task-Keep", b"true")))

    await streamed(10)
    rounds = [(await streamed(PIECES + 10) - await streamed(10)).per(PIECES) for _ in range(ROUNDS)]
    print(*rounds, sep="\n")
    cost = least(rounds)
    assert cost.calls <= CALLS_PER_KEPT_PIECE
    assert cost.tasks < WHOLE


async def test_a_task_under_way_costs_no_word_to_the_store_until_it_beats(counted: Counted, upstream: Upstream) -> None:
    """A stream costs as many steps of the store as it has stages, however many pieces it has."""
    rounds = []
    for _ in range(ROUNDS):  # while a gateway starts, it looks once for what was left behind
        client, script = await counted.connect(), Gated()
        upstream.then(script)
        rounds.append(await counted.cost_of(partial(stream, client, script, PIECES)))
    assert least(rounds).scripts <= 4, "when the head is here, and at its end: its document and a step of the list"


async def test_a_stream_leads_through_few_files(counted: Counted, upstream: Upstream) -> None:
    """A stream of three events with a chosen id, up to its last byte: the files that docs/architecture.md names."""
    client = await counted.connect()

    async def streams(name: str, count: int) -> None:
        for number in range(count):
            script = Gated()
            upstream.then(script)
            await stream(client, script, 2, (b"X-Task-Id", f"{name}-{number}".encode()))

    await streams("warm", STREAMS)
    walks = [(await counted.walk_of(partial(streams, f"walk{n}", STREAMS))).per(STREAMS) for n in range(ROUNDS)]
    walk = shortest(walks)
    print(walk)
    assert {f"gateway/{file}" for file in walk.files} == named_files()
    assert len(walk.files) <= FILES_PER_STREAM
    assert walk.crossings <= CALLS_BETWEEN_FILES


def named_files() -> set[str]:
    """The files in the table of the section that follows one request."""
    page = (ROOT / "docs/architecture.md").read_text()
    section = page.partition("## One request, from socket to last byte\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return set(re.findall(r"`(gateway/[^`]+)`", "".join(rows)))
