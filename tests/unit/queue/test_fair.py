"""Whose turn it is: the rules, by examples and against a model that sorts everything anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from gateway.queue.fair import FairQueue, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable

PLACES = 3
OWNERS = ("", "alice", "bob", "carol")


class Ticket:
    """A request."""

    def __init__(self, owner: str, *, is_low: bool, is_ready: bool) -> None:
        self.owner = owner
        self.is_low = is_low
        self.is_ready = is_ready
        self.number = 0
        self.standing = Standing.GONE


class Queue(FairQueue[Ticket]):
    """A queue with the steps that tests take."""

    def add(self, owner: str = "", *, is_low: bool = False, is_ready: bool = True) -> Ticket:
        """A new ticket, which waits."""
        ticket = Ticket(owner, is_low=is_low, is_ready=is_ready)
        self.join(ticket)
        return ticket

    def turns(self, count: int) -> list[Ticket | None]:
        """Who gets the next places, with none given back."""
        return [self.place_next() for _ in range(count)]

    def positions(self, tickets: Iterable[Ticket]) -> list[int | None]:
        """The position of each."""
        return [self.position(ticket) for ticket in tickets]


def test_without_keys_the_first_in_is_the_first_out() -> None:
    """Positions are the order of arrival, and shrink only."""
    queue = Queue()
    tickets = [queue.add() for _ in range(4)]
    assert queue.positions(tickets) == [1, 2, 3, 4]
    assert queue.turns(2) == tickets[:2]
    queue.run(tickets[0])
    assert queue.positions(tickets) == [None, 1, 2, 3]
    queue.leave(tickets[2])
    assert queue.positions(tickets) == [None, 1, None, 2]


def test_the_key_with_the_fewest_places_is_next() -> None:
    """A key that has a place waits for one that has none, however long it has waited."""
    queue = Queue()
    first, second, third = (queue.add("alice") for _ in range(3))
    assert queue.place_next() is first
    bobs = queue.add("bob")
    assert queue.positions([second, third, bobs]) == [3, 4, 2]
    assert queue.turns(3) == [bobs, second, third]


def test_among_equal_keys_the_one_that_was_served_longest_ago_is_next() -> None:
    """And a key that was never served comes before all of them."""
    queue = Queue()
    for owner in ("alice", "bob"):
        queue.add(owner)
    for served in queue.turns(2):
        assert served is not None
        queue.leave(served)
    bobs, alices, carols = queue.add("bob"), queue.add("alice"), queue.add("carol")
    assert queue.turns(3) == [carols, alices, bobs]


def test_low_priority_waits_behind_everything_that_is_not_low() -> None:
    """Whatever its key has, and however long it has waited."""
    queue = Queue()
    low = queue.add("alice", is_low=True)
    others = [queue.add("bob") for _ in range(3)]
    assert queue.positions([low, *others]) == [4, 1, 2, 3]
    assert queue.turns(4) == [*others, low]


def test_the_turn_of_a_request_that_is_not_ready_passes() -> None:
    """It keeps its position, and has its turn once it is ready."""
    queue = Queue()
    slow, fast = queue.add(is_ready=False), queue.add()
    assert queue.positions([slow, fast]) == [1, 2]
    assert queue.place_next() is fast
    assert queue.place_next() is None
    slow.is_ready = True
    assert queue.place_next() is slow


@pytest.mark.parametrize(
    ("waiting", "newcomer", "displaced"),
    [
        ({}, "alice", None),
        ({"alice": 3}, "alice", None),
        ({"alice": 3}, "bob", "alice"),
        ({"alice": 3, "bob": 2}, "bob", "alice"),
        ({"alice": 3, "bob": 3}, "bob", None),
        ({"alice": 3, "bob": 3}, "carol", "alice"),
    ],
)
def test_a_newcomer_displaces_the_youngest_of_the_key_with_the_most(
    waiting: dict[str, int], newcomer: str, displaced: str | None
) -> None:
    """If its own key has fewer waiting; a place does not count as waiting."""
    queue = Queue()
    queue.add(newcomer)
    queue.place_next()
    tickets = {owner: [queue.add(owner, is_low=n % 2 == 1) for n in range(count)] for owner, count in waiting.items()}
    found = queue.displaced_by(newcomer)
    assert found is (tickets[displaced][-1] if displaced else None)


class Turns(RuleBasedStateMachine):
    """Requests of a few keys come, get ready, get places and leave, in any order."""

    tickets = Bundle("tickets")

    def __init__(self) -> None:
        super().__init__()
        self.queue = Queue()
        self.all: list[Ticket] = []
        self.turns: dict[str, int] = {}  # the last turn of each key
        self.turn = 0

    def standing(self, *standings: Standing) -> list[Ticket]:
        """The tickets that stand there, in order of arrival."""
        return [ticket for ticket in self.all if ticket.standing in standings]

    def order(self, waiting: list[Ticket]) -> list[Ticket]:
        """The contract's rule, applied once for each of `waiting`."""
        places = dict.fromkeys(OWNERS, 0)
        for ticket in self.standing(Standing.PLACED, Standing.RUNNING):
            places[ticket.owner] += 1
        turns, turn, left, order = dict(self.turns), self.turn, list(waiting), []
        while left:
            first = min(left, key=lambda one: (one.is_low, places[one.owner], turns.get(one.owner, 0), one.number))
            left.remove(first)
            order.append(first)
            turn += 1
            places[first.owner] += 1
            turns[first.owner] = turn
        return order

    @rule(target=tickets, owner=st.sampled_from(OWNERS), is_low=st.booleans(), is_ready=st.booleans())
    def join(self, owner: str, *, is_low: bool, is_ready: bool) -> Ticket:
        """A request comes."""
        self.all.append(self.queue.add(owner, is_low=is_low, is_ready=is_ready))
        return self.all[-1]

    @precondition(lambda self: self.queue.places < PLACES and not self.queue.waiting)
    @rule(target=tickets, owner=st.sampled_from(OWNERS))
    def place_at_once(self, owner: str) -> Ticket:
        """A request comes while none waits: it has its turn at once."""
        ticket = Ticket(owner, is_low=False, is_ready=True)
        self.queue.place(ticket)
        self.all.append(ticket)
        self.turn += 1
        self.turns[owner] = self.turn
        return ticket

    @rule(ticket=tickets)
    def get_ready(self, ticket: Ticket) -> None:
        """Its body is here."""
        ticket.is_ready = True

    @precondition(lambda self: self.queue.places < PLACES)
    @rule()
    def place(self) -> None:
        """A free place goes to the first of those that are ready."""
        ready = self.order([ticket for ticket in self.standing(Standing.WAITING) if ticket.is_ready])
        placed = self.queue.place_next()
        assert placed is (ready[0] if ready else None)
        if placed is not None:
            self.turn += 1
            self.turns[placed.owner] = self.turn

    @precondition(lambda self: self.standing(Standing.PLACED))
    @rule(data=st.data())
    def run(self, data: st.DataObject) -> None:
        """It is with Ollama."""
        self.queue.run(data.draw(st.sampled_from(self.standing(Standing.PLACED))))

    @rule(ticket=consumes(tickets))
    def leave(self, ticket: Ticket) -> None:
        """It ends, is cancelled, or its time is over. A second time does nothing."""
        assert self.queue.leave(ticket)
        assert not self.queue.leave(ticket)

    @invariant()
    def no_place_is_lost(self) -> None:
        """The counts are those of the tickets, and never above the bound."""
        assert self.queue.places == len(self.standing(Standing.PLACED, Standing.RUNNING)) <= PLACES
        assert self.queue.waiting == len(self.standing(Standing.WAITING))
        assert self.queue.length == len(self.queue.not_running())

    @invariant()
    def positions_are_the_order_of_turns(self) -> None:
        """Those that have a place come first."""
        placed = self.standing(Standing.PLACED)
        waiting = self.order(self.standing(Standing.WAITING))
        assert sorted(self.queue.positions(placed), key=lambda position: position or 0) == list(
            range(1, len(placed) + 1)
        )
        assert self.queue.positions(waiting) == list(range(len(placed) + 1, len(placed) + len(waiting) + 1))
        others = self.standing(Standing.RUNNING, Standing.GONE)
        assert self.queue.positions(others) == [None] * len(others)

    def teardown(self) -> None:
        """Once all are ready and places come free, each request has its turn: none is starved."""
        waiting = self.standing(Standing.WAITING)
        for ticket in waiting:
            ticket.is_ready = True
        for ticket in self.standing(Standing.PLACED, Standing.RUNNING):
            self.queue.leave(ticket)
        for _ in waiting:
            served = self.queue.place_next()
            assert served is not None
            self.queue.leave(served)
        assert (self.queue.places, self.queue.waiting) == (0, 0)


TestTurns = Turns.TestCase


def test_keys_that_always_wait_are_served_in_turn() -> None:
    """However many requests each has: after any number of turns two keys differ by one at most."""
    queue = Queue()
    for owner, count in (("alice", 100), ("bob", 60), ("carol", 60)):
        for _ in range(count):
            queue.add(owner)
    served = dict.fromkeys(("alice", "bob", "carol"), 0)
    running = []
    for _ in range(150):
        ticket = queue.place_next()
        assert ticket is not None
        served[ticket.owner] += 1
        running.append(ticket)
        if len(running) == PLACES - 1:
            queue.leave(running.pop(0))
        assert max(served.values()) - min(served.values()) <= 1
