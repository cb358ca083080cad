"""The data path as a whole: accepts clients, looks after their connections once a second, and lets them go at the end.

aiohttp is not on this path: a client's connection (`downstream`) and a worker's (`upstream`) are protocols back to back
with one `exchange` between them for each request; requests for the proxy itself go to aiohttp through a `pipe`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from heapq import nlargest
from operator import itemgetter

from muster.errors import Overloaded
from proxy.commons import Commons
from proxy.downstream import ClientConnection
from proxy.seats import Seat

LAST_WORD = 1.0
"""Seconds that a connection gets for its last request when the proxy stops."""
MAKE_ROOM = 0.25
"""Seconds between two looks for idle connections that can make room."""
POLITE = 256
"""Connections above the limit that are still told why they cannot stay."""


class Relay:
    """All clients' connections."""

    def __init__(self, commons: Commons) -> None:
        self._commons = commons
        self._connections: set[ClientConnection] = set()
        self._by_peer: Counter[bytes] = Counter()
        self._room = 0  # connections that were closed so that others can come, and are not made up for yet
        self._room_made = float("-inf")
        self._empty: asyncio.Event | None = None  # set when a draining relay has no connection left

    def accept(self) -> ClientConnection:
        """The protocol of one more client; what `loop.create_server` wants."""
        return ClientConnection(self._commons, self._opened, self._closed)

    def _opened(self, connection: ClientConnection) -> None:
        settings, peer = self._commons.settings, connection.peer
        self._connections.add(connection)
        self._by_peer[peer] += 1
        if self._by_peer[peer] > settings.max_connections_per_peer:
            self._turn_away(connection, "peer", "too many connections from your address; try again later")
        elif len(self._connections) > settings.max_connections and not self._has_made_room():
            self._turn_away(connection, "all", "too many connections; try again later")

    def _turn_away(self, connection: ClientConnection, limit: str, sentence: str) -> None:
        self._commons.stats.connections_refused[limit] += 1
        # Those that are told why take room for a moment, too.
        politely = len(self._connections) <= self._commons.settings.max_connections + POLITE
        connection.turn_away(Overloaded(sentence) if politely else None)

    def _has_made_room(self) -> bool:
        """Close some of the connections that have been idle longest, if there are any. Rarely, for it takes a while."""
        now = self._commons.loop.time()
        if not self._room and now - self._room_made > MAKE_ROOM:
            self._room_made = now
            idle = [(connection.idle(now) or 0.0, connection) for connection in self._connections]
            longest = nlargest(max(1, len(idle) // 20), idle, key=itemgetter(0))
            for seconds, connection in longest:
                if seconds >= LAST_WORD:
                    connection.close_if_idle()
                    self._room += 1
            self._commons.stats.connections_evicted += self._room
        if not self._room:
            return False
        self._room -= 1
        return True

    def _closed(self, connection: ClientConnection) -> None:
        self._connections.discard(connection)
        self._by_peer[connection.peer] -= 1
        if not self._by_peer[connection.peer]:
            del self._by_peer[connection.peer]
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
