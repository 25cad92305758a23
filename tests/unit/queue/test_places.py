"""Places with Ollama: the bound, the bounded queue, its Retry-After, and an Ollama that refuses connections."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from gateway.errors import GatewayError, QueueFull, ShuttingDown, UpstreamUnavailable
from gateway.queue import places as module
from gateway.queue.fair import Standing
from gateway.queue.places import REFUSAL_SECONDS, Place, Places
from tests.support.waiting import next_turn, until

if TYPE_CHECKING:
    from collections.abc import Callable

REFUSED = UpstreamUnavailable("refused")


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Request:
    """A request that goes to Ollama as soon as it has a place, unless Ollama refuses."""

    def __init__(
        self,
        places: Places,
        owner: str = "",
        *,
        is_ready: bool = False,
        refuses: Callable[[], bool] = lambda: False,
    ) -> None:
        self.refuses = refuses
        self.tries = 0
        self.waited: float | None = None
        self.error: GatewayError | None = None
        self.place: Place = places.reserve(owner, is_low=False, is_ready=is_ready)
        self.place.used_by(self)
        if is_ready:  # as the relay does
            if self.place.standing is Standing.PLACED:
                self.on_place()
            else:
                self.place.ready()

    def on_place(self) -> None:
        self.tries += 1
        if not self.refuses():
            self.waited = self.place.run()
        elif not self.place.refused(REFUSED):
            self.on_cut(REFUSED)

    def on_cut(self, error: GatewayError, /) -> None:
        self.error = error
        self.place.leave()

    @property
    def is_running(self) -> bool:
        return self.place.standing is Standing.RUNNING

    def ready(self) -> Request:
        """As it says; returns itself."""
        self.place.ready()
        return self


def make(max_running: int, max_queued: int, clock: Clock | None = None) -> Places:
    """Places by a clock that stands still, unless the test moves it."""
    return Places(max_running, max_queued, clock or Clock())


def test_a_place_that_is_given_back_goes_to_the_next_in_the_same_step() -> None:
    """And leaving twice gives it back once."""
    places = make(2, 10)
    requests = [Request(places).ready() for _ in range(4)]
    assert [one.is_running for one in requests] == [True, True, False, False]
    for _ in range(2):
        requests[0].place.leave()
    assert [one.is_running for one in requests] == [False, True, True, False]
    assert (places.running, places.waiting) == (2, 1)


def test_a_full_queue_refuses_a_newcomer_or_displaces_another_keys_youngest() -> None:
    """The one that has to leave is told why. Nothing else changes."""
    places = make(1, 2)
    running, first, youngest = (Request(places, "alice").ready() for _ in range(3))
    assert places.is_full
    with pytest.raises(QueueFull):
        Request(places, "alice")
    bobs = Request(places, "bob").ready()
    assert isinstance(youngest.error, QueueFull)
    assert (running.is_running, first.error, bobs.error) == (True, None, None)
    assert [one.place.position for one in (running, first, youngest, bobs)] == [None, 2, None, 1]


def test_a_request_that_is_ready_has_its_place_at_once_if_none_waits() -> None:
    """One that waits is not overtaken."""
    places = make(2, 10)
    first = Request(places, is_ready=True)
    uploading = Request(places)
    second, third = (Request(places, is_ready=True) for _ in range(2))
    assert [one.is_running for one in (first, second, third)] == [True, True, False]
    uploading.ready()
    first.place.leave()
    assert [one.is_running for one in (uploading, third)] == [True, False]


def test_without_a_queue_only_a_free_place_is_given() -> None:
    """MAX_QUEUED 0: a request may wait for its own body, and for nothing else."""
    places = make(1, 0)
    uploading = Request(places)
    with pytest.raises(QueueFull):
        Request(places)
    assert uploading.ready().is_running


def test_how_long_each_waited_is_known_once_it_runs() -> None:
    """From its arrival until it was given its place, in seconds."""
    clock = Clock()
    places = make(1, 5, clock)
    first, second = Request(places).ready(), Request(places).ready()
    clock.now += 3
    first.place.leave()
    assert (first.waited, second.waited) == (0, 3)


@pytest.mark.parametrize(
    ("took", "running_for", "seconds"),
    [
        ([], [1], 5),
        ([10], [4], 6),
        ([10, 20], [4], 11),
        ([0.2], [0.1], 1),
        ([1000], [3], 120),
        ([10], [2, 7], 3),
        ([10], [14, 12], 5),
    ],
    ids=["no history", "what is left", "the mean", "at least", "at most", "the soonest", "overdue"],
)
def test_retry_after_says_when_the_next_place_comes_free(
    took: list[float], running_for: list[float], seconds: int
) -> None:
    """By what places took lately."""
    clock = Clock()
    places = make(len(running_for), 0, clock)
    for one in took:
        request = Request(places).ready()
        clock.now += one
        request.place.leave()
    for longer, shorter in itertools.pairwise([*sorted(running_for, reverse=True), 0]):
        Request(places).ready()
        clock.now += longer - shorter
    with pytest.raises(QueueFull) as refused:
        Request(places)
    assert refused.value.retry_after_seconds == seconds


@pytest.mark.asyncio
async def test_while_ollama_refuses_all_wait_and_go_on_once_it_takes_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that has a place tries again and again; no other gets one. Positions do not grow meanwhile."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    is_refusing = True
    places = make(2, 10)
    requests = [Request(places, refuses=lambda: is_refusing).ready() for _ in range(4)]
    assert [one.place.position for one in requests] == [1, 2, 3, 4]
    await until(lambda: requests[0].tries > 3, 5, "more tries")
    assert [one.place.position for one in requests] == [1, 2, 3, 4]
    assert [one.tries for one in requests[1:]] == [0, 0, 0]
    is_refusing = False
    await until(lambda: requests[1].is_running, 5, "both places are used")
    assert [one.place.position for one in requests] == [None, None, 1, 2]


@pytest.mark.asyncio
async def test_if_the_one_that_tries_leaves_another_one_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the queue would wait for ever."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    is_refusing = True
    places = make(1, 10)
    first, second = (Request(places, refuses=lambda: is_refusing).ready() for _ in range(2))
    first.place.leave()
    assert second.tries == 0
    await until(lambda: second.tries > 1, 5, "the second tries")
    is_refusing = False
    await until(lambda: second.is_running, 5, "it runs")


class Connecting(Request):
    """A request that connects to Ollama until the test says how that ends."""

    def on_place(self) -> None:
        self.tries += 1


@pytest.mark.asyncio
async def test_one_that_was_refused_tries_again_though_another_got_through_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two connect at once, as Ollama comes up: the one that was refused must not keep its place for nothing."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    places = make(2, 10)
    refused, lucky, waiting = (Connecting(places).ready() for _ in range(3))
    assert refused.place.refused(REFUSED)
    lucky.place.run()
    await until(lambda: refused.tries == 2, 5, "it tries again")
    refused.place.run()
    lucky.place.leave()
    assert waiting.tries == 1


@pytest.mark.asyncio
async def test_one_with_a_place_whose_body_is_not_here_keeps_none_from_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its place ahead of its body, and may never ask Ollama."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    places = make(2, 10)
    _without_body, refused, waiting = (Connecting(places).ready() for _ in range(3))
    assert refused.place.refused(REFUSED)
    refused.place.leave()
    await until(lambda: waiting.tries == 1, 5, "the next one tries")


@pytest.mark.asyncio
async def test_one_that_comes_after_the_last_refusal_is_not_dismissed_without_a_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that were refused have left, so Ollama may be up for long."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    clock = Clock()
    places = make(1, 10, clock)
    refused = Request(places, refuses=lambda: True).ready()
    refused.place.leave()
    clock.now += REFUSAL_SECONDS
    late = Request(places).ready()
    await until(lambda: late.is_running or late.error is not None, 5, "it tries, or is dismissed")
    assert late.error is None


@pytest.mark.asyncio
async def test_after_fifteen_seconds_of_refusals_all_that_wait_are_dismissed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then each request tries once and fails at once, until Ollama takes one, or was not asked for as long again."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.01)
    clock = Clock()
    places = make(1, 10, clock)
    requests = [Request(places, refuses=lambda: True).ready() for _ in range(3)]
    clock.now += REFUSAL_SECONDS
    await until(lambda: all(one.error for one in requests), 5, "all are dismissed")
    assert {type(one.error) for one in requests} == {UpstreamUnavailable}
    assert requests[2].tries == 0, "none gets the place of one that was dismissed before it"
    assert (places.running, places.waiting) == (0, 0)
    for late in (Request(places, refuses=lambda: True).ready(), Request(places, is_ready=True, refuses=lambda: True)):
        assert (late.tries, late.error) == (1, REFUSED)
    clock.now += REFUSAL_SECONDS + 1
    much_later = Request(places, refuses=lambda: True).ready()
    assert (much_later.tries, much_later.error) == (1, None)
    lucky = Request(places).ready()
    much_later.place.leave()
    await until(lambda: lucky.is_running, 5, "it runs")


def test_a_closed_queue_gives_no_place() -> None:
    """Those that wait are dismissed; a place that comes free stays free."""
    places = make(1, 10)
    running, *waiting = (Request(places).ready() for _ in range(3))
    places.close(ShuttingDown("stopping"))
    assert [type(one.error) for one in waiting] == [ShuttingDown, ShuttingDown]
    with pytest.raises(ShuttingDown):
        Request(places, is_ready=True)
    running.place.leave()
    assert [one.tries for one in waiting] == [0, 0]
    assert (places.running, places.waiting) == (0, 0)


@pytest.mark.asyncio
async def test_whatever_happens_no_place_is_lost_and_none_too_many_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 steps of requests that come, run, end, leave and are refused: at the end all places are free again."""
    monkeypatch.setattr(module, "_TRY_SECONDS", 0.0)
    chance, places, is_refusing = random.Random(15), make(4, 20), False

    def refuses() -> bool:
        return is_refusing

    alive: list[Request] = []
    for _ in range(2000):
        step = chance.random()
        if step < 0.5 and not places.is_full:
            alive.append(Request(places, chance.choice("abc"), is_ready=chance.random() < 0.3, refuses=refuses))
        elif step < 0.8 and alive:
            chance.choice(alive).ready()
        elif step < 0.95 and alive:
            alive.pop(chance.randrange(len(alive))).place.leave()
        else:
            is_refusing = chance.random() < 0.3
            await next_turn()
        alive = [one for one in alive if one.error is None]
        assert places.running <= 4
        assert places.running + places.waiting == len(alive) <= 24
    is_refusing = False
    while alive:
        for one in alive:
            one.ready()
        await until(lambda: any(one.is_running for one in alive), 5, "one runs")
        for one in [one for one in alive if one.is_running]:
            one.place.leave()
            alive.remove(one)
    assert (places.running, places.waiting, places.queue.places) == (0, 0, 0)
