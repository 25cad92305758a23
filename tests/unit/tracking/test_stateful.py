"""No history makes a status untrue: three gateways, one real store, and all failures between them.

Hypothesis picks the history: requests, heartbeats, cancels, silence, outages, lost replies, pauses, deaths. After every
step the test compares the store's documents with the earlier ones, and the lists with the documents.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from gateway.errors import GatewayError, TaskIdInUse
from gateway.store.interface import StoreError, Unclear, id_in, name_in
from gateway.store.layout import LIST_PREFIX
from gateway.store.redis import RedisStore
from gateway.tasks.document import has_ended, is_presumed, rank_of
from gateway.tasks.stages import Stage, State
from gateway.tasks.task import Reason
from gateway.tracking import waits
from gateway.tracking.tracker import StoreUnavailable, Tracker
from tests.support.faults import elapse
from tests.support.records import put
from tests.support.store import DOCUMENTS
from tests.support.tracking import Cut, begun

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Coroutine, Sequence

    from gateway.store.interface import Page, Peeked, Record, Then
    from gateway.tracking.tracked import TrackedTask
    from tests.support.store import Store as Server

STEPS = 10_000
STEPS_EACH = 100
EXAMPLES = 120
GATEWAYS = 3
IDS = ["a", "b", "c"]
LONG_SECONDS = 3600.0
MOMENT_SECONDS = 0.001
FINAL = 3
PRESUMED = -1
WRITES = 3  # enough to write all that a gateway has

Seen = tuple[int, int, str, str]  # attempt, rank (PRESUMED for a loss that is presumed), event, state
NOTHING: Seen = (0, 0, "", "")


class Weather:
    """A real store as one gateway reaches it: it may refuse, lose its answers or hold a write back."""

    def __init__(self, store: RedisStore) -> None:
        self.store = store
        self.clock = store.clock
        self.lost = 0
        self.answers_at_once = False
        self.connections = 0
        self.is_refusing = False
        self.loses_answers = False
        self.grace_seconds = LONG_SECONDS  # with a moment its tasks are silent as soon as they are written
        self.way = asyncio.Event()  # held back while clear
        self.way.set()

    @property
    def is_fine(self) -> bool:
        """Whether the store answers."""
        return not self.is_refusing and not self.loses_answers

    async def _pass(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        await self.way.wait()
        if self.is_refusing:
            raise StoreError("refused")
        answer = await call()
        if self.loses_answers:
            raise StoreError("the answer was lost")
        return answer

    def write(self, records: Sequence[Record], then: Then) -> None:
        """Writes, late where it is held back; the lists are told at once."""
        records = [record._replace(grace_seconds=self.grace_seconds) for record in records]
        self.writing = asyncio.create_task(self._write(records, then))

    async def _write(self, records: Sequence[Record], then: Then) -> None:
        try:
            then(await self._pass(lambda: put(self.store, records)))
        except StoreError as error:
            then(error)

    def replace_end(self, record: Record) -> None:
        """Never called: no answer is kept."""

    async def presumed(self) -> list[str]:
        """What may be lost."""
        documents: list[str] = await self._pass(self.store.presumed)
        return documents

    async def read(self, task_ids: Sequence[str], exempt: Container[str] | None = None) -> list[str | None]:
        """Reads."""
        documents: list[str | None] = await self._pass(lambda: self.store.read(task_ids, exempt))
        return documents

    async def page(self, limit: int, state: State | None, cursor: str | None, **more: Any) -> Page:
        """Lists."""
        page: Page = await self._pass(lambda: self.store.page(limit, state, cursor, **more))
        return page

    def peek(self, task_id: str, then: Callable[[Peeked], None]) -> None:
        """Reads by plain calls, unless the store is away."""
        if self.is_fine:
            self.store.peek(task_id, then)
        else:
            then(Unclear("away"))

    def peek_page(self, *arguments: Any, **more: Any) -> None:
        """Lists by plain calls."""
        self.store.peek_page(*arguments, **more)

    def tell(self, message: str) -> None:
        """Sends nothing: messages may be lost."""

    async def end_earlier_run(self) -> None:
        """Makes lost what an earlier run left."""
        await self._pass(self.store.end_earlier_run)

    async def watch(self, exempt: Container[str], on_silent: Callable[[str], object] = str) -> list[str]:
        """Looks."""
        names: list[str] = await self._pass(lambda: self.store.watch(exempt, on_silent))
        return names

    async def ask_cancel(self, name: str) -> None:
        """Asks."""
        await self._pass(lambda: self.store.ask_cancel(name))

    async def probe(self) -> None:
        """Answers."""
        await self._pass(self.store.probe)

    async def listen(self, on_cancel: Callable[[str], object]) -> None:
        """Hears nothing: cancels are found by looking."""

    async def close(self) -> None:
        """Gives the connections back."""
        await self.store.close()


class SteppedTracker(Tracker):
    """A tracker whose timers are the test's: it writes, beats and looks when it is told to."""

    async def write(self) -> None:
        """What the writer does when something is due, and the lookout while the store is away."""
        if not self.is_store_up:
            with suppress(StoreError):
                await self._writer._lookout._probe()
        self._outbox.end_linger()
        await self._writer.write_batch()

    def post_all(self) -> None:
        """What the timer does when heartbeats are due."""
        for task in self._in_flight.values():
            self._outbox.post(task)

    async def look(self) -> None:
        """What the writer does once a second."""
        for name in await self.answers.store.watch(self._writer.exempt, self._own.write_again):
            self._own.cancel(name)


