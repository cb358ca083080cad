"""Requests that wait for a seat, first come first served. Bounded in number and time.

Every line of it is off the hot path: nobody waits while a worker that fits has room. Who would most likely wait in vain
is told so at once, because a quick "try again" is worth more than a slow one. One timer serves all who wait, and it is
there only while somebody does: who came first is due first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Any, Generic, Protocol, TypeVar

from muster.errors import ClusterError, Overloaded
from proxy.wants import Want

S = TypeVar("S")


class Busy(Overloaded):
    """Every worker that could take the request is full. To wait may help."""


class Timer(Protocol):
    """What `call_at` returns."""

    def cancel(self) -> None:
        """Do not ring."""


class Scheduler(Protocol):
    """As much of an event loop as waiting needs."""

    def time(self) -> float:
        """Now."""

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> Any:
        """Call it when whoever runs now is done."""

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        """Call it then."""


class Ticket(Generic[S]):
    """One that waits. It hears once: a seat, leased for it, or why there is none. Not after it was cancelled."""

    __slots__ = ("_callback", "_line", "outcome", "since", "tried", "want")

    def __init__(
        self,
        line: Line[S],
        want: Want,
        tried: Collection[S],
        since: float,
        callback: Callable[[S | ClusterError], None],
    ) -> None:
        self._line = line
        self._callback: Callable[[S | ClusterError], None] | None = callback
        self.want = want
        self.tried = tried
        self.since = since
        self.outcome: S | ClusterError | None = None

    def cancel(self) -> None:
        """Wait no longer. A seat that is on its way goes back."""
        if self._callback is None:
            return
        self._callback = None
        self._line.left(self)

    def deliver(self) -> None:
        """Tell the outcome."""
        callback, self._callback = self._callback, None
        if callback is not None and self.outcome is not None:
            callback(self.outcome)


class Line(Generic[S]):
    """All who wait.

    `lease` finds a seat for a ticket, or raises Busy while there is none; `give_back` takes one that its ticket's owner
    did not want any more.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        limit: int,
        patience: float,
        lease: Callable[[Collection[S], Want], S],
        give_back: Callable[[S], None],
    ) -> None:
        self._scheduler = scheduler
        self._limit = limit
        self._patience = patience
        self._lease = lease
        self._give_back = give_back
        self.tickets: dict[Ticket[S], None] = {}
        """Those who wait, in the order in which they came. Empty or not is all that the hot path asks."""
        self._wants: Counter[Want] = Counter()
        self._timer: Timer | None = None
        self.waits = 0
        """How many ever waited."""
        self.seconds = 0.0
        """How long, those together who got a seat."""
        self.refused = 0
        """How many were turned away because too many waited already."""
        self.timeouts = 0
        """How many waited in vain."""

    def __len__(self) -> int:
        return len(self.tickets)

    def __iter__(self) -> Iterator[Ticket[S]]:
        return iter(list(self.tickets))

    def join(
        self, want: Want, tried: Collection[S], callback: Callable[[S | ClusterError], None], pace: float
    ) -> Ticket[S]:
        """Stand at the end. `pace`: how many of this want get a seat per second, as far as is known, or 0.

        Raises Overloaded at once when the line is too long. When it is full of others, whoever has the most in it makes
        room for a want that has less than its part of the places: a model that is rarely asked for is not crowded out.
        """
        ahead = self._wants[want]
        if pace and ahead >= pace * self._patience:
            raise self._too_many()
        if len(self.tickets) >= self._limit:
            self._make_room(want)
        ticket = Ticket(self, want, tried, self._scheduler.time(), callback)
        self.tickets[ticket] = None
        self._wants[want] += 1
        self.waits += 1
        if self._timer is None:
            self._timer = self._scheduler.call_at(ticket.since + self._patience, self._ring)
        return ticket

    def call(self, ticket: Ticket[S]) -> None:
        """There may be a seat for this one now, or it may wait in vain."""
        try:
            seat = self._lease(ticket.tried, ticket.want)
        except Busy:
            return
        except ClusterError as error:
            self._done(ticket, error)
        else:
            self.seconds += self._scheduler.time() - ticket.since
            self._done(ticket, seat)

    def call_all(self) -> None:
        """Somebody may have come, or the last one gone: in order, whoever waits may find a seat."""
        for ticket in self:
            self.call(ticket)

    def left(self, ticket: Ticket[S]) -> None:
        """Its owner has gone."""
        if ticket in self.tickets:
            self._remove(ticket)
        elif ticket.outcome is not None and not isinstance(ticket.outcome, ClusterError):
            self._give_back(ticket.outcome)

    def _done(self, ticket: Ticket[S], outcome: S | ClusterError) -> None:
        self._remove(ticket)
        ticket.outcome = outcome
        self._scheduler.call_soon(ticket.deliver)  # whoever gave a seat up is in the middle of something

    def _remove(self, ticket: Ticket[S]) -> None:
        del self.tickets[ticket]
        self._wants[ticket.want] -= 1
        if not self._wants[ticket.want]:
            del self._wants[ticket.want]
        if not self.tickets and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self, want: Want) -> None:
        most, count = max(self._wants.items(), key=lambda pair: pair[1], default=(want, 0))
        if self._wants[want] + 1 >= count:
            raise self._too_many()
        last = next(ticket for ticket in reversed(self.tickets) if ticket.want == most)
        self._done(last, self._too_many())

    def _too_many(self) -> Overloaded:
        self.refused += 1
        return Overloaded(f"every worker is busy, and {len(self.tickets)} requests wait already; try again later")

    def _ring(self) -> None:
        self._timer = None
        now = self._scheduler.time()
        for ticket in list(self.tickets):
            if ticket.since + self._patience > now:
                self._timer = self._scheduler.call_at(ticket.since + self._patience, self._ring)
                return
            self.timeouts += 1
            sentence = f"every worker was busy for {self._patience:g} seconds; try again later"
            self._done(ticket, Overloaded(sentence))
