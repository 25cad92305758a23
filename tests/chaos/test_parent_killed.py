"""The parent of two workers is killed: nobody is left to stop or replace them, and they must not keep the port."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.chaos.load import relay
from tests.chaos.mortal import Mortal
from tests.support.gateway import COMMAND, workers_of
from tests.support.outcome import DONE, outcome
from tests.support.process import is_alive, spawn
from tests.support.streams import streams_of_both
from tests.support.unread import only_unread_answers
from tests.support.waiting import until, within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.scripted import Upstream
    from tests.support.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="session")

DRAIN_SECONDS = 30  # longer than any test waits: nobody has so much time
GONE_SECONDS = 3.0


class Pair(Mortal):
    """A gateway of two workers; `workers` is who they were when it was killed."""

    workers: tuple[int, ...] = ()

    async def kill(self) -> None:
        """SIGKILL for the parent alone."""
        self.workers = tuple(workers_of(self))
        await super().kill()

    def put_down_workers(self) -> None:
        """Leave nothing behind, whatever a test has found."""
        for pid in filter(is_alive, self.workers):
            os.kill(pid, signal.SIGKILL)

    async def until_gone(self) -> None:
        """Wait until no worker is left."""
        await until(lambda: not any(map(is_alive, self.workers)), GONE_SECONDS + 5, "the workers are gone")


@pytest_asyncio.fixture(loop_scope="session")
async def pair(scripted: Upstream, store: Store, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """It is not started yet."""
    settings = {"REDIS_URL": store.url, "GATEWAY_WORKERS": "2", "DRAIN_SEC": str(DRAIN_SECONDS)}
    pair = Pair(tmp_path_factory, scripted, **settings)
    yield pair
    await pair.put_down()
    pair.put_down_workers()
    await scripted.forget()


async def test_the_workers_end_and_the_port_is_free(pair: Pair, upstream: Upstream, store: Store) -> None:
    """Within three seconds the streams are cut, FAILED `shutdown` in the store, the workers gone and the port free.

    Neither drain nor notice is waited for.
    """
    pair.settings["DRAIN_NOTICE_SEC"] = str(DRAIN_SECONDS)
    await pair.start()
    streams = await streams_of_both(pair, upstream, store)
    await pair.kill()
    killed = time.monotonic()
    await pair.until_gone()
    assert time.monotonic() - killed <= GONE_SECONDS
    for stream in streams:
        assert await within(1, stream.is_cut(), "the client's message is broken off")
        assert outcome(await store.document(stream.task_id)) == ("FAILED", "shutdown", "shutdown")
    assert pair.log.count("the parent process is gone: stopping at once") == 2

    del pair.settings["DRAIN_NOTICE_SEC"]
    await pair.start()
    (task_id,) = (await relay(pair, 1)).task_ids
    assert outcome(await store.document(task_id)) == DONE
    assert [outcome(await store.document(stream.task_id))[1] for stream in streams] == ["shutdown"] * len(streams)
    await pair.stop()


async def test_workers_that_wait_for_readers_end_too(pair: Pair, upstream: Upstream) -> None:
    """Where they are stopping already, and only answers that nobody takes are left, the workers go as soon."""
    await pair.start()
    assert await only_unread_answers(pair, upstream)
    pair.process.terminate()
    await until(pair.is_closed, 3, "no connection is taken any more")
    await pair.kill()
    killed = time.monotonic()
    await pair.until_gone()
    assert time.monotonic() - killed <= GONE_SECONDS


async def test_workers_that_are_starting_end_too(pair: Pair) -> None:
    """Where the parent is killed before its workers serve, they end as well, and leave no traceback."""
    pair.process = spawn(COMMAND, pair.log_path, pair.settings)
    await until(lambda: len(workers_of(pair)) == 2, 10, "there are two workers")
    await pair.kill()
    await pair.until_gone()
    pair.check_log()


async def test_a_killed_worker_is_replaced(pair: Pair, store: Store) -> None:
    """The parent notices a worker's death, tells how it died, and starts another one; requests are served meanwhile."""
    await pair.start()
    before = workers_of(pair)
    os.kill(before[0], signal.SIGKILL)
    await until(lambda: len(workers_of(pair)) == 2 and before[0] not in workers_of(pair), 5, "there are two again")
    assert before[1] in workers_of(pair)
    assert f"worker {before[0]} ended (SIGKILL): another one takes its place" in pair.log
    assert (await relay(pair, 20)).failures == []
    await pair.stop()
