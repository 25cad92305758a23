"""The order in which waiting requests get a place. Pure: knows no socket, no clock and no task.

The rule (docs/behaviour.md, "The queue"):

1. Requests of normal priority go before those of low priority.
2. Among requests of one priority, the API key that holds the fewest places is next. Among equal keys, the key that got
   a place longest ago is next; a key that never had one comes first.
3. Within a key, the request that has waited longest is next.

Without keys all requests have the owner "", so the first in is the first out.
"""

import heapq
from collections.abc import Iterator
from enum import Enum, auto
from itertools import chain
from typing import Generic, NamedTuple, Protocol, TypeVar


class Standing(Enum):
    """Where a ticket stands. It moves downwards only, and to GONE from anywhere."""

    WAITING = auto()
    PLACED = auto()  # its request has a place, and is not with Ollama yet
    RUNNING = auto()  # its request is with Ollama
    GONE = auto()  # it has not joined, or has left


class Ticket(Protocol):
    """One request in the queue. The queue alone sets `number`, the count of arrivals, and `standing`.

    `owner` is the name of its key. `is_ready` says that it could use a place at once.
    """

    owner: str
    is_low: bool
    is_ready: bool
    number: int
    standing: Standing


T = TypeVar("T", bound=Ticket)


class _Owner(Generic[T]):
    """The requests of one key. Its waiting tickets stand in order of arrival, by their numbers."""

    __slots__ = ("last_turn", "places", "tickets")

    def __init__(self) -> None:
        self.places = 0
        self.last_turn = 0  # the number of the turn in which it was given a place; 0: never
        self.tickets: tuple[dict[int, T], dict[int, T]] = ({}, {})  # of normal and of low priority

    @property
    def waiting(self) -> int:
        return len(self.tickets[False]) + len(self.tickets[True])

    def youngest(self) -> T:
        """The ticket that joined last."""
        return max((ticket for tickets in self.tickets for ticket in tickets.values()), key=lambda one: one.number)


class _Candidate(NamedTuple, Generic[T]):
    """A key's oldest ticket that may be next. The least candidate is; `number` is the ticket's, and decides between
    keys that never had a place.
    """

    places: int
    last_turn: int
    number: int
    ticket: T


