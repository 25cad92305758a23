"""The gateway has no file descriptor left for a connection to Ollama: it has to say so, and not that Ollama is away."""

from __future__ import annotations

import itertools
import os
import resource
from typing import TYPE_CHECKING

from tests.support.outcome import DONE, outcome
from tests.support.streams import BODY, CHAT, held

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream


STREAMS = 20


def leave_no_descriptor(gateway: Gateway) -> None:
    """Let the gateway open nothing more: what is opened gets the lowest free number, which is the limit now."""
    pid = gateway.process.pid
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    lowest_free = next(number for number in itertools.count() if number not in taken)
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (lowest_free, hard))


async def test_the_message_names_the_descriptors(launch: Launch, upstream: Upstream) -> None:
    """Where none is left for Ollama the answer is 503 and names the gateway's file descriptors."""
    gateway = await launch()
    client = await gateway.connect()
    assert (await client.ask("GET", "/livez")).status == 200
    leave_no_descriptor(gateway)
    answer = await client.ask("POST", CHAT, body=BODY)
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (503, "upstream_unavailable")
    assert answer.head.get("retry-after")
    assert upstream.exchanges == []
    assert "file descriptor" in error["message"]
    assert "starting" not in error["message"]


async def test_streams_go_on_and_it_recovers(launch: Launch, upstream: Upstream) -> None:
    """Streams that run have theirs and come whole; what cannot be served is told 503; later all is as before."""
    gateway = await launch()
    streams = [await held(gateway, upstream) for _ in range(STREAMS)]
    client = await gateway.connect()
    assert (await client.ask("GET", "/livez")).status == 200
    leave_no_descriptor(gateway)
    assert [(await client.ask("POST", CHAT, body=BODY)).status for _ in range(3)] == [503] * 3
    for stream in streams:
        await stream.end()
        assert outcome(await gateway.ended(stream.task_id)) == DONE
    assert (await client.ask("POST", CHAT, body=BODY)).status == 200
