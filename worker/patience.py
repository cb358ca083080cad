"""Do callers wait for their answers? It decides who of those that wait is served first under overload.

When more comes than can be done and callers give up after a while, the one who came first is always the next to give
up: serving him is work for nobody, and in the end no work is for anybody. Then the one who came last is served first,
and most get their answers in time again. As long as callers wait it goes in order.
"""

from __future__ import annotations

_MANY = 16
"""So many more lost than served are a sign."""
_MOST = 64
"""So long is a sign remembered: for so many more served than lost."""


class Patience:
    """Counts who was served and who gave up. Cheap: it hears of every task."""

    def __init__(self) -> None:
        self._lost = 0
        self.newest_first = False
        """Is it better to begin with those who came last?"""

    def lost(self) -> None:
        """Somebody gave up, or his deadline passed, before he had his answer."""
        self._lost = min(self._lost + 1, _MOST)
        if self._lost >= _MANY:
            self.newest_first = True

    def served(self) -> None:
        """Somebody had his answer in time."""
        self._lost = max(self._lost - 1, 0)
        if not self._lost:
            self.newest_first = False
