"""When a loop may ask again: at most so often when all is well, ever more rarely when it is not. Pure, but for luck."""

from __future__ import annotations

from collections.abc import Callable
from random import Random


class TokenBucket:
    """Lets `burst` questions pass at once and `rate` in a second for ever: a busy loop can never become of it."""

    def __init__(self, clock: Callable[[], float], burst: int = 10, rate: float = 20.0) -> None:
        self._clock = clock
        self._burst = burst
        self._rate = rate
        self._tokens = float(burst)
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token. The result is the time to wait before using it, in seconds."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate) - 1
        self._filled_at = now
        return max(0.0, -self._tokens / self._rate)


class Backoff:
    """Waits that double from failure to failure, each a random part of its step, so that watchers do not storm.

    The longest is short: a registry that comes back, perhaps with other workers, has to be heard within a second.
    """

    def __init__(self, rng: Random, first: float = 0.1, longest: float = 0.8) -> None:
        self._rng = rng
        self._first = first
        self._longest = longest
        self._step = first

    def next(self) -> float:
        """The time to wait after one more failure, in seconds: between `first` and `longest`."""
        step, self._step = self._step, min(self._step * 2, self._longest)
        return self._rng.uniform(max(self._first, step / 2), step)

    def reset(self) -> None:
        """It worked."""
        self._step = self._first
