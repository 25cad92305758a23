"""Fills a store with ended tasks, through the product's own store, so that they look as a gateway leaves them.

Owns the ids and the states of these tasks.
"""

import asyncio
import time
from collections.abc import Iterator
from itertools import islice

import uvloop

from gateway.store.interface import Record, StoreError, Written
from gateway.store.redis import RedisStore
from gateway.tasks.document import document_head
from gateway.tasks.task import Reason, Task

_BATCH_TASKS = 256
_TRIES = 20  # a busy machine may not answer in the store's time
_TTL_SECONDS = 86_400
FAILED_EVERY = 10  # one task of so many has failed


def task_id(number: int) -> str:
    """The id of a task; the highest number is the newest."""
    return f"filled-{number:07d}"


def fill(port: int, tasks: int) -> None:
    """Writes `tasks` ended tasks into the store on `port`."""
    uvloop.run(_fill(port, tasks))


async def _fill(port: int, tasks: int) -> None:
    stores = [
        RedisStore(f"redis://127.0.0.1:{port}/0", boot="bench-1-1", longest_ttl_seconds=_TTL_SECONDS) for _ in range(2)
    ]
    records = _records(tasks)

    async def write(store: RedisStore) -> None:
        while batch := list(islice(records, _BATCH_TASKS)):
            await _put(store, batch)
        await store.close()

    await asyncio.gather(*map(write, stores))


async def _put(store: RedisStore, batch: list[Record]) -> None:
    """Writes a batch; repeating it is harmless. Raises TimeoutError if the store never answers."""
    for _ in range(_TRIES):
        answered: asyncio.Future[list[Written] | StoreError] = asyncio.get_running_loop().create_future()
        store.write(batch, answered.set_result)
        if not isinstance(await answered, StoreError):
            return
    raise TimeoutError("the store could not be filled")


def _records(tasks: int) -> Iterator[Record]:
    first_ms = int(time.time() * 1000) - tasks
    return (_record(number, first_ms + number) for number in range(tasks))


def _record(number: int, created_ms: int) -> Record:
    task = Task(task_id(number), "POST", "/v1/chat/completions", "", created_ms, request_bytes=180, response_bytes=300)
    task.forward(created_ms)
    task.answer(200, False, created_ms)
    if number % FAILED_EVERY:
        task.finish(None, "complete", created_ms)
    else:
        task.finish(Reason.UPSTREAM_STATUS, "the upstream answered HTTP 500", created_ms)
    head = document_head(task, algorithm_id="ollama-openai", instance="bench", boot="bench-1-1", now=created_ms / 1000)
    return Record(task.task_id, head, task.attempt, task.stage.rank, task.state, created_ms, _TTL_SECONDS)
