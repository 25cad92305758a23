"""SIGTERM while a short stream, a long one and pollers are at work: what ends in DRAIN_SEC ends well."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.chaos.mortal import Mortal
from tests.support.outcome import DONE, outcome
from tests.support.streams import BODY, CHAT, WHOLE, held
from tests.support.waiting import until

if TYPE_CHECKING:
    import httpx
    import pytest

    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client, Response

DRAIN_SECONDS = 6  # so long that all that is asked meanwhile is answered, on a busy machine too
EXIT_SECONDS = DRAIN_SECONDS + 3


@dataclass
class Drain:
    """What was seen from the signal to the exit."""

    readiness: httpx.Response
    refused_on_old_connection: Response
    refused_on_new_connection: Response
    status: httpx.Response  # of the long stream, asked meanwhile
    short_answer: bytes
    short_end: dict[str, Any]  # the document, when its client had its end
    long_rest: bytes  # what its client got after the head
    long_cut_seconds: float
    exit_code: int
    exit_seconds: float
    long_end: dict[str, Any]  # the document, as soon as the process is gone


@pytest.fixture(scope="module")
async def drain(scripted: Upstream, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Drain:
    """One stop of a gateway that has two streams."""
    settings = {"REDIS_URL": store.url, "DRAIN_SEC": str(DRAIN_SECONDS)}
    gateway = Mortal(tmp_path_factory, scripted, **settings)
    try:
        await gateway.start()
        return await _stopped(gateway, scripted, store)
    finally:
        await gateway.put_down()
        await scripted.forget()


async def _stopped(gateway: Mortal, upstream: Upstream, store: Store) -> Drain:
    short, long = await held(gateway, upstream), await held(gateway, upstream)
    idle = await gateway.connect()
    assert (await idle.ask("POST", CHAT, body=BODY)).status == 200

    gateway.process.terminate()
    signalled = time.monotonic()
    cut = asyncio.ensure_future(_rest_of(long.client))
    readiness: httpx.Response = await until(
        lambda: _unready(gateway), DRAIN_SECONDS, "the gateway says that it is not ready"
    )
    refused_on_old = await idle.ask("POST", CHAT, body=BODY)
    refused_on_new = await gateway.ask("POST", CHAT, body=BODY)
    status = await gateway.http.get(f"/tasks/status/{long.task_id}")
    short_answer = await short.end()
    short_end = await store.document(short.task_id)

    long_rest, cut_at = await cut
    await until(lambda: gateway.process.poll() is not None, EXIT_SECONDS + 5, "the gateway ends")
    exit_seconds = time.monotonic() - signalled
    return Drain(
        readiness=readiness,
        refused_on_old_connection=refused_on_old,
        refused_on_new_connection=refused_on_new,
        status=status,
        short_answer=short_answer,
        short_end=short_end,
        long_rest=long_rest,
        long_cut_seconds=cut_at - signalled,
        exit_code=gateway.process.returncode,
        exit_seconds=exit_seconds,
        long_end=await store.document(long.task_id),
    )


async def _unready(gateway: Mortal) -> httpx.Response | None:
    answer = await gateway.http.get("/readyz")
    return None if answer.status_code == 200 else answer


async def _rest_of(client: Client) -> tuple[bytes, float]:
    """All that comes until the connection ends, and when that is."""
    got = b""
    try:
        while piece := await client.piece():
            got += piece
    except ConnectionError:
        pass  # a reset breaks a message off as well as an end
    return got, time.monotonic()


def test_it_is_not_ready_at_once(drain: Drain) -> None:
    """From the signal on /readyz is 503 and says that the gateway drains."""
    assert drain.readiness.status_code == 503
    assert drain.readiness.json()["status"] == "draining"


def test_new_requests_are_refused(drain: Drain) -> None:
    """A request on a connection that was open before gets 503 shutting_down."""
    answer = drain.refused_on_old_connection
    assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")


def test_new_connections_are_refused_politely(drain: Drain) -> None:
    """A request on a new connection gets 503 shutting_down, too."""
    answer = drain.refused_on_new_connection
    assert (answer.status, answer.json()["error"]["code"]) == (503, "shutting_down")


def test_status_polls_are_answered(drain: Drain) -> None:
    """Pollers have their answers while the gateway drains."""
    assert drain.status.status_code == 200
    assert drain.status.json()["state"] == "RUNNING"


def test_a_short_stream_comes_whole(drain: Drain) -> None:
    """A stream that ends before DRAIN_SEC is relayed byte for byte to its end and is SUCCESS."""
    assert drain.short_answer == WHOLE
    assert outcome(drain.short_end) == DONE


def test_a_long_stream_is_cut_at_the_deadline(drain: Drain) -> None:
    """A stream that does not end is broken off at DRAIN_SEC, without a terminator."""
    assert drain.long_rest == b""
    assert DRAIN_SECONDS - 0.2 <= drain.long_cut_seconds <= DRAIN_SECONDS + 1


def test_its_end_is_stored_before_the_exit(drain: Drain) -> None:
    """What was cut is FAILED for the shutdown in the store when the process is gone."""
    assert outcome(drain.long_end) == ("FAILED", "shutdown", "shutdown")


def test_the_process_ends_well_and_in_time(drain: Drain) -> None:
    """The exit code is 0, within DRAIN_SEC and three seconds."""
    assert drain.exit_code == 0
    assert drain.exit_seconds <= EXIT_SECONDS
