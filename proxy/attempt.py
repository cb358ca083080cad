"""One attempt at one worker: its seat, and the connection that it has or waits for.

An exchange usually makes one; it makes another when one has failed, and may have two at once when it hedges. What a
failure means is for the exchange to decide; here is seen to it that the seat is released once and nothing stays behind.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from muster.framing import Buffer
from proxy.commons import Commons
from proxy.dispatch import Failure
from proxy.health import Outcome
from proxy.response_heads import ResponseHead
from proxy.seats import Seat
from proxy.upstream import UpstreamConnection

log = logging.getLogger(__name__)


class Owner:
    """Who makes attempts. Of one that it has ended or dropped it hears no more."""

    __slots__ = ()

    def on_connected(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        """There is a connection: the request can be sent."""
        raise NotImplementedError

    def on_informational(self, head: ResponseHead) -> None:
        """A 1xx answer; the real one is still to come."""
        raise NotImplementedError

    def on_response(self, attempt: Attempt, head: ResponseHead, data: Buffer) -> None:
        """The head of the answer, and what came of its body with it."""
        raise NotImplementedError

    def on_data(self, data: Buffer) -> None:
        """More of the body of the attempt whose answer was taken."""
        raise NotImplementedError

    def on_end(self) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def on_failure(self, attempt: Attempt, failure: Failure, *, answered: bool) -> None:
        """There is no connection, or it is lost."""
        raise NotImplementedError

    def on_writable(self, attempt: Attempt, writable: bool) -> None:
        """The worker does (not) keep up with what is sent."""
        raise NotImplementedError


class Attempt:
    """The caller of a connection, for as long as it lasts."""

    __slots__ = ("_commons", "_connecting", "_over", "_owner", "_since", "connection", "seat", "sent")

    def __init__(self, commons: Commons, owner: Owner, seat: Seat, since: float) -> None:
        """`since`: when the seat was leased, as `perf_counter` has it."""
        self._commons = commons
        self._owner = owner
        self._over = False
        self._since = since
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self.seat = seat
        self.connection: UpstreamConnection | None = None
        self.sent = False
        """The worker had the request, if only a part of it."""

    def begin(self, idle: float) -> None:
        """Find a connection. One that has served before may turn out to be dead: it has been idle for `idle` seconds
        at most; 0: a fresh one."""
        connection = self._commons.pool.take(self.seat.worker.id, idle) if idle else None
        if connection is not None:
            self.connection = connection
            self._owner.on_connected(self, connection)
            return
        self.connection = None
        self._connecting = self._commons.loop.create_task(self._commons.pool.connect(self.seat.worker))
        self._connecting.add_done_callback(self._connected)

    def end(self, outcome: Outcome, seconds: float) -> None:
        """It is over: the connection is lost, or not ours any more. `seconds`: how long the worker had the request."""
        if not self._over:
            self._over = True
            self.connection = None
            self._commons.roster.release(self.seat, outcome, seconds)

    def drop(self, outcome: Outcome, *, flush: bool = False) -> None:
        """Give it up. The worker sees its connection close and can stop; `flush`: after it got what was written."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connection is not None:
            self.connection.drop(flush=flush)
        self.end(outcome, perf_counter() - self._since)

    def _connected(self, task: asyncio.Task[UpstreamConnection]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if self._over:  # it was given up while the connection came about
            if error is None:
                task.result().transport.close()
        elif error is None and not task.result().transport.is_closing():
            self.connection = task.result()
            self._owner.on_connected(self, self.connection)
        else:
            # One that rests is asked when nobody else is left: that it still fails is no news.
            level = logging.DEBUG if self._commons.roster.fitness.resting(self.seat) else logging.WARNING
            log.log(level, "worker %s: %s", self.seat.worker.id, error or "it hung up before it was sent anything")
            self._owner.on_failure(self, Failure.UNREACHABLE, answered=False)

    # What the connection calls

    def on_informational(self, head: ResponseHead) -> None:
        """See `Owner`."""
        self._owner.on_informational(head)

    def on_response(self, head: ResponseHead, data: Buffer) -> None:
        """See `Owner`."""
        self._owner.on_response(self, head, data)

    def on_data(self, data: Buffer) -> None:
        """See `Owner`."""
        self._owner.on_data(data)

    def on_end(self) -> None:
        """See `Owner`."""
        self._owner.on_end()

    def on_failure(self, failure: Failure, *, answered: bool) -> None:
        """See `Owner`."""
        self.connection = None
        self._owner.on_failure(self, failure, answered=answered)

    def on_writable(self, writable: bool) -> None:
        """See `Owner`."""
        self._owner.on_writable(self, writable)
