"""Which worker is next: the strategies. The roster uses them and nobody else.

    round-robin       each as often as its weight says, evenly spread
    least-in-flight   the one with the fewest requests under way, by its weight
    power-of-two      of two that chance names (by weight), the one that will likely be done first: few requests under
                      way, and quick to answer

A strategy is made of the seats that are fit, and made anew only when that set or what they deserve changes. It writes
down a *cycle*, in which every seat stands as often as its weight says, so a pick is one step however many workers there
are. Whoever cannot have the one whose turn it is, because it has no room or has failed already, takes the next by a
turn that is kept apart: else those beside one that fails would be skipped, or would get all that it does not do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import gcd
from operator import attrgetter
from random import random
from typing import Any, Final, Generic, Protocol, TypeVar

MAX_CYCLE = 5_000
"""Longest cycle that is written out. Weights with a larger sum are rounded to fit."""
STEPS = 20
"""Into so many parts a weight is divided where a seat deserves only a part of its own."""


class Weighted(Protocol):
    """What a strategy needs to know of a seat."""

    in_flight: int
    limit: int
    """It has room as long as `in_flight` is less."""
    last_pick: int
    """Number of the pick that last chose it; 0 if none did."""

    @property
    def weight(self) -> int:
        """Its share of the traffic, at least 1."""

    @property
    def share(self) -> float:
        """The part of its weight that it deserves at the moment."""

    @property
    def latency(self) -> float:
        """Seconds that it takes to answer, 0 if that is not known."""


S = TypeVar("S", bound=Weighted)


class Strategy(Generic[S]):
    """Whose turn it is among some seats. This one is smooth weighted round robin."""

    __slots__ = ("_apart", "_at", "_cycle", "seats")

    def __init__(self, seats: Sequence[S]) -> None:
        self._cycle = round_robin(seats)
        self._at = 0
        self._apart = 0
        self.seats = frozenset(seats)

    def step(self, tried: Collection[S]) -> S | None:
        """The next that has room and is none of `tried`, None if there is none."""
        cycle, at = self._cycle, self._at
        if tried or not cycle:
            return self._other(tried)
        seat = cycle[at]
        at += 1
        self._at = at if at < len(cycle) else 0
        return seat if seat.in_flight < seat.limit else self._other(tried)

    def _other(self, tried: Collection[S]) -> S | None:
        """Another than the one whose turn it is. A long cycle is not searched to its end: by then who has room is
        sought among the seats themselves."""
        cycle = self._cycle
        for _ in range(min(len(cycle), len(self.seats))):
            seat = cycle[self._apart]
            self._apart = self._apart + 1 if self._apart + 1 < len(cycle) else 0
            if seat.in_flight < seat.limit and seat not in tried:
                return seat
        if len(cycle) == len(self.seats):
            return None
        free = [seat for seat in self.seats if seat.in_flight < seat.limit and seat not in tried]
        return min(free, key=lambda seat: seat.last_pick, default=None)

    @property
    def upcoming(self) -> Sequence[S]:
        """The seats in the order in which they would be taken; some more than once."""
        return (*self._cycle[self._at :], *self._cycle[: self._at])


class LeastInFlight(Strategy[S]):
    """The one that has the fewest requests under way for what it deserves; among equals they take turns.

    All have to be looked at, which costs some microseconds where there are hundreds.
    """

    __slots__ = ("_among", "_load")

    _load: Callable[[S], float]

    def __init__(self, seats: Sequence[S]) -> None:
        super().__init__(seats)
        self._among = list(dict.fromkeys(self._cycle))
        self._load = attrgetter("in_flight") if len(self._cycle) == len(self._among) else _load

    def step(self, tried: Collection[S]) -> S | None:  # noqa: D102
        if not self._among:
            return None
        order = self._among[self._at :] + self._among[: self._at]
        seat: S | None = min(order, key=self._load)
        if seat is None or seat.in_flight >= seat.limit or seat in tried:
            free = (seat for seat in order if seat.in_flight < seat.limit and seat not in tried)
            seat = min(free, key=self._load, default=None)
        if seat is not None:
            self._at = (self._at + order.index(seat) + 1) % len(order)
        return seat

    @property
    def upcoming(self) -> Sequence[S]:  # noqa: D102
        return sorted(self._among, key=self._load)


def _load(seat: Weighted) -> float:
    return seat.in_flight / (seat.weight * seat.share)


class PowerOfTwo(Strategy[S]):
    """Power of two choices: chance names two by their weights, and the one with less to do before it is taken."""

    __slots__ = ("_chance",)

    def __init__(self, seats: Sequence[S], chance: Callable[[], float] = random) -> None:
        super().__init__(seats)
        self._chance = chance

    def step(self, tried: Collection[S]) -> S | None:  # noqa: D102
        cycle = self._cycle
        if not cycle:
            return None
        one = cycle[int(self._chance() * len(cycle))]
        other = cycle[int(self._chance() * len(cycle))]
        if one is other:  # by taking turns everybody is seen now and then, and two of two are two
            other = cycle[self._at]
            self._at = self._at + 1 if self._at + 1 < len(cycle) else 0
        ones, others = one.latency, other.latency
        if not (ones and others):
            ones = others = 1.0  # one of them is not known yet
        if (other.in_flight + 1) * others < (one.in_flight + 1) * ones:
            one, other = other, one
        if one.in_flight < one.limit and one not in tried:
            return one
        if other.in_flight < other.limit and other not in tried:
            return other
        return self._other(tried)


STRATEGIES: Final[dict[str, type[Strategy[Any]]]] = {
    "round-robin": Strategy,
    "least-in-flight": LeastInFlight,
    "power-of-two": PowerOfTwo,
}
"""By the names that users give them."""


def strategy(text: str) -> str:
    """The name of a strategy. ValueError if it is none."""
    if text not in STRATEGIES:
        raise ValueError(f"{text!r} is not one of {', '.join(STRATEGIES)}")
    return text


def round_robin(seats: Sequence[S]) -> list[S]:
    """Smooth weighted round robin: every seat as often as its weight says, spread as evenly as possible.

    Who waited longest goes first, so a cycle that is made anew goes on where the old one stopped, and a set that
    changes all the time stays fair. Each seat's turns are at equal distances, from a start of its own: weights 5, 1, 1
    give a a a b a c a.
    """
    waiting = sorted(seats, key=lambda seat: seat.last_pick)
    weights = _turns(waiting)
    if sum(weights) == len(waiting):
        return waiting
    turns = [
        ((turn + start / (len(waiting) + 1)) / weight, start, seat)
        for start, (seat, weight) in enumerate(zip(waiting, weights, strict=True), 1)
        for turn in range(weight)
    ]
    turns.sort()  # no two have the same start and time, so seats are never compared
    return [seat for _, _, seat in turns]


def _turns(seats: Sequence[Weighted]) -> list[int]:
    """How often each stands in a cycle."""
    if all(seat.share == 1.0 for seat in seats):
        weights = [seat.weight for seat in seats]
    else:
        weights = [max(1, round(seat.weight * seat.share * STEPS)) for seat in seats]
    divisor = max(gcd(*weights), 1) if weights else 1
    total = sum(weights) // divisor
    if total <= MAX_CYCLE:
        return [weight // divisor for weight in weights]
    return [max(1, round(weight / divisor * MAX_CYCLE / total)) for weight in weights]
