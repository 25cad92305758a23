"""Many clients use one task id at the same time, at two gateways that share a store."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.support import patient
from tests.support.outcome import DONE, outcome
from tests.support.scripted import JSON
from tests.support.streams import BODY, CHAT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.conftest import Launch
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream
    from tests.support.store import Store
    from tests.support.wire import Response


REQUESTS = 50
REPETITIONS = 5


async def test_one_request_is_relayed(launch: Launch, upstream: Upstream, store: Store) -> None:
    """Of 50 requests with one id, one reaches the upstream and is answered by it, 49 get 409 while it runs."""
    gateways = [await launch(patient.COMMAND, REDIS_URL=store.url) for _ in range(2)]
    for number in range(REPETITIONS):
        await one_of_fifty_is_relayed(gateways, upstream, store, f"wanted-by-all-{number}")


async def one_of_fifty_is_relayed(gateways: list[Gateway], upstream: Upstream, store: Store, task_id: str) -> None:
    """The rule, for one id."""
    stream = upstream.gated(JSON)
    calls = len(upstream.exchanges)
    name = (b"X-Task-Id", task_id.encode())
    asked = [asyncio.ensure_future(gateways[n % 2].ask("POST", CHAT, name, body=BODY)) for n in range(REQUESTS)]
    await until(lambda: sum(one.done() for one in asked) == REQUESTS - 1, what="49 requests are refused")
    stream.head()
    stream.piece(b"{}")
    stream.end()
    answers: list[Response] = await asyncio.gather(*asked)
    assert Counter(answer.status for answer in answers) == {200: 1, 409: REQUESTS - 1}
    refusals: list[dict[str, Any]] = [answer.json()["error"] for answer in answers if answer.status == 409]
    assert {refusal["code"] for refusal in refusals} == {"task_id_in_use"}
    assert len(upstream.exchanges) == calls + 1
    document = await store.document(task_id)
    assert (outcome(document), document["extensions"]["attempt"]) == (DONE, 1)
