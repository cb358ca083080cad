"""The data path as a whole: accepts clients, looks after their connections once a second, and lets them go at the end.

aiohttp is not on this path: a client's connection (`downstream`) and a worker's (`upstream`) are protocols back to back
with one `exchange` between them for each request; requests for the proxy itself go to aiohttp through a `pipe`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from proxy.commons import Commons
from proxy.downstream import ClientConnection
from proxy.seats import Seat

LAST_WORD = 1.0
"""Seconds that a connection gets for its last request when the proxy stops."""


class Relay:
    """All clients' connections."""

    def __init__(self, commons: Commons) -> None:
        self._commons = commons
        self._connections: set[ClientConnection] = set()
        self._empty: asyncio.Event | None = None  # set when a draining relay has no connection left

    def accept(self) -> ClientConnection:
        """The protocol of one more client; what `loop.create_server` wants."""
        return ClientConnection(self._commons, self._connections.add, self._closed)

    def _closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections:
            self._empty.set()

    async def sweep(self) -> None:
        """Enforce the limits of time, for ever. One look at every connection a second: no request has its own timer."""
        loop = self._commons.loop
        while True:
            await asyncio.sleep(1)
            now = loop.time()
            self._commons.pool.sweep()
            self._commons.retries.turn()
            self._commons.roster.turn()
            for connection in list(self._connections):
                connection.check(now)

    def forsake(self, seat: Seat) -> None:
        """A worker hangs or is gone: what waits for its answer moves to another, where that is allowed."""
        for connection in list(self._connections) if seat.in_flight else ():
            connection.forsake(seat)

    def _close_idle(self, seconds: float) -> None:
        for connection in list(self._connections):
            connection.close_if_idle(seconds)

    async def drain(self) -> None:
        """Let requests under way finish, close connections as they fall idle, cut off what is left after the limit.

        A connection that was in use a moment ago, or has just been made, may have a request on its way: it gets an
        answer that says that it is the last.
        """
        self._commons.draining = True
        self._close_idle(LAST_WORD)
        if self._connections:
            self._commons.loop.call_later(LAST_WORD, self._close_idle, 0.0)
            self._empty = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._commons.settings.drain_timeout):
                    await self._empty.wait()
        for connection in list(self._connections):
            connection.stop()
        self._commons.pool.close()
