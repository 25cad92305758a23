"""Owns the promise that no client gets a byte that is not its own, however odd the upstream's messages end.

20,000 requests of 32 clients over one pool, each with an ending drawn from tests/support/odd.py; about half a minute
on two cores. FUZZ_SEED in the environment draws others.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.gateway import Gateway
from tests.support.mutation import SEED
from tests.support.odd import ENDINGS, Trial

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(600)

CLIENTS = 32
ROUNDS = 630


async def test_no_client_gets_a_byte_that_is_not_its_own(tmp_path: Path) -> None:
    """Each client gets exactly what its head says of its own answer, or an error, or its own answer broken off."""
    trial = Trial(random.Random(SEED))
    port = await trial.listen()
    gateway = Gateway(tmp_path / "gateway.log", UPSTREAM_BASE=f"http://127.0.0.1:{port}")
    await gateway.start()
    try:
        await trial.run(gateway, ROUNDS, CLIENTS)
    finally:
        await trial.close()
    await gateway.stop()
    assert trial.asked >= 20_000
    assert {number for number, _ in trial.outcomes} == set(range(len(ENDINGS)))
    # About a quarter of the endings leave a connection that may be used again; a busy machine makes it a little less.
    assert trial.asked - trial.connections > trial.asked / 5, "connections are used again"
    assert trial.said_late > trial.asked / 50, "late bytes are met"
