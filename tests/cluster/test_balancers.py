"""HAProxy and Envoy with the files of deploy/ in front of three gateways: what a client and a poller see through them.

Contract section 10.2.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cluster.balancers import FILES, command, in_front, with_addresses
from tests.cluster.load import PIECE, ask_at_once, generating
from tests.support.outcome import CLIENT_LEFT, outcome
from tests.support.scripted import JSON, answering
from tests.support.streams import BODY, CHAT, WHOLE, HeldStream
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.conftest import NewCluster
    from tests.cluster.nodes import Cluster, Node
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange, Script

KINDS = ["haproxy", "envoy"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_files_are_valid(kind: str, tmp_path: Path) -> None:
    """The programs themselves take our files, with addresses as with the names that stand in them, without a warning."""
    file = tmp_path / FILES[kind].name
    file.write_text(with_addresses(kind, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]))
    check = ["-c", "-V"] if kind == "haproxy" else ["--mode", "validate"]
    program = await asyncio.create_subprocess_exec(
        *command(kind, file), *check, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await asyncio.wait_for(program.communicate(), 30)
    assert program.returncode == 0, said.decode()
    assert b"WARNING" not in said
    assert b"warning" not in said


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the balancers."""
    return str(request.param)


async def begun(front: Gateway, cluster: Cluster, *, has_head: bool = True) -> tuple[HeldStream, Node]:
    """A stream through the balancer, and the node that has it."""
    seen = [len(node.upstream.exchanges) for node in cluster.nodes]
    stream = HeldStream()
    for node in cluster.nodes:
        node.upstream.default = stream.script
    stream.client = await front.send("POST", CHAT, (b"X-Task-Id", stream.task_id.encode()), body=BODY)

    def found() -> Node | None:
        more = [node for node, count in zip(cluster.nodes, seen, strict=True) if len(node.upstream.exchanges) > count]
        return more[0] if more else None

    node: Node = await until(found, what="a node has the request")
    stream.exchange = node.upstream.exchanges[-1]
    if has_head:
        stream.script.head()
        assert (await stream.client.head()).task_id == stream.task_id
    return stream, node


def let_all(cluster: Cluster, script: Script) -> None:
    """Every upstream answers by this script from now on."""
    for node in cluster.nodes:
        node.upstream.default = script


async def test_streams_are_spread_and_pass_at_once(kind: str, cluster: Cluster) -> None:
    """Three streams are on three nodes, and each piece reaches its client while the answer goes on."""
    front = await in_front(kind, cluster)
    streams = [await begun(front, cluster) for _ in range(3)]
    assert {node.machine.name for _, node in streams} == {"node-1", "node-2", "node-3"}
    for stream, _ in streams:
        stream.script.piece(PIECE)
        assert PIECE in await within(1, stream.client.up_to(PIECE), "the piece")
        assert (await stream.end()).endswith(WHOLE)
    for stream, _ in streams:
        assert {told["state"] for told in await cluster.ask_all(stream.task_id)} == {"SUCCESS"}


async def test_a_client_that_leaves_stops_ollama(kind: str, cluster: Cluster) -> None:
    """If a client closes, half-closes or resets, silent or streaming, the upstream's connection closes within 1 s."""
    front = await in_front(kind, cluster)
    for has_head in (False, True):
        for leave in ("close", "half_close", "reset"):
            stream, node = await begun(front, cluster, has_head=has_head)
            if leave == "close":
                await stream.client.close()
            elif leave == "half_close":
                stream.client.half_close()
            else:
                stream.client.reset()
            await within(1, stream.exchange.closed.wait(), f"{leave} (streaming: {has_head}) reaches the upstream")
            assert outcome(await node.gateway.ended(stream.task_id)) == CLIENT_LEFT


async def test_only_these_fields_are_added(kind: str, cluster: Cluster) -> None:
    """Target, fields and body reach Ollama as they do without a balancer, and the answer comes back so, too."""
    front = await in_front(kind, cluster)
    seen: list[tuple[bytes, bytes]] = []

    async def script(exchange: Exchange) -> None:
        body = await exchange.read()
        await exchange.answer(200, JSON, (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"X-Two", b"a"), body=b"{}")
        seen.append((exchange.head.raw, body))

    let_all(cluster, script)
    fields = ((b"X-Task-Id", b"named"), (b"Authorization", b"Bearer k"), (b"X-Two", b"a"), (b"X-Two", b"b"))
    answers = [
        await gateway.ask("POST", f"{CHAT}?a=%2F//b&c=%20", *fields, body=BODY, host=b"ollama.example.com")
        for gateway in (cluster.nodes[0].gateway, front)
    ]
    direct, behind = answers
    assert seen[0] == seen[1]
    assert (behind.status, behind.data, behind.head.raw) == (direct.status, direct.data, direct.head.raw)


