"""A connection to a worker. One attempt at one worker happens here.

The connection parses the worker's answer as far as framing goes and tells its `Caller`, the exchange that it works for.
It decides nothing: what a failure means is `dispatch`'s business. Errors of sockets and of HTTP stop here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from muster.framing import BadChunk, Body, Buffer, ChunkedBody, CountedBody, UntilClosed
from proxy.dispatch import Failure
from proxy.response_heads import BadResponse, ResponseHead, may_become_response, parse_response

READ_HIGH_WATER = 256 * 1024
"""Bytes that may wait to be written before the other side stops reading. uvloop reads up to as much at once."""


class Caller(Protocol):
    """Who a connection works for while it is busy. All calls come from the event loop, in this order."""

    def on_informational(self, head: ResponseHead) -> None:
        """A 1xx answer; the real one is still to come."""

    def on_response(self, head: ResponseHead, data: Buffer) -> None:
        """The head of the answer, and what came of its body with it. A 101 turns the connection into a pipe."""

    def on_data(self, data: Buffer) -> None:
        """More of the body."""

    def on_end(self) -> None:
        """The answer is complete. The connection stays the caller's until `give_back`."""

    def on_failure(self, failure: Failure, *, answered: bool) -> None:
        """The connection is lost; `answered`: `on_response` was called, perhaps `on_end` too."""

    def on_writable(self, writable: bool) -> None:
        """The worker does (not) keep up with what is sent."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to one worker, used by one exchange at a time."""

    __slots__ = ("_answered", "_body", "_buffer", "_caller", "_complete", "_keep_alive", "_max_head", "_method",
                 "_on_idle", "_tunnel", "_websocket", "key", "last_active", "loop", "reused", "took",
                 "transport")  # fmt: skip

    transport: asyncio.Transport

    def __init__(
        self,
        key: str,
        loop: asyncio.AbstractEventLoop,
        max_head: int,
        on_idle: Callable[[UpstreamConnection, bool], None],
    ) -> None:
        self.key = key
        self.loop = loop
        self.reused = False  # it has served before, and nothing has come yet of the next answer
        self.last_active = loop.time()
        self.took = 0.0  # seconds from the end of the request to the head of its answer
        self._max_head = max_head
        self._on_idle = on_idle
        self._caller: Caller | None = None
        self._reset(b"", False)

    def _reset(self, method: bytes, websocket: bool) -> None:
        self._method = method
        self._websocket = websocket
        self._buffer = b""
        self._body: Body | None = None
        self._answered = False
        self._keep_alive = False
        self._tunnel = False
        self._complete = False

    def begin(self, caller: Caller, method: bytes, *, websocket: bool) -> None:
        """Work for `caller`, who is about to write a request of this method; `websocket`: it asks for an upgrade."""
        self._reset(method, websocket)
        self._caller = caller
        self.await_worker()

    def await_worker(self) -> None:
        """It is the worker's turn from now on: what came before does not count as its silence."""
        self.last_active = self.loop.time()

    def send(self, data: Buffer) -> None:
        """Write more of the request, unless the connection is lost and only `on_failure` is still to come."""
        if not self.transport.is_closing():  # uvloop raises where asyncio is silent
            self.transport.write(data)

    def read(self, reading: bool) -> None:
        """Go on or stop reading the answer."""
        if self.transport.is_closing():
            return
        if reading:
            self.await_worker()
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def drop(self, *, flush: bool = False) -> None:
        """Close for a caller who wants to hear no more, so that the worker sees it; `flush`: after what was written."""
        self._caller = None
        if flush:
            self.transport.close()
        else:
            self.transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # noqa: D102
        self.transport = transport

    def data_received(self, data: bytes) -> None:  # noqa: D102
        caller = self._caller
        if caller is None or self._complete:
            self.transport.abort()  # an answer that nobody asked for: not to be mistaken for the next one
            return
        self.reused = False
        if self._body is None and not self._tunnel:
            self._read_head(data)
        else:
            self.last_active = self.loop.time()
            self._read_body(caller, data)

    def eof_received(self) -> None:  # noqa: D102
        if isinstance(self._body, UntilClosed):
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        if self._caller is None:
            self._on_idle(self, False)
        elif self._tunnel:
            self._finish()
        else:
            self._fail(Failure.STALE if self.reused else Failure.BROKE)

    def pause_writing(self) -> None:  # noqa: D102
        self.await_worker()
        if self._caller is not None:
            self._caller.on_writable(False)

    def resume_writing(self) -> None:  # noqa: D102
        self.await_worker()  # it takes the request's body, so it is not silent
        if self._caller is not None:
            self._caller.on_writable(True)

    # Reading the answer

    def _read_head(self, data: bytes) -> None:
        data = self._buffer + data if self._buffer else data
        while self._caller is not None:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4 or end > self._max_head:
                self._buffer = data
                if len(data) > self._max_head or not may_become_response(data):
                    self._fail(Failure.GARBAGE)
                return
            try:
                head = parse_response(data[:end])
            except BadResponse:
                self._fail(Failure.GARBAGE)
                return
            data = data[end:]
            if head.status < 200 and head.status != 101:
                self._caller.on_informational(head)
                self._buffer = b""
                continue
            self._start_body(self._caller, head, data)
            return

    def _start_body(self, caller: Caller, head: ResponseHead, received: bytes) -> None:
        self._buffer = b""
        # Not before: what drips interim answers or an endless head owes its answer all the same.
        now = self.loop.time()
        self.took = now - self.last_active
        self.last_active = now
        if head.status == 101:
            if not (self._websocket and head.upgrade.lower() == b"websocket"):
                self._fail(Failure.GARBAGE)
                return
            self._tunnel = True
        elif not head.has_body(self._method):
            self._body = CountedBody(0)
        elif head.chunked:
            self._body = ChunkedBody()
        elif head.content_length is not None:
            self._body = CountedBody(head.content_length)
        else:
            self._body = UntilClosed()
        self._keep_alive = head.keep_alive and self._body is not None and not isinstance(self._body, UntilClosed)
        data, rest = self._feed(received)
        if self._caller is not None:
            self._answered = True
            caller.on_response(head, data)
            self._end_of_body(rest)

    def _read_body(self, caller: Caller, received: bytes) -> None:
        data, rest = self._feed(received)
        if data and self._caller is not None:
            caller.on_data(data)
        self._end_of_body(rest)

    def _feed(self, data: bytes) -> tuple[Buffer, Buffer]:
        if self._body is None:
            return data, b""  # a tunnel: all of it is for the client
        try:
            return self._body.feed(data)
        except BadChunk:
            self._fail(Failure.GARBAGE)
            return b"", b""

    def _end_of_body(self, rest: Buffer) -> None:
        if self._body is not None and self._body.done and self._caller is not None:
            self._keep_alive = self._keep_alive and not rest
            self._finish()

    def _finish(self) -> None:
        self._complete = True
        if self._caller is not None:
            self._caller.on_end()

    def _fail(self, failure: Failure) -> None:
        caller, self._caller = self._caller, None
        self.transport.abort()
        if caller is not None:
            caller.on_failure(failure, answered=self._answered)

    def give_back(self, *, reusable: bool) -> None:
        """The caller is done with it: keep it for the next, or close it; what was not sent by now is not wanted."""
        self._caller = None
        if reusable and self._keep_alive and not self.transport.is_closing():
            self.transport.resume_reading()  # a client that did not keep up had it paused
            self.reused = True
            self._on_idle(self, True)
        else:
            self.transport.abort()
