"""What the proxy believes about the workers: who is listed, who has what, who rests after a failure, who is next.

Discovery calls `apply`; the relay `lease`s a seat for one attempt at one worker and `release`s it with the outcome.
No method waits, so every change is whole before anyone else can look. A worker that failed *rests*: it is not chosen
for a while, and longer each time it fails again, unless nobody else is left.

A request says what it wants (`wants.Want`: a model, a version, gRPC), and gets a worker that has it. Each want has a
*round* of its own, so every model's requests are spread evenly; it is made when somebody first wants it after a change,
in the order of who waited longest for whatever it was, so that a hundred rarely asked models do not all begin with the
same worker. From then on a pick is one step. Knows no sockets; the clock is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from muster.errors import ClusterError, NoWorkers
from muster.values import Snapshot, Worker
from proxy.balancing import round_robin
from proxy.offers import Offers
from proxy.wants import ANY, Want

log = logging.getLogger(__name__)

Clock = Callable[[], float]

MISSED = 30.0
"""Seconds for which a model is missing when its last worker has left, before it is unknown: one that is started again
takes a while, and "try again" (503) is a better answer meanwhile than "there is no such model" (404)."""


class Seat:
    """One worker, and what we have seen of it. It is kept for as long as the worker stays listed."""

    __slots__ = ("failures", "in_flight", "last_pick", "listed", "picks", "rest_until", "worker")

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.listed = True
        self.in_flight = 0
        self.picks = 0
        self.last_pick = 0
        self.failures = 0  # in a row
        self.rest_until = 0.0

    @property
    def weight(self) -> int:
        """Its share of the traffic."""
        return self.worker.weight

    def __repr__(self) -> str:
        return f"<Seat {self.worker.id}: {self.in_flight} in flight, {self.failures} failures>"


@dataclass(frozen=True, slots=True)
class Rest:
    """How long a worker rests after its n-th failure in a row: `first` seconds, doubled each time, up to `longest`."""

    first: float = 1.0
    longest: float = 30.0

    def after(self, failures: int) -> float:
        """Seconds of rest after `failures` failures in a row."""
        return min(self.first * 2.0 ** min(failures - 1, 30), self.longest)


class _Round:
    """Those that come into question for a want, and the cycle of those of them that are fit."""

    __slots__ = ("_cycle", "_next", "seats")

    def __init__(self, seats: Sequence[Seat], cycle: Sequence[Seat]) -> None:
        self.seats = seats
        self._cycle = cycle
        self._next = 0

    def step(self, tried: Collection[Seat]) -> Seat | None:
        """The next that is none of `tried`, None if there is none."""
        for _ in self._cycle:
            seat = self._cycle[self._next]
            self._next += 1
            if self._next == len(self._cycle):
                self._next = 0
            if not tried or seat not in tried:
                return seat
        return None

    @property
    def upcoming(self) -> Sequence[Seat]:
        """The cycle from where it stands."""
        return (*self._cycle[self._next :], *self._cycle[: self._next])


class Roster:
    """All seats, and the rounds of those that are fit."""

    def __init__(self, clock: Clock, rest: Rest | None = None) -> None:
        self._clock = clock
        self._rest = rest or Rest()
        self._seats: dict[str, Seat] = {}
        self._missing: dict[str, float] = {}  # models without a worker, until when they are missed
        self._offers = Offers[Seat]()
        self._rounds: dict[Want, _Round] = {}
        self._next_change = float("inf")  # when the first resting seat may be chosen again, or a model is forgotten
        self._picks = 0

    @property
    def seats(self) -> Collection[Seat]:
        """Every listed worker's seat, resting ones included."""
        return self._seats.values()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that somebody says to have, or said a moment ago, in alphabetical order."""
        return self._offers.models

    def others(self, seat: Seat, want: Want = ANY) -> list[Seat]:
        """The other workers that are fit and have what is wanted, in the order in which they would be taken."""
        return [other for other in dict.fromkeys(self._round(want).upcoming) if other is not seat]

    def resting(self, seat: Seat) -> bool:
        """Is it left alone for now?"""
        return seat.rest_until > self._clock()

    def spare(self, tried: Collection[Seat], want: Want = ANY) -> bool:
        """Is a fit worker left that has what is wanted and is none of `tried`? False where `lease` would raise."""
        try:
            return any(seat not in tried for seat in self._round(want).upcoming)
        except ClusterError:
            return False

    def apply(self, snapshot: Snapshot) -> list[Worker]:
        """Adopt a snapshot: whoever stays keeps the seat and all that is known of it. Return the workers that left.

        Who is listed with another address has left, and somebody else has come who goes by the same id.
        """
        old = self._seats
        self._seats = {}
        for worker in snapshot.workers:
            seat = old.get(worker.id)
            if seat is not None and seat.worker.address == worker.address:
                del old[worker.id]
                seat.worker = worker
            else:
                seat = Seat(worker)
            self._seats[worker.id] = seat
        for seat in old.values():
            seat.listed = False
            self._missing |= dict.fromkeys(seat.worker.models or (), self._clock() + MISSED)
        for seat in self._seats.values():
            for model in seat.worker.models or ():
                self._missing.pop(model, None)
        self._offers = Offers(self._seats.values(), self._missing)
        self._arrange()
        log.info("%d workers listed: %s", len(self._seats), ", ".join(self._seats) or "none")
        return [seat.worker for seat in old.values()]

    def lease(self, tried: Collection[Seat] = (), want: Want = ANY) -> Seat:
        """Take the next worker that has what is wanted, none of `tried`, for one attempt; a `release` is owed.

        Raises NoWorkers if none is left, and what `Offers.plain` raises. With `want.grpc` its worker has a `grpc_port`.
        """
        seat = self.next(tried, want)
        seat.in_flight += 1
        return seat

    def next(self, tried: Collection[Seat] = (), want: Want = ANY) -> Seat:
        """As `lease`, for somebody who talks to the worker without us."""
        if self._clock() >= self._next_change:
            self._arrange()
        round_ = self._rounds.get(want) or self._round(want)
        seat = round_.step(tried) or self._last_resort(round_.seats, tried)
        self._picks += 1
        seat.last_pick = self._picks
        seat.picks += 1
        return seat

    def _round(self, want: Want) -> _Round:
        """The round of a want. Those that come to the same share one, so clients cannot make them without limit."""
        plain = self._offers.plain(want)
        round_ = self._rounds.get(plain)
        if round_ is None:
            seats = self._offers.seats(plain)
            now = self._clock()
            round_ = _Round(seats, round_robin([seat for seat in seats if seat.rest_until <= now]))
            self._rounds[plain] = round_
        if want.unnamed and want.version is None:
            self._rounds[want] = round_  # what most requests want is found at once
        return round_

    def _last_resort(self, seats: Sequence[Seat], tried: Collection[Seat]) -> Seat:
        """A resting worker is better than none: it may have come back before its time."""
        for seat in sorted(seats, key=lambda seat: seat.rest_until):
            if seat not in tried:
                return seat
        raise NoWorkers("no worker is available; they may be starting")

    def release(self, seat: Seat, *, failed: bool | None) -> None:
        """End an attempt. `failed` is None when its outcome says nothing about the worker, as when the client left."""
        seat.in_flight -= 1
        if failed is None:
            return
        if failed:
            if seat.rest_until > self._clock():
                return  # one failure can end many requests at once; that makes it no worse
            seat.failures += 1
            pause = self._rest.after(seat.failures)
            seat.rest_until = self._clock() + pause
            log.warning("worker %s rests for %.3g s after %d failures in a row", seat.worker.id, pause, seat.failures)
            self._arrange()
        elif seat.failures:
            seat.failures = 0
            seat.rest_until = 0.0
            log.info("worker %s is back", seat.worker.id)
            self._arrange()

    def _arrange(self) -> None:
        """Somebody came, went, rests or is back: the rounds begin anew, with who waited longest."""
        now = self._clock()
        if forgotten := [model for model, until in self._missing.items() if until <= now]:
            for model in forgotten:
                del self._missing[model]
            self._offers = Offers(self._seats.values(), self._missing)
        due = [*self._missing.values(), *(seat.rest_until for seat in self._seats.values() if seat.rest_until > now)]
        self._next_change = min(due, default=float("inf"))
        self._rounds.clear()
