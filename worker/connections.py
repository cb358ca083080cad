"""The HTTP server under the worker's doors: aiohttp's, with the answers and deadlines that it leaves to its user."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from muster.errors import BadRequest
from muster.lifetime import Stop, supervised
from worker.http_api import Handler, error_response

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept; longer than the proxy's pool keeps it, so that the proxy never uses one
that is just being closed here."""
LINGER = 2.0
"""Seconds for which a refused body is still read, so that its sender gets to see the refusal."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long a client may take, in seconds: from the first byte of a request to the end of its head, and to read an
    answer on; and how often that is looked after."""

    head: float = 15.0
    unread: float = 30.0
    every: float = 1.0


class Connection(web.RequestHandler):
    """One client's connection. `unfinished` is since when it sends a head, `unread` since when an answer waits."""

    __slots__ = ("busy", "unfinished", "unread")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.busy = False
        self.unfinished: float | None = None
        self.unread: float | None = None

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        if not self.busy and self.unfinished is None:
            self.unfinished = asyncio.get_running_loop().time()
        super().data_received(data)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is not HTTP. Nothing is logged: it is the client's mistake, and may be a flood."""
        response = error_response(BadRequest("this is not a valid HTTP request"))
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
        return (self.unfinished is not None and now - self.unfinished > deadlines.head) or (
            self.unread is not None and now - self.unread > deadlines.unread
        )


class Server(web.Server):
    """Makes a `Connection` for each client, and ends those that are overdue."""

    def __init__(self, handler: Handler, **settings: Any) -> None:
        super().__init__(self._handle, **settings)
        self._doors = handler

    def __call__(self) -> Connection:
        """One more connection."""
        return Connection(self, loop=self._loop, **self._kwargs)

    async def sweep(self, deadlines: Deadlines) -> None:
        """End what is overdue, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(deadlines.every)
            for connection in self.connections:
                assert isinstance(connection, Connection)  # noqa: S101  # __call__ makes no others
                if connection.overdue(loop.time(), deadlines) and connection.transport is not None:
                    connection.transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)  # noqa: S101  # __call__ makes no others
        connection.busy, connection.unfinished = True, None
        try:
            return await self._doors(request)
        finally:
            connection.busy = False


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
        logger=logging.getLogger(__name__),
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=1.0)
    async with AsyncExitStack() as life:
        await runner.setup()
        life.push_async_callback(runner.cleanup)
        await web.SockSite(runner, sock, backlog=1024).start()
        await life.enter_async_context(supervised("the sweeper of connections", server.sweep(deadlines), stop))
        yield
