"""The attempts that are made for one request: at whom, how often, and when two at once. `exchange` adds what is sent.

a worker has room           → it is asked
all that fit are full       → the request waits for its turn at the roster, which bounds that in length and time
an attempt fails            → what `dispatch` says, and, if the request would be sent again, the retry budget
a worker refuses (503 …)    → as if it had failed, but only while another fit worker has room; else it is heard
a worker hangs or is gone   → somebody else found that out: the request moves to another, if it may run twice
no answer after a while     → if hedging is on: a second attempt beside the first, and the first answer counts
"""

from __future__ import annotations

from math import inf
from time import perf_counter

from muster.errors import ClusterError
from proxy import dispatch
from proxy.attempt import Attempt, Owner
from proxy.commons import Commons
from proxy.dispatch import Attempts, Failure, Step
from proxy.health import Outcome
from proxy.replay import Copy
from proxy.request_heads import RequestHead
from proxy.response_heads import ResponseHead
from proxy.seats import Seat
from proxy.upstream import UpstreamConnection
from proxy.waiting import Busy, Ticket
from proxy.wants import ANY

RECENT = 1.0
"""Seconds after which a worker may be about to close an idle connection: less than servers usually wait."""
MANY = 5
"""Attempts from which on the time that they take counts: where nobody can be reached, there has to be an end."""


