"""Where clients come in: a port of this process alone, or its part of one that it shares with its siblings.

Either is bound from the beginning, so that a port that is taken is found out at once, and opens later.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from proxy.link import COVER, LEAVING, READY, UNCOVER, Link
from proxy.listeners import cannot_listen
from proxy.place import Place

log = logging.getLogger(__name__)

BACKLOG = 1024
Accept = Callable[[], asyncio.Protocol]


class Door(Protocol):
    """Listeners for HTTP."""

    async def open(self) -> None:
        """Let clients in."""

    def close(self) -> None:
        """Let nobody in any more; those who are in may stay."""


class OwnDoor:
    """A port that is ours alone; made by `own_door`."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server

    async def open(self) -> None:
        """See `Door`."""
        await self._server.start_serving()
        for sock in self._server.sockets:
            _say(sock)

    def close(self) -> None:
        """See `Door`."""
        self._server.close()


async def own_door(accept: Accept, host: str, port: int) -> OwnDoor:
    """Bind it. OSError, one sentence, if it is taken."""
    create = asyncio.get_running_loop().create_server
    try:
        server = await create(accept, host, port, reuse_address=True, backlog=BACKLOG, start_serving=False)
    except OSError as error:
        raise cannot_listen(host, port, error) from None
    return OwnDoor(server)


class SharedDoor:
    """This process's part of a port, and the parts of those siblings that do not listen at the moment."""

    def __init__(self, accept: Accept, place: Place, link: Link) -> None:
        self._accept = accept
        self._place = place
        self._loop = asyncio.get_running_loop()
        self._link = link
        self._servers: dict[int, list[asyncio.Server]] = {}
        self._wanted: set[int] = set()  # whose parts are to be open
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """See `Door`."""
        self._wanted.add(self._place.number)
        await self._adjust()
        self._link.on[COVER] = lambda number, _: self._want(number, True)
        self._link.on[UNCOVER] = lambda number, _: self._want(number, False)
        self._link.say(READY)
        for server in self._servers.get(self._place.number, ()):
            for sock in server.sockets:
                _say(sock)

    def close(self) -> None:
        """See `Door`. The siblings take over what waits in our part."""
        self._link.on.pop(COVER, None)
        self._link.on.pop(UNCOVER, None)
        self._wanted.clear()
        for number in list(self._servers):
            self._shut(number)
        for listeners in self._place.listeners:
            for descriptor in listeners:
                with suppress(OSError):
                    os.close(descriptor)
        self._link.say(LEAVING)

    async def _adjust(self) -> None:
        """Open and close parts, until those are open that are wanted."""
        async with self._turn:
            for number in self._wanted - self._servers.keys():
                sockets = self._place.listener(number) if number in self._wanted else ()
                self._servers[number] = [
                    await self._loop.create_server(self._accept, sock=sock, backlog=BACKLOG) for sock in sockets
                ]
            for number in self._servers.keys() - self._wanted:
                self._shut(number)

    def _shut(self, number: int) -> None:
        for server in self._servers.pop(number, ()):
            server.close()

    def _want(self, number: int, wanted: bool) -> None:
        """A sibling's part is (no longer) to be open."""
        (self._wanted.add if wanted else self._wanted.discard)(number)
        task = self._loop.create_task(self._adjust())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _say(sock: socket.socket) -> None:
    log.info("listening on %s:%d", *sock.getsockname()[:2])
