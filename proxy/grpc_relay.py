"""A gRPC call's way to a worker and its answer's way back. Messages are bytes here and are never decoded.

A call with one request and one answer is tried as often as `dispatch` allows, as a request over HTTP is: its request is
here as a whole, so it can be sent again. A stream goes to one worker; another is asked only as long as there was no
connection. Deadlines and cancellation travel to the worker; status, details and metadata travel back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, NoReturn

from muster.errors import ClusterError, UnknownModel, WorkerUnreachable
from proxy import dispatch, grpc_metadata
from proxy.commons import Commons
from proxy.dispatch import Attempts, Failure, Step
from proxy.grpc_channels import Channels, Link
from proxy.grpc_metadata import Metadata
from proxy.grpc_quietly import grpc
from proxy.grpc_wants import READ_ONLY, wanted
from proxy.roster import Seat
from proxy.wants import Want

log = logging.getLogger(__name__)

MAX_DETAILS = 1024
"""Characters of a sentence of ours about an error; it travels in a header."""
_Code = grpc.StatusCode
_CODES = {400: _Code.INVALID_ARGUMENT, 404: _Code.NOT_FOUND, 501: _Code.UNIMPLEMENTED, 502: _Code.UNAVAILABLE,
          503: _Code.UNAVAILABLE, 504: _Code.DEADLINE_EXCEEDED}  # fmt: skip


class Refused(Exception):
    """There is no answer, or no more of it: how the call ends for the client."""

    def __init__(self, code: Any, details: str, initial: Metadata = (), trailing: Metadata = ()) -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.initial = initial
        self.trailing = trailing


@dataclass(slots=True)
class Call:
    """One call of a client: what it wants, and what was tried for it."""

    method: str
    context: Any
    want: Want
    request_id: str
    attempts: Attempts = field(default_factory=Attempts)
    tried: list[Seat] = field(default_factory=list)
    refused: Refused | None = None  # how the last attempt ended
    started: float = field(default_factory=perf_counter)

    @property
    def seconds(self) -> float:
        """Since it came."""
        return perf_counter() - self.started

    def to_worker(self) -> Metadata:
        """The metadata that the worker gets."""
        context = self.context
        return grpc_metadata.to_worker(context.invocation_metadata() or (), context.peer(), self.request_id)

    def to_client(self, trailing: Any, seat: Seat) -> Metadata:
        """The metadata that the client gets at the end, of which `trailing` is the worker's."""
        told = grpc_metadata.told(seat.worker.id, self.seconds, self.attempts.made)
        return grpc_metadata.to_client(trailing or (), self.request_id, own=told)


