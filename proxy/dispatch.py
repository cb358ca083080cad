"""The retry policy: after a failed attempt, which comes next? Decided without I/O, as a table that can be read.

A request is lost for nothing if it is given up too early, and does harm if it is run twice where that is not safe. So:

    nothing was sent            → another worker, always
    sent, no response byte yet  → a kept-alive connection had died: the same worker once more, on a fresh connection;
                                  a fresh one died: another worker, up to `MAX_SENT` in all, lest a request that kills
                                  workers kills them all. Both only if running it twice is safe and all of it is here.
    it answers 503              → it did not take the request: another worker, on the same conditions, if one is fit;
                                  else the answer is passed on
    it answers 404              → to a request that names a model it is the same, but no fault: models come and go, and
                                  who says nothing about its models was only taken to have it
    response under way          → never: the client has seen a part of it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from muster.errors import ClusterError, Overloaded, UnknownModel, WorkerBroke, WorkerTimeout, WorkerUnreachable

MAX_SENT = 2
"""Most workers that one request is sent to."""


class Failure(Enum):
    """How an attempt failed."""

    UNREACHABLE = auto()  # no connection: the worker saw nothing
    STALE = auto()  # a kept-alive connection turned out to be dead; says nothing about the worker
    BROKE = auto()  # it took the request and closed or reset the connection before it answered
    GARBAGE = auto()  # it answered with something that is not HTTP
    SILENT = auto()  # it took the request and never answered
    DECLINED = auto()  # it answered 503: it is full, still loading, or about to leave
    LACKING = auto()  # it answered 404: it has not got the model, or not any more

    @property
    def blames_worker(self) -> bool:
        """Should the worker rest after this?"""
        return self not in (Failure.STALE, Failure.LACKING)


class Step(Enum):
    """What to do next."""

    ANOTHER_WORKER = auto()
    FRESH_CONNECTION = auto()
    GIVE_UP = auto()


@dataclass(slots=True)
class Attempts:
    """What has been tried for one request."""

    made: int = 0  # attempts of any kind
    sent: int = 0  # workers that were sent something
    refreshed: bool = False  # a dead kept-alive connection has been made up for once


def refusal(status: int, *, names_model: bool) -> Failure | None:
    """What kind of failure an answer of that status is, if another worker may be asked instead. Most are none."""
    if status == 503:
        return Failure.DECLINED
    return Failure.LACKING if status == 404 and names_model else None


def next_step(failure: Failure, attempts: Attempts, *, safe_twice: bool, replayable: bool) -> Step:
    """`safe_twice`: it is idempotent, or the worker promised that it is; `replayable`: all that came is still here."""
    if failure is Failure.UNREACHABLE:
        return Step.ANOTHER_WORKER
    if failure is Failure.SILENT or not (safe_twice and replayable):
        return Step.GIVE_UP
    if failure is Failure.STALE and not attempts.refreshed:
        return Step.FRESH_CONNECTION
    return Step.ANOTHER_WORKER if attempts.sent < MAX_SENT else Step.GIVE_UP


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
        case Failure.DECLINED:
            return Overloaded("the worker cannot take the request now")
        case Failure.LACKING:
            return UnknownModel("the worker has not got the model")
