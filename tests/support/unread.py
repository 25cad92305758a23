"""Owns answers that are done with for the gateway, but of which their clients take nothing yet.

Some of each answer is in this process's buffers, whatever the kernel takes. The tests of stopping call it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.scripted import answering
from tests.support.waiting import until
from tests.support.wire import request

if TYPE_CHECKING:
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.wire import Client

SIZES = range(2_400_000, 3_200_000, 50_000)  # of some the end is in the process, of others at the upstream


def name(size: int) -> str:
    """The id of the task with an answer of that size."""
    return f"unread-{size}"


async def unread_answers(gateway: Gateway, upstream: Upstream) -> dict[int, Client]:
    """Clients that read nothing, by the size of their answers; the smallest tasks have ended, the others run."""
    clients: dict[int, Client] = {}
    for size in SIZES:
        upstream.then(answering(200, body=b"x" * size))
        client = await gateway.connect(receive_buffer=4096)
        client.stop_reading()
        await client.send(request("GET", "/v1/x", (b"X-Task-Id", name(size).encode())))
        await until(lambda: len(upstream.exchanges) == len(clients) + 1, 30, "the upstream has it")
        clients[size] = client
    await until(lambda: _ended(gateway), 30, "some tasks have ended")
    return clients


async def only_unread_answers(gateway: Gateway, upstream: Upstream) -> list[int]:
    """The sizes of the unread answers that are left when the clients of all tasks that run have gone."""
    clients = await unread_answers(gateway, upstream)
    ended = await _ended(gateway)
    for size in set(clients) - set(ended):
        await clients[size].close()
        await gateway.ended(name(size))
    return ended


async def _ended(gateway: Gateway) -> list[int]:
    return [size for size in SIZES if (await gateway.status(name(size)))["state"] == "SUCCESS"]
