"""A cable between one node and the store is pulled, and plugged in again: no status is wrong in the end.

Contract sections 4.10, 4.11, 10.1 and 10.3. Four nodes are cut off at once, each for another time; the fifth watches.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.nodes import Cluster
from tests.support.faults import elapse
from tests.support.outcome import DONE, outcome
from tests.support.scripted import answering
from tests.support.streams import BODY, CHAT, WHOLE, HeldStream, held
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.cluster.conftest import NewCluster
    from tests.cluster.nodes import Node

CUTS_SECONDS = [3, 6, 14, 24]
STREAMS = 20  # at each node; the first half of them ends during the cut
HEARTBEAT_SECONDS = 1
LOST_SECONDS = 3 * HEARTBEAT_SECONDS + 2
HEALED_SECONDS = 6
LOST = ("FAILED", "lost", "lost")
RUNNING = ("RUNNING", "streaming", None)


@dataclass
class Said:
    """What was said of one task while the cable was out."""

    presumed: int = 0
    for_good: int = 0  # FAILED lost that is not presumed
    success: int = 0


@dataclass
class Cut:
    """One node that is cut off from the store, and its streams."""

    node: Node
    seconds: int
    ended: list[HeldStream]  # while it is cut off
    running: list[HeldStream]  # until it is healed
    retried: HeldStream  # its client leaves, and asks the watching node again
    bodies: list[bytes] = field(default_factory=list)
    states: set[str] = field(default_factory=set)  # of the node, as the watching one said

    @property
    def task_ids(self) -> list[str]:
        """Those whose ends have to be true."""
        return [stream.task_id for stream in (*self.ended, *self.running)]


class Trial:
    """All cuts, what was said meanwhile, and what the nodes say at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.cuts: list[Cut] = []
        self.said: dict[str, Said] = defaultdict(Said)
        self.healed: dict[str, set[tuple[str, str, str | None]]] = {}  # by task id: at all nodes
        self.final: dict[str, set[tuple[str, str, str | None]]] = {}
        self.newer: list[dict[str, Any]] = []  # the documents of the retried ids, at all nodes
        self.is_over = False

    @property
    def watching(self) -> Node:
        """The node that is never cut off."""
        return self.cluster.nodes[-1]

    async def run(self) -> None:
        """Begin all streams, pull the cables, plug each in when its time has come, let the rest end."""
        for node, seconds in zip(self.cluster.nodes, CUTS_SECONDS, strict=False):
            streams = [await held(node.gateway, node.upstream) for _ in range(STREAMS + 1)]
            self.cuts.append(Cut(node, seconds, streams[: STREAMS // 2], streams[STREAMS // 2 : STREAMS], streams[-1]))
        watch = asyncio.create_task(self._watch())
        await asyncio.gather(*map(self._suffer, self.cuts))
        self.is_over = True
        await watch
        self.final = await self._ask_all()
        ids = [cut.retried.task_id for cut in self.cuts]
        self.newer = [document for task_id in ids for document in await self.cluster.ask_all(task_id)]

    async def _suffer(self, cut: Cut) -> None:
        """The cable of one node is pulled for a time."""
        begun = time.monotonic()
        self.cluster.cut(cut.node, self.cluster.store)
        cut.bodies += [await stream.end() for stream in cut.ended]
        if cut.seconds > LOST_SECONDS:
            await self._retry(cut)
        await elapse(cut.seconds, begun, "the cable is out")
        if cut.seconds > LOST_SECONDS:
            await until(lambda: self._is_seen_lost(cut), what=f"{cut.node} and all its tasks were seen lost")
        self.cluster.heal(cut.node, self.cluster.store)

        async def is_true() -> bool:
            ended = [outcome(await self.watching.gateway.status(stream.task_id)) for stream in cut.ended]
            running = [outcome(await self.watching.gateway.status(stream.task_id)) for stream in cut.running]
            return set(ended) == {DONE} and set(running) == {RUNNING}

        await until(is_true, HEALED_SECONDS, f"{cut.node} is healed after {cut.seconds} s")
        cut.bodies += [await stream.end() for stream in cut.running]
        if cut.seconds > LOST_SECONDS:
            assert await cut.retried.end() == WHOLE, "the old request is served to its end"

    def _is_seen_lost(self, cut: Cut) -> bool:
        return "lost" in cut.states and all(self.said[task_id].presumed for task_id in cut.task_ids)

    async def _retry(self, cut: Cut) -> None:
        """Ask for the id of a presumed loss again, at the node that watches."""

        async def is_lost() -> bool:
            return outcome(await self.watching.gateway.status(cut.retried.task_id)) == LOST

        await until(is_lost, LOST_SECONDS, "it is presumed lost")
        self.watching.upstream.then(answering(200))
        field = (b"X-Task-Id", cut.retried.task_id.encode())
        assert (await self.watching.gateway.ask("POST", CHAT, field, body=BODY)).status == 200

    async def _watch(self) -> None:
        """Note what is said of each task: at the watching node, and at the node that runs it."""
        while not self.is_over:
            page = await self.watching.gateway.http.get("/tasks/status?limit=1000")
            for document in page.json()["items"]:
                self._note(document)
            for cut in self.cuts:
                for stream in cut.ended[:3]:
                    self._note(await cut.node.gateway.status(stream.task_id))
            nodes = (await self.watching.gateway.http.get("/nodes")).json()["items"]
            for node in nodes:
                for cut in self.cuts:
                    if cut.node.machine.name == node["instance"]:
                        cut.states.add(node["state"])
            await elapse(0.2, time.monotonic(), "between two looks")

    def _note(self, document: dict[str, Any]) -> None:
        said = self.said[document["task_id"]]
        said.success += document["state"] == "SUCCESS"
        if outcome(document) == LOST:
            said.presumed += document["extensions"]["is_presumed"] is True
            said.for_good += document["extensions"]["is_presumed"] is not True

    async def _ask_all(self) -> dict[str, set[tuple[str, str, str | None]]]:
        ids = [task_id for cut in self.cuts for task_id in cut.task_ids]
        return {task_id: {outcome(document) for document in await self.cluster.ask_all(task_id)} for task_id in ids}


@pytest.fixture(scope="module")
async def trial(machines: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trial]:
    """Five nodes, four of which were cut off."""
    directory = tmp_path_factory.mktemp("cuts")
    async with Cluster(directory, len(CUTS_SECONDS) + 1, HEARTBEAT_SEC=str(HEARTBEAT_SECONDS)) as cluster:
        trial = Trial(cluster)
        await trial.run()
        yield trial


@pytest.fixture(params=CUTS_SECONDS)
def cut(request: pytest.FixtureRequest, trial: Trial) -> Cut:
    """Each of the cuts."""
    return next(cut for cut in trial.cuts if cut.seconds == request.param)


def test_no_status_is_wrong(trial: Trial, cut: Cut) -> None:
    """Of 20 streams, 10 that ended during the cut and 10 after it, every node says SUCCESS, and each client got it."""
    assert cut.bodies == [WHOLE] * STREAMS
    assert {task_id: trial.final[task_id] for task_id in cut.task_ids} == {key: {DONE} for key in cut.task_ids}


def test_a_loss_is_presumed_at_every_moment(trial: Trial, cut: Cut) -> None:
    """A cut of over three heartbeats makes all tasks look lost; none is ever lost for good."""
    said = [trial.said[task_id] for task_id in cut.task_ids]
    assert sum(one.for_good for one in said) == 0
    if cut.seconds > LOST_SECONDS:
        assert min(one.presumed for one in said) > 0


def test_what_was_called_success_stays_so(trial: Trial, cut: Cut) -> None:
    """Their own node said SUCCESS while it was cut off, and was right."""
    for stream in cut.ended[:3]:
        assert trial.said[stream.task_id].success > 0
        assert trial.final[stream.task_id] == {DONE}


def test_a_newer_attempt_stays(trial: Trial) -> None:
    """If the id of a presumed loss was used again elsewhere, every node tells of attempt 2 alone."""
    lost = [cut.retried.task_id for cut in trial.cuts if cut.seconds > LOST_SECONDS]
    newer = [document for document in trial.newer if document["task_id"] in lost]
    assert len(newer) == len(lost) * len(trial.cluster.nodes)
    assert {(outcome(document), document["extensions"]["attempt"]) for document in newer} == {(DONE, 2)}


async def test_the_nodes_are_told_truly(trial: Trial, cut: Cut) -> None:
    """A node that is cut off for over three heartbeats is `lost` at the others, and `up` again after the cut."""
    assert cut.states >= ({"up", "lost"} if cut.seconds > LOST_SECONDS else {"up"})

    async def are_up() -> bool:
        items = (await trial.watching.gateway.http.get("/nodes")).json()["items"]
        return [item["state"] for item in items] == ["up"] * len(trial.cluster.nodes)

    await until(are_up, HEARTBEAT_SECONDS + 1, "all nodes are up")


async def test_clocks_that_differ_make_one_list(new_cluster: NewCluster) -> None:
    """Three machines whose clocks are 90 s apart: the list has every task once, in the order in which they began."""
    async with new_cluster(clock_shifts_seconds=(0.0, 90.0, -90.0)) as cluster:
        begun = []
        for number in range(60):
            node = cluster.nodes[number % 3]
            answer = await node.gateway.http.post(CHAT, content=BODY)
            begun.append(answer.headers["X-Task-Id"])
            await elapse(0.05, time.monotonic(), "longer than a round trip to the store")
        seconds, _ = await cluster.store.client.time()
        for node in cluster.nodes:
            found: list[dict[str, Any]] = []
            cursor = ""
            while cursor is not None:
                page = (await node.gateway.http.get(f"/tasks/status?limit=7&cursor={cursor}")).json()
                found += page["items"]
                cursor = page["next_cursor"]
            assert [document["task_id"] for document in found] == begun[::-1]
            created = [document["extensions"]["created_ms"] for document in found]
            assert created == sorted(created, reverse=True)
            assert abs(created[0] / 1000 - int(seconds)) < 5
            assert {document["extensions"]["instance"] for document in found} == {n.machine.name for n in cluster.nodes}
