"""One request's way to a worker and its answer's way back, over as many attempts as `trials` makes.

Body bytes go on as they arrive, both ways, and whoever cannot keep up slows the other down. When nothing fails, a
request costs no task. The client's connection owns the exchange and hears from it through `Client`.
"""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from muster.errors import ClusterError
from muster.framing import LAST_CHUNK, Buffer, chunk
from proxy import dispatch
from proxy.attempt import Attempt
from proxy.commons import Commons
from proxy.dispatch import Failure
from proxy.health import Outcome
from proxy.request_heads import RequestHead
from proxy.response_heads import ResponseHead
from proxy.rewrite import CONTINUE, request_to_worker, response_to_client
from proxy.trials import Trials
from proxy.upstream import READ_HIGH_WATER, UpstreamConnection
from proxy.wants import wanted

_ANSWERED = Outcome.ANSWERED
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


class Exchange(Trials):
    """A request for a worker."""

    __slots__ = ("_chunked_answer", "_client", "_outcome", "_refused", "closing", "complete", "invited", "request_id",
                 "status", "took", "tunnel")  # fmt: skip

    wants_body = True

    def __init__(self, commons: Commons, client: Client, head: RequestHead, request_id: bytes) -> None:
        super().__init__(commons, head)
        self._client = client
        self.request_id = request_id
        self.invited = not head.expects_continue  # the client was told, or needs not to be told, to send the body
        self.complete = False  # the answer is; a tunnel's was its head
        self.status = 0
        self.took = 0.0  # seconds that the worker took to begin the answer
        self._outcome = _ANSWERED  # what the answer says about the worker
        self.tunnel = False
        self._chunked_answer = False
        self._refused = False  # the worker does not want the rest of the body
        self.closing = False

    # From the client

    def start(self, data: Buffer, *, complete: bool) -> None:
        """Make the first attempt. `data` is what came of the body with the head; `complete`: it was all."""
        self.body_done = complete
        self.want = wanted(self.head.method, self.head.target)
        self._commons.retries.requests += 1
        if data:
            self.invited = True
            self._copy.keep(data)
        self._seek()

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
        elif self.tunnel:
            connection.send(data)
            connection.await_worker()
        elif self.head.chunked:
            connection.send(chunk(data))
        else:
            connection.send(data)

    def on_body_end(self) -> None:
        """The request is complete."""
        self.body_done = True
        if self.connection is not None:
            self.connection.await_worker()
            if self.head.chunked:
                self.connection.send(LAST_CHUNK)
            if self._commons.hedges.delay:
                self._watch()
        if self.complete:
            self._finish()

    def on_client_writable(self, writable: bool) -> None:
        """The client does (not) keep up with the answer."""
        if self.connection is not None:
            self.connection.read(writable)

    def cancel(self) -> None:
        """The client has gone, or what it sends is no request. The worker sees its connection close and can stop."""
        self._abandon(Outcome.CANCELLED, flush=self.tunnel)
        if self.complete:
            self._commons.stats.answered(self.status, perf_counter() - self.started)

    def check(self, now: float) -> None:
        """Called once a second while it is the worker's turn: give up on one that owes an answer and stays silent."""
        settings = self._commons.settings
        for attempt in (self._second, self.attempt):
            connection = None if attempt is None else attempt.connection
            if attempt is None or connection is None or not connection.transport.is_reading():
                continue
            silence = now - connection.last_active
            if self.tunnel:
                if silence > settings.tunnel_idle:
                    self._finish()
            elif silence > settings.response_timeout:
                connection.drop()
                attempt.on_failure(Failure.SILENT, answered=self.answered)

    # Attempts

    def on_connected(self, attempt: Attempt, connection: UpstreamConnection) -> None:
        """Send the request, or what there is of it."""
        attempt.sent = True
        connection.begin(attempt, self.head.method, websocket=self.head.websocket)
        head = request_to_worker(self.head, self._client.peer, self.request_id, expect=not self.invited, body=True)
        parts: list[Buffer] = [head]
        if self._copy.pieces:
            parts += map(chunk, self._copy.pieces) if self.head.chunked else self._copy.pieces
        if self.head.chunked and self.body_done:
            parts.append(LAST_CHUNK)
        if attempt is self.attempt:
            self.connection = connection
            self._client.pause(False)  # before the write, which may pause it again
        if self._copy.size < JOIN_BELOW:
            connection.transport.write(b"".join(parts))
        else:
            connection.transport.writelines(parts)
        if self.head.has_body and (self._too_large or not self._safe_twice(attempt.seat)):
            self._copy.forget()  # there is no point in keeping its beginning
        if self._commons.hedges.delay and self.body_done:
            self._watch()

    def on_informational(self, head: ResponseHead) -> None:
        """Pass on `100 Continue`, once; other interim answers are for the proxy only."""
        if head.status == 100 and not self.invited:
            self.invited = True
            self._client.write(CONTINUE)

    def on_response(self, attempt: Attempt, head: ResponseHead, data: Buffer) -> None:
        """Pass on the head of the answer, and what came of its body with it."""
        if head.status >= 404 and self._passed_over(attempt, head):
            return
        if self._watched:
            self._choose(attempt)
        self.answered = True
        self._copy.forget()  # it will not be sent again: the client is about to see a part of this answer
        self.status = head.status
        self.took = self.connection.took if self.connection is not None else 0.0
        if head.status >= 429:
            self._outcome = dispatch.outcome_of(head.status, says_when=head.says_when)
        self.tunnel = self.complete = head.status == 101
        unknown_length = head.content_length is None and head.has_body(self.head.method)
        if unknown_length or self.tunnel:
            attempt.seat.health.opened += 1  # it may be hours until that ends
        self._chunked_answer = unknown_length and self.head.http11
        # A worker that answers before it has the whole body will read the rest only if it keeps the connection.
        unread = not self.body_done and not (head.keep_alive and self.invited)
        self._refused = unread and head.status >= 300
        # HTTP/1.0 knows the end of a body of unknown length only by the closed connection.
        until_closed = unknown_length and not self.head.http11
        self.closing = self.tunnel or unread or until_closed or self._client.must_close()
        if data and self._chunked_answer:
            data = chunk(data)
        joined, apart = (data, b"") if len(data) < JOIN_BELOW else (b"", data)
        self._client.write(
            response_to_client(
                head, self.head, self._added(head), joined, chunked=self._chunked_answer, close=self.closing
            )
        )
        if apart:
            self._client.write(apart)
        if self.tunnel and self.connection is not None:
            self.connection.send(self._client.take_waiting())

    def _added(self, head: ResponseHead) -> bytes:
        milliseconds = (perf_counter() - self.started) * 1000
        added = b"X-Request-Id: %b\r\nServer-Timing: proxy;dur=%.2f, attempts;desc=%d\r\n" % (
            self.request_id,
            milliseconds,
            self.attempts.made,
        )
        if not head.names_server and self.seat is not None:
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
        attempt, connection = self.attempt, self.connection
        assert attempt is not None  # noqa: S101
        assert connection is not None  # noqa: S101
        connection.give_back(reusable=self.body_done and attempt.seat.listed)
        attempt.end(self._outcome, connection.took)
        self.attempt = self.connection = None
        self._commons.stats.answered(self.status, perf_counter() - self.started)
        self._client.on_answered()

    def on_failure(self, attempt: Attempt, failure: Failure, *, answered: bool) -> None:
        """There is no connection, or it is lost."""
        if self.complete:
            self._finish()
        elif answered:
            self._commons.stats.truncated += 1
            self._abandon(failure.outcome)
            self._client.on_failed(dispatch.error_of(failure), answered=True)
        else:
            self._failed(attempt, failure)

    def _give_up(self, error: ClusterError) -> None:
        self._abandon(Outcome.CANCELLED)
        self._client.on_failed(error, answered=False)

    def on_writable(self, attempt: Attempt, writable: bool) -> None:
        """The worker does (not) keep up with the request's body."""
        if attempt is self.attempt:
            self._client.pause(not writable)

    def _resume_client(self) -> None:
        self._client.pause(False)