class Trials(Owner):
    """A request and its attempts. `attempt` is the one that leads, and `connection` what it has."""

    __slots__ = ("_commons", "_copy", "_second", "_ticket", "_tried", "_watched", "answered", "attempt", "attempts",
                 "body_done", "connection", "head", "seat", "started", "waited", "want")  # fmt: skip

    def __init__(self, commons: Commons, head: RequestHead) -> None:
        self._commons = commons
        self.head = head
        self.want = ANY
        self.started = perf_counter()
        self.body_done = False
        self.answered = False
        self.attempts = Attempts()
        self.attempt: Attempt | None = None
        self.connection: UpstreamConnection | None = None
        self.seat: Seat | None = None  # of the attempt that leads, or was the last to
        self._second: Attempt | None = None  # beside the one that leads
        self._watched = False  # by the clock of hedging, until there is an answer
        self._ticket: Ticket[Seat] | None = None  # while it waits for a worker that has room
        self.waited = 0.0  # seconds, for a seat; while it still does, minus the time when it began
        self._tried: list[Seat] = []
        self._copy = Copy(commons.replay)

    # What an exchange does

    def _give_up(self, error: ClusterError) -> None:
        """There will be no answer."""
        raise NotImplementedError

    def _resume_client(self) -> None:
        """Whoever did not keep up with the request's body is not in question any more."""
        raise NotImplementedError

    # The next attempt

    def _seek(self, failure: Failure | None = None) -> None:
        """Ask the next worker, at once or when it has room. `failure`: how the last attempt ended."""
        roster = self._commons.roster
        try:
            seat = roster.lease(self._tried, self.want)
        except Busy:
            self._wait()
        except ClusterError as error:
            # The model may have gone with its last worker; how the attempt ended says more.
            self._give_up(error if failure is None else dispatch.error_of(failure))
        else:
            self._ask(seat)

    def _ask(self, seat: Seat) -> None:
        attempts = self.attempts
        since = perf_counter() if attempts.made else self.started
        attempts.made += 1
        self.seat = seat
        self.attempt = attempt = Attempt(self._commons, self, seat, since)
        attempt.begin(self._idle(seat))

    def _idle(self, seat: Seat) -> float:
        """For how many seconds a connection may have been idle on which the request is sent. It may turn out dead: what
        could not be sent again then had better not start on one."""
        if self._too_large:
            return 0.0
        return inf if self._safe_twice(seat) and self._commons.retries.ratio else RECENT

    def _wait(self) -> None:
        self.waited -= perf_counter()
        try:
            self._ticket = self._commons.roster.wait(self.want, self._tried, self._on_turn)
        except ClusterError as error:  # too many wait already
            self._give_up(error)

    def _on_turn(self, turn: Seat | ClusterError) -> None:
        self._ticket = None
        self.waited += perf_counter()
        if isinstance(turn, ClusterError):
            self._give_up(turn)
        else:
            self._ask(turn)

    # Failed attempts

    def _failed(self, attempt: Attempt, failure: Failure) -> None:
        """An attempt ended without a part of an answer."""
        retries = self._commons.retries
        step = self._next_step(attempt, failure)
        if step is Step.FRESH_CONNECTION and self._second is None and retries.ratio:
            # Free: a connection is kept only after an answer, so there are no more of these than of answers.
            self._commons.stats.failures[failure] += 1
            self.attempts.refreshed = True
            self.attempts.made += 1
            self.connection = None
            attempt.begin(0.0)
            return
        if self._leave(attempt, failure, failure.outcome):
            return
        if step is not Step.GIVE_UP and (not attempt.sent or retries.take()):
            self._seek(failure)
        else:
            self._give_up(dispatch.error_of(failure))

    def _passed_over(self, attempt: Attempt, head: ResponseHead) -> bool:
        """Is that an answer for which another worker may be asked instead, and is there one? Then it has been."""
        replay_safe = attempt.seat.worker.replay_safe
        failure = dispatch.refusal(head.status, names_model=self.want.model is not None, replay_safe=replay_safe)
        if failure is None:
            return False
        return self._moved(attempt, failure, dispatch.outcome_of(head.status, says_when=head.says_when))

    def forsake(self, seat: Seat) -> None:
        """The worker was found to hang or to be gone: move to another one, if that is allowed and there is one. It is
        not once an answer has begun: its request is no longer here."""
        for attempt in (self._second, self.attempt):
            if attempt is not None and attempt.seat is seat:
                failure = Failure.HUNG if attempt.sent else Failure.UNREACHABLE
                self._moved(attempt, failure, failure.outcome)

    def _moved(self, attempt: Attempt, failure: Failure, outcome: Outcome) -> bool:
        """If there is another attempt, or may be one at a worker that is fit, go on with that."""
        if self._second is None and not self._may_move(attempt, failure):
            return False
        if not self._leave(attempt, failure, outcome):
            self._seek(failure)
        return True

    def _may_move(self, attempt: Attempt, failure: Failure, *, spare: bool = False) -> bool:
        """May the request go to another worker, has a fit one room, and the budget? Then that is counted. `spare`: not
        for a failure."""
        if self._next_step(attempt, failure) is not Step.ANOTHER_WORKER:
            return False
        if not self._commons.roster.spare([*self._tried, attempt.seat], self.want):
            return False
        return not attempt.sent or self._commons.retries.take(spare=spare)

    def _leave(self, attempt: Attempt, failure: Failure | None, outcome: Outcome) -> bool:
        """An attempt is over, and its worker is not asked again. Is another under way? Then that one leads now."""
        if failure is not None:
            self._commons.stats.failures[failure] += 1
            if attempt.sent:
                self.attempts.note(failure)
        second, self._second = self._second, None
        if attempt is self.attempt:
            self.attempt = self.connection = None
            if second is not None:
                self.attempt, self.connection, self.seat = second, second.connection, second.seat
                self._resume_client()
        self._tried.append(attempt.seat)
        attempt.drop(outcome)
        return second is not None

    def _next_step(self, attempt: Attempt, failure: Failure) -> Step:
        if self.attempts.made >= MANY and perf_counter() - self.started > self._commons.settings.response_timeout:
            return Step.GIVE_UP
        return dispatch.next_step(
            failure,
            self.attempts,
            sent=attempt.sent,
            safe_twice=self._safe_twice(attempt.seat),
            replayable=self._copy.whole,
        )

    def _safe_twice(self, seat: Seat) -> bool:
        return self.head.idempotent or seat.worker.replay_safe

    @property
    def _too_large(self) -> bool:
        """Is the body known to be more than is kept to be sent again?"""
        return (self.head.content_length or 0) > self._commons.replay.each

    # Two attempts at once

    def hedge(self) -> None:
        """No answer came for a while: ask another worker as well, if there is one."""
        attempt = self.attempt
        if attempt is None or attempt.connection is None or self._second is not None:
            return
        if not self._may_move(attempt, Failure.HUNG, spare=True):
            return
        try:
            seat = self._commons.roster.lease([*self._tried, attempt.seat], self.want)
        except ClusterError:  # it had room a moment ago
            return
        self._commons.stats.hedges += 1
        self.attempts.made += 1
        self._second = second = Attempt(self._commons, self, seat, perf_counter())
        second.begin(inf)

    def _watch(self) -> None:
        """All of the request is sent. If it can be sent again, the time until a second attempt runs."""
        if self._copy.whole:
            self._watched = True
            self._commons.hedges.watch(self)

    def _choose(self, attempt: Attempt) -> None:
        """This attempt's answer counts. The other one, if there is one, is given up."""
        self._unwatch()
        if self._second is not None:
            if attempt is self._second:
                self._commons.stats.hedges_won += 1
            loser = self.attempt if attempt is self._second else self._second
            assert loser is not None  # noqa: S101  # it leads
            self._leave(loser, None, Outcome.CANCELLED)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._commons.hedges.leave(self)

    def _abandon(self, outcome: Outcome, *, flush: bool = False) -> None:
        """Nobody wants an answer any more: nothing stays behind."""
        self._unwatch()
        if self._ticket is not None:
            self._ticket.cancel()
            self._ticket = None
        for attempt in (self.attempt, self._second):
            if attempt is not None:
                attempt.drop(outcome, flush=flush)
        self.attempt = self._second = self.connection = None
        self._copy.forget()
