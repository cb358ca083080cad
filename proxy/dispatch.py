"""The retry policy: after a failed attempt, which comes next? Decided without I/O, as a table that can be read.

A request is lost for nothing if it is given up too early, and does harm if it is run twice where that is not safe. So:

    nothing was sent            → another worker, always
    sent, no response byte yet  → a kept-alive connection had died: the same worker once more, on a fresh connection;
                                  a fresh one died: another worker, unless `MAX_FAILED` have failed, lest a request that
                                  kills workers kills them all. Both only if running it twice is safe and all of it is
                                  here.
    it is found to hang         → another worker, on the same conditions; if they do not hold, it may still answer
    it answers 503              → it did not take the request: another worker, on the same conditions, if one is fit;
                                  else the answer is passed on. That nobody takes it does no harm, so all that are fit
                                  may be asked, as long as the retry budget lasts
    it answers 500, 502, 504    → likewise, if it promised that running it twice is safe: a method does not say enough
    it answers 404              → to a request that names a model it is the same, but no fault: models come and go, and
                                  who says nothing about its models was only taken to have it
    response under way          → never: the client has seen a part of it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from muster.errors import ClusterError, Overloaded, UnknownModel, WorkerBroke, WorkerTimeout, WorkerUnreachable
from proxy.health import Outcome

MAX_FAILED = 2
"""Most workers that one request may be given to in vain, not counting those that did not take it."""


class Failure(Enum):
    """How an attempt failed."""

    UNREACHABLE = auto()  # no connection: the worker saw nothing
    STALE = auto()  # a kept-alive connection turned out to be dead; says nothing about the worker
    BROKE = auto()  # it took the request and closed or reset the connection before it answered
    GARBAGE = auto()  # it answered with something that is not HTTP
    SILENT = auto()  # it took the request and never answered
    HUNG = auto()  # it took the request, and before it answered it was found to hang or to be gone
    DECLINED = auto()  # it answered 503: it is full, still loading, or about to leave
    ERRED = auto()  # it answered 500, 502 or 504: it could not do it
    LACKING = auto()  # it answered 404: it has not got the model, or not any more

    @property
    def outcome(self) -> Outcome:
        """What it says about the worker."""
        return _OUTCOMES[self]


_OUTCOMES = {
    Failure.UNREACHABLE: Outcome.REFUSED,
    Failure.STALE: Outcome.CANCELLED,
    Failure.BROKE: Outcome.BROKE,
    Failure.GARBAGE: Outcome.GARBAGE,
    Failure.SILENT: Outcome.SILENT,
    Failure.HUNG: Outcome.SILENT,
    Failure.DECLINED: Outcome.DECLINED,
    Failure.ERRED: Outcome.ANSWERED_5XX,
    Failure.LACKING: Outcome.ANSWERED,
}


class Step(Enum):
    """What to do next."""

    ANOTHER_WORKER = auto()
    FRESH_CONNECTION = auto()
    GIVE_UP = auto()


@dataclass(slots=True)
class Attempts:
    """What has been tried for one request."""

    made: int = 0  # attempts of any kind
    failed: int = 0  # workers that had the request and broke, hung or failed at it
    refreshed: bool = False  # a dead kept-alive connection has been made up for once

    def note(self, failure: Failure) -> None:
        """A worker that had the request is not asked again, for that reason."""
        self.failed += failure is not Failure.DECLINED


def refusal(status: int, *, names_model: bool, replay_safe: bool) -> Failure | None:
    """What kind of failure an answer of that status is, if another worker may be asked instead. Most are none."""
    if status == 503:
        return Failure.DECLINED
    if status in (500, 502, 504) and replay_safe:
        return Failure.ERRED
    return Failure.LACKING if status == 404 and names_model else None


def outcome_of(status: int, *, says_when: bool) -> Outcome:
    """What an answer of that status says about the worker. `says_when`: it has a Retry-After."""
    if status < 429 or status in (501, 505):
        return Outcome.ANSWERED
    if status in (429, 503) and says_when:
        return Outcome.DECLINED
    return Outcome.ANSWERED_5XX if status >= 500 else Outcome.ANSWERED


def next_step(failure: Failure, attempts: Attempts, *, sent: bool, safe_twice: bool, replayable: bool) -> Step:
    """What comes after this failure, which `attempts` does not count yet.

    `sent`: the worker had the request; `safe_twice`: it is idempotent, or the worker promised that it is; `replayable`:
    all that came is still here.
    """
    if not sent:
        return Step.ANOTHER_WORKER
    if failure is Failure.SILENT or not (safe_twice and replayable):
        return Step.GIVE_UP
    if failure is Failure.STALE and not attempts.refreshed:
        return Step.FRESH_CONNECTION
    if failure is Failure.DECLINED:
        return Step.ANOTHER_WORKER
    return Step.ANOTHER_WORKER if attempts.failed + 1 < MAX_FAILED else Step.GIVE_UP


def error_of(failure: Failure) -> ClusterError:
    """What the client is told when its request is given up."""
    match failure:
        case Failure.UNREACHABLE:
            return WorkerUnreachable("no worker could be reached")
        case Failure.SILENT:
            return WorkerTimeout("the worker did not answer in time")
        case Failure.GARBAGE:
            return WorkerBroke("the worker's answer is not HTTP")
        case Failure.STALE | Failure.BROKE:
            return WorkerBroke("the worker closed the connection before it answered")
        case Failure.HUNG:
            return WorkerBroke("the worker hung before it answered")
        case Failure.ERRED:
            return WorkerBroke("the worker failed")
        case Failure.DECLINED:
            return Overloaded("the worker cannot take the request now")
        case Failure.LACKING:
            return UnknownModel("the worker has not got the model")