async def test_statuses_wait_behind_no_model(kind: str, new_cluster: NewCluster) -> None:
    """While every place is taken and requests wait, statuses and lists are answered, and a waiting task is cancelled."""
    async with new_cluster(MAX_RUNNING="1") as cluster:
        front = await in_front(kind, cluster)
        streams = [await begun(front, cluster) for _ in range(3)]
        waiting = [await front.send("POST", CHAT, (b"X-Task-Id", b"waits-%d" % i), body=BODY) for i in range(30)]
        for i in range(30):
            await front.at(f"waits-{i}", "queued")
        assert (await within(1, front.status("waits-0"), "a status"))["state"] == "PENDING"
        listed = await within(1, front.http.get("/tasks/status?state=PENDING"), "a list")
        assert listed.json()["count"] == 30
        assert (await within(1, front.http.post("/tasks/waits-0/cancel"), "a cancel")).json()["stage"] == "cancelled"
        let_all(cluster, answering(200, JSON, body=b"{}"))
        for stream, _ in streams:
            await stream.end()
        answers = [await client.answer() for client in waiting]
        assert [answer.status for answer in answers] == [499] + [200] * 29


async def test_the_queue_can_be_in_haproxy(cluster: Cluster) -> None:
    """With `maxconn` at the servers of the requests, what is too much waits in HAProxy without a task; statuses do not."""
    addresses = [node.machine.address for node in cluster.nodes]
    requests, statuses = with_addresses("haproxy", addresses).split("backend statuses")
    for address in addresses:
        requests = requests.replace(f"{address}:11535", f"{address}:11535 maxconn 1")
    front = await in_front("haproxy", cluster, f"{requests}backend statuses{statuses}")
    streams = [await begun(front, cluster) for _ in range(3)]
    waiting = await front.send("POST", CHAT, (b"X-Task-Id", b"waits"), body=BODY)
    assert (await within(1, front.http.get("/tasks/status"), "a list")).json()["count"] >= 3
    assert (await front.http.get("/tasks/status/waits")).status_code == 404
    let_all(cluster, answering(200, JSON, body=b"{}"))
    await streams[0][0].end()
    assert (await within(2, waiting.answer(), "its turn")).status == 200


async def refuses(node: Node) -> None:
    """Let the node drain without its notice: it has a stream, and refuses all that is new with 503."""

    async def is_told() -> bool:
        return (await node.gateway.http.get("/readyz")).status_code == 503

    async def is_refusing() -> bool:
        return (await node.gateway.ask("GET", "/v1/models")).status == 503

    node.gateway.process.terminate()
    await until(is_told, what="the first signal has been heard")
    node.gateway.process.terminate()  # it ends the notice
    await until(is_refusing, what="the notice is over")


async def test_a_refused_request_goes_to_another_gateway(kind: str, cluster: Cluster) -> None:
    """Even where a gateway gives no notice: what it refuses is repeated at another, whole, also if its body comes late."""
    front = await in_front(kind, cluster)
    (stream, node), *_ = [await begun(front, cluster) for _ in range(3)]
    let_all(cluster, generating(0, 0))
    await refuses(node)
    load = await ask_at_once(front, 100)
    assert load.failures == []
    assert len(load.task_ids) == 100
    assert (await stream.end()).endswith(WHOLE)


async def test_a_gateway_without_ollama_gets_no_requests(kind: str, cluster: Cluster) -> None:
    """A gateway whose Ollama is away is left out; with none left, the statuses are answered still."""
    front = await in_front(kind, cluster)
    let_all(cluster, generating(0, 0))
    for node in cluster.nodes[1:]:
        node.upstream.models = answering(500)
        await until(lambda node=node: is_not_ready(node), what="the gateway misses Ollama")  # type: ignore[misc]
    load = await ask_at_once(front, 50)
    assert load.failures == []
    cluster.nodes[0].upstream.models = answering(500)

    async def is_away() -> bool:
        return (await front.http.get("/v1/anything")).status_code == 503

    await until(is_away, what="no gateway is left for requests")
    assert (await front.status(load.task_ids[0]))["state"] == "SUCCESS"


async def is_not_ready(node: Node) -> bool:
    """Whether the node says so."""
    return not await node.is_ready()
