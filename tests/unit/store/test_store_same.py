"""Both stores give the same results and pages, whatever requests do and in whatever order their writes arrive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from gateway.store.memory import MemoryStore
from gateway.store.redis import RedisStore
from gateway.tasks.stages import Stage, State
from tests.support.records import (
    BOOT,
    ids,
    peeked,
    peeked_page,
    put,
    record,
    stage_and_attempt,
    stored,
    text_of,
    undated,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gateway.store.interface import Record
    from tests.support.store import Store as Server

labels = st.sampled_from(["", "job", "job:1@x", '"\\'])
owners = st.sampled_from(["", "alice", "bob"])
LIVES = [Stage.FORWARDING, Stage.STREAMING, Stage.DONE, Stage.ERROR, Stage.CANCELLED]


@dataclass
class Request:
    """One request as its gateway knows it: it only goes forward, and claims until it knows its attempt."""

    task_id: str
    created_ms: int
    attempt: int
    owner: str = ""
    label: str = ""
    stage: Stage = Stage.QUEUED
    written: list[Record] = field(default_factory=list)

    def status(self) -> Record:
        """Its present status, as a record."""
        return record(
            self.task_id,
            self.stage,
            attempt=self.attempt,
            created_ms=self.created_ms,
            owner=self.owner,
            label=self.label,
        )


class Stores(RuleBasedStateMachine):
    """Requests for a few ids begin, go on and end; their writes come in batches, repeated, and late."""

    server: Server
    runner: asyncio.Runner
    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        with redis.Redis(port=self.server.port) as client:
            client.flushall()
        self.now_ms = 1000
        self.redis = RedisStore(self.server.url, boot=BOOT, longest_ttl_seconds=3600)
        self.memory = MemoryStore()
        self.seen: list[Request] = []
        self.ends: dict[tuple[str, int], str] = {}

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """The result of an async call, on the loop of this test."""
        return self.runner.run(call)

    def teardown(self) -> None:
        """Closes the connections of this run."""
        self.run(self.redis.close())

    @rule(
        target=requests,
        task_id=st.sampled_from("abc"),
        later_ms=st.integers(1, 3),
        owner=owners,
        label=labels,
        claim=st.sampled_from([0, 0, -1, -2, -3]),
    )
    def begin(self, task_id: str, later_ms: int, owner: str, label: str, claim: int) -> Request:
        """A request of any process with an id that the client chose; it may claim it after a certain attempt alone."""
        self.now_ms += later_ms
        return self.known(Request(task_id, self.now_ms, attempt=claim, owner=owner, label=label))

    @rule(target=requests, later_ms=st.integers(0, 1), label=labels)
    def begin_with_a_new_id(self, later_ms: int, label: str) -> Request:
        """A request with a generated id, perhaps in the same millisecond as the last one."""
        self.now_ms += later_ms
        return self.known(Request(f"generated-{len(self.seen)}", self.now_ms, attempt=1, label=label))

    def known(self, request: Request) -> Request:
        """Remembers a request for the comparison."""
        self.seen.append(request)
        return request

    @rule(request=requests, stage=st.sampled_from(LIVES))
    def go_on(self, request: Request, stage: Stage) -> None:
        """A request moves on, or stays if it has been further already."""
        if stage.rank > request.stage.rank:
            request.stage = stage

    @rule(batch=st.lists(requests, min_size=1, max_size=4, unique_by=id))
    def write(self, batch: list[Request]) -> None:
        """The present statuses of some requests are written at once."""
        records = [request.status() for request in batch]
        results = self.put(records)
        for request, one, result in zip(batch, records, results, strict=True):
            request.written.append(one)
            if result.is_written:
                request.attempt = result.attempt

    @rule(request=requests, index=st.integers(0, 20))
    def write_again(self, request: Request, index: int) -> None:
        """An old record of a request comes again: a repeated or a late batch."""
        if request.written:
            self.put([request.written[index % len(request.written)]])

    def put(self, records: list[Record]) -> Any:
        """Writes the same records to both stores, and compares the results."""
        results = self.run(put(self.redis, records))
        assert results == self.run(put(self.memory, records))
        return results

    @rule(limit=st.integers(1, 4), state=st.none() | st.sampled_from(State), owner=st.none() | owners)
    def list_all(self, limit: int, state: State | None, owner: str | None) -> None:
        """Page for page the same tasks in the same order, with the same cursors."""
        self.list_pages(limit, state, owner, "")

    @rule(limit=st.integers(1, 4), label=labels, owner=st.none() | owners)
    def list_label(self, limit: int, label: str, owner: str | None) -> None:
        """The same with a label: exactly the tasks that have it now."""
        listed = self.list_pages(limit, None, owner, label)
        every = self.list_pages(1000, None, owner, "")
        assert listed == [task_id for task_id in every if not label or self.label_of(task_id) == label]

    def label_of(self, task_id: str) -> str | None:
        """The label in a task's document."""
        label: str | None = self.run(stored(self.memory, task_id))["extensions"]["label"]
        return label

    def list_pages(self, limit: int, state: State | None, owner: str | None, label: str) -> list[str]:
        """The ids of all pages, after both stores were found to give the same."""
        cursor, listed = None, []
        while True:
            one = self.run(self.redis.page(limit, state, cursor, owner=owner, label=label))
            other = self.run(self.memory.page(limit, state, cursor, owner=owner, label=label))
            assert (ids(one), one.next_cursor) == (ids(other), other.next_cursor)
            for store, page in ((self.redis, one), (self.memory, other)):
                plain = self.run(peeked_page(store, limit, state, cursor, owner=owner, label=label))
                found = [undated(document.decode()) for document, _ in plain[0]]
                assert (found, plain[1]) == ([*map(undated, page.documents)], page.next_cursor)
            listed += ids(one)
            cursor = one.next_cursor
            if cursor is None:
                break
        assert len(listed) == len(set(listed))
        return listed

    @invariant()
    def documents_agree(self) -> None:
        """Both have the same status of each task, and an ended attempt does not change."""
        for task_id in {request.task_id for request in self.seen}:
            text = undated(self.run(text_of(self.redis, task_id)))
            assert text == self.run(text_of(self.memory, task_id))
            for store in (self.redis, self.memory):
                found = self.run(peeked(store, task_id))
                assert text == (None if found is None else undated(found[0].decode()))
            if text is None:
                continue
            stage, attempt = self.run(stage_and_attempt(self.memory, task_id))
            if (task_id, attempt) in self.ends:
                assert self.ends[task_id, attempt] == text
            elif stage not in (Stage.QUEUED, Stage.FORWARDING, Stage.STREAMING):
                self.ends[task_id, attempt] = text


@pytest.mark.timeout(300)
def test_both_stores_agree_step_by_step(server: Server, patience: None) -> None:
    """Redis and the in-process table give the same results, documents and pages for any history of requests.

    Plain reads of both find the same.
    """
    with asyncio.Runner() as runner:
        machine = type("Machine", (Stores,), {"server": server, "runner": runner})
        run_state_machine_as_test(machine, settings=settings(deadline=None, max_examples=60, stateful_step_count=30))
