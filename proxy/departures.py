"""Workers that left the registry while they still owed answers.

Who withdrew, or drains, finishes what it has in hand and is left in peace. Who was removed because it hangs, or because
its machine is gone, will never answer, and often nothing closes its connections: it is asked once a second whether it
is still there, and when it is not, its requests move to others instead of waiting for `--response-timeout`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from discovery.probe import Finding
from muster.values import Worker
from proxy.seats import Seat

EVERY = 1.0
"""Seconds between two questions to one that owes answers."""

Look = Callable[[str, int], Awaitable[tuple[Finding, Worker | None]]]


class Departures:
    """Those that are asked. `look` finds out how somebody is; `lost` is told of each that is dead."""

    def __init__(self, look: Look, lost: Callable[[Seat], None]) -> None:
        self._look = look
        self._lost = lost
        self._owing: set[Seat] = set()
        self._left = asyncio.Event()

    def add(self, seat: Seat) -> None:
        """It is not listed any more."""
        if seat.in_flight:
            self._owing.add(seat)
            self._left.set()

    async def settle(self) -> None:
        """Ask them, for ever."""
        while True:
            await self._left.wait()
            await asyncio.gather(*map(self._question, tuple(self._owing)))
            self._owing = {seat for seat in self._owing if seat.in_flight}
            if self._owing:
                await asyncio.sleep(EVERY)
            else:
                self._left.clear()

    async def _question(self, seat: Seat) -> None:
        finding, _ = await self._look(seat.worker.host, seat.worker.port)
        if finding is Finding.DEAD:
            self._lost(seat)
