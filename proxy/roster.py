"""What the proxy believes about the workers: who is listed, who rests after a failure, who is next.

Discovery calls `apply`; the relay `lease`s a seat for one attempt at one worker and `release`s it with the outcome.
No method waits, so every change is whole before anyone else can look. A worker that failed *rests*: it is not chosen
for a while, and longer each time it fails again, unless nobody else is left. Knows no sockets; the clock is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from muster.errors import NoWorkers
from muster.values import Snapshot, Worker
from proxy.balancing import round_robin

log = logging.getLogger(__name__)

Clock = Callable[[], float]


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


class Roster:
    """All seats, and the cycle of those that are fit."""

    def __init__(self, clock: Clock, rest: Rest | None = None) -> None:
        self._clock = clock
        self._rest = rest or Rest()
        self._seats: dict[str, Seat] = {}
        self._cycle: list[Seat] = []
        self._next = 0
        self._next_return = float("inf")  # when the first resting seat may be chosen again
        self._picks = 0

    @property
    def seats(self) -> Collection[Seat]:
        """Every listed worker's seat, resting ones included."""
        return self._seats.values()

    def others(self, seat: Seat) -> list[Seat]:
        """The other workers that are fit, in the order in which they would be taken."""
        upcoming = self._cycle[self._next :] + self._cycle[: self._next]
        return [other for other in dict.fromkeys(upcoming) if other is not seat]

    def resting(self, seat: Seat) -> bool:
        """Is it left alone for now?"""
        return seat.rest_until > self._clock()

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
        self._arrange()
        log.info("%d workers listed: %s", len(self._seats), ", ".join(self._seats) or "none")
        return [seat.worker for seat in old.values()]

    def lease(self, tried: Collection[Seat] = ()) -> Seat:
        """Take the next worker, none of `tried`, for one attempt; a `release` is owed. NoWorkers if none is left."""
        seat = self.next(tried)
        seat.in_flight += 1
        return seat

    def next(self, tried: Collection[Seat] = ()) -> Seat:
        """The next worker, for somebody who talks to it without us. NoWorkers if none is left."""
        if self._clock() >= self._next_return:
            self._arrange()
        for _ in self._cycle:
            seat = self._cycle[self._next]
            self._next += 1
            if self._next == len(self._cycle):
                self._next = 0
            if not tried or seat not in tried:
                break
        else:
            seat = self._last_resort(tried)
        self._picks += 1
        seat.last_pick = self._picks
        seat.picks += 1
        return seat

    def _last_resort(self, tried: Collection[Seat]) -> Seat:
        """A resting worker is better than none: it may have come back before its time."""
        for seat in sorted(self._seats.values(), key=lambda seat: seat.rest_until):
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
        now = self._clock()
        fit = [seat for seat in self._seats.values() if seat.rest_until <= now]
        self._next_return = min(
            (seat.rest_until for seat in self._seats.values() if seat.rest_until > now), default=float("inf")
        )
        self._cycle = round_robin(fit)
        self._next = 0
