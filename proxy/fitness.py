"""Which of the listed workers are fit: what was seen of them is judged here, and who rests for it, and for how long.

A worker that failed *rests* (`health`): it is not chosen for a while, and longer each time it fails again, unless
nobody else is left. Of those that are there and answer badly only a part rests; the others stay, with the least share.

The roster tells how attempts ended; whoever probes workers tells with `eject` and `restore` what it found; and
`changed` is called when somebody rests, is back or deserves another share. Knows no sockets; the clock is passed in.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from proxy.health import Health, Outcome, Policy, shares_by_latency
from proxy.seats import Seat

log = logging.getLogger(__name__)

Clock = Callable[[], float]

QUIET = 0.3
"""Seconds for which a worker may owe answers and give none before it is asked whether it is well."""
ONCE = 10.0
"""Seconds in which a worker dies once, as far as `on_death` is concerned: one that comes back only to break off again
is how a storm begins, and not an accident."""
PROMPT = 0.1
"""Seconds between two times that shares are worked out because somebody declined: it is work for each worker, and where
all of them decline there is reason to all the time."""
EJECTED = 5.0
"""Seconds for which one that was asked and did not answer well rests at least. It is asked again long before."""


class Fitness:
    """Of all the workers in `seats`, which are the listed ones."""

    def __init__(self, clock: Clock, policy: Policy, changed: Callable[[], None], chance: Callable[[], float]) -> None:
        self._clock = clock
        self._policy = policy
        self._changed = changed
        self._chance = chance
        self._turned = clock()
        self._weighed = float("-inf")  # when shares were last worked out
        self._outdated = False  # since then somebody declined so often that it makes a difference
        self.seats: Collection[Seat] = ()
        self.ejections: Counter[str] = Counter()
        """Rests that began, by reason."""
        self.on_eject: list[Callable[[Seat], None]] = []
        """Whom to tell of a worker that is found to be dead or to hang while requests are under way there."""
        self.on_death: list[Callable[[Seat], None]] = []
        """Whom to tell, before that, that a worker seems to have died, whoever found out. Its `in_flight` is what it
        held."""

    # Who is fit

    def fit(self, seats: Sequence[Seat]) -> list[Seat]:
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

    def resting(self, seat: Seat) -> bool:
        """Is it left alone for now, as far as that is possible? Not who only has to be, and is needed."""
        if seat.rest_until <= self._clock():
            return False
        return not seat.health.reachable or seat not in self.fit([one for one in self.seats if not one.worker.empty])

    def rest_left(self, seat: Seat) -> float:
        """Seconds until it may be chosen again as others are, 0 for one that does not rest."""
        return max(0.0, seat.rest_until - self._clock())

    def suspects(self) -> list[Seat]:
        """Who should be asked whether it is well: who rests until it says so, and who owes answers and has given none
        for a while. To be called a few times a second."""
        now = self._clock()
        return [
            seat for seat in self.seats if seat.quiet(now, QUIET) or (seat.rest_until > now and seat.health.until_ready)
        ]

    # What is seen

    def vindicated(self, seat: Seat, seconds: float | None) -> None:
        """It answered well, and something is held against it."""
        if seat.health.vindicated(seconds, self._clock()):
            self._is_back(seat)

    def failed(self, seat: Seat, outcome: Outcome, seconds: float | None) -> None:
        """An attempt ended in another way than with a good answer. `seconds` as for `Roster.release`."""
        now, health = self._clock(), seat.health
        if outcome is Outcome.CANCELLED:
            health.given_up += 1
            return
        health.ended += 1
        if outcome.unreachable:
            if health.failed(seconds, now):
                self._rest(seat, outcome.name.lower(), until_ready=outcome is Outcome.REFUSED)
        elif outcome is Outcome.ANSWERED_5XX:
            reason = health.erred(self._policy, now)
            if reason is not None:
                self._rest(seat, reason, reachable=True)
        else:
            declines = health.declined()
            self._outdated = self._outdated or declines & (declines - 1) == 0  # the first, second, fourth …
            if self._outdated and now - self._weighed >= PROMPT:
                self._weigh()

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
        health = seat.health
        known = seat.rest_until > now and health.reachable is reachable
        died = not reachable and now - health.died > ONCE
        pause = max(least, self._policy.rest.after(health.next_rest(now), self._chance()))
        health.rest(reason, now, pause, reachable=reachable, until_ready=until_ready)
        if known:
            return
        if died:
            for tell in self.on_death:
                tell(seat)
        self.ejections[reason] += 1
        log.warning("worker %s rests for %.3g s: %s", seat.worker.id, pause, reason)
        self._changed()

    def _is_back(self, seat: Seat) -> None:
        log.info("worker %s is back", seat.worker.id)
        self._changed()

    # Time

    def next_return(self) -> float:
        """When the first of those that rest may be chosen again."""
        now = self._clock()
        return min((seat.rest_until for seat in self.seats if seat.rest_until > now), default=float("inf"))

    def turn(self) -> None:
        """To be called once a second: what was counted since becomes a part of the window, and everybody's share is
        worked out anew."""
        now = self._clock()
        seconds = max(1, round(now - self._turned))
        self._turned = now
        peers: dict[object, list[Health]] = {}
        for seat in self.seats:
            seat.health.turn(seconds, seat.in_flight)
            peers.setdefault((seat.worker.models, seat.worker.versions), []).append(seat.health)
        for group in peers.values():  # who serves other models may well take longer
            shares = shares_by_latency([health.pace for health in group], self._policy.slow)
            for health, share in zip(group, shares, strict=True):
                health.compared(share)
        self._weigh()

    def share_out(self) -> bool:
        """Give everybody the share that it deserves. Is one's another than before?"""
        now, changed = self._clock(), False
        for seat in self.seats:
            share = seat.health.share(self._policy, now)
            changed = changed or share != seat.share
            seat.share = share
        return changed

    def _weigh(self) -> None:
        self._weighed, self._outdated = self._clock(), False
        if self.share_out():
            self._changed()