class Gateway:
    """One run of one gateway process."""

    def __init__(self, url: str, number: int, run: int) -> None:
        self.number, self.run = number, run
        self.boot = boot = f"machine-run{run}-process{number}{run}"
        instance = f"gateway-{number}"
        self.weather = Weather(RedisStore(url, boot=boot, longest_ttl_seconds=7200, instance=instance))
        self.tracker = SteppedTracker(
            self.weather,
            algorithm_id="a",
            instance=instance,
            boot=boot,
            ttl_running_seconds=3600,
            ttl_done_seconds=7200,
            heartbeat_seconds=0.001,  # almost no grace after an outage
        )
        self.tasks: dict[str, TrackedTask] = {}
        self.held: asyncio.Task[None] | None = None  # the write in which it was stopped
        self.said: dict[str, Seen] = {}  # since it cannot ask the store

    def __repr__(self) -> str:
        return f"{self.number}.{self.run}"

    async def go_on(self, task_id: str, reason: Reason | None, is_end: bool) -> None:
        """What comes next for the request with this id: its claim, the next stage or its end."""
        task = self.tasks.get(task_id)
        if task is None:
            await self.claim(task_id)
        elif is_end or task.stage is Stage.STREAMING:
            self._end(task_id, reason)
        elif task.stage is Stage.QUEUED:
            self.tracker.forward(task)
        else:
            self.tracker.answer(task, 200, is_stream=True)

    async def claim(self, task_id: str) -> None:
        """A request comes in, as far as its claim."""
        beginning = asyncio.ensure_future(begun(self.tracker, task_id, "POST", "/v1/x", ""))
        await asyncio.gather(beginning, self.tracker.write(), return_exceptions=True)
        try:
            self.tasks[task_id] = task = beginning.result()
        except TaskIdInUse:
            return
        task.run_by(Cut(lambda: self._end(task_id, Reason.CANCELLED)))

    def _end(self, task_id: str, reason: Reason | None) -> None:
        self.tracker.finish(self.tasks.pop(task_id), reason, "the end")

    async def beat(self, grace_seconds: float = LONG_SECONDS) -> None:
        """All tasks in flight are written; they may then be silent for this long."""
        self.weather.grace_seconds = grace_seconds
        self.tracker.post_all()
        await self.tracker.write()
        self.weather.grace_seconds = LONG_SECONDS

    async def fall_silent(self) -> None:
        """Its heartbeats are late, though it lives on."""
        await self.beat(MOMENT_SECONDS)
        await elapse(3 * MOMENT_SECONDS, time.monotonic(), "the silence is noticed")

    async def pause(self) -> None:
        """It is stopped in the middle of a write, and silent from then on."""
        await self.fall_silent()
        self.weather.way.clear()
        self.held = asyncio.create_task(self.beat())
        await elapse(MOMENT_SECONDS, time.monotonic(), "the write is on its way")

    async def wake(self) -> None:
        """It goes on where it was, if it was stopped."""
        if self.held is not None:
            self.weather.way.set()
            await self.held
            self.held = None

    async def ask_cancel(self, task_id: str) -> None:
        """Asks all gateways for the end of a task, if it runs."""
        document = await self.tracker.read(task_id)
        if document is not None and not has_ended(document):
            await self.weather.ask_cancel(name_in(json.loads(document)))

    async def peek(self, task_id: str) -> str | None:
        """The status of a task by plain calls; None where they cannot tell."""
        answer: asyncio.Future[Peeked] = asyncio.get_running_loop().create_future()
        self.tracker.answers.peek(task_id, answer.set_result)
        found = await answer
        return None if found is None or isinstance(found, Unclear) else found[0].decode()

    async def die(self) -> None:
        """Nothing of it goes on."""
        if self.held is not None:
            self.held.cancel()
            await asyncio.gather(self.held, return_exceptions=True)
        await self.weather.close()


