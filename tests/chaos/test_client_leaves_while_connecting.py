"""A client leaves while the gateway still tries to connect to Ollama: no one is to generate what no one wants."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.crowded import CrowdedUpstream
from tests.support.outcome import CLIENT_LEFT, outcome
from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.store import Store
    from tests.support.wire import Client


async def waiting(gateway: Gateway, crowded: CrowdedUpstream, task_id: str) -> Client:
    """A client whose request waits for a connection to Ollama."""
    client = await gateway.send("POST", CHAT, (b"X-Task-Id", task_id.encode()), body=BODY)
    await until(crowded.is_waited_for, what="the gateway connects and has no answer")
    return client


async def test_nothing_is_sent(launch: Launch, store: Store, fresh_id: str) -> None:
    """Once Ollama takes the connection it hears nothing of the request, and the task is FAILED `client_disconnect`."""
    async with CrowdedUpstream() as crowded:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{crowded.port}", REDIS_URL=store.url)
        client = await waiting(gateway, crowded, fresh_id)
        await client.close()
        assert await gateway.is_serving()  # it has had a turn since, in which it heard of the client's end
        await crowded.make_room()
        assert outcome(await gateway.ended(fresh_id)) == CLIENT_LEFT
        await until(lambda: not crowded.is_waited_for(), what="no one connects any more")
        await gateway.stop()  # so that no connection of the gateway's is left, whatever became of it
        await until(lambda: len(crowded.received) == crowded.accepted > 0, what="all connections have ended")
        asked = b"GET /api/ps "  # by the gateway itself, for the others
        assert {got for got in crowded.received if not got.startswith(asked)} == {b""}


async def test_who_stays_is_served(launch: Launch, store: Store, fresh_id: str) -> None:
    """The same request, of a client that stays, reaches the upstream as soon as there is room."""
    async with CrowdedUpstream() as crowded:
        gateway = await launch(UPSTREAM_BASE=f"http://127.0.0.1:{crowded.port}", REDIS_URL=store.url)
        client = await waiting(gateway, crowded, fresh_id)
        await crowded.make_room()

        async def is_forwarded() -> bool:
            return bool((await gateway.status(fresh_id))["stage"] == "forwarding")

        await until(is_forwarded, what="the request is handed over")
        await client.close()
        await until(lambda: any(got.startswith(b"POST ") for got in crowded.received), what="the upstream has it")