class GrpcRelay:
    """Passes calls on."""

    def __init__(self, commons: Commons, channels: Channels) -> None:
        self._commons = commons
        self._channels = channels

    async def unary(self, method: str, request: bytes, context: Any) -> bytes:
        """The answer to a call of one of the methods that `grpc_wants` knows."""
        call = self._call(method, context, wanted(method, request))
        try:
            answer = await self._ask(call, request)
        except asyncio.CancelledError:
            self._commons.stats.cancelled += 1
            raise
        except Refused as refused:
            await self._end(call, refused)
        self._commons.stats.grpc_answered(_Code.OK.name, call.seconds)
        return answer

    async def stream(self, method: str, messages: AsyncIterator[bytes], context: Any) -> None:
        """Write the answers to a call of any other method, as they come."""
        call = self._call(method, context, Want(grpc=True))
        try:
            seat, link = await self._connect(call)
        except Refused as refused:
            await self._end(call, refused)
        failed: bool | None = None
        with link.used():
            theirs = link.stream(method)(messages, timeout=context.time_remaining(), metadata=call.to_worker())
            try:
                async for message in theirs:
                    await context.write(message)
                context.set_trailing_metadata(call.to_client(await theirs.trailing_metadata(), seat))
                self._commons.stats.grpc_answered(_Code.OK.name, call.seconds)
                failed = False
            except grpc.aio.AioRpcError as error:
                failed = not link.ready
                await self._end(call, _passed_on(error, call, seat))
            except asyncio.CancelledError:
                self._commons.stats.cancelled += 1
                raise
            finally:
                theirs.cancel()
                self._commons.roster.release(seat, failed=failed)

    async def refuse(self, method: str, context: Any, error: Refused) -> NoReturn:
        """End a call that is not for any worker."""
        await self._end(self._call(method, context, Want(grpc=True)), error)

    def _call(self, method: str, context: Any, want: Want) -> Call:
        own = grpc_metadata.own_request_id(context.invocation_metadata() or ())
        return Call(method, context, want, self._commons.request_ids.of(own).decode("ascii"))

    async def _connect(self, call: Call) -> tuple[Seat, Link]:
        """The next worker that accepts; its seat is to be released. Raises Refused if there is none."""
        roster = self._commons.roster
        while True:
            try:
                seat = roster.lease(call.tried, call.want)
            except ClusterError as error:
                raise (call.refused or _refused(error)) from None
            call.attempts.made += 1
            try:
                return seat, await self._channels.to(seat.worker)
            except WorkerUnreachable as error:
                # One that rests is asked when nobody else is left: that it still fails is no news.
                level = logging.DEBUG if roster.resting(seat) else logging.WARNING
                log.log(level, "worker %s: %s", seat.worker.id, error)
                self._commons.stats.failures[Failure.UNREACHABLE] += 1
                roster.release(seat, failed=True)
            except asyncio.CancelledError:
                roster.release(seat, failed=None)
                raise
            call.tried.append(seat)
            call.refused = call.refused or _refused(dispatch.error_of(Failure.UNREACHABLE))

    async def _ask(self, call: Call, request: bytes) -> bytes:
        """The answer of some worker. Raises Refused."""
        while True:
            seat, link = await self._connect(call)
            failed: bool | None = None
            try:
                with link.used():
                    answer = await self._attempt(call, seat, link, request)
                failed = False
            except grpc.aio.AioRpcError as error:
                failure = self._failure(call, error, link)
                call.refused = refused = _passed_on(error, call, seat)
                again = failure is not None and self._again(call, failure, seat)
                if failure in (Failure.BROKE, Failure.SILENT) or (failure is not None and again):
                    self._commons.stats.failures[failure] += 1
                    failed = None if failure is Failure.LACKING else True
                elif error.code() is not _Code.DEADLINE_EXCEEDED:
                    failed = False
                if not again:
                    raise refused from None
            else:
                return answer
            finally:
                self._commons.roster.release(seat, failed=failed)
            call.tried.append(seat)

    async def _attempt(self, call: Call, seat: Seat, link: Link, request: bytes) -> bytes:
        context = call.context
        left = context.time_remaining()
        call.attempts.sent += 1
        timeout = self._commons.settings.response_timeout if left is None else left
        theirs = link.unary(call.method)(request, timeout=timeout, metadata=call.to_worker())
        answer: bytes = await theirs  # to be cancelled here cancels it there
        initial = await theirs.initial_metadata()
        if initial:
            await context.send_initial_metadata(tuple(initial))
        context.set_trailing_metadata(call.to_client(await theirs.trailing_metadata(), seat))
        return answer

    def _failure(self, call: Call, error: Any, link: Link) -> Failure | None:
        """How the attempt failed; None if its end is an answer like any other."""
        if error.code() is _Code.NOT_FOUND and call.want.model is not None:
            return Failure.LACKING
        if error.code() is _Code.UNAVAILABLE:
            return Failure.DECLINED if link.ready else Failure.BROKE
        if error.code() is _Code.DEADLINE_EXCEEDED and call.context.time_remaining() is None:
            return Failure.SILENT if call.seconds >= self._commons.settings.response_timeout else None
        return None

    def _again(self, call: Call, failure: Failure, seat: Seat) -> bool:
        safe = call.method in READ_ONLY or seat.worker.replay_safe
        if dispatch.next_step(failure, call.attempts, safe_twice=safe, replayable=True) is not Step.ANOTHER_WORKER:
            return False
        # Who answers is alive: its answer is better than one of somebody who rests.
        answered = failure in (Failure.DECLINED, Failure.LACKING)
        return not answered or self._commons.roster.spare([*call.tried, seat], call.want)

    async def _end(self, call: Call, refused: Refused) -> NoReturn:
        self._commons.stats.grpc_answered(refused.code.name, call.seconds)
        if refused.initial:
            await call.context.send_initial_metadata(refused.initial)
        trailing = refused.trailing or grpc_metadata.to_client((), call.request_id)
        await call.context.abort(refused.code, refused.details, trailing)
        raise AssertionError("abort raises")


def _passed_on(error: Any, call: Call, seat: Seat) -> Refused:
    """What the worker said, or gRPC about it."""
    trailing = call.to_client(error.trailing_metadata(), seat)
    return Refused(error.code(), error.details() or "", tuple(error.initial_metadata() or ()), trailing)


def _refused(error: ClusterError) -> Refused:
    """An error of ours, as gRPC says it."""
    sentence = error.message
    if isinstance(error, UnknownModel):
        known = ", ".join(error.details.get("models", ()))
        sentence += f"; the models here are: {known}" if known else "; there are no models here"
    return Refused(_CODES.get(error.status, _Code.INTERNAL), sentence[:MAX_DETAILS])
