"""Which worker is next: strategies as pure functions. The roster uses them and nobody else.

A strategy turns the seats that are fit into a *cycle*: the order in which they are taken, again and again. The roster
makes a new one only when the set of fit seats changes, so a pick is one step along a list, however many workers there
are.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Protocol, TypeVar

MAX_CYCLE = 10_000
"""Longest cycle that is written out. Weights with a larger sum are rounded to fit."""


class Weighted(Protocol):
    """What a strategy needs to know of a seat."""

    @property
    def weight(self) -> int:
        """Its share of the traffic, at least 1."""

    @property
    def last_pick(self) -> int:
        """Number of the pick that last chose it; 0 if none did."""


S = TypeVar("S", bound=Weighted)


def round_robin(seats: Sequence[S]) -> list[S]:
    """Smooth weighted round robin: every seat as often as its weight says, spread as evenly as possible.

    Who waited longest goes first, so a cycle that is made anew goes on where the old one stopped, and a set
    that changes all the time stays fair. Weights 5, 1, 1 give a a b a c a a (the scheme is nginx's).
    """
    waiting = sorted(seats, key=lambda seat: seat.last_pick)
    weights = _reduced([seat.weight for seat in waiting])
    total = sum(weights)
    if total == len(waiting):
        return waiting
    credit = [0] * len(waiting)
    cycle = []
    for _ in range(total):
        credit = [have + more for have, more in zip(credit, weights, strict=True)]
        chosen = max(range(len(waiting)), key=credit.__getitem__)
        credit[chosen] -= total
        cycle.append(waiting[chosen])
    return cycle


def _reduced(weights: list[int]) -> list[int]:
    divisor = max(gcd(*weights), 1) if weights else 1
    total = sum(weights) // divisor
    if total <= MAX_CYCLE:
        return [weight // divisor for weight in weights]
    return [max(1, round(weight / divisor * MAX_CYCLE / total)) for weight in weights]
