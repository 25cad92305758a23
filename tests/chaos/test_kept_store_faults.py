"""The store fails in the middle of kept answers: clients are unharmed, and what became of each answer is told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.conftest import started_store
from tests.support.faults import Frozen, Killed, OutOfMemory, elapse
from tests.support.kept import EVENTS, WHOLE, Kept, code_of, read, route
from tests.support.waiting import GUARD_SECONDS, until, within

if TYPE_CHECKING:
    from tests.chaos.conftest import LaunchMortal
    from tests.chaos.mortal import Mortal
    from tests.support.faults import Fault
    from tests.support.scripted import Upstream

pytestmark = pytest.mark.timeout(600)

STREAMS = 34
BIG = [b"data: %b\n\n" % (b"%d" % n * 3000) for n in range(20)]
ALL = b"".join(EVENTS[:5] + BIG + EVENTS[5:])


@pytest.mark.parametrize("kind", [Frozen, Killed, OutOfMemory])
async def test_a_store_that_fails_in_mid_stream_harms_no_client(
    mortal: LaunchMortal, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory, kind: type[Fault]
) -> None:
    """34 of 34 answers are whole at another gateway afterwards, or `extensions.response` says why not."""
    store = await started_store(tmp_path_factory)
    try:
        async with kind(store) as fault:
            first, other = [await mortal(REDIS_URL=store.url, HEARTBEAT_SEC="1") for _ in range(2)]
            calls = [Kept(first, upstream) for _ in range(STREAMS)]
            for number, call in enumerate(calls):
                await call.ask()
                call.script.head()
                for event in EVENTS[:5]:
                    call.script.piece(event)
                if number % 3 == 2:
                    await call.leave()
            await fault.begin()
            for number, call in enumerate(calls):
                for event in BIG:
                    call.script.piece(event)
                if number % 2:  # these end while the store is away
                    call.finish(*EVENTS[5:-1])
            answers = [asyncio.ensure_future(call.client.answer()) for n, call in enumerate(calls) if n % 3 != 2]
            await until(lambda: sum(answer.done() for answer in answers) >= STREAMS // 3 - 1, what="half have ended")
            for call in calls[1::2]:
                assert (await read(first, call.task_id)).data == ALL  # its own gateway serves from memory
            await fault.end()
            for call in calls[::2]:
                call.finish(*EVENTS[5:-1])
            for answer in answers:
                whole = await within(GUARD_SECONDS, answer)
                assert (whole.status, whole.data, whole.body.complete) == (200, ALL, True)
            fates = Counter([await fate_at(other, call.task_id) for call in calls])
            assert set(fates) <= {"whole", "no_room"}, fates
            assert fates["whole"] >= STREAMS - 2, fates
    finally:
        await store.close()


async def fate_at(gateway: Mortal, task_id: str) -> str:
    """What another gateway says of the answer, once the task has ended there."""

    async def ended() -> str | None:
        status = await gateway.http.get(f"/tasks/status/{task_id}")
        if status.status_code != 200 or status.json()["state"] != "SUCCESS":
            return None
        response: str = status.json()["extensions"]["response"]
        return response

    response: str = await until(ended, GUARD_SECONDS, f"{task_id} has ended at the other gateway")
    answer = await read(gateway, task_id)
    if response != "kept":
        assert code_of(answer) == (410, "response_gone")
        return response
    is_whole = (answer.status, answer.data, answer.body.complete) == (200, ALL, True)
    return "whole" if is_whole else f"{answer.status}, {len(answer.data)} of {len(ALL)} bytes"


async def test_while_the_store_is_away_others_say_so(
    mortal: LaunchMortal, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another gateway answers 503 with Retry-After; a reader there waits up to 5 s and is then broken off."""
    store = await started_store(tmp_path_factory)
    try:
        async with Frozen(store) as fault:
            first, other = [await mortal(REDIS_URL=store.url) for _ in range(2)]
            call = Kept(first, upstream)
            await call.begin()
            call.script.piece(EVENTS[0])
            await call.leave()
            reader = await other.send("GET", route(call.task_id))
            await reader.up_to(EVENTS[0])
            await fault.begin()
            begun = asyncio.get_running_loop().time()
            rest = await within(GUARD_SECONDS, reader.reader.read())
            assert b"0\r\n\r\n" not in rest
            assert 4 <= asyncio.get_running_loop().time() - begun <= 15
            refused = await read(other, call.task_id)
            assert code_of(refused) == (503, "store_unavailable")
            assert refused.head.get("retry-after")
            own = await first.send("GET", route(call.task_id))
            await within(GUARD_SECONDS, own.up_to(EVENTS[0]))
            await fault.end()
            call.finish(*EVENTS[1:-1])
            assert b"[DONE]" in await within(GUARD_SECONDS, own.up_to(b"0\r\n\r\n"))

            async def is_whole() -> bool:
                answer = await read(other, call.task_id)
                return answer.data == WHOLE

            await until(is_whole, what="the other gateway has it all")
    finally:
        await store.close()


async def test_a_reader_survives_a_short_cut(
    mortal: LaunchMortal, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A store that is away for less than 5 s costs a reader at another gateway nothing but time."""
    store = await started_store(tmp_path_factory)
    try:
        async with Frozen(store) as fault:
            first, other = [await mortal(REDIS_URL=store.url) for _ in range(2)]
            call = Kept(first, upstream)
            await call.begin()
            call.script.piece(EVENTS[0])
            reader = await other.send("GET", route(call.task_id))
            await reader.up_to(EVENTS[0])
            await fault.begin()
            begun = time.monotonic()
            call.finish(*EVENTS[1:-1])
            await elapse(1.0, begun, "the reader's gateway asks the store in vain")
            await fault.end()
            await within(GUARD_SECONDS, call.client.up_to(b"0\r\n\r\n"))
            assert (await within(GUARD_SECONDS, reader.up_to(b"0\r\n\r\n"))).count(b"data: ") == len(EVENTS) - 1
    finally:
        await store.close()
