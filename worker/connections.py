"""The HTTP server under the worker's doors: aiohttp's, with the answers and deadlines that it leaves to its user."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from muster.errors import BadRequest
from worker.http_api import Handler, error_response

KEEPALIVE = 75.0
"""Seconds that an idle connection is kept; longer than the proxy's pool keeps it, so that the proxy never uses one
that is just being closed here."""
LINGER = 2.0
"""Seconds for which a refused body is still read, so that its sender gets to see the refusal."""


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is not HTTP. Nothing is logged: it is the client's mistake, and may be a flood."""
        response = error_response(BadRequest("this is not a valid HTTP request"))
        response.force_close()
        return response


class Server(web.Server):
    """Makes a `Connection` for each client."""

    def __call__(self) -> Connection:
        """One more connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


@asynccontextmanager
async def listening(handler: Handler, sock: socket.socket) -> AsyncIterator[None]:
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
    await runner.setup()
    try:
        await web.SockSite(runner, sock, backlog=1024).start()
        yield
    finally:
        await runner.cleanup()