class FairQueue(Generic[T]):
    """Tickets that wait, and tickets that have a place. How many places there are is the caller's concern."""

    def __init__(self) -> None:
        self.places = 0  # that are taken
        self.waiting = 0  # tickets without a place
        self._placed: dict[T, None] = {}  # those that are not RUNNING yet, in the order of their turns
        self._owners: dict[str, _Owner[T]] = {}  # as many as there are names of keys
        self._asking: tuple[dict[str, _Owner[T]], dict[str, _Owner[T]]] = ({}, {})  # those with tickets, by priority
        self._arrivals = 0
        self._turns = 0
        self._positions: dict[T, int] | None = None  # of the present order, once it was asked for

    def __repr__(self) -> str:
        return f"<FairQueue {self.places} places taken, {self.waiting} waiting>"

    @property
    def placed(self) -> int:
        """How many requests have a place, and are not with Ollama yet."""
        return len(self._placed)

    @property
    def length(self) -> int:
        """How many requests are not with Ollama yet, with or without a place."""
        return self.waiting + len(self._placed)

    def not_running(self) -> list[T]:
        """Those requests, in no particular order."""
        waiting = chain.from_iterable(owner.tickets for owner in self._owners.values())
        return [*self._placed, *chain.from_iterable(tickets.values() for tickets in waiting)]

    def join(self, ticket: T) -> None:
        """A new request waits."""
        owner = self._take_in(ticket)
        ticket.standing = Standing.WAITING
        owner.tickets[ticket.is_low][ticket.number] = ticket
        self._asking[ticket.is_low][ticket.owner] = owner
        self.waiting += 1
        self._positions = None

    def place(self, ticket: T) -> None:
        """A new request of a key has a place at once, without waiting. Only while none waits: it would overtake."""
        self._give(ticket, self._take_in(ticket))

    def _take_in(self, ticket: T) -> _Owner[T]:
        self._arrivals += 1
        ticket.number = self._arrivals
        owner = self._owners.get(ticket.owner)
        if owner is None:
            owner = self._owners[ticket.owner] = _Owner()
        return owner

    def place_next(self) -> T | None:
        """Gives a place to the request that is next. Passes over those that are not ready. None if none is."""
        for is_low in (False, True):
            best: _Candidate[T] | None = None
            for owner in self._asking[is_low].values():
                for number, ticket in owner.tickets[is_low].items():
                    if ticket.is_ready:
                        candidate = _Candidate(owner.places, owner.last_turn, number, ticket)
                        best = candidate if best is None else min(best, candidate)
                        break
            if best is not None:
                self._give(best.ticket, self._stop_waiting(best.ticket))
                return best.ticket
        return None

    def _give(self, ticket: T, owner: _Owner[T]) -> None:
        self._turns += 1
        owner.last_turn = self._turns
        owner.places += 1
        self.places += 1
        ticket.standing = Standing.PLACED
        self._placed[ticket] = None
        self._positions = None

    def _stop_waiting(self, ticket: T) -> _Owner[T]:
        owner = self._owners[ticket.owner]
        tickets = owner.tickets[ticket.is_low]
        del tickets[ticket.number]
        if not tickets:
            del self._asking[ticket.is_low][ticket.owner]
        self.waiting -= 1
        self._positions = None
        return owner

    def run(self, ticket: T) -> None:
        """A request that has a place is with Ollama now."""
        del self._placed[ticket]
        ticket.standing = Standing.RUNNING
        self._positions = None

    def leave(self, ticket: T) -> bool:
        """A request waits no more, or gives its place back. False if it has left already."""
        standing, ticket.standing = ticket.standing, Standing.GONE
        if standing is Standing.GONE:
            return False
        if standing is Standing.WAITING:
            self._stop_waiting(ticket)
        else:
            self._placed.pop(ticket, None)
            self._owners[ticket.owner].places -= 1
            self.places -= 1
            self._positions = None
        return True

    def displaced_by(self, owner: str) -> T | None:
        """The request that has to leave a full queue so that one of `owner` can join. None: the newcomer has to.

        It is the youngest of the key that has the most waiting, if `owner` has fewer.
        """
        most = max(self._owners.values(), key=lambda one: one.waiting, default=None)
        if most is None:
            return None
        newcomer = self._owners.get(owner)
        return most.youngest() if (newcomer.waiting if newcomer else 0) < most.waiting else None

    def position(self, ticket: T) -> int | None:
        """The number of a request in the order of turns, 1 is next; None once it is with Ollama.

        Assumes that all requests are ready, and that no place is given back. Requests that have a place, and are still
        connecting to Ollama, come first.
        """
        if self._positions is None:
            self._positions = {one: number for number, one in enumerate(chain(self._placed, self._in_order()), 1)}
        return self._positions.get(ticket)

    def _in_order(self) -> Iterator[T]:
        """All waiting requests, in the order in which places would be given to them now."""
        turn = self._turns
        standings = {name: (owner.places, owner.last_turn) for name, owner in self._owners.items()}
        for is_low in (False, True):
            left = {name: iter(owner.tickets[is_low].values()) for name, owner in self._asking[is_low].items()}
            candidates = [
                _Candidate(*standings[name], ticket.number, ticket)
                for name, tickets in left.items()
                if (ticket := next(tickets, None)) is not None
            ]
            heapq.heapify(candidates)
            while candidates:
                ticket = candidates[0].ticket
                yield ticket
                turn += 1
                places, _ = standings[ticket.owner]
                standings[ticket.owner] = places + 1, turn
                if (following := next(left[ticket.owner], None)) is None:
                    heapq.heappop(candidates)
                else:
                    heapq.heapreplace(candidates, _Candidate(places + 1, turn, following.number, following))
