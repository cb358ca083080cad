"""When requests that got no answer yet are due for a second attempt. One timer for all of them, only if there are any.

All wait equally long, so who came first is due first, and whoever gets an answer in time just leaves the line.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SLOT = 0.1
"""Part of the delay that may be added to it, so that many requests share one wake-up."""


class Hedged(Protocol):
    """Who may be due."""

    def hedge(self) -> None:
        """There is no answer yet."""


class HedgeClock:
    """Tells those who `watch` once that `delay` seconds are over, unless they `leave` before. 0 seconds: nobody is."""

    def __init__(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        self._loop = loop
        self.delay = delay
        self._due: dict[Hedged, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._due)

    def watch(self, one: Hedged) -> None:
        """Begin to wait."""
        self._due[one] = due = self._loop.time() + self.delay
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._ring)

    def leave(self, one: Hedged) -> None:
        """It has an answer, or needs none."""
        self._due.pop(one, None)

    def _ring(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._due:
            one, due = next(iter(self._due.items()))
            if due > now:
                self._timer = self._loop.call_at(max(due, now + SLOT * self.delay), self._ring)
                return
            del self._due[one]
            one.hedge()
