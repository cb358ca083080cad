"""A gRPC call with any number of messages each way, once there is a worker for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from proxy.access import SLOW
from proxy.commons import Commons
from proxy.grpc_calls import Code, Refused, passed_on
from proxy.grpc_metadata import Metadata
from proxy.grpc_quietly import grpc
from proxy.grpc_room import Visit
from proxy.grpc_trials import Trial, cancelling
from proxy.health import Outcome


class Stream:
    """Passes messages on as they come, one at a time each way. Silence has an end, as that of a WebSocket has."""

    def __init__(self, commons: Commons, visit: Visit, trial: Trial) -> None:
        self.sent = 0  # bytes that the client took
        self._commons = commons
        self._visit = visit
        self._trial = trial
        self._silence: asyncio.Timeout | None = None  # while it lasts
        self._refused: Refused | None = None  # why no more of the client's messages are taken
        self._writing: asyncio.Future[None] | None = None

    async def run(self, first: bytes | None) -> Metadata:
        """Until the worker has ended it; what the client gets at the end. The seat is released. Raises Refused."""
        trial, call = self._trial, self._trial.call
        outcome = Outcome.CANCELLED
        with trial.link.used():
            left = call.context.time_remaining()
            theirs = trial.link.stream(call.method)(self._messages(first), timeout=left, metadata=call.to_worker())
            try:
                async with asyncio.timeout(self._commons.settings.tunnel_idle) as self._silence:
                    async for message in theirs:
                        trial.seat.health.opened += 1  # it may be hours until the stream ends
                        await self._write(message)
                trailing = await theirs.trailing_metadata()
                outcome = Outcome.ANSWERED
            except grpc.aio.AioRpcError as error:
                outcome = Outcome.ANSWERED if await trial.link.lasts() else Outcome.BROKE
                raise passed_on(error, call, trial.seat) from None
            except TimeoutError:
                sentence = f"nothing was said for {self._commons.settings.tunnel_idle:g} seconds"
                raise Refused(Code.DEADLINE_EXCEEDED, sentence, end=SLOW) from None
            except asyncio.CancelledError:
                if self._refused is not None and not cancelling():
                    raise self._refused from None
                if self._writing is not None:
                    self._writing.cancel()
                raise
            finally:
                self._silence = None
                theirs.cancel()
                # A stream may last for hours: how long says nothing about the worker's speed.
                seconds = None if outcome is Outcome.ANSWERED else trial.seconds
                self._commons.roster.release(trial.seat, outcome, seconds)
        return call.to_client(trailing, trial.seat)

    async def written(self) -> None:
        """Return when the client has taken what was written. Until then it takes room, and cannot be told an end."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    async def _messages(self, message: bytes | None) -> AsyncIterator[bytes]:
        """The client's."""
        while message is not None:
            self._trial.call.received += len(message)
            self._heard()
            yield message
            self._visit.hold(-len(message))
            try:
                message = await self._visit.message(self._trial.call.context)
            except Refused as refused:  # gRPC would swallow it
                self._refused = refused
                raise

    async def _write(self, message: bytes) -> None:
        self._heard()
        self._visit.hold(len(message))
        patience = self._commons.settings.write_timeout
        self._writing = asyncio.ensure_future(self._trial.call.context.write(message))
        self._writing.add_done_callback(_heed)
        try:
            async with asyncio.timeout(patience):
                await asyncio.shield(self._writing)
        except TimeoutError:
            sentence = f"the answer was not taken within {patience:g} seconds"
            raise Refused(Code.DEADLINE_EXCEEDED, sentence, end=SLOW) from None
        self._writing = None
        self._visit.hold(-len(message))
        self.sent += len(message)

    def _heard(self) -> None:
        if self._silence is not None and not self._silence.expired():
            self._silence.reschedule(self._commons.loop.time() + self._commons.settings.tunnel_idle)


def _heed(written: asyncio.Future[None]) -> None:
    """That it failed, because the client has left, is told by the call's own end; asyncio would tell it once more."""
    if not written.cancelled():
        written.exception()
