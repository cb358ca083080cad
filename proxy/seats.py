"""A worker as the roster keeps it: how it announced itself, how much it may hold, and what we have seen of it."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from muster.values import Worker
from proxy.health import Health
from proxy.place import part


@dataclass(frozen=True, slots=True)
class Limits:
    """How many requests a worker may have under way from here."""

    unsaid: int = 1024
    """If it did not say how many it is willing to hold."""
    processes: int = 1
    """Proxy processes that share what a worker is willing to hold."""
    number: int = 0
    """This process's, from 0."""

    def of(self, worker: Worker) -> int:
        """The limit for that worker, at least 1.

        All processes' limits together are what it is willing to hold, unless that is less than one for each of them.
        What is over when it is shared out goes to others with each worker, so that no process gets less from all.
        """
        turn = (self.number + crc32(worker.id.encode())) % self.processes
        return max(1, part(worker.capacity or self.unsaid, turn, self.processes))


class Seat:
    """One worker, and what we have seen of it. It is kept for as long as the worker stays listed."""

    __slots__ = ("_asked_after", "_given_up", "_quiet_since", "_seen", "health", "in_flight", "last_pick", "limit",
                 "listed", "picks", "share", "worker")  # fmt: skip

    def __init__(self, worker: Worker, limit: int) -> None:
        self.worker = worker
        self.limit = limit
        self.listed = True
        self.in_flight = 0
        self.picks = 0
        self.last_pick = 0
        self.health = Health()
        self.share = 1.0
        """The part of its weight that it deserves: less while it is slow, declines, or has just come back."""
        self._seen = -1  # signs of work that it had given when it was last looked at
        self._given_up = 0  # and that had been given up
        self._quiet_since = 0.0
        self._asked_after = 0.0

    @property
    def weight(self) -> int:
        """Its share of the traffic."""
        return self.worker.weight

    @property
    def latency(self) -> float:
        """Seconds that it takes to answer, 0 if that is not known."""
        return self.health.latency or 0.0

    @property
    def failures(self) -> int:
        """In a row."""
        return self.health.failures

    @property
    def rest_until(self) -> float:
        """When its rest is over, or was, on the roster's clock; 0 if it was ended early or there was none."""
        return self.health.rest_until

    def quiet(self, now: float, patience: float) -> bool:
        """Has it owed answers for so many seconds and given none? To be asked a few times a second.

        It owes them to those, too, who gave it up: they may have, because it hangs. Each `heard` doubles the patience
        until an answer comes: a connection that is meant to stay open, as a WebSocket is, looks the same as a worker
        that hangs.
        """
        health = self.health
        if health.given != self._seen or not (self.in_flight or health.given_up != self._given_up):
            self._seen = health.given
            self._given_up = health.given_up
            self._quiet_since = now
            self._asked_after = patience
        return now - self._quiet_since >= self._asked_after

    def heard(self, now: float) -> None:
        """It said that it is well."""
        self._given_up = self.health.given_up
        self._quiet_since = now
        self._asked_after = min(2 * self._asked_after, 16.0)

    def __repr__(self) -> str:
        return f"<Seat {self.worker.id}: {self.in_flight} in flight, {self.failures} failures>"
