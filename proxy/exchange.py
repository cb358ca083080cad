"""One request's way to a worker and its answer's way back, over as many attempts as `dispatch` allows.

Body bytes go on as they arrive, both ways, and whoever cannot keep up slows the other down. When nothing fails, a
request costs no task. The client's connection owns the exchange and hears from it through `Client`.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter
from typing import Protocol

from muster.errors import ClusterError
from proxy import dispatch
from proxy.commons import Commons
from proxy.dispatch import Attempts, Failure, Step
from proxy.framing import LAST_CHUNK, Buffer, chunk
from proxy.heads import RequestHead, ResponseHead
from proxy.replay import Copy
from proxy.rewrite import CONTINUE, request_to_worker, response_to_client
from proxy.roster import Seat
from proxy.upstream import READ_HIGH_WATER, UpstreamConnection
from proxy.wants import ANY, wanted

log = logging.getLogger(__name__)

JOIN_BELOW = 65536
"""Pieces of fewer bytes in all are copied into one: cheaper than a system call for each, or than gathering them."""


class Client(Protocol):
    """The client's connection, as an exchange sees it."""

    peer: bytes

    def write(self, data: Buffer) -> None:
        """Send `data` to the client."""

    def pause(self, paused: bool) -> None:
        """Stop or go on reading the request's body."""

    def take_waiting(self) -> bytes:
        """What came after the request: with an upgrade it is not a request, but for the worker, too."""

    def must_close(self) -> bool:
        """Will the connection have to close after this answer, whatever it is?"""

    def on_answered(self) -> None:
        """The answer is complete."""

    def on_failed(self, error: ClusterError, *, answered: bool) -> None:
        """There is no answer, or (`answered`) only a part of one."""


