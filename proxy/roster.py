"""Who is listed, who has what, and whose turn it is.

Discovery calls `apply`; the relay `lease`s a seat for one attempt at one worker and `release`s it with the outcome, or
`wait`s for one while all that fit are full (`waiting`). What attempts say about workers is judged by `fitness`, and so
is who rests for it. No method blocks, so every change is whole before anyone else can look.

A request says what it wants (`wants.Want`: a model, a version, gRPC), and gets a worker that has it. Each want has a
*round* of its own, so every model's requests are spread evenly; it is made when somebody first wants it after a change,
in the order of who waited longest for whatever it was, so that a hundred rarely asked models do not all begin with the
same worker. From then on a pick is one step (`balancing`). Knows no sockets; the clock is passed in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from random import random
from typing import Any

from muster.errors import ClusterError, NoWorkers, Overloaded
from muster.values import Snapshot
from proxy.balancing import Strategy
from proxy.fitness import Clock, Fitness
from proxy.health import Outcome, Policy
from proxy.offers import Offers
from proxy.seats import Limits, Seat
from proxy.waiting import Busy, Line, Scheduler, Ticket
from proxy.wants import ANY, Want

log = logging.getLogger(__name__)

MISSED = 30.0
"""Seconds for which a model is missing when its last worker has left, before it is unknown: one that is started again
takes a while, and "try again" (503) is a better answer meanwhile than "there is no such model" (404)."""
_ANSWERED = Outcome.ANSWERED


class Roster:
    """All seats, and the rounds of those that are fit."""

    def __init__(
        self,
        clock: Clock,
        policy: Policy | None = None,
        *,
        strategy: type[Strategy[Any]] = Strategy,
        limits: Limits | None = None,
        chance: Callable[[], float] = random,
    ) -> None:
        self._clock = clock
        self._strategy = strategy
        self._limits = limits or Limits()
        self._seats: dict[str, Seat] = {}
        self._missing: dict[str, float] = {}  # models without a worker, until when they are missed
        self._offers = Offers[Seat]()
        self._rounds: dict[Want, Strategy[Seat]] = {}
        self._next_change = float("inf")  # when the first resting seat may be chosen again, or a model is forgotten
        self._picks = 0
        self.fitness = Fitness(clock, policy or Policy(), self._arrange, chance)
        self.line: Line[Seat] | None = None
        """Those who wait for a seat; None if nobody may."""
        self._waiting: Collection[Ticket[Seat]] = ()  # the same

    def may_wait(self, scheduler: Scheduler, limit: int, patience: float) -> None:
        """From now on, up to `limit` requests may wait for a seat, `patience` seconds each."""
        self.line = Line(scheduler, limit, patience, self._take, lambda seat: self.release(seat, Outcome.CANCELLED))
        self._waiting = self.line.tickets

    # What can be seen

    @property
    def seats(self) -> Collection[Seat]:
        """Every listed worker's seat, resting ones included."""
        return self._seats.values()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that somebody says to have, or said a moment ago, in alphabetical order."""
        return self._offers.models

    def others(self, seat: Seat, want: Want = ANY, *, most: int) -> list[Seat]:
        """The other workers that are fit and have what is wanted, `most` of them, in the order in which they would be
        taken."""
        found: list[Seat] = []
        for other in self._round(want).upcoming:
            if len(found) == most:
                break
            if other is not seat and other not in found:
                found.append(other)
        return found

    def spare(self, tried: Collection[Seat], want: Want = ANY) -> bool:
        """Is a fit worker with room left that has what is wanted and is none of `tried`? Then `lease` gives it."""
        try:
            fit = self._round(want).seats
        except ClusterError:
            return False
        return any(seat.in_flight < seat.limit and seat not in tried for seat in fit)

    # What discovery says

    def apply(self, snapshot: Snapshot) -> Collection[Seat]:
        """Adopt a snapshot: whoever stays keeps the seat and all that is known of it. Return the seats of who left.

        Who is listed with another address has left, and somebody else has come who goes by the same id.
        """
        old = self._seats
        before = [seat.worker for seat in old.values()]
        self._seats = {}
        self.fitness.seats = self._seats.values()
        for worker in snapshot.workers:
            seat = old.get(worker.id)
            if seat is not None and seat.worker.address == worker.address:
                del old[worker.id]
                seat.worker = worker
                seat.limit = self._limits.of(worker)
            else:
                seat = Seat(worker, self._limits.of(worker))
            self._seats[worker.id] = seat
        if before == [seat.worker for seat in self._seats.values()]:
            return ()  # nothing is new, and the rounds go on as they are
        for seat in old.values():
            seat.listed = False
            self._missing |= dict.fromkeys(seat.worker.models or (), self._clock() + MISSED)
        for seat in self._seats.values():
            for model in seat.worker.models or ():
                self._missing.pop(model, None)
        self._offers = Offers(self._seats.values(), self._missing)
        self._arrange()
        log.info("workers listed: %d (%s)", len(self._seats), ", ".join(self._seats) or "none")
        return old.values()

    # Whose turn it is

    def lease(self, tried: Collection[Seat] = (), want: Want = ANY, *, full: bool = False) -> Seat:
        """Take the next worker that has what is wanted and has room, none of `tried`, for one attempt; a `release` is
        owed. `full`: room does not matter.

        Raises Busy if those that are left are full, NoWorkers if none is left, and what `Offers.plain` raises. With
        `want.grpc` its worker has a `grpc_port`.
        """
        if self._clock() >= self._next_change:
            self._arrange()
        return self._take(tried, want, full=full)

    def next(self, want: Want = ANY) -> Seat:
        """As `lease`, for somebody who talks to the worker without us. It may be full: we cannot know for how long."""
        seat = self.lease(want=want, full=True)
        seat.in_flight -= 1
        return seat

    def release(self, seat: Seat, outcome: Outcome, seconds: float | None = None) -> None:
        """End an attempt. `seconds`: how long the worker had had the request when its answer began, or it failed.

        By that it is known what was seen of the worker before a rest began, and how fast it is.
        """
        if outcome is _ANSWERED:
            health = seat.health
            health.answered(seconds)
            if not health.clear:
                self.fitness.vindicated(seat, seconds)
        else:
            self.fitness.failed(seat, outcome, seconds)
        seat.in_flight -= 1  # not before: what it held when it died is known by that
        if self._waiting:
            self._hand_over(seat)

    def _take(self, tried: Collection[Seat], want: Want, *, full: bool = False) -> Seat:
        round_ = self._rounds.get(want) or self._round(want)
        seat = round_.step(tried) or self._last_resort(round_, tried, want, full=full)
        self._picks += 1
        seat.last_pick = self._picks
        seat.picks += 1
        seat.in_flight += 1
        return seat

    def _round(self, want: Want) -> Strategy[Seat]:
        """The round of a want. Those that come to the same share one, so clients cannot make them without limit."""
        plain = self._offers.plain(want)
        round_ = self._rounds.get(plain)
        if round_ is None:
            round_ = self._rounds[plain] = self._strategy(self.fitness.fit(self._offers.seats(plain)))
        if want.unnamed and want.version is None:
            self._rounds[want] = round_  # what most requests want is found at once
        return round_

    def _last_resort(self, round_: Strategy[Seat], tried: Collection[Seat], want: Want, *, full: bool) -> Seat:
        """A resting worker is better than none: it may have come back before its time. One that is fit and full is
        better than a resting one: it will have room in a moment."""
        left = [seat for seat in self._offers.seats(self._offers.plain(want)) if seat not in tried]
        if not left:
            raise NoWorkers("no worker is available; they may be starting")
        fit = [seat for seat in left if seat in round_.seats]
        if fit and full:
            return min(fit, key=lambda seat: seat.last_pick)
        free = [seat for seat in left if full or seat.in_flight < seat.limit]
        if fit or not free:
            raise Busy("every worker that could take the request is busy; try again later")
        return min(free, key=lambda seat: (not seat.health.reachable, seat.rest_until))

    # Who waits

    def wait(
        self, want: Want, tried: Collection[Seat], callback: Callable[[Seat | ClusterError], None]
    ) -> Ticket[Seat]:
        """Wait after `lease` raised Busy. `callback` gets a leased seat, or the error for the client; never at once.

        Raises Overloaded if too many wait already, or so many that it would be in vain.
        """
        if self.line is None:
            raise Overloaded("every worker that could take the request is busy; try again later")
        plain = self._offers.plain(want)
        seats = self._offers.seats(plain)
        paces = [seat.limit / seat.latency for seat in seats if seat.latency]
        return self.line.join(plain, tried, callback, sum(paces) if len(paces) == len(seats) else 0.0)

    def _hand_over(self, seat: Seat) -> None:
        """There is room here: it belongs to who has waited longest of those who can use it."""
        assert self.line is not None  # noqa: S101
        rests = seat.rest_until > self._clock()  # then it is for those who have nobody else, if it takes part at all
        for ticket in self.line:
            if seat.in_flight >= seat.limit:
                return
            round_ = self._rounds.get(ticket.want)
            if rests or round_ is None or (seat in round_.seats and seat not in ticket.tried):
                self.line.call(ticket)

    # Changes

    def turn(self) -> None:
        """To be called once a second."""
        self.fitness.turn()
        if self._clock() >= self._next_change:
            self._arrange()

    def _arrange(self) -> None:
        """Somebody came, went, rests, is back or deserves another share: the rounds begin anew.

        Who waited longest goes first. Those who wait for a seat may find one now.
        """
        now = self._clock()
        if forgotten := [model for model, until in self._missing.items() if until <= now]:
            for model in forgotten:
                del self._missing[model]
            self._offers = Offers(self._seats.values(), self._missing)
        self.fitness.share_out()
        self._next_change = min(self._missing.values(), default=float("inf"))
        self._next_change = min(self._next_change, self.fitness.next_return())
        self._rounds.clear()
        if self.line is not None:
            self.line.call_all()
