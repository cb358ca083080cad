"""A gRPC call's way to a worker and its answer's way back. Messages are bytes here and are never decoded.

A call with one request and one answer is tried as often as `dispatch` allows, as a request over HTTP is. A stream goes
to one worker; another is asked only as long as there was no connection. Deadlines and cancellation travel to the
worker; status, details and metadata travel back. Nobody is asked before the first message is here.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from proxy import grpc_metadata
from proxy.access import BAD, COMPLETE, LEFT
from proxy.commons import Commons
from proxy.grpc_calls import Call, Code, Refused
from proxy.grpc_channels import Channels
from proxy.grpc_room import Room, Visit
from proxy.grpc_streams import Stream
from proxy.grpc_trials import GrpcTrials
from proxy.grpc_wants import wanted

ENDING = 0.05
"""Seconds in which gRPC ends a call by itself whose request is too large. Until then it looks as if there were none."""


class GrpcRelay:
    """Passes calls on."""

    def __init__(self, commons: Commons, channels: Channels) -> None:
        self._commons = commons
        self._room = Room(commons)
        self._trials = GrpcTrials(commons, channels)
        commons.roster.fitness.on_eject.append(self._trials.forsake)

    async def unary(self, method: str, context: Any) -> bytes:
        """The answer to a call of one of the methods that `grpc_wants` knows."""
        call = self._call(method, context)
        try:
            visit, request = await self._request(call)
            call.want = wanted(method, request)
            answer = await self._trials.ask(call, request)
            visit.hold(len(answer.message))
        except asyncio.CancelledError:
            self._left(call)
            raise
        except Refused as refused:
            await self._end(call, refused)
        if answer.initial:
            await context.send_initial_metadata(answer.initial)
        context.set_trailing_metadata(answer.trailing)
        self._answered(call, len(answer.message))
        return answer.message

    async def stream(self, method: str, context: Any) -> None:
        """Write the answers to a call of any other method, as they come."""
        call = self._call(method, context)
        stream: Stream | None = None
        try:
            visit = self._room.enter(call.address, context)
            first = await visit.request(context)
            stream = Stream(self._commons, visit, await self._trials.connect(call))
            context.set_trailing_metadata(await stream.run(first))
        except asyncio.CancelledError:
            self._left(call)
            raise
        except Refused as refused:
            await self._end(call, refused, stream)
        self._answered(call, stream.sent)

    async def own(self, method: str, context: Any) -> bytes:
        """The request of a call that is not for any worker."""
        call = self._call(method, context)
        try:
            return (await self._request(call))[1]
        except asyncio.CancelledError:
            self._left(call)
            raise
        except Refused as refused:
            await self._end(call, refused)

    async def refuse(self, method: str, context: Any, error: Refused) -> NoReturn:
        """End a call that is not for any worker."""
        await self._end(self._call(method, context), error)

    async def _request(self, call: Call) -> tuple[Visit, bytes]:
        """Let a call in that has one request. Raises Refused."""
        visit = self._room.enter(call.address, call.context)
        request = await visit.request(call.context)
        if request is None:
            call.too_large = True
            await asyncio.sleep(ENDING)
            raise Refused(Code.INTERNAL, "the request is missing", end=BAD)
        call.received = len(request)
        return visit, request

    def _call(self, method: str, context: Any) -> Call:
        own = grpc_metadata.own_request_id(context.invocation_metadata() or ())
        address = grpc_metadata.address_of(context.peer())
        return Call(method, context, self._commons.request_ids.of(own).decode("ascii"), address)

    def _note(self, call: Call, code: bytes, end: bytes, sent: int = 0) -> None:
        """Write down how a call ended."""
        access = self._commons.access
        if access is not None:
            worker = None if call.seat is None else call.seat.worker.id
            access.note(
                call.address.encode("ascii", "replace"), b"gRPC", call.method.encode(), code, call.received, sent,
                call.want.model, worker, call.attempts.made, call.seconds, call.took, call.waited, end,
                call.request_id.encode(),
            )  # fmt: skip

    def _answered(self, call: Call, sent: int) -> None:
        self._commons.stats.grpc_answered(Code.OK.name, call.seconds)
        self._note(call, b"OK", COMPLETE, sent)

    def _left(self, call: Call) -> None:
        """It has ended, with nobody there to hear more."""
        if call.too_large:
            self._commons.stats.grpc_answered(Code.RESOURCE_EXHAUSTED.name, call.seconds)
            self._note(call, b"RESOURCE_EXHAUSTED", BAD)
        else:
            self._commons.stats.cancelled += 1
            self._note(call, b"-", LEFT)

    async def _end(self, call: Call, refused: Refused, stream: Stream | None = None) -> NoReturn:
        self._commons.stats.grpc_answered(refused.code.name, call.seconds)
        self._note(call, refused.code.name.encode(), refused.end, 0 if stream is None else stream.sent)
        if refused.initial:
            await call.context.send_initial_metadata(refused.initial)
        if stream is not None:
            await stream.written()
        trailing = refused.trailing or grpc_metadata.to_client((), call.request_id)
        await call.context.abort(refused.code, refused.details, trailing)
        raise AssertionError("abort raises")