class Exchange:
    """A request for a worker."""

    __slots__ = ("_attempts", "_chunked_answer", "_client", "_commons", "_connecting", "_copy",
                 "_refused", "_tried", "answered", "body_done", "closing", "complete", "connection", "head", "invited",
                 "request_id", "seat", "started", "status", "tunnel",
                 "want")  # fmt: skip

    wants_body = True

    def __init__(self, commons: Commons, client: Client, head: RequestHead, request_id: bytes) -> None:
        self._commons = commons
        self._client = client
        self.head = head
        self.request_id = request_id
        self.started = perf_counter()
        self.seat: Seat | None = None
        self.connection: UpstreamConnection | None = None
        self.body_done = False
        self.invited = not head.expects_continue  # the client was told, or needs not to be told, to send the body
        self.answered = False
        self.complete = False  # the answer is; a tunnel's was its head
        self.status = 0
        self.tunnel = False
        self.want = ANY
        self._attempts = Attempts()
        self._tried: list[Seat] = []
        self._connecting: asyncio.Task[UpstreamConnection] | None = None
        self._copy = Copy(commons.replay)
        self._chunked_answer = False
        self._refused = False  # the worker does not want the rest of the body
        self.closing = False

    # From the client

    def start(self, data: Buffer, *, complete: bool) -> None:
        """Make the first attempt. `data` is what came of the body with the head; `complete`: it was all."""
        self.body_done = complete
        self.want = wanted(self.head.method, self.head.target)
        if data:
            self.invited = True
            self._copy.keep(data)
        try:
            self.seat = seat = self._commons.roster.lease(self._tried, self.want)
        except ClusterError as error:  # nobody there, or nobody who has what is wanted
            self._client.on_failed(error, answered=False)
            return
        self._attempt(seat, fresh=False)

    def on_body(self, data: Buffer) -> None:
        """Pass on a piece of the request's body."""
        self.invited = True
        connection = self.connection
        self._copy.keep(data)
        if connection is not None and self._copy.too_large:
            self._copy.forget()
        if self._refused:
            return  # more of the body would only make the worker reset the connection under its answer
        if connection is None:
            if self._copy.size > READ_HIGH_WATER:
                self._client.pause(True)  # until there is somebody to send it to
        elif self.tunnel or not self.head.chunked:
            connection.send(data)
        else:
            connection.send(chunk(data))

    def on_body_end(self) -> None:
        """The request is complete."""
        self.body_done = True
        if self.connection is not None:
            self.connection.await_worker()
            if self.head.chunked:
                self.connection.send(LAST_CHUNK)
        if self.complete:
            self._finish()

    def on_client_writable(self, writable: bool) -> None:
        """The client does (not) keep up with the answer."""
        if self.connection is not None:
            self.connection.read(writable)

    def cancel(self) -> None:
        """The client has gone, or what it sends is no request. The worker sees its connection close and can stop."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self.connection is not None:
            self.connection.drop(flush=self.tunnel)
        self._end(failed=None)
        if self.complete:
            self._commons.stats.answered(self.status, perf_counter() - self.started)

    def check(self, now: float) -> None:
        """Called once a second while it is the worker's turn: give up on one that owes an answer and stays silent."""
        connection = self.connection
        if connection is None or self.tunnel or not connection.transport.is_reading():
            return
        if now - connection.last_active > self._commons.settings.response_timeout:
            connection.drop()
            self.on_failure(Failure.SILENT, answered=self.answered)

    # Attempts

    def _attempt(self, seat: Seat, *, fresh: bool) -> None:
        self._attempts.made += 1
        # A kept connection may turn out dead. What could not be sent again then had better not start on one.
        connection = None if fresh or self._too_large else self._commons.pool.take(seat.worker.id)
        if connection is not None:
            self._send(connection)
            return
        self._connecting = self._commons.loop.create_task(self._commons.pool.connect(seat.worker))
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[UpstreamConnection]) -> None:
        self._connecting = None
        if task.cancelled():
            return
        error = task.exception()
        if self.seat is None:  # the client left while the connection came about
            if error is None:
                task.result().transport.close()
        elif error is None and not task.result().transport.is_closing():
            self._send(task.result())
        else:
            # One that rests is asked when nobody else is left: that it still fails is no news.
            level = logging.DEBUG if self._commons.roster.resting(self.seat) else logging.WARNING
            log.log(level, "worker %s: %s", self.seat.worker.id, error or "it hung up before it was sent anything")
            self._failed(Failure.UNREACHABLE)

    def _send(self, connection: UpstreamConnection) -> None:
        self._attempts.sent += 1
        self.connection = connection
        connection.begin(self, self.head.method, websocket=self.head.websocket)
        head = request_to_worker(self.head, self._client.peer, self.request_id, expect=not self.invited, body=True)
        parts: list[Buffer] = [head]
        if self._copy.pieces:
            parts += map(chunk, self._copy.pieces) if self.head.chunked else self._copy.pieces
        if self.head.chunked and self.body_done:
            parts.append(LAST_CHUNK)
        self._client.pause(False)  # before the write, which may pause it again
        if self._copy.size < JOIN_BELOW:
            connection.transport.write(b"".join(parts))
        else:
            connection.transport.writelines(parts)
        if self._too_large or not self._safe_twice:
            self._copy.forget()  # there is no point in keeping its beginning

    # From the worker's connection

    def on_informational(self, head: ResponseHead) -> None:
        """Pass on `100 Continue`, once; other interim answers are for the proxy only."""
        if head.status == 100 and not self.invited:
            self.invited = True
            self._client.write(CONTINUE)

    def on_response(self, head: ResponseHead, data: Buffer) -> None:
        """Pass on the head of the answer, and what came of its body with it."""
        if head.status >= 404 and self._passed_over(head.status):
            return
        self.answered = True
        self._copy.forget()  # it will not be sent again: the client is about to see a part of this answer
        self.status = head.status
        self.tunnel = self.complete = head.status == 101
        unknown_length = head.content_length is None and head.has_body(self.head.method)
        self._chunked_answer = unknown_length and self.head.http11
        # A worker that answers before it has the whole body will read the rest only if it keeps the connection.
        unread = not self.body_done and not (head.keep_alive and self.invited)
        self._refused = unread and head.status >= 300
        # HTTP/1.0 knows the end of a body of unknown length only by the closed connection.
        until_closed = unknown_length and not self.head.http11
        self.closing = self.tunnel or unread or until_closed or self._client.must_close()
        answer = response_to_client(
            head, self.head, self._added(head), chunked=self._chunked_answer, close=self.closing
        )
        if data and self._chunked_answer:
            data = chunk(data)
        if len(data) < JOIN_BELOW:
            self._client.write(b"".join((answer, data)))
        else:
            self._client.write(answer)
            self._client.write(data)
        if self.tunnel and self.connection is not None:
            self.connection.send(self._client.take_waiting())

    def _added(self, head: ResponseHead) -> bytes:
        added = b"X-Request-Id: %b\r\n" % self.request_id
        if self.seat is None:
            return added
        milliseconds = (perf_counter() - self.started) * 1000
        added += b"Server-Timing: proxy;dur=%.2f, attempts;desc=%d\r\n" % (milliseconds, self._attempts.made)
        if not head.names_server:
            added += b"X-Served-By: %b\r\n" % self.seat.worker.id.encode("ascii", "replace")
        return added

    def on_data(self, data: Buffer) -> None:
        """Pass on a piece of the answer's body."""
        self._client.write(chunk(data) if self._chunked_answer else data)

    def on_end(self) -> None:
        """The answer is complete. If the body is not, its rest still goes to the worker, who keeps the connection."""
        if self._chunked_answer:
            self._client.write(LAST_CHUNK)
        self.complete = True
        if self.body_done or self.closing:
            self._finish()

    def _finish(self) -> None:
        assert self.connection is not None  # noqa: S101
        self.connection.give_back(reusable=self.body_done and (self.seat is None or self.seat.listed))
        self._end(failed=False)
        self._commons.stats.answered(self.status, perf_counter() - self.started)
        self._client.on_answered()

    def on_failure(self, failure: Failure, *, answered: bool) -> None:
        """The worker's connection is lost."""
        if self.complete:
            self._finish()
            return
        self.connection = None
        if answered:
            self._commons.stats.truncated += 1
            self._end(failed=True)
            self._client.on_failed(dispatch.error_of(failure), answered=True)
        else:
            self._failed(failure)

    def on_writable(self, writable: bool) -> None:
        """The worker does (not) keep up with the request's body."""
        self._client.pause(not writable)

    @property
    def _too_large(self) -> bool:
        """Is the body known to be more than is kept to be sent again?"""
        return (self.head.content_length or 0) > self._commons.replay.each

    @property
    def _safe_twice(self) -> bool:
        return self.head.idempotent or (self.seat is not None and self.seat.worker.replay_safe)

    def _failed(self, failure: Failure) -> None:
        seat = self.seat
        assert seat is not None  # noqa: S101
        self._commons.stats.failures[failure] += 1
        step = self._next_step(failure)
        if step is Step.FRESH_CONNECTION:
            self._attempts.refreshed = True
            self._attempts.sent -= 1
            self._attempt(seat, fresh=True)
            return
        self._commons.roster.release(seat, failed=failure.blames_worker or None)
        self._tried.append(seat)
        self.seat = None
        if step is Step.ANOTHER_WORKER:
            try:
                self.seat = self._commons.roster.lease(self._tried, self.want)
            except ClusterError:  # the model may have gone with its last worker; how the attempt ended says more
                pass
            else:
                self._attempt(self.seat, fresh=False)
                return
        self._end(failed=None)
        self._client.on_failed(dispatch.error_of(failure), answered=False)

    def _passed_over(self, status: int) -> bool:
        """Is that an answer for which another worker may be asked instead, and is there one? Then it has been."""
        seat, roster = self.seat, self._commons.roster
        failure = dispatch.refusal(status, names_model=self.want.model is not None)
        if failure is None or seat is None or self.connection is None:
            return False
        if self._next_step(failure) is not Step.ANOTHER_WORKER:
            return False
        self._tried.append(seat)
        if not roster.spare(self._tried, self.want):
            return False
        self._commons.stats.failures[failure] += 1
        self.connection.drop()
        self.connection = None
        roster.release(seat, failed=failure.blames_worker or None)
        self.seat = roster.lease(self._tried, self.want)
        self._attempt(self.seat, fresh=False)
        return True

    def _next_step(self, failure: Failure) -> Step:
        return dispatch.next_step(failure, self._attempts, safe_twice=self._safe_twice, replayable=self._copy.whole)

    def _end(self, *, failed: bool | None) -> None:
        self.connection = None
        self._copy.forget()
        if self.seat is not None:
            self._commons.roster.release(self.seat, failed=failed)
            self.seat = None
