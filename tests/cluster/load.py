"""Owns the load of the tests in this directory: clients that ask without a pause, and a model that takes its time."""

from __future__ import annotations

import asyncio
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.support.faults import elapse
from tests.support.scripted import EVENTS, Script, head
from tests.support.streams import BODY, CHAT, HeldStream
from tests.support.waiting import until
from tests.support.wire import LAST_CHUNK, Client, chunk

if TYPE_CHECKING:
    from tests.cluster.nodes import Node
    from tests.support.gateway import Gateway
    from tests.support.scripted import Exchange

LIMIT_SECONDS = 20.0  # of one request
PIECE = b"data: {}\n\n"
END = b"data: [DONE]\n\n"
LONG = b'{"model":"long","messages":[]}'  # a request whose answer takes long


def generating(seconds: float, long_seconds: float, pieces: int = 5) -> Script:
    """A script that streams its pieces evenly over `seconds`, or over `long_seconds` for the body LONG."""

    async def script(exchange: Exchange) -> None:
        whole = long_seconds if await exchange.read() == LONG else seconds
        begun = time.monotonic()
        await exchange.send(head(200, EVENTS, (b"Transfer-Encoding", b"chunked")))
        for number in range(1, pieces + 1):
            await elapse(whole * number / pieces, begun, "the model computes")
            await exchange.send(chunk(PIECE))
        await exchange.send(chunk(END) + LAST_CHUNK)

    return script


@dataclass
class Load:
    """Clients that ask one request after another through `front`, from `async with` until its end."""

    front: Gateway
    clients: int = 10
    long_clients: int = 0  # so many of them send LONG
    task_ids: list[str] = field(default_factory=list)  # of the requests that ended well
    failures: list[str] = field(default_factory=list)
    _is_over: bool = False
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        for number in range(self.clients):
            body = LONG if number < self.long_clients else BODY
            self._tasks.append(asyncio.create_task(self._ask_on(body)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def ask(self, body: bytes = BODY) -> None:
        """One request on a connection of its own; its fate is recorded."""
        task_id = f"load-{uuid.uuid4()}"
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                await self._ask(task_id, body)
        except (AssertionError, OSError, EOFError, TimeoutError) as failure:
            self.failures.append(f"{task_id}: {failure!r}")
        else:
            self.task_ids.append(task_id)

    async def _ask(self, task_id: str, body: bytes) -> None:
        client = await Client.connect(self.front.port, host=self.front.host)
        try:
            answer = await client.ask("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=body)
        finally:
            await client.close()
        assert (answer.status, answer.body.complete) == (200, True), (answer.head.raw, answer.data[:300])
        assert answer.data.endswith(END), answer.data[-300:]
        assert answer.head.task_id == task_id

    async def _ask_on(self, body: bytes) -> None:
        while not self._is_over:
            await self.ask(body)


async def ask_at_once(front: Gateway, count: int, clients: int = 10) -> Load:
    """`count` requests, `clients` at a time."""
    load, numbers = Load(front), iter(range(count))

    async def ask_some() -> None:
        for _ in numbers:
            await load.ask()

    await asyncio.gather(*(ask_some() for _ in range(clients)))
    return load


async def begun(front: Gateway, nodes: list[Node], *, has_head: bool = True) -> tuple[HeldStream, Node]:
    """A stream through the balancer, and the node that has it."""
    seen = [len(node.upstream.exchanges) for node in nodes]
    stream = HeldStream()
    let_all(nodes, stream.script)
    stream.client = await front.send("POST", CHAT, (b"X-Task-Id", stream.task_id.encode()), body=BODY)

    def found() -> Node | None:
        more = [node for node, count in zip(nodes, seen, strict=True) if len(node.upstream.exchanges) > count]
        return more[0] if more else None

    node: Node = await until(found, what="a node has the request")
    stream.exchange = node.upstream.exchanges[-1]
    if has_head:
        stream.script.head()
        assert (await stream.client.head()).task_id == stream.task_id
    return stream, node


def let_all(nodes: list[Node], script: Script) -> None:
    """Every upstream answers by this script from now on."""
    for node in nodes:
        node.upstream.default = script
