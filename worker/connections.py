"""The HTTP server under the worker's doors: aiohttp's, with the answers and deadlines that it leaves to its user."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

from muster.errors import BadRequest, ClusterError, RequestTimeout
from muster.lifetime import Stop, supervised
from muster.turns import LONG_READ, LONG_READS, Turns
from worker.bodies import DECLARED
from worker.gate import MAX_HEAD, Gate
from worker.http_api import REFUSAL, SERVER, Handler, error_response

log = logging.getLogger(__name__)

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept; longer than the proxy's pool keeps it, so that the proxy never uses one
that is just being closed here."""
LINGER = 2.0
"""Seconds for which a refused body is still read, so that its sender gets to see the refusal."""
PIPELINE = 64 * 1024
"""Bytes of further requests that may wait while one is answered."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take, in seconds: from the first byte of a request to the end of its head, and to read an
    answer on; how long it may be silent after it came; and how often that is looked after."""

    head: float = 15.0
    unread: float = 30.0
    silent: float = KEEPALIVE
    every: float = 1.0


class Connection(web.RequestHandler):
    """One client's connection.

    Since when, if at all: `silent`, it is open and has not said a word; `unfinished`, it sends a head; `unread`, an
    answer waits for it.
    """

    __slots__ = ("_answered", "_busy", "_full", "_gate", "_long_reads", "_request", "_turn_comes", "_turns", "silent",
                 "unfinished", "unread")  # fmt: skip

    def __init__(self, *args: Any, turns: Turns, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._turns = turns
        self.silent: float | None = asyncio.get_running_loop().time()
        self.unfinished: float | None = None
        self.unread: float | None = None
        self._busy = False  # a request is under way
        self._answered = False  # its answer is known, at least
        self._full = False  # too much of later requests waits already
        self._long_reads = 0  # in this turn, at most
        self._turn_comes = False  # so much came that others have their turn before more is read
        self._gate = Gate()
        self._request: web.BaseRequest | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes came in. None: aiohttp's parser shall go on with what it put off while the body's reader was slow."""
        if not data:
            super().data_received(data)
            return
        if not self._busy:
            self.silent = None
            if self.unfinished is None:
                self.unfinished = asyncio.get_running_loop().time()
        if len(data) >= LONG_READ:
            self._long_reads += 1
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        refused = self._gate.refusal is not None
        clean = self._gate.feed(data)
        if clean:
            super().data_received(clean)
        elif self._gate.refusal is not None and not refused:
            self._break_off()
        self._pace()

    def _pace(self) -> None:
        """Read no more while enough is here; and what is too much to be read at once when others had their turn."""
        if (self._gate.in_turns or self._long_reads >= LONG_READS) and not self._turn_comes:
            self._turn_comes = True
            self._turns.add(self._take_turn)
        if self._turn_comes or self._gate.held > PIPELINE:
            self._full = True
            if self.transport is not None and not self.transport.is_closing():
                self.transport.pause_reading()
        else:
            self._resume()

    def _take_turn(self) -> None:
        self._turn_comes, self._long_reads = False, 0
        if self.transport is not None:
            self._feed(b"")

    def _break_off(self) -> None:
        """The body that is being read is broken: who reads it shall know, and nobody wait for its end."""
        if self._request is not None:
            content = self._request.content
            if not self._answered:
                content.set_exception(web.RequestPayloadError("broken"))
            content.feed_eof()

    def begin(self, request: web.BaseRequest) -> None:
        """`request` is going to be answered now."""
        self._busy, self._answered, self.unfinished = True, False, None
        self._request = request
        request[DECLARED] = self._gate.declared
        if self._gate.refusal is not None:
            request[REFUSAL] = self._gate.refusal

    def end(self, request: web.BaseRequest) -> None:
        """`request` has its answer. If its body is not all here, the connection will do nothing but close."""
        self._answered = True
        self._busy = not request.content.is_eof()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the answer. After it comes the next request, or the end."""
        result = await super().finish_response(request, resp, start_time)
        if self._gate.refusal is not None:
            await self._linger()
        elif resp.keep_alive and request.content.is_eof():
            self._go_on()
        return result

    def _go_on(self) -> None:
        clean = self._gate.next()
        if clean:
            super().data_received(clean)
        elif self._gate.held:
            self.unfinished = asyncio.get_running_loop().time()
        self._pace()

    async def _linger(self) -> None:
        """Let a client that is still sending read the refusal: after a reset it could not."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self._resume()
            await asyncio.sleep(LINGER)

    def _resume(self) -> None:
        if self._full:
            self._full = False
            # While aiohttp waits for whoever reads the body, it is aiohttp that goes on.
            if self.transport is not None and not self.transport.is_closing() and not self._reading_paused:
                self.transport.resume_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Who reads the body can take more, but enough of it is here already."""
        super().resume_reading(resume_parser)
        if self._full and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is not HTTP. Nothing is logged: it is the client's mistake, and may be a flood."""
        if status < HTTPStatus.INTERNAL_SERVER_ERROR:
            response = error_response(BadRequest("this is not a valid HTTP request"))
        else:
            log.error("a request could not be answered", exc_info=exc)
            response = error_response(ClusterError("the worker made a mistake"))
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def overdue(self, now: float, deadlines: Deadlines) -> bool:
        """Has the client taken too long over its request, or over our answer? To be asked again and again."""
        if self.transport is None:
            return False
        if not self.transport.get_write_buffer_size():
            self.unread = None
        elif self.unread is None:
            self.unread = now
        return any(
            since is not None and now - since > patience
            for since, patience in (
                (self.silent, deadlines.silent),
                (self.unfinished, deadlines.head),
                (self.unread, deadlines.unread),
            )
        )

    def give_up(self) -> None:
        """The client has taken too long. One that began a request is told so, the first time."""
        if self.unfinished is not None and self.unread is None and self._gate.refusal is None:
            self.unfinished = None
            super().data_received(self._gate.refuse(RequestTimeout("the head of the request did not arrive in time")))
        elif self.transport is not None:
            self.transport.abort()


class Server(web.Server):
    """Makes a `Connection` for each client, and ends those that are overdue."""

    def __init__(self, handler: Handler, **settings: Any) -> None:
        super().__init__(self._handle, **settings)
        self._doors = handler
        self._turns = Turns(self._loop)

    def __call__(self) -> Connection:
        """One more connection."""
        return Connection(self, loop=self._loop, turns=self._turns, **self._kwargs)

    async def sweep(self, deadlines: Deadlines) -> None:
        """End what is overdue, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(deadlines.every)
            for connection in self.connections:
                assert isinstance(connection, Connection)  # noqa: S101  # __call__ makes no others
                if connection.overdue(loop.time(), deadlines):
                    connection.give_up()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101  # __call__ makes no others
        connection.begin(request)
        try:
            return await self._doors(request)
        finally:
            connection.end(request)


@asynccontextmanager
async def listening(
    handler: Handler, sock: socket.socket, stop: Stop, deadlines: Deadlines = Deadlines()
) -> AsyncIterator[None]:
    """Serve `handler` on `sock` as long as the block lasts."""
    server = Server(
        handler,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE,
        lingering_time=LINGER,
        max_line_size=MAX_HEAD,
        max_field_size=MAX_HEAD,
        logger=log,
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
    async with AsyncExitStack() as life:
        await runner.setup()
        life.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock, backlog=1024).start()
        await life.enter_async_context(supervised("the sweeper of connections", server.sweep(deadlines), stop))
        yield