def _awake(machine: Histories) -> st.SearchStrategy[Gateway]:
    return st.sampled_from(machine.awake())


# Each draws from a gateway that is not paused, so that nearly every step does something.
an_awake = st.runner().flatmap(_awake)
task_ids = st.sampled_from(IDS)
a_reason = st.none() | st.sampled_from([reason for reason in Reason if reason is not Reason.LOST])


class Histories(RuleBasedStateMachine):
    """Few ids, three gateways, one store."""

    server: ClassVar[Server]
    runner: ClassVar[asyncio.Runner]
    client: ClassVar[redis.Redis]
    steps: ClassVar[Counter[str]]

    @initialize()
    def start(self) -> None:
        """Everything is well and nothing is known."""
        self.client.flushall()
        self.runs = 0
        self.gateways = [self.new_gateway(number) for number in range(GATEWAYS)]
        self.last: dict[str, int] = {}
        self.reached: dict[tuple[str, int], int] = {}
        self.ends: dict[tuple[str, int], str] = {}

    def new_gateway(self, number: int) -> Gateway:
        """A run of its own of gateway `number`."""
        self.runs += 1
        made: Gateway = self.run(self.made(number))
        return made

    async def made(self, number: int) -> Gateway:
        """As `new_gateway`, on the loop."""
        return Gateway(self.server.url, number, self.runs)

    def run(self, call: Coroutine[Any, Any, Any]) -> Any:
        """The result of an async call, on the loop of this test."""
        return self.runner.run(call)

    def awake(self) -> list[Gateway]:
        """The gateways that are not paused."""
        return [gateway for gateway in self.gateways if gateway.held is None]

    # -- requests --

    @rule(gateway=an_awake, task_id=task_ids)
    def claim(self, gateway: Gateway, task_id: str) -> None:
        """A request with this id comes in; it may be in use, here or elsewhere."""
        self.run(gateway.claim(task_id))

    @rule(gateway=an_awake, task_id=task_ids, reason=a_reason, is_end=st.booleans())
    def go_on(self, gateway: Gateway, task_id: str, reason: Reason | None, is_end: bool) -> None:
        """A request goes on or ends; nothing of it is written yet. Where none has the id, one comes in."""
        runner = next((other for other in self.awake() if task_id in other.tasks), gateway)
        self.run(runner.go_on(task_id, reason, is_end))

    @rule(gateway=an_awake, task_id=task_ids, reason=a_reason, is_end=st.booleans())
    def go_on_and_write(self, gateway: Gateway, task_id: str, reason: Reason | None, is_end: bool) -> None:
        """A request goes on or ends, and waits for the write of its status."""
        self.go_on(gateway, task_id, reason, is_end)
        self.run(gateway.tracker.write())

    @rule(gateway=an_awake)
    def beat(self, gateway: Gateway) -> None:
        """Heartbeats and all else that waits are written."""
        self.run(gateway.beat())

    # -- what pollers do --

    @rule(gateway=an_awake, task_id=task_ids)
    def read(self, gateway: Gateway, task_id: str) -> None:
        """A gateway never says less than the store or, while it cannot read that, less than it said before."""
        self.compare(gateway, task_id, self.run(_known(gateway.tracker.read(task_id))))
        self.compare(gateway, task_id, self.run(gateway.peek(task_id)))

    def compare(self, gateway: Gateway, task_id: str, document: str | None) -> None:
        """Compares an answer to a poller with what the store has; None is no answer."""
        if document is None:
            return
        attempt, rank, event, _ = _seen(document)
        if gateway.weather.is_fine and gateway.tracker.is_store_up:  # a busy machine makes a fine one look slow
            gateway.said.clear()
            before = self.stored().get(task_id, NOTHING)
            assert rank < FINAL or before[1] == PRESUMED or (attempt, rank) > before[:2] or event == before[2]
        else:
            before = gateway.said.get(task_id, NOTHING)
            gateway.said[task_id] = _seen(document)
        assert (attempt, rank) >= before[:2]

    @rule(gateway=an_awake, task_id=task_ids, state=st.none() | st.sampled_from(State))
    def poll(self, gateway: Gateway, task_id: str, state: State | None) -> None:
        """A poller cancels a task, then reads a list: each id is there once, and only ids that match."""
        self.run(_known(gateway.ask_cancel(task_id)))
        page = self.run(_known(gateway.tracker.answers.page(1000, state, None)))
        listed = [_seen(document) for document in page.documents] if page else []
        assert len({event for _, _, event, _ in listed}) == len(listed)
        assert {found for _, _, _, found in listed} <= ({state} if state else set(State))

    @rule(gateway=an_awake)
    def look(self, gateway: Gateway) -> None:
        """A gateway looks for what is silent and for what is to be cancelled."""
        self.run(_known(gateway.tracker.look()))

    # -- what goes wrong --

    @rule(gateway=an_awake, trouble=st.sampled_from(["silent", "refused", "unheard", "paused", "killed"]))
    def suffer(self, gateway: Gateway, trouble: str) -> None:
        """A gateway misses its heartbeats, loses the store or its answers, is stopped or killed."""
        weather = gateway.weather
        if trouble == "silent":
            self.run(gateway.fall_silent())
        elif trouble in ("refused", "unheard"):
            weather.is_refusing, weather.loses_answers = trouble == "refused", trouble == "unheard"
        elif trouble == "paused":
            if len(self.awake()) > 1:
                self.run(gateway.pause())
        else:
            self.kill(gateway)

    def kill(self, gateway: Gateway) -> None:
        """A gateway goes without a word. Its successor makes lost what it left, or it falls silent."""
        is_found_by_silence = gateway.weather.is_fine
        if is_found_by_silence:
            self.run(gateway.fall_silent())
        self.run(gateway.die())
        self.gateways[gateway.number] = successor = self.new_gateway(gateway.number)
        if not is_found_by_silence:
            self.run(successor.weather.end_earlier_run())

    @rule(gateway=an_awake)
    def recover(self, gateway: Gateway) -> None:
        """A gateway reaches its store again, and who was stopped goes on: his write comes late."""
        for other in self.gateways:
            self.run(other.wake())
        gateway.weather.is_refusing = gateway.weather.loses_answers = False
        self.run(gateway.tracker.write())

    # -- what has to hold --

    def stored(self) -> dict[str, Seen]:
        """What the store says of each id."""
        texts = self.client.mget([DOCUMENTS + task_id for task_id in IDS])
        return {task_id: _seen(str(text)) for task_id, text in zip(IDS, texts, strict=True) if text is not None}

    @invariant()
    def nothing_goes_back(self) -> None:
        """An end stays as it is, ranks and attempts never fall, and what was there is there.

        A presumed loss is no end, and has no rank.
        """
        self.steps["all"] += 1
        now = self.stored()
        assert now.keys() >= self.last.keys()
        for task_id, (attempt, rank, event, state) in now.items():
            assert attempt >= self.last.get(task_id, 0), task_id
            self.steps["presumed"] += rank == PRESUMED
            if rank == PRESUMED:
                assert (task_id, attempt) not in self.ends, task_id
                continue
            assert rank >= self.reached.get((task_id, attempt), 0), task_id
            self.reached[task_id, attempt] = rank
            if rank == FINAL:
                assert self.ends.setdefault((task_id, attempt), event + state) == event + state, task_id
        self.last = {task_id: seen[0] for task_id, seen in now.items()}

    @invariant()
    def only_the_dead_are_lost_for_good(self) -> None:
        """A gateway that lives has no task that is lost for good."""
        living = {gateway.boot for gateway in self.gateways}
        for text in self.client.mget([DOCUMENTS + task_id for task_id in IDS]):
            fields = json.loads(str(text)) if text is not None else {}
            if fields.get("stage") == Stage.LOST:
                assert fields["extensions"]["is_presumed"] or fields["extensions"]["boot"] not in living

    @invariant()
    def lists_agree(self) -> None:
        """Each document is listed once, under its own state, and what is in flight is watched."""
        documents = self.stored()
        with self.client.pipeline(transaction=False) as pipe:
            for key in (*State, "beats"):
                pipe.zrange(LIST_PREFIX + key, 0, -1)
            *by_state, beats = pipe.execute()
        for state, places in zip(State, by_state, strict=True):
            listed = sorted(place[14:] for place in places if place[0] != "#")
            assert listed == sorted(task_id for task_id, seen in documents.items() if seen[3] == state), state
        assert set(beats) == {task_id for task_id, seen in documents.items() if PRESUMED < seen[1] < FINAL}
        names = self.client.zrange(LIST_PREFIX + "presumed", 0, -1)
        assert {id_in(str(name)) for name in names} == {i for i, seen in documents.items() if seen[1] == PRESUMED}

    def all_is_true(self) -> None:
        """What each gateway knows of its own requests, the store says, unless another request has the id now."""
        for gateway in self.gateways:
            for task_id, task in gateway.tracker._own.by_id().items():
                fields = json.loads(str(self.client.get(DOCUMENTS + task_id)))
                is_another = name_in(fields) != gateway.tracker._own.name(task)
                assert is_another or fields["stage"] == task.stage, task_id
                assert not is_another or fields["extensions"]["attempt"] >= task.likely_attempt, task_id

    def teardown(self) -> None:
        """When all is well again everybody can write what he has, and all of it still holds."""
        if not hasattr(self, "gateways"):
            return
        for gateway in self.gateways:
            self.recover(gateway)
            for _ in range(WRITES):
                self.run(gateway.tracker.write())
            assert gateway.tracker.unsaved == 0
        self.nothing_goes_back()
        self.lists_agree()
        self.all_is_true()
        for gateway in self.gateways:
            self.run(gateway.die())


