"""The retry budget: requests that are sent again are few beside those that come, whatever fails. Pure.

When many workers fail at once, each retry is more load for those that are left, and the next reason to fail. So what is
sent to another worker is bounded by what came for the first time in the last seconds, with a reserve for when that was
little.

A death is no storm: what the worker had in its hands when it was found dead may all be sent again, however much it is.
It was sent there once, so that pays for itself. Who comes back and dies again soon gets no more (`fitness.ONCE`).
"""

from __future__ import annotations

from collections import deque

WINDOW = 10
"""Seconds; as often must `turn` have been called for what happened to be forgotten."""
RESERVE = 100
"""Requests that may be sent again in a window, however few came."""


class RetryBudget:
    """Counts `requests`, which whoever takes one in adds to, and what is sent again for them."""

    __slots__ = ("_charged", "_owed", "_past", "ratio", "refused", "requests", "spent")

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.requests = 0
        self.spent = 0
        """How often something was sent again."""
        self.refused = 0
        """How often that was not allowed."""
        self._charged = 0  # what was spent, less what was granted
        self._owed = 0.0  # what the reserve gave more than the ratio, in seconds that are forgotten
        self._past: deque[tuple[int, int]] = deque([(0, 0)], maxlen=WINDOW)

    def grant(self, held: int) -> None:
        """A worker was found dead that held so many requests."""
        self._charged -= held

    def take(self, *, spare: bool = False) -> bool:
        """Send a request again? Each True is counted as done. `spare`: it has not failed, and may only be late, so half
        of the budget is kept for those that do fail."""
        if spare and 2 * self.left <= self._most:
            return False
        if self.left < 1:
            self.refused += 1
            return False
        self.spent += 1
        self._charged += 1
        return True

    @property
    def left(self) -> int:
        """How many more may be sent again now."""
        return self._most - (self._charged - self._past[0][1]) if self.ratio else 0

    @property
    def _most(self) -> int:
        """How many may be sent again in a window. The reserve is paid back, or a long storm would get it again and
        again on top of the ratio."""
        return max(RESERVE, int(self.ratio * (self.requests - self._past[0][0]) - self._owed))

    def turn(self) -> None:
        """A second is over."""
        if len(self._past) == WINDOW:  # another one is forgotten
            (requests, charged), (later, more) = self._past[0], self._past[1]
            owed = self._owed + (more - charged) - self.ratio * (later - requests)
            self._owed = min(max(0.0, owed), RESERVE)
        self._past.append((self.requests, self._charged))
