"""A gRPC call's way to a worker and its answer's way back. Messages are bytes here and are never decoded.

A call with one request and one answer is tried as often as `dispatch` allows, as a request over HTTP is. A stream goes
to one worker; another is asked only as long as there was no connection. Deadlines and cancellation travel to the
worker; status, details and metadata travel back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from proxy import grpc_metadata
from proxy.access import COMPLETE, LEFT
from proxy.commons import Commons
from proxy.grpc_channels import Channels
from proxy.grpc_quietly import grpc
from proxy.grpc_trials import Call, Code, GrpcTrials, Refused, passed_on
from proxy.grpc_wants import wanted
from proxy.health import Outcome
from proxy.wants import Want


class GrpcRelay:
    """Passes calls on."""

    def __init__(self, commons: Commons, channels: Channels) -> None:
        self._commons = commons
        self._trials = GrpcTrials(commons, channels)
        commons.roster.fitness.on_eject.append(self._trials.forsake)

    async def unary(self, method: str, request: bytes, context: Any) -> bytes:
        """The answer to a call of one of the methods that `grpc_wants` knows."""
        call = self._call(method, context, wanted(method, request))
        try:
            answer = await self._trials.ask(call, request)
        except asyncio.CancelledError:
            self._commons.stats.cancelled += 1
            self._note(call, b"-", LEFT, len(request))
            raise
        except Refused as refused:
            await self._end(call, refused, len(request))
        if answer.initial:
            await context.send_initial_metadata(answer.initial)
        context.set_trailing_metadata(answer.trailing)
        self._commons.stats.grpc_answered(Code.OK.name, call.seconds)
        self._note(call, b"OK", COMPLETE, len(request), len(answer.message))
        return answer.message

    async def stream(self, method: str, messages: AsyncIterator[bytes], context: Any) -> None:
        """Write the answers to a call of any other method, as they come."""
        call = self._call(method, context, Want(grpc=True))
        try:
            trial = await self._trials.connect(call)
        except Refused as refused:
            await self._end(call, refused)
        outcome, sent = Outcome.CANCELLED, 0
        with trial.link.used():
            theirs = trial.link.stream(method)(messages, timeout=context.time_remaining(), metadata=call.to_worker())
            try:
                async for message in theirs:
                    await context.write(message)
                    sent += len(message)
                context.set_trailing_metadata(call.to_client(await theirs.trailing_metadata(), trial.seat))
                self._commons.stats.grpc_answered(Code.OK.name, call.seconds)
                self._note(call, b"OK", COMPLETE, 0, sent)
                outcome = Outcome.ANSWERED
            except grpc.aio.AioRpcError as error:
                outcome = Outcome.ANSWERED if trial.link.ready else Outcome.BROKE
                await self._end(call, passed_on(error, call, trial.seat))
            except asyncio.CancelledError:
                self._commons.stats.cancelled += 1
                self._note(call, b"-", LEFT, 0, sent)
                raise
            finally:
                theirs.cancel()
                # A stream may last for hours: how long says nothing about the worker's speed.
                seconds = None if outcome is Outcome.ANSWERED else trial.seconds
                self._commons.roster.release(trial.seat, outcome, seconds)

    async def refuse(self, method: str, context: Any, error: Refused) -> NoReturn:
        """End a call that is not for any worker."""
        await self._end(self._call(method, context, Want(grpc=True)), error)

    def _call(self, method: str, context: Any, want: Want) -> Call:
        own = grpc_metadata.own_request_id(context.invocation_metadata() or ())
        return Call(method, context, want, self._commons.request_ids.of(own).decode("ascii"))

    def _note(self, call: Call, code: bytes, end: bytes, received: int, sent: int = 0) -> None:
        """Write down how a call ended. Of a stream it is not known how much of it came."""
        access = self._commons.access
        if access is not None:
            worker = None if call.seat is None else call.seat.worker.id
            access.note(
                grpc_metadata.address_of(call.context.peer()).encode("ascii", "replace"), b"gRPC", call.method.encode(),
                code, received, sent, call.want.model, worker, call.attempts.made, call.seconds, call.took, call.waited,
                end, call.request_id.encode(),
            )  # fmt: skip

    async def _end(self, call: Call, refused: Refused, received: int = 0) -> NoReturn:
        self._commons.stats.grpc_answered(refused.code.name, call.seconds)
        self._note(call, refused.code.name.encode(), refused.end, received)
        if refused.initial:
            await call.context.send_initial_metadata(refused.initial)
        trailing = refused.trailing or grpc_metadata.to_client((), call.request_id)
        await call.context.abort(refused.code, refused.details, trailing)
        raise AssertionError("abort raises")
