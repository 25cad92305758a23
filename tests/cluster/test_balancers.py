"""HAProxy and Envoy with the files of deploy/ in front of three gateways: what a client and a poller see through them.

Contract section 10.2.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import TYPE_CHECKING

import pytest

from tests.cluster.balancers import FILES, command, in_front, with_addresses
from tests.cluster.conftest import KINDS, PLACES
from tests.cluster.load import END, PIECE, ask_at_once, begun, generating, let_all
from tests.support.outcome import CLIENT_LEFT, outcome
from tests.support.scripted import JSON, answering, head
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until, within
from tests.support.wire import request

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.balancers import Balancer
    from tests.cluster.conftest import Balanced
    from tests.cluster.nodes import Node
    from tests.support.scripted import Exchange


ANSWER = head(200, JSON, (b"Content-Length", b"2")) + b"{}"


@pytest.mark.parametrize("kind", KINDS)
async def test_the_files_are_valid(kind: str, tmp_path: Path) -> None:
    """The programs themselves take our files, with addresses in place of the names, without a warning."""
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


async def test_streams_are_spread_and_pass_at_once(front: Balancer, nodes: list[Node]) -> None:
    """Six streams are on all three nodes, and each piece reaches its client while the answer goes on."""
    streams = [await begun(front, nodes) for _ in range(6)]
    assert {node.machine.name for _, node in streams} == {"node-1", "node-2", "node-3"}
    for stream, _ in streams:
        stream.script.piece(PIECE)
        assert PIECE in await within(GUARD_SECONDS, stream.client.up_to(PIECE), "the piece")
        assert END in await stream.end()
    for stream, _ in streams:
        told = [(await node.gateway.status(stream.task_id))["state"] for node in nodes]
        assert told == ["SUCCESS"] * 3


async def test_a_client_that_leaves_stops_ollama(front: Balancer, nodes: list[Node]) -> None:
    """If a client closes, half-closes or resets, silent or streaming, the upstream's connection closes within 1 s."""
    for has_head in (False, True):
        for leave in ("close", "half_close", "reset"):
            stream, node = await begun(front, nodes, has_head=has_head)
            if leave == "close":
                await stream.client.close()
            elif leave == "half_close":
                stream.client.half_close()
            else:
                stream.client.reset()
            await within(1, stream.exchange.closed.wait(), f"{leave} (streaming: {has_head}) reaches the upstream")
            assert outcome(await node.gateway.ended(stream.task_id)) == CLIENT_LEFT


