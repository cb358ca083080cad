"""A client's connection, as an `asyncio.Protocol`.

It reads one request head at a time, judges it, and hands the request to an exchange. Body bytes go to the exchange as
they arrive. A request that comes early (pipelining) waits its turn, bounded.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from time import perf_counter

from muster.errors import BadRequest, ClusterError, HeadersTooLarge, RequestTimeout, TooLarge
from muster.framing import BadChunk, Buffer, ChunkedBody, CountedBody
from muster.turns import CHUNKS, LONG_READ, LONG_READS
from proxy.access import BAD, COMPLETE, CUT, LEFT, SLOW, STOPPED, end_of
from proxy.commons import Commons
from proxy.exchange import Exchange
from proxy.own import OwnExchange, is_own
from proxy.request_heads import RequestHead, parse_request
from proxy.rewrite import error_to_client
from proxy.seats import Seat
from proxy.upstream import READ_HIGH_WATER

LARGE = 16384  # bytes from which a copy costs more than a view
PIPELINE = 65536  # bytes of further requests that may wait while one is served
SWALLOW = 65536  # bytes of an unwanted body that are read, so that the connection can be kept
LINGER = 2.0  # seconds in which a client whose body is not wanted can still read the answer
WORKER, LINE, TURN = 1, 2, 4  # reasons not to read: the worker does not keep up; enough is waiting already; others wait
BODY_RATE = 16384  # bytes; each of these that arrives earns a request's body another second


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    __slots__ = ("_body", "_body_size", "_body_started", "_buffer", "_closing_since", "_commons", "_ending",
                 "_exchange", "_head_started", "_holds", "_idle_since", "_long_reads", "_on_closed", "_on_opened",
                 "_sent", "_stalled_since", "_transport", "peer")  # fmt: skip

    _transport: asyncio.Transport

    def __init__(
        self,
        commons: Commons,
        on_opened: Callable[[ClientConnection], None],
        on_closed: Callable[[ClientConnection], None],
    ) -> None:
        self._commons = commons
        self._on_opened = on_opened
        self._on_closed = on_closed
        self.peer = b""
        self._buffer = b""
        self._exchange: Exchange | None = None
        self._body: CountedBody | ChunkedBody | None = None  # what is still to come of the current request
        self._body_size = 0
        self._sent = 0  # bytes of the answer
        self._ending = LEFT  # why the connection is lost before the answer is complete
        self._body_started = 0.0
        self._holds = 0  # reasons not to read
        self._long_reads = 0  # in this turn, at most
        self._idle_since = commons.loop.time()
        self._head_started: float | None = None
        self._stalled_since: float | None = None  # the client does not take its answer
        self._closing_since: float | None = None  # the last answer is out

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102
        self._transport = transport
        transport.set_write_buffer_limits(high=READ_HIGH_WATER)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]).encode("ascii", "replace") if peer else b"unknown"
        self._commons.connections += 1
        self._on_opened(self)

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if len(data) >= LONG_READ:
            self._long_read()
        if self._closing_since is not None:
            return
        if self._body is not None and not self._buffer:
            self._read_body(data)
        elif self._exchange is not None and self._exchange.tunnel:
            self._body_size += len(data)
            self._exchange.on_body(data)
        elif self._exchange is None and self._body is None and self._stalled_since is None:
            self._read_head(self._buffer + data if self._buffer else data)
        else:
            self._wait(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._commons.connections -= 1
        self._on_closed(self)
        self._buffer = b""  # what still waited its turn will have none
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
            if not exchange.complete:
                self._commons.stats.cancelled += 1
            self._note(exchange, COMPLETE if exchange.complete else self._ending)

    def pause_writing(self) -> None:  # noqa: D102
        self._stalled_since = self._commons.loop.time()
        if self._exchange is not None:
            self._exchange.on_client_writable(False)

    def resume_writing(self) -> None:  # noqa: D102
        self._stalled_since = None
        if self._exchange is not None:
            self._exchange.on_client_writable(True)
        else:
            self._read_waiting()

    # Reading requests

    def _read_head(self, data: bytes) -> None:
        if data.startswith(b"\r\n"):
            data = data[2:]  # an empty line before a request is tolerated (RFC 9112, 2.2)
        end = data.find(b"\r\n\r\n") + 4
        try:
            if end < 4 or end > self._commons.settings.max_head:
                self._incomplete_head(data)
                return
            head = parse_request(data[:end], self._commons.settings.max_headers)
            self._limit(head.content_length or 0)
        except ClusterError as error:
            self._refuse(error)
            return
        self._head_started = None
        self._buffer = b""
        # A large piece of a body is not copied, only looked at from where it starts.
        self._begin(head, memoryview(data)[end:] if len(data) > LARGE and not head.chunked else data[end:])

    def _incomplete_head(self, data: bytes) -> None:
        if len(data) > self._commons.settings.max_head:
            raise HeadersTooLarge(f"the head of a request may have {self._commons.settings.max_head} bytes")
        if data and not data[:1].isalpha() and data != b"\r":
            raise BadRequest("a request begins with a method")  # TLS, for one, would wait for our answer
        if data.count(b"\n") != data.count(b"\r\n"):
            raise BadRequest("lines end with CR and LF")
        self._buffer = data
        if self._head_started is None and data:
            self._head_started = self._commons.loop.time()

    def _begin(self, head: RequestHead, rest: Buffer) -> None:
        commons = self._commons
        if head.chunked:
            self._body = ChunkedBody(CHUNKS)
        elif head.content_length:
            self._body = CountedBody(head.content_length)
        data: Buffer = b""
        self._sent = self._body_size = 0
        if self._body is not None:
            self._body_started = commons.loop.time()
            try:
                data, rest = self._take(self._body, rest)
            except ClusterError as error:
                self._refuse(error)
                return
        kind = OwnExchange if is_own(head) else Exchange
        self._exchange = exchange = kind(commons, self, head, commons.request_ids.of(head.request_id))
        exchange.start(data, complete=self._body is None)
        if rest:
            self._wait(rest)

    def _take(self, body: CountedBody | ChunkedBody, data: Buffer) -> tuple[Buffer, Buffer]:
        """What of `data` belongs to the request's body, and the rest; notices the end of the body."""
        try:
            data, rest = body.feed(data)
        except BadChunk as error:
            raise BadRequest(f"the body cannot be read: {error}") from None
        self._body_size += len(data)
        if isinstance(body, ChunkedBody):
            self._limit(self._body_size + body.declared)
        if body.done:
            self._body = None
        return data, rest

    def _read_body(self, received: bytes) -> None:
        body = self._body
        assert body is not None  # noqa: S101
        try:
            data, rest = self._take(body, received)
        except ClusterError as error:
            self._refuse(error)
            return
        exchange = self._exchange
        if exchange is None:  # it has been answered: the rest of the body is read and forgotten
            if body.done:
                self._ready_for_next()
        else:
            if data:
                exchange.on_body(data)
            if body.done:
                exchange.on_body_end()
        if rest:
            self._wait(rest)

    def _wait(self, data: Buffer) -> None:
        """Put off what comes early, until the request before it is answered and the client takes its answers.

        And what there is too much of to be read at once: other clients have their turn in between.
        """
        self._buffer += data
        if self._body is not None:
            self._end_turn()
            return
        if len(self._buffer) > PIPELINE:
            self._hold(LINE, True)
        if self._exchange is None:
            self._commons.loop.call_soon(self._read_waiting)

    def _limit(self, size: int) -> None:
        if size > self._commons.settings.max_body:
            raise TooLarge(f"the body of a request may have {self._commons.settings.max_body} bytes")

    def _refuse(self, error: ClusterError) -> None:
        """Answer a request that cannot be served or understood, and close: what follows it cannot be trusted."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
            if exchange.answered:
                self.abort()
                self._note(exchange, SLOW if error.status == 408 else BAD)
                return
        else:
            self._sent = 0
        self._commons.stats.refused(error.status)
        self.write(error_to_client(error, b"", head_only=False, close=True))
        self._note(exchange, SLOW if error.status == 408 else BAD, error.status)
        self._linger()  # also without a body: what cannot be understood need not be all that is coming

    # What an exchange calls

    def write(self, data: Buffer) -> None:
        """Send `data` to the client, unless it has left and only `connection_lost` is still to come."""
        if not self._transport.is_closing():  # uvloop raises where asyncio is silent
            self._sent += len(data)
            self._transport.write(data)

    def pause(self, paused: bool) -> None:
        """Stop or go on reading, as the worker keeps up."""
        if paused or self._holds:
            self._hold(WORKER, paused)

    def _hold(self, reason: int, held: bool) -> None:
        """There is (no longer) a reason not to read. It is read when there is none."""
        before = self._holds
        self._holds = before | reason if held else before & ~reason
        if bool(before) is not bool(self._holds) and not self._transport.is_closing():
            if self._holds:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _long_read(self) -> None:
        """Who sends without a pause has his turns, too."""
        self._long_reads += 1
        if self._long_reads == LONG_READS:
            self._end_turn()

    def _end_turn(self) -> None:
        """Go on when others have had their turn."""
        self._long_reads = 0
        if not self._holds & TURN:
            self._hold(TURN, True)
            self._commons.turns.add(self._take_turn)

    def _take_turn(self) -> None:
        self._hold(TURN, False)
        self._read_waiting()

    def take_waiting(self) -> bytes:
        """What came after the request; of an upgrade, for the tunnel."""
        waiting, self._buffer = self._buffer, b""
        self._hold(LINE, False)
        return waiting

    def must_close(self) -> bool:
        """Is this connection's end near?"""
        exchange = self._exchange
        if exchange is None or not exchange.head.keep_alive:
            return True
        if self._commons.draining and not self._buffer:  # what came before its answer is served, too
            return True
        return not exchange.wants_body and self._unwanted(exchange)

    def _unwanted(self, exchange: Exchange) -> bool:
        """Is a body still to come that nobody wants, and is it more than is worth reading?"""
        return self._body is not None and (self._body.left > SWALLOW or not exchange.invited)

    def on_answered(self) -> None:
        """The answer is complete."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            self._note(exchange, COMPLETE)
        if exchange is not None and (exchange.closing or self._unwanted(exchange)):
            self._finish()
        else:
            self._ready_for_next()

    def on_failed(self, error: ClusterError, *, answered: bool) -> None:
        """There is no answer, or only a part of one, which must not look complete."""
        exchange = self._exchange
        if exchange is None:
            return
        if answered:
            self._exchange = None
            self.abort()
            self._note(exchange, CUT)
            return
        closing = self.must_close() or self._unwanted(exchange)
        self._exchange = None
        self._commons.stats.refused(error.status)
        head_only = exchange.head.method == b"HEAD"
        self.write(error_to_client(error, exchange.request_id, head_only=head_only, close=closing))
        self._note(exchange, end_of(error), error.status)
        if closing:
            self._finish()
        else:
            self._ready_for_next()

    def _note(self, exchange: Exchange | None, end: bytes, status: int = 0) -> None:
        """Write down how a request ended. `status`: of an answer that is the proxy's own."""
        access = self._commons.access
        if access is None:
            return
        if exchange is None:
            access.note(self.peer, b"-", b"-", status, 0, self._sent, None, None, 0, 0.0, 0.0, 0.0, end, b"")
            return
        now, head, seat = perf_counter(), exchange.head, exchange.seat
        total = now - exchange.started
        took = 0.0 if seat is None else min(exchange.took, total)  # whole milliseconds, by the loop's clock
        waited = exchange.waited if exchange.waited >= 0 else exchange.waited + now
        access.note(
            self.peer, head.method, head.target, status or exchange.status, self._body_size, self._sent,
            exchange.want.model, None if seat is None else seat.worker.id, exchange.attempts.made,
            total, took, waited, end, exchange.request_id,
        )  # fmt: skip

    # Ending

    def _ready_for_next(self) -> None:
        if self._body is not None:
            self.pause(False)
            return  # the rest of the body is read and forgotten first
        self._idle_since = self._commons.loop.time()
        if self._buffer:
            self._commons.loop.call_soon(self._read_waiting)
        elif self._commons.draining:
            self._close()
        else:
            self.pause(False)

    def _read_waiting(self) -> None:
        """Serve a request that came early. Not at once, so that a long line of them cannot nest."""
        if not self._buffer or self._closing_since is not None:
            return
        if self._body is not None:
            self._read_body(self.take_waiting())
        elif self._exchange is None and self._stalled_since is None:
            self._read_head(self.take_waiting())

    def _finish(self) -> None:
        """The last answer is out: close, at once if the client has nothing more to say."""
        if self._body is None and not self._holds:
            self._close()
        else:
            self._linger()

    def _close(self) -> None:
        """Close as soon as the client has taken what was written; `check` sees to it that it does."""
        self._closing_since = self._commons.loop.time()
        self._transport.close()

    def _linger(self) -> None:
        """Close, but let a client that is still sending read the answer: after a reset it could not."""
        self._closing_since = self._commons.loop.time()
        self._buffer = b""
        self._hold(WORKER | LINE, False)
        if self._transport.can_write_eof() and not self._transport.is_closing():
            self._transport.write_eof()

    def forsake(self, seat: Seat) -> None:
        """A worker hangs or is gone."""
        if self._exchange is not None:
            self._exchange.forsake(seat)

    def idle(self, now: float) -> float | None:
        """For how many seconds no request has been under way; None if one is, or if it is closing already."""
        if self._exchange is None and self._body is None and not self._buffer and self._closing_since is None:
            return now - self._idle_since
        return None

    def close_if_idle(self, seconds: float = 0.0) -> None:
        """Close unless a request is under way, or the last one ended less than so many seconds ago."""
        idle = self.idle(self._commons.loop.time())
        if idle is not None and idle >= seconds:
            self._close()

    def turn_away(self, error: ClusterError | None) -> None:
        """There are too many connections already. None: too many to tell this one so."""
        if error is None:
            self.abort()
            return
        self._commons.stats.refused(error.status)
        self.write(error_to_client(error, b"", head_only=False, close=True))
        self._note(None, end_of(error), error.status)
        self._linger()

    def stop(self) -> None:
        """The proxy's end cannot wait for this one."""
        self._ending = STOPPED
        self.abort()

    def abort(self) -> None:
        """Cut the connection with a reset, so that no client takes a part of an answer for the whole."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def check(self, now: float) -> None:
        """Called once a second: enforce the limits of time."""
        settings = self._commons.settings
        if self._closing_since is not None:
            unsent = self._transport.get_write_buffer_size() > 0
            if now - self._closing_since > (settings.write_timeout if unsent else LINGER):
                self._transport.abort()
        elif self._stalled_since is not None:
            if now - self._stalled_since > settings.write_timeout:
                self._ending = SLOW
                self.abort()
        elif self._exchange is not None and (self._body is None or self._holds & WORKER):
            self._exchange.check(now)
        else:
            self._check_client(now)

    def _check_client(self, now: float) -> None:
        """It is the client's turn."""
        settings = self._commons.settings
        if self._head_started is not None:
            if now - self._head_started > settings.header_timeout:
                self._refuse(RequestTimeout("the request's head did not arrive in time"))
        elif self._body is not None:
            if now - self._body_started > settings.body_timeout + self._body_size / BODY_RATE:
                self._refuse(RequestTimeout("the request's body did not arrive in time"))
        elif now - self._idle_since > settings.idle_timeout:
            self._close()
