"""What several proxy processes know of each other, so that whichever is asked can answer for all of them.

Who wants to know makes a socket pair and has the parent pass one end on; the sibling writes into it all that it has to
say, as one piece of JSON, and closes it. So they need no names for each other, and nothing of it is in the file system.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import orjson

from proxy.link import ASK, TELL, Link
from proxy.place import Place

log = logging.getLogger(__name__)

PATIENCE = 0.5
"""Seconds that a sibling may take. One that takes longer is left out, which can be seen."""
LARGEST = 64 * 2**20
"""Bytes that a sibling may say."""

Told = dict[str, Any]


class Siblings:
    """The other processes, and the link to the parent of all. `tell` is set before we listen."""

    tell: Callable[[], Told]

    def __init__(self, place: Place) -> None:
        self.place = place
        self.link = Link(socket.socket(fileno=place.link))  # never closed: that it ends says that the process has
        self.link.on[TELL] = lambda _, descriptor: self._answer_on(descriptor)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def number(self) -> int:
        """This process's own."""
        return self.place.number

    async def ask(self) -> dict[int, Told]:
        """What each of the others says, by its number. Who does not listen, or not answer in time, is missing."""
        others = [number for number in range(self.place.of) if number != self.number]
        answers = await asyncio.gather(*map(self._ask, others))
        return {number: told for number, told in zip(others, answers, strict=True) if told is not None}

    async def _ask(self, number: int) -> Told | None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.link.say(ASK, number, theirs.fileno())
        try:
            async with asyncio.timeout(PATIENCE):
                reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LARGEST)
                try:
                    said = await reader.read()
                finally:
                    writer.close()
            return orjson.loads(said) if said else None  # nothing: there is nobody of that number at the moment
        except (OSError, ValueError) as error:
            log.warning("process %d does not say what it knows: %r", number, error)
            return None

    def _answer_on(self, descriptor: int) -> None:
        task = asyncio.get_running_loop().create_task(self._answer(descriptor))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, descriptor: int) -> None:
        with socket.socket(fileno=descriptor) as sock, suppress(OSError):
            sock.setblocking(False)
            async with asyncio.timeout(PATIENCE):
                await asyncio.get_running_loop().sock_sendall(sock, orjson.dumps(self.tell()))
