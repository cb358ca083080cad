"""What the requests that went to a worker say about it: is it fit, and how much does it deserve? Pure, without a clock.

    refused, broke, garbage, silent   it rests at once: a worker that is gone shows it so
    5xx answers                       it rests after some in a row, or when too many of its answers in the window are
    declined (503 with Retry-After)   it is alive and says how it is: it gets less, in proportion
    slower than its peers             it gets less, in proportion

A rest is longer each time, and shorter again after calm; who comes back from one gets its share little by little.
On the hot path a success is two additions: whatever needs arithmetic is done by `turn`, once a second, or on a failure.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from statistics import median

WINDOW = 10
"""Seconds in the sliding window; a bucket is one."""
RECENT = 1
"""Buckets from which, with the current one, the share of one that declines is worked out. No more: as long as earlier
answers speak for it, it gets requests that must be sent again, and the retry budget is soon used up."""
CALM = 10.0
"""Seconds without a rest that make up for one."""
SLOW_BY = 0.02
"""Seconds by which a slow worker is slower at least: below, it is noise."""
SLOW_FOR = 3
"""Turns in a row, each with requests enough to tell, in which it has to be slow: one late answer says nothing."""
LEAST_SHARE = 0.05
"""No fit worker gets less of its weight: how else would it be seen that it is well again?"""
_SMOOTHING = 0.3  # how much of a worker's latency is the last second's, if there were enough requests in it
_ENOUGH = 5


class Outcome(Enum):
    """How an attempt at a worker ended."""

    ANSWERED = auto()  # with anything but the following; 404, 501 and 505 included
    ANSWERED_5XX = auto()  # it failed to do its work: 500, 502, 504, 503 without Retry-After …
    DECLINED = auto()  # 503 with Retry-After, 429: it is full, still loading, or about to leave
    REFUSED = auto()  # no connection
    BROKE = auto()  # it closed or reset the connection before the answer was complete
    GARBAGE = auto()  # its answer is not HTTP
    SILENT = auto()  # it never answered
    CANCELLED = auto()  # the client left, or nobody waits any more: it says nothing about the worker

    @property
    def unreachable(self) -> bool:
        """Is it a reason to take the worker for dead?"""
        return self in _UNREACHABLE


_UNREACHABLE = frozenset({Outcome.REFUSED, Outcome.BROKE, Outcome.GARBAGE, Outcome.SILENT})


@dataclass(frozen=True, slots=True)
class Rest:
    """How long a worker rests, the n-th time: `first` seconds, doubled each time, up to `longest`.

    A part `jitter` of it is left to chance, so that not all who ask come back to it in the same moment.
    """

    first: float = 1.0
    longest: float = 30.0
    jitter: float = 0.0

    def after(self, times: int, chance: float = 0.0) -> float:
        """Seconds of the rest that is number `times`; `chance` is from 0 to 1."""
        return min(self.first * 2.0 ** min(times - 1, 30), self.longest) * (1.0 + self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Policy:
    """When a worker rests, for how long, and how it comes back."""

    rest: Rest = field(default_factory=Rest)
    errors: int = 5
    """5xx answers in a row after which it rests."""
    rate: float = 0.5
    """Part of the answers in the window that may be 5xx."""
    least: int = 20
    """Answers in the window before a rate means anything."""
    max_ejected: float = 0.5
    """Part of the workers that may rest for their answers; who cannot be reached rests in any case."""
    slow_start: float = 10.0
    """Seconds in which the share of one that comes back grows to the whole."""
    slow: float = 3.0
    """How many times slower than the median of its peers a worker has to be to get less."""


class Health:
    """One worker's."""

    __slots__ = ("_declines", "_errors", "_given", "_mute", "_returned", "_seconds", "_slow_turns", "_telling",
                 "_timed", "_times", "_window", "answers", "clear", "died",
                 "ended", "failures", "given_up", "latency", "opened", "reachable", "reason", "rest_until", "rested",
                 "slowness", "until_ready")  # fmt: skip

    def __init__(self) -> None:
        self.clear = True
        """Nothing is held against it, so a success needs no thought."""
        self.ended = 0
        """Attempts that ended in a way that says something about it."""
        self.given_up = 0
        """Those that ended because nobody waits any more, as when another worker was faster."""
        self.opened = 0
        """Answers of which nobody knew, when they began, how long they would be: streams of events, WebSockets."""
        self.failures = 0
        """In a row."""
        self.rest_until = 0.0
        self.reason = ""
        """Why it rests, or last did."""
        self.reachable = True
        """False if it rests, or last did, because it seemed to be dead, and not because of its answers."""
        self.latency: float | None = None
        """Seconds that it takes to answer, smoothed."""
        self.slowness = 1.0
        """What its latency leaves of its share."""
        self._slow_turns = 0
        self._telling = False  # the last turn had requests enough to tell
        self._given = (0, 0)  # answers that had ended or opened by then, and all attempts that had begun
        self._mute = 0.0  # seconds for which it has been given requests and has answered none
        self.answers = 0  # these four since the last turn
        self._timed = 0
        self._seconds = 0.0
        self._errors = 0
        self._declines = 0
        self._window: deque[tuple[int, int, int]] = deque(maxlen=WINDOW)  # answers, errors, declines
        self._times = 0  # rests, less those that calm made up for
        self.until_ready = False
        """Its rest ends as soon as it says that it is ready. One that only breaks off its answers may well say so."""
        self.rested = float("-inf")
        """When its last rest began."""
        self.died = float("-inf")
        """When the last of those began that it had because it seemed to be dead."""
        self._returned = float("-inf")  # and when it ended

    # What is seen

    def answered(self, seconds: float | None) -> None:
        """A good answer came, `seconds` after the worker had the request. Where it is not `clear`, `vindicated` too."""
        self.ended += 1
        self.answers += 1
        if seconds is not None:
            self._timed += 1
            self._seconds += seconds

    def vindicated(self, seconds: float | None, now: float) -> bool:
        """It succeeded with something held against it. True: that ends its rest."""
        if now < self.rest_until:
            if seconds is None or now - seconds < self.rested:
                return False  # it was asked before the rest began, so the answer is no newer than what led to it
            self.come_back(now)
            return True
        self.failures = 0
        self.clear = True
        return False

    def erred(self, policy: Policy, now: float) -> str | None:
        """It answered 5xx. Say why it has to rest, if it has to."""
        self.clear = False
        self.failures += 1
        self._errors += 1
        if now < self.rest_until:
            return None
        if self.failures >= policy.errors:
            return "errors"
        answers, errors, _ = self.window()
        total = answers + errors
        return "error rate" if total >= policy.least and errors >= policy.rate * total else None

    def declined(self) -> int:
        """It said that it cannot take the request now, so many times since the last turn."""
        self._declines += 1
        return self._declines

    def failed(self, seconds: float | None, now: float) -> bool:
        """It could not be reached, or broke off. False: that is no news.

        One death ends many requests at once; it counts for one. So what was under way when a rest began says nothing.
        """
        self.clear = False
        if now - seconds < self.died if seconds is not None else now < self.rest_until and not self.reachable:
            return False
        self.failures += 1
        return True

    # Rest

    def next_rest(self, now: float) -> int:
        """The number of the rest that would begin now. One that rests already would rest on: it is the same one."""
        if now < self.rest_until:
            return self._times
        calm = now - self._returned
        return self._times - int(min(calm / CALM, self._times)) + 1

    def rest(self, reason: str, now: float, pause: float, *, reachable: bool, until_ready: bool = False) -> None:
        """Let it rest from now on, for so many seconds."""
        self.clear = False
        if now >= self.rest_until:
            self._times = self.next_rest(now)
            # On its return it is judged by what it does then.
            self._window.clear()
            self.answers = self._errors = self._declines = 0
        self.rested = now
        if not reachable:
            self.died = now
        self.reason = reason
        self.reachable = reachable
        self.until_ready = until_ready
        self.rest_until = self._returned = now + pause

    def come_back(self, now: float) -> None:
        """End its rest before its time."""
        self.rest_until = 0.0
        self._returned = now
        self.failures = 0
        self.clear = True

    # Share

    def compared(self, share: float) -> None:
        """Its latency would leave it `share`, as `shares_by_latency` says; who is slow for a while gets no more."""
        if share == 1.0:
            self._slow_turns = 0
        elif self._telling:
            self._slow_turns += 1
        self.slowness = share if self._slow_turns >= SLOW_FOR else 1.0

    def share(self, policy: Policy, now: float) -> float:
        """The part of its weight that it deserves, from LEAST_SHARE to 1, in steps of that."""
        share = self.slowness * self._willingness()
        since = now - self._returned
        if since < 0:
            return LEAST_SHARE  # it rests, and takes part only because too many do
        if since < policy.slow_start:
            share *= since / policy.slow_start
        return max(1, round(share / LEAST_SHARE)) * LEAST_SHARE if share < 1.0 else 1.0

    def _willingness(self) -> float:
        answers, errors, declines = self.window(RECENT)
        return 1.0 if not declines else (answers + errors) / (answers + errors + declines)

    def window(self, seconds: int = WINDOW) -> tuple[int, int, int]:
        """Answers, errors and declines of the last seconds and of the current one."""
        answers, errors, declines = self.answers, self._errors, self._declines
        for bucket in list(self._window)[-seconds:]:
            answers += bucket[0]
            errors += bucket[1]
            declines += bucket[2]
        return answers, errors, declines

    @property
    def given(self) -> int:
        """How often it showed that it works on requests."""
        return self.ended + self.opened

    @property
    def pace(self) -> float | None:
        """Seconds that it takes to answer, or has taken by now without an answer, if it gets requests all the time."""
        return max(self.latency or 0.0, self._mute) or None

    def turn(self, seconds: int = 1, in_flight: int = 0) -> None:
        """So many seconds are over: what was counted in them becomes a part of the window. `in_flight`: attempts that
        have not ended."""
        given, begun = self._given
        self._given = self.given, self.ended + self.given_up + in_flight
        self._telling = self._timed >= _ENOUGH
        if self.given != given:
            self._mute = 0.0
        elif self._given[1] - begun >= _ENOUGH:
            self._mute += seconds
            self._telling = True
        if self._timed:
            latency = self._seconds / self._timed
            weight = _SMOOTHING if self._telling else _SMOOTHING / 3
            self.latency = latency if self.latency is None else self.latency + weight * (latency - self.latency)
        self._window.append((self.answers, self._errors, self._declines))
        for _ in range(min(seconds - 1, WINDOW)):
            self._window.append((0, 0, 0))
        self.answers = self._timed = self._errors = self._declines = 0
        self._seconds = 0.0


def shares_by_latency(latencies: Sequence[float | None], slow: float) -> list[float]:
    """What each of some peers deserves by its latency: who is `slow` times slower than the median of the others or
    worse gets that many times less; everybody else, and who is not known, gets all."""
    known = sorted(latency for latency in latencies if latency is not None)
    if len(known) < 2 or known[-1] < slow * known[0]:
        return [1.0] * len(latencies)
    shares = []
    for latency in latencies:
        share = 1.0
        if latency is not None:
            others = known.copy()
            others.remove(latency)
            usual = median(others)
            if latency >= slow * usual and latency - usual >= SLOW_BY:
                share = usual / latency
        shares.append(share)
    return shares