async def _known(call: Coroutine[Any, Any, Any]) -> Any:
    """What a call answers; None where the store is away."""
    try:
        return await call
    except (StoreError, StoreUnavailable, GatewayError):
        return None


def _seen(text: str) -> Seen:
    fields = json.loads(text)
    rank = PRESUMED if is_presumed(fields) else rank_of(fields)
    return fields["extensions"]["attempt"], rank, fields["event_id"], fields["state"]


@pytest.mark.alone  # an answer of the store that comes after 250 ms would count as none
@pytest.mark.timeout(300)
def test_no_history_makes_a_status_untrue(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 10,000 steps no end ever changes, no rank and no attempt falls, and lists agree with documents.

    When all is well again, no status of a living gateway is wrong.
    """
    monkeypatch.setattr(waits, "END_SECONDS", 0)  # nothing here ends while a claim waits
    steps: Counter[str] = Counter()
    with asyncio.Runner() as runner, redis.Redis(port=server.port, decode_responses=True) as client:
        parts = {"server": server, "runner": runner, "client": client, "steps": steps}
        run_state_machine_as_test(
            type("Machine", (Histories,), parts),
            settings=settings(
                deadline=None,
                max_examples=EXAMPLES,
                stateful_step_count=STEPS_EACH,
                phases=[Phase.generate],  # shrinking would take minutes
                suppress_health_check=list(HealthCheck),
            ),
        )
    assert steps["all"] >= STEPS
    assert steps["presumed"] > 20
