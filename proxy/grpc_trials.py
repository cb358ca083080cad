"""The attempts that are made for one gRPC call: the same policy as `trials` has for requests over HTTP.

A call with one request and one answer can always be sent again, for its request is here as a whole. How an attempt ends
is a value (`Answer`) or an exception (`Failed`), whose `failure` is None if it ended with an answer like any other.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Any

from muster.errors import ClusterError, WorkerUnreachable
from proxy import dispatch
from proxy.access import end_of
from proxy.commons import Commons
from proxy.dispatch import Failure, Step
from proxy.grpc_calls import Answer, Call, Code, Refused, passed_on, refused
from proxy.grpc_channels import Channels, Link
from proxy.grpc_quietly import grpc
from proxy.grpc_wants import READ_ONLY
from proxy.health import Outcome
from proxy.seats import Seat
from proxy.waiting import Busy

log = logging.getLogger(__name__)

_LOST = (Failure.BROKE, Failure.SILENT)
"""No answer came of these, whatever gRPC makes up."""
_ERRED = frozenset({Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS})
"""What a worker says that failed to do its work, as HTTP's 500 does."""


class Failed(Exception):
    """An attempt ended without success. `refused` is how the call ends if no other is made."""

    def __init__(self, failure: Failure | None, refused: Refused, *, again: bool = False) -> None:
        super().__init__(refused.details)
        self.failure = failure
        self.refused = refused
        self.again = again  # it is settled that another attempt is made


class Trial:
    """One attempt that is under way. `theirs` is gRPC's call."""

    def __init__(self, call: Call, seat: Seat, link: Link) -> None:
        self.call = call
        self.seat = seat
        self.link = link
        self.began = perf_counter()
        self.theirs: Any = None
        self.forsaken = False  # its worker hangs or is gone, and the call moves to another one

    @property
    def seconds(self) -> float:
        """Since it began."""
        return perf_counter() - self.began


