"""The retry budget: requests that are sent again are few beside those that come, whatever fails. Pure.

When many workers fail at once, each retry is more load for those that are left, and the next reason to fail. So what is
sent a second time is bounded by what came for the first time in the last seconds. A reserve is there at any rate: the
requests that one dying worker had in its hands are all saved, also when there was little traffic before.
"""

from __future__ import annotations

from collections import deque

WINDOW = 10
"""Seconds; as often must `turn` have been called for what happened to be forgotten."""
RESERVE = 100
"""Requests that may be sent again in a window, however few came."""


class RetryBudget:
    """Counts `requests`, which whoever takes one in adds to, and what is sent again for them."""

    __slots__ = ("_past", "ratio", "refused", "requests", "spent")

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.requests = 0
        self.spent = 0
        """How often something was sent again."""
        self.refused = 0
        """How often that was not allowed."""
        self._past: deque[tuple[int, int]] = deque([(0, 0)], maxlen=WINDOW)

    def take(self) -> bool:
        """Send a request again? Each True is counted as done."""
        if self.left < 1:
            self.refused += 1
            return False
        self.spent += 1
        return True

    @property
    def left(self) -> int:
        """How many more may be sent again now."""
        if not self.ratio:
            return 0
        requests, spent = self._past[0]
        return max(RESERVE, int(self.ratio * (self.requests - requests))) - (self.spent - spent)

    def turn(self) -> None:
        """A second is over."""
        self._past.append((self.requests, self.spent))
