"""The connections to workers that are idle, and how new ones come about."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from math import inf

from discovery.names import Names
from muster.errors import WorkerUnreachable
from muster.values import Worker
from proxy import pipe
from proxy.upstream import READ_HIGH_WATER, UpstreamConnection


class Pool:
    """The idle connections, by worker. The most recently used goes first, so surplus ones grow old and are closed."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        names: Names,
        *,
        connect_timeout: float,
        idle_timeout: float,
        max_head: int,
    ) -> None:
        self._loop = loop
        self._names = names
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._max_head = max_head
        self._idle: dict[str, list[UpstreamConnection]] = {}

    def take(self, key: str, longest: float = inf) -> UpstreamConnection | None:
        """An idle connection to the worker with this id that still looks alive, if there is one; `longest`: none that
        has been idle for more seconds."""
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if connection.transport.is_closing():
                continue
            if longest != inf and self._loop.time() - connection.last_active > longest:
                idle.append(connection)  # good for others, and all that are left have been idle for longer
                return None
            return connection
        return None

    async def connect(self, worker: Worker) -> UpstreamConnection:
        """A fresh connection. WorkerUnreachable if there is none within the time limit."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                connection = await self._dial(worker)
        except TimeoutError:
            raise WorkerUnreachable(f"{worker.address} did not accept within {self._connect_timeout:g} s") from None
        except OSError as error:
            raise WorkerUnreachable(f"{worker.address}: {error}") from None
        connection.transport.set_write_buffer_limits(high=READ_HIGH_WATER)
        return connection

    async def _dial(self, worker: Worker) -> UpstreamConnection:
        *others, last = await self._names.find(worker.host)
        for address in others:
            with suppress(OSError):
                return await self._to(worker, address)
        return await self._to(worker, last)

    async def _to(self, worker: Worker, address: str) -> UpstreamConnection:
        _, connection = await self._loop.create_connection(lambda: self._connection(worker.id), address, worker.port)
        return connection

    def connect_inside(self, key: str, server: Callable[[], asyncio.BaseProtocol]) -> UpstreamConnection:
        """A fresh connection to a server in this process."""
        connection = self._connection(key)
        pipe.connect(self._loop, connection, server)
        return connection

    def forget(self, key: str) -> None:
        """Close what is idle: the worker is not listed any more."""
        for connection in self._idle.pop(key, ()):
            connection.transport.close()

    def sweep(self) -> None:
        """Close what has been idle for too long."""
        oldest = self._loop.time() - self._idle_timeout
        for key in list(self._idle):
            for connection in [one for one in self._idle[key] if one.last_active < oldest]:
                connection.transport.close()
                self._idle[key].remove(connection)
            if not self._idle[key]:
                del self._idle[key]

    def close(self) -> None:
        """Close everything that is idle."""
        for key in list(self._idle):
            self.forget(key)

    def _connection(self, key: str) -> UpstreamConnection:
        return UpstreamConnection(key, self._loop, self._max_head, self._on_idle)

    def _on_idle(self, connection: UpstreamConnection, alive: bool) -> None:
        if alive:
            self._idle.setdefault(connection.key, []).append(connection)
            return
        idle = self._idle.get(connection.key, [])
        if connection in idle:
            idle.remove(connection)
