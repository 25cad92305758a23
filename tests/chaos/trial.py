"""Owns one failure of the store from its beginning to its end, as clients and pollers live through it.

A gateway is at work, the fault begins, requests go on, the fault ends. A trial only records; `rules` judges.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.load import Round, relay
from tests.support.faults import elapse
from tests.support.process import terminate
from tests.support.streams import HeldStream, stored_states, until_beaten
from tests.support.waiting import until

if TYPE_CHECKING:
    import httpx

    from tests.support.faults import Fault
    from tests.support.gateway import Gateway
    from tests.support.scripted import Upstream

REQUESTS = 200
ROUNDS = 3  # before the fault, and after it is known; the quickest counts
POLLS = 3  # of one task; the quickest counts
FAULT_SECONDS = 2.0  # it lasts no shorter: the gateway is to ask a failing store again and again
GIVE_UP_SECONDS = 10.0


@dataclass
class Poll:
    """One answer about a task, and how long it took."""

    answer: httpx.Response
    seconds: float


def quickest(rounds: list[Round]) -> float:
    """The 99th percentile of the round that the machine's other work disturbed least."""
    return min(round_.p99 for round_ in rounds)


@dataclass(repr=False)
class Trial:
    """What happened; `run` lets it happen."""

    fault: Fault
    gateway: Gateway
    upstream: Upstream
    begun: float = 0.0  # monotonic seconds
    stream: HeldStream = field(default_factory=HeldStream)
    healthy: list[Round] = field(default_factory=list)  # to compare with
    onset: Round = field(default_factory=Round)  # begun with the fault
    known: list[Round] = field(default_factory=list)  # since the gateway says that the store is away
    polls: dict[str, Poll] = field(default_factory=dict)  # answered meanwhile
    contradictions: list[str] = field(default_factory=list)  # between a list and the statuses, meanwhile
    missing: dict[str, str | None] = field(default_factory=dict)  # tasks whose state was not written in time
    return_seconds: float = 0.0  # from the fault's end until all was written
    end_state: str | None = None  # of the stream, in the store, when its client had its end
    boots: set[str] = field(default_factory=set)  # of the documents of this gateway, before and after
    was_well: bool = True  # the store was never away before the fault
    log: str = ""  # from the fault's beginning until it was over
    whole_log: str = ""
    is_alive: bool = False  # the process is there when all is over
    exit_code: int | None = None  # when it is told to stop then

    @property
    def onset_added_seconds(self) -> float:
        """What the fault added to requests while it was not known."""
        return self.onset.p99 - quickest(self.healthy)

    @property
    def known_added_seconds(self) -> float:
        """What it added from then on, in the quickest round."""
        return quickest(self.known) - quickest(self.healthy)

    @property
    def task_ids(self) -> list[str]:
        """All tasks that ended during the fault."""
        return [task_id for round_ in (self.onset, *self.known) for task_id in round_.task_ids]

    async def run(self, *, is_at_start: bool) -> None:
        """The whole course; where the store is away from the start, the comparison comes last."""
        log_before = 0
        if is_at_start:
            await self._begin()
            await self.gateway.start()
            await self.stream.begin(self.gateway, self.upstream)
        else:
            await self.gateway.start()
            self.healthy = await self._rounds()
            await self.stream.begin(self.gateway, self.upstream)
            await until(lambda: self._says_store_is("up"), GIVE_UP_SECONDS, "the store is up when the fault begins")
            log_before = len(self.gateway.log)
            self.was_well = "the store is away" not in self.gateway.log
            await self._begin()
        await self._while_it_lasts()
        await self.fault.end()
        await self._afterwards()
        self.log = self.gateway.log[log_before:]
        if is_at_start:
            self.healthy = await self._rounds()
        self.is_alive = self.gateway.process.poll() is None
        self.exit_code = await terminate(self.gateway.process, GIVE_UP_SECONDS)
        self.whole_log = self.gateway.log

    async def _begin(self) -> None:
        await self.fault.begin()
        self.begun = time.monotonic()

    async def _while_it_lasts(self) -> None:
        self.onset = await relay(self.gateway, REQUESTS)
        await until(lambda: self._says_store_is("down"), GIVE_UP_SECONDS, "the gateway knows that the store is away")
        self.known = await self._rounds()
        await elapse(FAULT_SECONDS, self.begun, "the gateway has tried in vain to write what it keeps")
        await self._poll("running", self.stream.task_id)
        await self._poll("ended early", self.onset.task_ids[0])
        await self._poll("ended late", self.known[-1].task_ids[-1])
        await self._poll("unknown", f"unknown-{uuid.uuid4()}")
        self.boots.add(self.polls["running"].answer.json()["extensions"]["boot"])
        await self._compare_list()

    async def _compare_list(self) -> None:
        """A list is 503, or says what the status route says of each task, the newest and the running one among them."""
        for state in ("", "RUNNING", "SUCCESS"):
            answer = await self.gateway.http.get(f"/tasks/status?limit=20&state={state}")
            if answer.status_code == 503 and "Retry-After" in answer.headers:
                continue
            listed = {item["task_id"]: item["event_id"] for item in answer.json()["items"]}
            expected = self.stream.task_id if state == "RUNNING" else self.known[-1].task_ids[-1]
            if expected not in listed:
                self.contradictions.append(f"{expected} is missing in the list {state!r}")
            for task_id, event_id in listed.items():
                told = (await self.gateway.http.get(f"/tasks/status/{task_id}")).json()
                if told["event_id"] != event_id or state not in ("", told["state"]):
                    self.contradictions.append(f"{task_id} in the list {state!r}")

    async def _rounds(self) -> list[Round]:
        return [await relay(self.gateway, REQUESTS) for _ in range(ROUNDS)]

    async def _says_store_is(self, condition: str) -> bool:
        answer = await self.gateway.http.get("/readyz")
        assert answer.status_code == 200, f"without its store the gateway stays ready: {answer.text}"
        return bool(answer.json()["store"] == condition)

    async def _poll(self, name: str, task_id: str) -> None:
        polls = []
        for _ in range(POLLS):
            begun = time.monotonic()
            answer = await self.gateway.http.get(f"/tasks/status/{task_id}")
            polls.append(Poll(answer, time.monotonic() - begun))
        self.polls[name] = min(polls, key=lambda poll: poll.seconds)

    async def _afterwards(self) -> None:
        begun = time.monotonic()
        try:
            await until(self._is_written, GIVE_UP_SECONDS)
        except AssertionError:
            assert self.missing, "the wait ended because states are missing"
        self.return_seconds = time.monotonic() - begun
        await until(lambda: self._says_store_is("up"), GIVE_UP_SECONDS, "the gateway knows that the store is back")
        await until(lambda: "the store is back" in self.gateway.log, GIVE_UP_SECONDS, "the log tells it")
        await until_beaten(self.fault.store, self.stream.task_id, 2, GIVE_UP_SECONDS)
        await self.stream.end()
        document = await self.fault.store.document(self.stream.task_id)
        self.end_state = document["state"]
        self.boots.add(document["extensions"]["boot"])

    async def _is_written(self) -> bool:
        expected = dict.fromkeys(self.task_ids, "SUCCESS") | {self.stream.task_id: "RUNNING"}
        states = await stored_states(self.fault.store, list(expected))
        self.missing = {i: state for i, state in states.items() if state != expected[i]}
        return not self.missing
