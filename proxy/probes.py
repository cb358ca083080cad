"""Asks workers how they are, where there is reason to: it finds the hanging ones, and those that are well again.

    it owes answers and gives none    it answers the question in time: it is only busy; it does not: it is ejected
    it rests because it seemed dead   it is ready: its rest is over; it is not: it rests on
    the registry is silent            everybody is asked in turn, for nobody else would say that one has died

When nothing is wrong nobody is asked anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

from discovery.probe import Finding
from muster.values import Worker
from proxy.roster import Roster
from proxy.seats import Seat

log = logging.getLogger(__name__)

EVERY = 0.05
"""Seconds between two looks at who is suspect."""
TIMEOUT = 0.5
"""Seconds for an answer."""
PAUSE = 0.25
"""Seconds until the same worker is asked again; doubled up to LONGEST_PAUSE while it stays dead."""
LONGEST_PAUSE = 1.0
TURN = 2.0
"""Seconds in which everybody is asked once while the registry is silent."""
MOST = 32
"""Questions at the same time."""
LATE = 0.1
"""Seconds by which we may be late ourselves; then it is no wonder that an answer was not seen in time."""


class Look(Protocol):
    """As `discovery.probe.Probe.look`."""

    def __call__(self, host: str, port: int, within: float | None = None) -> Awaitable[tuple[Finding, Worker | None]]:
        """How the worker there is."""


class Prober:
    """`age` says for how long the registry has been silent, None before its first word; above `stale` that is odd."""

    def __init__(self, roster: Roster, look: Look, age: Callable[[], float | None], stale: float) -> None:
        self._roster = roster
        self._look = look
        self._age = age
        self._stale = stale
        self._asking: dict[Seat, asyncio.Task[None]] = {}
        self._due: dict[Seat, float] = {}  # when somebody may be asked again
        self._dead: Counter[Seat] = Counter()  # how often in a row
        self._late_at = float("-inf")  # when we last were late
        self.results: Counter[Finding] = Counter()
        """The answers, by kind."""

    @property
    def stale(self) -> bool:
        """Has the registry been silent for too long?"""
        age = self._age()
        return age is not None and age > self._stale

    async def run(self) -> None:
        """Go on for ever."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due = loop.time() + EVERY
                await asyncio.sleep(EVERY)
                now = loop.time()
                if now - due > LATE:
                    self._late_at = now
                self.ask_suspects(now)
        finally:
            for task in self._asking.values():
                task.cancel()
            await asyncio.gather(*self._asking.values(), return_exceptions=True)

    def ask_suspects(self, now: float) -> None:
        """Begin to ask those about whom there is doubt and who were not asked a moment ago."""
        suspects = self._roster.fitness.suspects()
        if self.stale:
            suspects += [seat for seat in self._roster.seats if seat not in suspects]
        elif not suspects and self._due:
            self._due.clear()
            self._dead.clear()
        for seat in suspects:
            if len(self._asking) >= MOST:
                return
            if seat not in self._asking and now >= self._due.get(seat, now):
                task = asyncio.get_running_loop().create_task(self._question(seat))
                self._asking[seat] = task
                task.add_done_callback(lambda _, seat=seat: self._asking.pop(seat, None))  # type: ignore[misc]

    async def _question(self, seat: Seat) -> None:
        loop, worker = asyncio.get_running_loop(), seat.worker
        asked = loop.time()
        finding, told = await self._look(worker.host, worker.port, TIMEOUT)
        self.results[finding] += 1
        now = loop.time()
        if not seat.listed:
            self._due.pop(seat, None)
            self._dead.pop(seat, None)
            return
        if finding is Finding.DEAD:
            if now - asked > TIMEOUT + LATE or self._late_at >= asked:
                return  # it was we who were busy: asked again at once
            self._dead[seat] += 1
            self._due[seat] = now + min(PAUSE * 2.0 ** min(self._dead[seat] - 1, 8), LONGEST_PAUSE)
            self._roster.fitness.eject(seat, "probe")
            return
        self._dead.pop(seat, None)
        self._due[seat] = now + (TURN if self.stale else PAUSE)
        # Who says that it cannot serve is alive, and may still answer what it owes; but it does not come back so.
        itself = told is not None and told.id in (worker.id, worker.address)
        if itself or not self._roster.fitness.resting(seat):
            self._roster.fitness.restore(seat)
