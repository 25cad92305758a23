"""What gateways tell each other of tasks that are waited for: once per event, bounded, and only of their own tasks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from gateway.store.interface import request_name
from gateway.tasks.document import complete_document, document_head, found_in
from gateway.tasks.stages import Stage
from gateway.tracking import notices as notices_module
from gateway.tracking.notices import Notices
from gateway.tracking.outbox import Outbox
from gateway.tracking.own import OwnTasks, dropping
from gateway.tracking.tracked import TrackedTask
from tests.support.tracking import Cut
from tests.support.waiting import until

if TYPE_CHECKING:
    from gateway.tasks.document import Found

MOST_NAMES = 100
MOST_ASKED = 10_000


class Bus:
    """A channel that all gateways hear, their own messages too."""

    def __init__(self) -> None:
        self.gateways: list[Gateway] = []
        self.messages: list[str] = []

    def tell(self, message: str) -> None:
        """A message reaches every gateway."""
        self.messages.append(message)
        for gateway in self.gateways:
            if not gateway.notices.hear(message):
                gateway.own.hear(message)

    async def sent(self) -> None:
        """Waits until nothing is gathered that is still to be sent."""
        await until(lambda: not any(gateway.notices._is_sending for gateway in self.gateways))

    @property
    def names(self) -> list[tuple[str, str]]:
        """The kind of each name that was sent, and the name with what follows."""
        return [(message[0], name) for message in self.messages for name in message[1:].split("\n")]


class Gateway:
    """One gateway with its own tasks."""

    def __init__(self, bus: Bus, boot: str) -> None:
        self.boot = boot
        self.in_flight: dict[str, TrackedTask] = {}
        self.own = OwnTasks(self.in_flight, Outbox(), boot)
        self.changed: list[str] = []
        self.notices = Notices(bus.tell, self.own, self.changed.append)
        bus.gateways.append(self)

    def begin(self, task_id: str = "t", created_ms: int = 1000) -> TrackedTask:
        """A task of this gateway that runs."""
        task = self.in_flight[task_id] = TrackedTask(task_id, "POST", "/v1/x", "", created_ms, 1)
        return task

    def found(self, task: TrackedTask) -> Found:
        """The present status of a task of this gateway."""
        head = document_head(task, algorithm_id="a", instance="i", boot=self.boot, now=1)
        return found_in(complete_document(head, 1))


@pytest.fixture
def bus() -> Bus:
    """The channel."""
    return Bus()


@pytest.fixture
def runner(bus: Bus) -> Gateway:
    """The gateway that runs the tasks."""
    return Gateway(bus, "boot-1")


@pytest.fixture
def other(bus: Bus) -> Gateway:
    """The gateway of the pollers."""
    return Gateway(bus, "boot-2")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic time, which a test moves."""
    now = [1000.0]
    monkeypatch.setattr(notices_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


async def test_a_change_is_told_to_who_asked(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """The gateway of the poller asks, and hears of each next event, once the store has it."""
    task = runner.begin()
    found = runner.found(task)
    other.notices.ask(found)
    await until(lambda: runner.notices.asked)
    await bus.sent()
    assert other.changed == []
    for stage in (Stage.FORWARDING, Stage.STREAMING):
        before = list(other.changed)
        task.stage, task.event_id = stage, f"event-{stage}"
        await bus.sent()
        assert other.changed == before, "the store does not have it yet"
        runner.notices.written(task)
        await until(lambda before=before: other.changed == [*before, "t"])  # type: ignore[misc]
    assert bus.names == [("?", f"{runner.own.name(task)} {found[1].event_id}"), *[("=", runner.own.name(task))] * 2]


async def test_a_heartbeat_tells_nothing(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """A write of the event that the asking gateway knows is no news."""
    task = runner.begin()
    other.notices.ask(runner.found(task))
    await bus.sent()
    for _ in range(5):
        runner.notices.written(task)
    await bus.sent()
    assert (other.changed, len(bus.messages)) == ([], 1)


async def test_a_change_before_the_question_is_told_at_once(runner: Gateway, other: Gateway) -> None:
    """The question names the event that is known: if it is past already, no write has to come."""
    task = runner.begin()
    found = runner.found(task)
    task.event_id = "a-newer-one"
    other.notices.ask(found)
    await until(lambda: other.changed == ["t"])


async def test_it_asks_once_per_event(bus: Bus, runner: Gateway, other: Gateway, clock: list[float]) -> None:
    """However many pollers wait; for another event at once, and again after 20 seconds: messages may be lost."""
    task = runner.begin()
    found = runner.found(task)
    for _ in range(1000):
        other.notices.ask(found)
    await bus.sent()
    assert len(bus.names) == 1
    clock[0] += 19.9
    other.notices.ask(found)
    await bus.sent()
    assert len(bus.names) == 1
    clock[0] += 0.2
    other.notices.ask(found)
    await bus.sent()
    assert len(bus.names) == 2
    task.event_id = "another"
    other.notices.ask(runner.found(task))
    await bus.sent()
    assert len(bus.names) == 3


async def test_only_own_requests_are_told_of(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """Another request with the same id, of another boot or of another time, and an unknown id are not answered."""
    task = runner.begin()
    event = runner.found(task)[1].event_id
    for name in ("boot-3:1000:t", "boot-1:999:t", "boot-1:1000:none", "t", "", ":", "::", "boot-1:1000:t:x"):
        runner.notices.hear(f"?{name} an-older-event")
        runner.notices.hear(f"?{name}")
    await bus.sent()
    assert (runner.notices.asked, other.changed, bus.messages) == ({}, [], [])
    runner.notices.hear(f"?{request_name('boot-1', 1000, 't')} {event}")
    assert list(runner.notices.asked) == [runner.own.name(task)]


async def test_a_task_that_was_not_asked_for_is_not_told(bus: Bus, runner: Gateway) -> None:
    """Without a poller elsewhere nothing is sent."""
    task = runner.begin()
    runner.found(task)
    for stage in (Stage.FORWARDING, Stage.STREAMING):
        task.stage, task.event_id = stage, f"event-{stage}"
        runner.notices.written(task)
    await bus.sent()
    assert bus.messages == []


async def test_an_end_is_told_and_forgotten(runner: Gateway, other: Gateway) -> None:
    """After its last event no task is kept among those that were asked for."""
    task = runner.begin()
    other.notices.ask(runner.found(task))
    await until(lambda: runner.notices.asked)
    task.finish(None, "", 2000)
    task.event_id = "the-end"
    task.sent()
    task.saved(1)
    runner.notices.written(task)
    await until(lambda: other.changed == ["t"])
    assert runner.notices.asked == {}


async def test_what_was_asked_for_long_ago_is_forgotten(
    bus: Bus, runner: Gateway, other: Gateway, clock: list[float]
) -> None:
    """A poller waits for a minute at most; the next write after 90 seconds is the last that is told."""
    task = runner.begin()
    other.notices.ask(runner.found(task))
    await bus.sent()
    clock[0] += 89
    runner.notices.written(task)
    assert runner.notices.asked
    clock[0] += 2
    runner.notices.written(task)
    assert runner.notices.asked == {}


async def test_the_tables_are_bounded(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """Ten thousand tasks on each side; the one that was asked for longest ago leaves."""
    for n in range(MOST_ASKED + 10):
        other.notices.ask(runner.found(runner.begin(f"t{n}")))
    await bus.sent()
    assert (len(other.notices._asking), len(runner.notices.asked)) == (MOST_ASKED, MOST_ASKED)
    assert next(iter(runner.notices.asked)).endswith(":t10")
    assert list(runner.notices.asked)[-1].endswith(f":t{MOST_ASKED + 9}")
    assert len(bus.names) == MOST_ASKED + 10


async def test_many_names_go_in_few_messages(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """What comes together is gathered, up to 100 names in a message; each reaches its gateway."""
    tasks = [runner.begin(f"t{n}") for n in range(250)]
    for task in tasks:
        other.notices.ask(runner.found(task))
    await bus.sent()
    assert [message.count("\n") + 1 for message in bus.messages] == [MOST_NAMES, MOST_NAMES, 50]
    assert len(runner.notices.asked) == 250
    bus.messages.clear()
    for task in tasks:
        task.event_id = f"event-{task.task_id}"
        runner.notices.written(task)
    await bus.sent()
    assert [message.count("\n") + 1 for message in bus.messages] == [MOST_NAMES, MOST_NAMES, 50]
    assert other.changed == [f"t{n}" for n in range(250)]


async def test_cancels_and_drops_still_arrive(bus: Bus, runner: Gateway, other: Gateway) -> None:
    """They go over the same channel: a name alone, or one behind an exclamation mark."""
    task, cut = runner.begin(), list[str]()
    task.run_by(Cut(lambda: cut.append("cut")))
    name = runner.own.name(task)
    for message in (name, dropping(name)):
        assert not other.notices.hear(message)
        assert not runner.notices.hear(message)
    bus.tell(name)
    assert cut == ["cut"]
    assert (runner.changed, other.changed) == ([], [])


@pytest.mark.parametrize(
    "message",
    [
        "", "?", "=", "?\n\n", "=\n\n", "? ", "?a b c d", "=::", "=a:b", "+later", "{}", "\x00", "?" + "\n" * 5000,
        "~boot-1:1000:t", "=boot-1:1000:t more", "?boot-1:1000:t", "\u2028", "!", "!=", "!?",
    ],
)  # fmt: skip
async def test_messages_of_another_version_are_no_harm(bus: Bus, runner: Gateway, message: str) -> None:
    """What cannot be read is left out; at worst a status is looked at once more."""
    task, cut = runner.begin(), list[str]()
    task.run_by(Cut(lambda: cut.append("cut")))
    runner.found(task)
    bus.tell(message)
    await bus.sent()
    assert cut == []
    assert len(runner.notices.asked) <= 1


def test_an_earlier_version_takes_notices_for_names_of_no_task(runner: Gateway) -> None:
    """It reads each message as the name of a request to cancel; none of its requests has such a name."""
    task, cut = runner.begin(), list[str]()
    task.run_by(Cut(lambda: cut.append("cut")))
    name = runner.own.name(task)
    for message in (f"={name}", f"?{name} event", f"={name}\n{name}", f"?{name} event\n{name} event"):
        runner.own.hear(message)
    assert cut == []


@pytest.mark.parametrize("kind", ["?", "="])
def test_a_message_of_too_many_names_is_cut(runner: Gateway, kind: str) -> None:
    """Any client of the store can publish there: as many names count as a gateway sends, so a flood takes no time."""
    task = runner.begin()
    more = "\n".join(["another:1:x event"] * 100_000)
    assert runner.notices.hear(f"{kind}{more}\n{runner.own.name(task)} event")
    assert runner.notices.asked == {}
    assert len(runner.changed) in (0, MOST_NAMES)
    assert "t event" not in runner.changed


def test_a_task_that_is_superseded_does_not_run_here(runner: Gateway) -> None:
    """Another request has its id, at another gateway: pollers here wait for that one, and it has to be looked for."""
    task = runner.begin()
    assert runner.own.runs("t")
    task.superseded()
    assert not runner.own.runs("t")
    assert not runner.own.runs("another")