class GrpcTrials:
    """Makes attempts."""

    def __init__(self, commons: Commons, channels: Channels) -> None:
        self._commons = commons
        self._channels = channels
        self._under_way: set[Trial] = set()

    async def connect(self, call: Call) -> Trial:
        """The next worker that has room and accepts; a `release` of its seat is owed. Raises Refused."""
        while True:
            try:
                seat = call.seat = await self._seat(call)
            except ClusterError as error:
                raise (call.refused or refused(error)) from None
            call.attempts.made += 1
            try:
                return await self._reach(call, seat)
            except WorkerUnreachable:
                call.tried.append(seat)
                call.refused = call.refused or refused(dispatch.error_of(Failure.UNREACHABLE))

    async def ask(self, call: Call, request: bytes) -> Answer:
        """The answer of some worker. Raises Refused."""
        self._commons.retries.requests += 1
        while True:
            trial = await self.connect(call)
            try:
                if self._commons.hedges.delay and self._safe(call, trial.seat):
                    return await self._hedged(trial, request)
                return await self._try(trial, request)
            except Failed as failed:
                call.refused, failure = failed.refused, failed.failure
                if failure is None:
                    raise failed.refused from None
                again = failed.again or self._again(trial, failure)
                if again or failure in _LOST:
                    self._commons.stats.failures[failure] += 1
                if not again:
                    raise failed.refused from None
                call.attempts.note(failure)
                call.tried.append(trial.seat)

    def forsake(self, seat: Seat) -> None:
        """The worker was found to hang or to be gone: what waits for its answer moves to another, where it may."""
        for trial in [trial for trial in self._under_way if trial.seat is seat]:
            if not trial.forsaken and self._again(trial, Failure.HUNG):
                trial.forsaken = True
                trial.theirs.cancel()

    # One attempt

    async def _seat(self, call: Call) -> Seat:
        roster = self._commons.roster
        try:
            return roster.lease(call.tried, call.want)
        except Busy:
            pass
        turn: asyncio.Future[Seat | ClusterError] = self._commons.loop.create_future()
        ticket = roster.wait(call.want, call.tried, turn.set_result)
        began = perf_counter()
        try:
            await asyncio.wait([turn])  # so that nobody but the roster ends it
        except asyncio.CancelledError:
            ticket.cancel()
            if turn.done() and isinstance(seat := turn.result(), Seat):
                roster.release(seat, Outcome.CANCELLED)
            raise
        finally:
            call.waited += perf_counter() - began
        got = turn.result()
        if isinstance(got, ClusterError):
            raise got
        return got

    async def _reach(self, call: Call, seat: Seat) -> Trial:
        """Connect. If it does not work, the seat has been released."""
        roster, began = self._commons.roster, perf_counter()
        try:
            return Trial(call, seat, await self._channels.to(seat.worker))
        except WorkerUnreachable as error:
            # One that rests is asked when nobody else is left: that it still fails is no news.
            level = logging.DEBUG if roster.fitness.resting(seat) else logging.WARNING
            log.log(level, "worker %s: %s", seat.worker.id, error)
            self._commons.stats.failures[Failure.UNREACHABLE] += 1
            # Not REFUSED: that it is ready, which it says over HTTP, would end its rest.
            roster.release(seat, Outcome.BROKE, perf_counter() - began)
            raise
        except asyncio.CancelledError:
            roster.release(seat, Outcome.CANCELLED, perf_counter() - began)
            raise

    async def _try(self, trial: Trial, request: bytes) -> Answer:
        """The worker's answer; its seat has been released. Raises Failed."""
        call, link = trial.call, trial.link
        left = call.context.time_remaining()
        timeout = self._commons.settings.response_timeout if left is None else left
        outcome = Outcome.CANCELLED
        self._under_way.add(trial)
        try:
            with link.used():
                theirs = trial.theirs = link.unary(call.method)(request, timeout=timeout, metadata=call.to_worker())
                message: bytes = await theirs  # to be cancelled here cancels it there
                outcome = Outcome.ANSWERED
                initial = tuple(await theirs.initial_metadata() or ())
                return Answer(message, initial, call.to_client(await theirs.trailing_metadata(), trial.seat))
        except grpc.aio.AioRpcError as error:
            failure = await self._failure(trial, error)
            outcome = _outcome(failure, error)
            told = passed_on(error, call, trial.seat)
            if failure is not None and failure in _LOST:
                told.end = end_of(dispatch.error_of(failure))
            raise Failed(failure, told) from None
        except asyncio.CancelledError:
            if not trial.forsaken or cancelling():
                raise
            outcome = Failure.HUNG.outcome
            raise Failed(Failure.HUNG, refused(dispatch.error_of(Failure.HUNG)), again=True) from None
        finally:
            self._under_way.discard(trial)
            call.took = trial.seconds
            self._commons.roster.release(trial.seat, outcome, trial.seconds)

    async def _failure(self, trial: Trial, error: Any) -> Failure | None:
        """How the attempt failed; None if its end is an answer like any other."""
        code, call = error.code(), trial.call
        if code is Code.NOT_FOUND and call.want.model is not None:
            return Failure.LACKING
        if code is Code.UNAVAILABLE:
            # Only workers send metadata.
            declined = error.initial_metadata() or error.trailing_metadata() or await trial.link.lasts()
            return Failure.DECLINED if declined else Failure.BROKE
        if code is Code.DEADLINE_EXCEEDED and call.context.time_remaining() is None:
            return Failure.SILENT if trial.seconds >= self._commons.settings.response_timeout else None
        return Failure.ERRED if code in _ERRED and trial.seat.worker.replay_safe else None

    # Another attempt

    def _again(self, trial: Trial, failure: Failure, *, spare: bool = False) -> bool:
        """Is another attempt allowed? Then it is counted. `spare`: not for a failure."""
        call, roster = trial.call, self._commons.roster
        safe = self._safe(call, trial.seat)
        step = dispatch.next_step(failure, call.attempts, sent=True, safe_twice=safe, replayable=True)
        if step is not Step.ANOTHER_WORKER:
            return False
        # Who answers is alive: its answer is better than one of somebody who rests.
        if failure is not Failure.BROKE and not roster.spare([*call.tried, trial.seat], call.want):
            return False
        return self._commons.retries.take(spare=spare)

    def _safe(self, call: Call, seat: Seat) -> bool:
        return call.method in READ_ONLY or seat.worker.replay_safe

    async def _hedged(self, trial: Trial, request: bytes) -> Answer:
        """As `_try`; if the answer takes long, another worker is asked as well, and the first answer counts."""
        first = self._commons.loop.create_task(self._try(trial, request))
        asked = {first}
        try:
            done, _ = await asyncio.wait(asked, timeout=self._commons.hedges.delay)
            if not done and self._again(trial, Failure.HUNG, spare=True):
                asked.add(self._commons.loop.create_task(self._beside(trial, request)))
            while True:
                done, pending = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for one in done:
                    if one.exception() is None:
                        self._commons.stats.hedges_won += one is not first
                        return one.result()
                if not pending:
                    return first.result()  # what it failed with
                asked = pending
        finally:
            asked.add(first)
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _beside(self, trial: Trial, request: bytes) -> Answer:
        """The second attempt. Raises Failed, also if there is nobody to make it at."""
        call = trial.call
        try:
            seat = self._commons.roster.lease([*call.tried, trial.seat], call.want)
            self._commons.stats.hedges += 1
            call.attempts.made += 1
            second = await self._reach(call, seat)
        except ClusterError as error:
            raise Failed(Failure.UNREACHABLE, refused(error)) from None
        try:
            return await self._try(second, request)
        except Failed as failed:
            if failed.failure is not None:
                call.attempts.note(failed.failure)
            raise


def _outcome(failure: Failure | None, error: Any) -> Outcome:
    """What the end of an attempt says about the worker."""
    if failure is not None:
        return failure.outcome
    if error.code() in (Code.DEADLINE_EXCEEDED, Code.CANCELLED):
        return Outcome.CANCELLED  # the client's time was up
    return Outcome.ANSWERED_5XX if error.code() in _ERRED else Outcome.ANSWERED


def cancelling() -> bool:
    """Is it this task that is to end, and not only what it waits for?"""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
