"""A gateway with kept calls is killed, or stopped: what there is of their answers is read at another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.kept import EVENTS, KEEP, WHOLE, Kept, code_of, kept, read, route
from tests.support.outcome import DONE, outcome
from tests.support.process import terminate
from tests.support.scripted import streaming
from tests.support.streams import BODY, CHAT
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.chaos.conftest import LaunchMortal
    from tests.chaos.mortal import Mortal
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Client

CALLS = 20
PART = b"".join(EVENTS[:10])


async def begun(gateway: Mortal, other: Mortal, upstream: Upstream, *, has_client: bool) -> tuple[Kept, Client]:
    """A kept call of which ten events are here, and a reader at the other gateway that has had them."""
    call = await kept(gateway, upstream)
    for event in EVENTS[:10]:
        call.script.piece(event)
    if not has_client:
        await call.leave()
    reader = await other.send("GET", route(call.task_id))
    await within(GUARD_SECONDS, reader.up_to(EVENTS[9]))
    return call, reader


async def is_draining(gateway: Mortal) -> bool:
    """Whether it says so."""
    return (await gateway.http.get("/readyz")).status_code == 503


async def test_a_killed_gateway_leaves_the_part(mortal: LaunchMortal, store: Store, upstream: Upstream) -> None:
    """FAILED `lost`; 20 of 20 parts are readable elsewhere, and end broken off, as do those who were reading."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "0.5"}
    victim, other = [await mortal(**settings) for _ in range(2)]
    calls = [await begun(victim, other, upstream, has_client=bool(number % 2)) for number in range(CALLS)]
    early = Kept(victim, upstream)
    await early.ask()  # its head is not here
    waiting = await other.send("GET", route(early.task_id))
    await victim.kill()
    for call, reader in calls:
        assert outcome(await other.ended(call.task_id)) == ("FAILED", "lost", "lost")
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, reader.reader.read())
        for offset in (0, 7, len(PART)):
            part = await read(other, call.task_id, f"from={offset}")
            assert (part.status, part.data, part.body.complete) == (200, PART[offset:], False)
    assert outcome(await other.ended(early.task_id)) == ("FAILED", "lost", "lost")
    assert 500 <= (await within(GUARD_SECONDS, waiting.answer())).status < 600


async def test_after_a_loss_a_retry_is_a_new_attempt(mortal: LaunchMortal, store: Store, upstream: Upstream) -> None:
    """The same request at another gateway begins again."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "0.5"}
    victim, other = [await mortal(**settings) for _ in range(2)]
    call, _ = await begun(victim, other, upstream, has_client=True)
    tag = (await read(other, call.task_id, method="HEAD")).head.get("etag") or b""
    await victim.kill()
    assert outcome(await other.ended(call.task_id)) == ("FAILED", "lost", "lost")
    upstream.then(streaming(*EVENTS))
    answer = await other.ask("POST", CHAT, call.name, KEEP, body=BODY)
    assert (answer.status, answer.data, answer.head.get("x-task-joined")) == (200, WHOLE, None)
    assert code_of(await read(other, call.task_id, f"from={len(PART)}", (b"If-Match", tag))) == (
        412, "generation_changed"
    )  # fmt: skip


async def test_a_presumed_loss_that_speaks_again_is_closed(
    mortal: LaunchMortal, store: Store, upstream: Upstream
) -> None:
    """After a new attempt elsewhere the old call is closed when its gateway learns of it, and the new answer stays."""
    settings = {"REDIS_URL": store.url, "HEARTBEAT_SEC": "0.5"}
    paused, other = [await mortal(**settings) for _ in range(2)]
    call, _ = await begun(paused, other, upstream, has_client=False)
    paused.pause()
    assert outcome(await other.ended(call.task_id)) == ("FAILED", "lost", "lost")
    upstream.then(streaming(*EVENTS))
    answer = await other.ask("POST", CHAT, call.name, KEEP, body=BODY)
    assert (answer.data, answer.head.get("x-task-joined")) == (WHOLE, None)
    paused.resume()
    await within(GUARD_SECONDS, call.exchange.closed.wait())
    for gateway in (paused, other):

        async def is_whole(gateway: Mortal = gateway) -> bool:
            return (await read(gateway, call.task_id)).data == WHOLE

        await until(is_whole, what="the new answer is the one that is kept")
        document = await gateway.status(call.task_id)
        assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 2)


@pytest.mark.parametrize("has_client", [True, False])
async def test_a_drain_ends_kept_calls(
    mortal: LaunchMortal, store: Store, upstream: Upstream, has_client: bool
) -> None:
    """FAILED `shutdown` at `DRAIN_SEC`; the part is readable elsewhere, and readers are broken off everywhere."""
    stopping, other = [await mortal(REDIS_URL=store.url, DRAIN_SEC="6") for _ in range(2)]
    calls = [await begun(stopping, other, upstream, has_client=has_client) for _ in range(CALLS)]
    own = [await stopping.send("GET", route(call.task_id)) for call, _ in calls]
    ending = await kept(stopping, upstream)
    late = await other.send("GET", route(ending.task_id))
    for reader in own:
        await within(GUARD_SECONDS, reader.up_to(EVENTS[9]))
    stopping.process.terminate()
    await until(lambda: is_draining(stopping), what="it is not ready any more")
    ending.finish()
    assert b"[DONE]" in await within(GUARD_SECONDS, late.up_to(b"0\r\n\r\n"))
    assert await terminate(stopping.process, GUARD_SECONDS) == 0
    stopping.check_log()
    for call, reader in calls:
        document = await other.status(call.task_id)
        assert outcome(document) == ("FAILED", "shutdown", "shutdown")
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, reader.reader.read())
        part = await read(other, call.task_id)
        assert (part.status, part.data, part.body.complete) == (200, PART, False)
    for reader in own:
        assert b"0\r\n\r\n" not in await within(GUARD_SECONDS, reader.reader.read())
    assert outcome(await other.status(ending.task_id)) == DONE
    assert (await read(other, ending.task_id)).data == EVENTS[-1]


async def test_in_a_drain_a_retry_is_503(mortal: LaunchMortal, store: Store, upstream: Upstream) -> None:
    """On a connection that is open: `shutting_down`, so that the client goes to another gateway and joins there."""
    stopping, other = [await mortal(REDIS_URL=store.url, DRAIN_SEC="20") for _ in range(2)]
    call, _ = await begun(stopping, other, upstream, has_client=True)
    idle = await stopping.connect()
    assert (await idle.ask("GET", "/livez")).status == 200
    stopping.process.terminate()
    await until(lambda: is_draining(stopping), what="it is not ready any more")
    refused = await idle.ask("POST", CHAT, call.name, KEEP, body=BODY)
    assert code_of(refused) == (503, "shutting_down")
    retry = await other.send("POST", CHAT, call.name, KEEP, body=BODY)
    assert (await retry.head()).get("x-task-joined") == b"true"
    call.finish(*EVENTS[10:-1])
    assert (await within(GUARD_SECONDS, retry.up_to(b"0\r\n\r\n"))).count(b"data: ") == len(EVENTS)
    assert await terminate(stopping.process, GUARD_SECONDS) == 0