async def test_no_field_is_added(front: Balancer, nodes: list[Node]) -> None:
    """Target, fields and body reach Ollama as they do without a balancer, and the answer comes back so, too."""
    seen: list[tuple[bytes, bytes]] = []

    async def script(exchange: Exchange) -> None:
        await exchange.answer(200, JSON, (b"Date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"X-Two", b"a"), body=b"{}")
        seen.append((exchange.head.raw, bytes(exchange.body.data)))

    let_all(nodes, script)
    fields = ((b"X-Task-Id", b"named"), (b"Authorization", b"Bearer k"), (b"X-Two", b"a"), (b"X-Two", b"b"))
    answers = [
        await gateway.ask("POST", f"{CHAT}?a=%2F//b&c=%20", *fields, body=BODY, host=b"ollama.example.com")
        for gateway in (nodes[0].gateway, front)
    ]
    direct, behind = answers
    assert seen[0] == seen[1]
    assert (behind.status, behind.data, behind.head.raw) == (direct.status, direct.data, direct.head.raw)


async def test_statuses_wait_behind_no_model(front: Balancer, nodes: list[Node]) -> None:
    """While every place is taken and requests wait, statuses, lists and cancels are answered at once."""
    may_end = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await exchange.read()
        await may_end.wait()
        await exchange.send(ANSWER)

    let_all(nodes, held)
    names = [f"{front.kind}-{number}" for number in range(3 * PLACES + 30)]
    clients = {name: await front.send("POST", CHAT, (b"X-Task-Id", name.encode()), body=BODY) for name in names}

    async def waiting() -> list[str]:
        listed = await within(GUARD_SECONDS, front.http.get("/tasks/status?state=PENDING"), "a list")
        return [item["task_id"] for item in listed.json()["items"]]

    async def are_all_placed() -> bool:
        return len(await waiting()) == 30 and sum(len(node.upstream.exchanges) for node in nodes) == 3 * PLACES

    await until(are_all_placed, what="every place is taken")
    name = (await waiting())[0]
    assert (await within(GUARD_SECONDS, front.status(name), "a status"))["stage"] == "queued"
    cancelled = await within(GUARD_SECONDS, front.http.post(f"/tasks/{name}/cancel"), "a cancel")
    assert cancelled.json()["stage"] == "cancelled"
    may_end.set()
    statuses = {task: (await client.answer()).status for task, client in clients.items()}
    assert statuses == dict.fromkeys(names, 200) | {name: 499}


async def test_the_queue_can_be_in_haproxy(balanced: Balanced) -> None:
    """With `maxconn` at each server, what is too much waits in HAProxy without a task, and statuses do not wait."""
    nodes = balanced.cluster.nodes
    addresses = [node.machine.address for node in nodes]
    requests, mark, statuses = with_addresses("haproxy", addresses).partition("\nbackend statuses\n")
    for address in addresses:
        requests = requests.replace(f"{address}:11535", f"{address}:11535 maxconn 1")
    front = await in_front("haproxy", balanced.cluster, requests + mark + statuses)
    streams = [await begun(front, nodes) for _ in range(3)]
    waiting = await front.send("POST", CHAT, (b"X-Task-Id", b"too-much"), body=BODY)
    listed = await within(GUARD_SECONDS, front.http.get("/tasks/status?state=RUNNING"), "a list")
    assert {item["task_id"] for item in listed.json()["items"]} == {stream.task_id for stream, _ in streams}
    assert (await front.http.get("/tasks/status/too-much")).status_code == 404
    let_all(nodes, answering(200, JSON, body=b"{}"))
    for stream, _ in streams:
        await stream.end()
    assert (await within(GUARD_SECONDS, waiting.answer(), "its turn")).status == 200


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


async def test_a_refused_request_goes_to_another_gateway(front: Balancer, nodes: list[Node]) -> None:
    """What a draining gateway refuses is repeated at another, also if it gave no notice or the body comes late."""
    stream, node = await begun(front, nodes)
    let_all(nodes, generating(0, 0))
    late = [await front.connect() for _ in range(30)]
    await refuses(node)
    raw = request("POST", CHAT, body=BODY)
    for client in late:
        await client.send(raw[:-5])
    for client in late:
        await client.send(raw[-5:])
    assert [(await client.answer()).status for client in late] == [200] * len(late)
    load = await ask_at_once(front, 100)
    assert load.failures == []
    assert len(load.task_ids) == 100
    assert END in await stream.end()
    await until(lambda: node.gateway.process.poll() is not None, what="the gateway ends with its last request")


async def test_a_balancer_lets_its_streams_end(front: Balancer, balanced: Balanced) -> None:
    """A balancer that is told to drain, as its README says, takes no new connections, and its streams end well."""
    own = await in_front(front.kind, balanced.cluster)
    stream, _ = await begun(own, balanced.cluster.nodes)
    if own.kind == "haproxy":
        own.process.send_signal(signal.SIGUSR1)
    else:
        with own.machine.inside():
            admin = socket.create_connection(("127.0.0.1", 9901), timeout=10)
        with admin:
            admin.sendall(b"POST /drain_listeners HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert admin.recv(1000).startswith(b"HTTP/1.1 200")
    await until(own.is_closed, what="new connections are refused")
    assert END in await stream.end()


async def test_a_gateway_without_ollama_gets_no_requests(front: Balancer, nodes: list[Node]) -> None:
    """A gateway whose Ollama is away is left out; with none left, the statuses are answered still."""
    let_all(nodes, generating(0, 0))
    for node in nodes[1:]:
        node.upstream.models = answering(500)
        await until(lambda node=node: is_not_ready(node), what="the gateway misses Ollama")  # type: ignore[misc]
    load = await ask_at_once(front, 50)
    assert load.failures == []
    nodes[0].upstream.models = answering(500)

    async def is_away() -> bool:
        answer = await front.http.get("/v1/anything")
        return answer.status_code == 503 and answer.json()["error"]["code"] == "no_gateway_ready"

    await until(is_away, what="no gateway is left for requests")
    assert (await front.http.get("/v1/anything")).headers["Retry-After"] == "2"
    assert (await front.status(load.task_ids[0]))["state"] == "SUCCESS"


async def is_not_ready(node: Node) -> bool:
    """Whether the node says so."""
    return not await node.is_ready()
