"""What the proxy believes about the workers: who is listed, who has what, who rests after a failure, who is next.

Discovery calls `apply`; the relay `lease`s a seat for one attempt at one worker and `release`s it with the outcome, or
`wait`s for one while all that fit are full; whoever probes workers tells with `eject` and `restore` what it found.
No method blocks, so every change is whole before anyone else can look.

A worker that failed *rests* (`health`): it is not chosen for a while, and longer each time it fails again, unless
nobody else is left. Of those that are there and answer badly only a part rests; the others stay, with the least share.

A request says what it wants (`wants.Want`: a model, a version, gRPC), and gets a worker that has it. Each want has a
*round* of its own, so every model's requests are spread evenly; it is made when somebody first wants it after a change,
in the order of who waited longest for whatever it was, so that a hundred rarely asked models do not all begin with the
same worker. From then on a pick is one step (`balancing`). Knows no sockets; the clock is passed in.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from random import random
from typing import Any

from muster.errors import ClusterError, NoWorkers, Overloaded
from muster.values import Snapshot, Worker
from proxy.balancing import Strategy
from proxy.health import Health, Outcome, Policy, shares_by_latency
from proxy.offers import Offers
from proxy.seats import Limits, Seat
from proxy.waiting import Line, Scheduler, Ticket
from proxy.wants import ANY, Want

log = logging.getLogger(__name__)

Clock = Callable[[], float]

MISSED = 30.0
"""Seconds for which a model is missing when its last worker has left, before it is unknown: one that is started again
takes a while, and "try again" (503) is a better answer meanwhile than "there is no such model" (404)."""
QUIET = 0.3
"""Seconds for which a worker may owe answers and give none before it is asked whether it is well."""
EJECTED = 5.0
"""Seconds for which one that was asked and did not answer well rests at least. It is asked again long before."""


class Busy(Overloaded):
    """Every worker that could take the request is full. To wait may help."""


class _Round:
    """Those that come into question for a want, and whose turn it is among those of them that are fit."""

    __slots__ = ("order", "seats")

    def __init__(self, seats: Sequence[Seat], order: Strategy[Seat]) -> None:
        self.seats = seats
        self.order = order


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
        self._policy = policy or Policy()
        self._strategy = strategy
        self._limits = limits or Limits()
        self._chance = chance
        self._seats: dict[str, Seat] = {}
        self._missing: dict[str, float] = {}  # models without a worker, until when they are missed
        self._offers = Offers[Seat]()
        self._rounds: dict[Want, _Round] = {}
        self._next_change = float("inf")  # when the first resting seat may be chosen again, or a model is forgotten
        self._turned = clock()
        self._picks = 0
        self.line: Line[Seat] | None = None
        """Those who wait for a seat; None if nobody may."""
        self._waiting: Collection[Ticket[Seat]] = ()  # the same
        self.ejections: Counter[str] = Counter()
        """Rests that began, by reason."""
        self.on_eject: list[Callable[[Seat], None]] = []
        """Whom to tell of a worker that is found to be dead or to hang while requests are under way there."""
        self.on_death: list[Callable[[Seat], None]] = []
        """Whom to tell, before that, each time that a worker seems to have died, whoever found out. Its `in_flight` is
        what it held."""

    def may_wait(self, scheduler: Scheduler, limit: int, patience: float) -> None:
        """From now on, up to `limit` requests may wait for a seat, `patience` seconds each."""
        self.line = Line(scheduler, limit, patience, lambda seat: self.release(seat, Outcome.CANCELLED))
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
        for other in self._round(want).order.upcoming:
            if len(found) == most:
                break
            if other is not seat and other not in found:
                found.append(other)
        return found

    def resting(self, seat: Seat) -> bool:
        """Is it left alone for now, as far as that is possible? Not who only has to be, and is needed."""
        if seat.rest_until <= self._clock():
            return False
        return not seat.health.reachable or seat not in self._fit(self._offers.seats(ANY))

    def rest_left(self, seat: Seat) -> float:
        """Seconds until it may be chosen again as others are, 0 for one that does not rest."""
        return max(0.0, seat.rest_until - self._clock())

    def spare(self, tried: Collection[Seat], want: Want = ANY) -> bool:
        """Is a fit worker with room left that has what is wanted and is none of `tried`? Then `lease` gives it."""
        try:
            fit = self._round(want).order.seats
        except ClusterError:
            return False
        return any(seat.in_flight < seat.limit and seat not in tried for seat in fit)

    def suspects(self) -> list[Seat]:
        """Who should be asked whether it is well: who rests until it says so, and who owes answers and has given none
        for a while. To be called a few times a second."""
        now = self._clock()
        return [
            seat
            for seat in self._seats.values()
            if seat.quiet(now, QUIET) or (seat.rest_until > now and seat.health.until_ready)
        ]

    # What discovery says

    def apply(self, snapshot: Snapshot) -> list[Worker]:
        """Adopt a snapshot: whoever stays keeps the seat and all that is known of it. Return the workers that left.

        Who is listed with another address has left, and somebody else has come who goes by the same id.
        """
        old = self._seats
        before = [seat.worker for seat in old.values()]
        self._seats = {}
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
            return []  # nothing is new, and the rounds go on as they are
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

    # Whose turn it is

    def lease(self, tried: Collection[Seat] = (), want: Want = ANY) -> Seat:
        """Take the next worker that has what is wanted and has room, none of `tried`, for one attempt; a `release` is
        owed.

        Raises Busy if those that are left are full, NoWorkers if none is left, and what `Offers.plain` raises. With
        `want.grpc` its worker has a `grpc_port`.
        """
        if self._clock() >= self._next_change:
            self._arrange()
        round_ = self._rounds.get(want) or self._round(want)
        seat = round_.order.step(tried) or self._last_resort(round_, tried)
        self._picks += 1
        seat.last_pick = self._picks
        seat.picks += 1
        seat.in_flight += 1
        return seat

    def next(self, tried: Collection[Seat] = (), want: Want = ANY) -> Seat:
        """As `lease`, for somebody who talks to the worker without us. It may be full: we cannot know for how long."""
        if self._clock() >= self._next_change:
            self._arrange()
        round_ = self._rounds.get(want) or self._round(want)
        seat = round_.order.step(tried)
        if seat is None:
            fit = [seat for seat in round_.order.seats if seat not in tried]
            seat = min(fit, key=lambda seat: seat.last_pick) if fit else self._last_resort(round_, tried, full=True)
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
            round_ = _Round(seats, self._strategy(self._fit(seats)))
            self._rounds[plain] = round_
        if want.unnamed and want.version is None:
            self._rounds[want] = round_  # what most requests want is found at once
        return round_

    def _fit(self, seats: Sequence[Seat]) -> list[Seat]:
        """Those of them that take part: all that do not rest, and of those that rest for their answers as many as have
        to, so that not too many are missing. Whose rest began last stays."""
        now = self._clock()
        resting = [seat for seat in seats if seat.rest_until > now]
        if not resting:
            return list(seats)
        poor = sorted((seat for seat in resting if seat.health.reachable), key=lambda seat: seat.health.rested)
        allowed = max(0, int(self._policy.max_ejected * len(seats)) - (len(resting) - len(poor)))
        absent = {*resting} - {*poor[allowed:]}
        return [seat for seat in seats if seat not in absent]

    def _last_resort(self, round_: _Round, tried: Collection[Seat], *, full: bool = False) -> Seat:
        """A resting worker is better than none: it may have come back before its time. One that is fit and full is
        better than a resting one: it will have room in a moment. `full`: room does not matter."""
        left = [seat for seat in round_.seats if seat not in tried]
        if not left:
            raise NoWorkers("no worker is available; they may be starting")
        resting = [seat for seat in left if full or seat.in_flight < seat.limit]
        if not resting or any(seat in round_.order.seats for seat in left):
            raise Busy("every worker that could take the request is busy; try again later")
        return min(resting, key=lambda seat: (not seat.health.reachable, seat.rest_until))

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
        seats = self._round(plain).seats
        paces = [seat.limit / seat.latency for seat in seats if seat.latency]
        return self.line.join(plain, tried, callback, sum(paces) if len(paces) == len(seats) else 0.0)

    def _hand_over(self, seat: Seat) -> None:
        """There is room here: it belongs to who has waited longest of those who can use it."""
        assert self.line is not None  # noqa: S101
        if seat.rest_until > self._clock():
            self._seat_all()
            return
        for ticket in self.line:
            if seat.in_flight >= seat.limit:
                return
            round_ = self._rounds.get(ticket.want)
            if round_ is None:
                self._seat_all()
                return
            if seat in round_.order.seats and seat not in ticket.tried:
                self.line.seat(ticket, self._taken(seat))

    def _seat_all(self) -> None:
        """Let everybody who waits try again, in order: somebody may have come, or the last one gone."""
        assert self.line is not None  # noqa: S101
        for ticket in self.line:
            try:
                round_ = self._round(ticket.want)
                seat = round_.order.step(ticket.tried) or self._last_resort(round_, ticket.tried)
            except Busy:
                continue
            except ClusterError as error:
                self.line.dismiss(ticket, error)
            else:
                self.line.seat(ticket, self._taken(seat))

    def _taken(self, seat: Seat) -> Seat:
        self._picks += 1
        seat.last_pick = self._picks
        seat.picks += 1
        seat.in_flight += 1
        return seat

    # What was seen of a worker

    def release(self, seat: Seat, outcome: Outcome, seconds: float | None = None) -> None:
        """End an attempt. `seconds`: how long the worker had had the request when its answer began, or it failed.

        By that it is known what was seen of the worker before a rest began, and how fast it is.
        """
        health = seat.health
        if outcome is Outcome.ANSWERED:
            health.answered(seconds)
            if not health.clear and health.vindicated(seconds, self._clock()):
                self._is_back(seat)
        elif outcome is Outcome.CANCELLED:
            health.given_up += 1
        else:
            health.ended += 1
            self._judge(seat, outcome, seconds)
        seat.in_flight -= 1  # not before: what it held when it died is known by that
        if self._waiting:
            self._hand_over(seat)

    def _judge(self, seat: Seat, outcome: Outcome, seconds: float | None) -> None:
        now, health = self._clock(), seat.health
        if outcome.unreachable:
            if health.failed(seconds, now):
                self._rest(seat, outcome.name.lower(), until_ready=outcome is Outcome.REFUSED)
        elif outcome is Outcome.ANSWERED_5XX:
            reason = health.erred(self._policy, now)
            if reason is not None:
                self._rest(seat, reason, reachable=True)
        else:
            declines = health.declined()
            if declines & (declines - 1) == 0:  # the first, second, fourth …: at once, and yet seldom
                self._weigh(now)

    def eject(self, seat: Seat, reason: str) -> None:
        """It was asked how it is and did not answer well: it rests. One that rests already rests on from now."""
        self._rest(seat, reason, until_ready=True, least=EJECTED)
        for tell in self.on_eject:
            tell(seat)

    def restore(self, seat: Seat) -> None:
        """It was asked how it is and is well. That ends a rest that was to last until then, no other."""
        now = self._clock()
        seat.heard(now)
        if seat.rest_until > now and seat.health.until_ready:
            seat.health.come_back(now)
            self._is_back(seat)

    def _rest(
        self, seat: Seat, reason: str, *, reachable: bool = False, until_ready: bool = False, least: float = 0.0
    ) -> None:
        now = self._clock()
        known = seat.rest_until > now and seat.health.reachable is reachable
        pause = max(least, self._policy.rest.after(seat.health.next_rest(now), self._chance()))
        seat.health.rest(reason, now, pause, reachable=reachable, until_ready=until_ready)
        if known:
            return
        if not reachable:
            for tell in self.on_death:
                tell(seat)
        self.ejections[reason] += 1
        log.warning("worker %s rests for %.3g s: %s", seat.worker.id, pause, reason)
        self._arrange()

    def _is_back(self, seat: Seat) -> None:
        log.info("worker %s is back", seat.worker.id)
        self._arrange()

    # Time

    def turn(self) -> None:
        """To be called once a second: what was counted since becomes a part of the window, and everybody's share is
        worked out anew."""
        now = self._clock()
        seconds = max(1, round(now - self._turned))
        self._turned = now
        peers: dict[object, list[Health]] = {}
        for seat in self._seats.values():
            seat.health.turn(seconds)
            peers.setdefault((seat.worker.models, seat.worker.versions), []).append(seat.health)
        for group in peers.values():  # who serves other models may well take longer
            shares = shares_by_latency([health.latency for health in group], self._policy.slow)
            for health, share in zip(group, shares, strict=True):
                health.compared(share)
        self._weigh(now)
        if now >= self._next_change:
            self._arrange()

    def _weigh(self, now: float) -> None:
        """Give everybody the share that it deserves; only if one's is another than before, the rounds begin anew."""
        changed = False
        for seat in self._seats.values():
            share = seat.health.share(self._policy, now)
            changed = changed or share != seat.share
            seat.share = share
        if changed:
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
        for seat in self._seats.values():
            seat.share = seat.health.share(self._policy, now)
        due = [*self._missing.values(), *(seat.rest_until for seat in self._seats.values() if seat.rest_until > now)]
        self._next_change = min(due, default=float("inf"))
        self._rounds.clear()
        if self._waiting:
            self._seat_all()
